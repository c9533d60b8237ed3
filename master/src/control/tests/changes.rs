//! What changes instances do.

use super::*;

#[test]
fn an_instance_is_made_started_shown_and_deleted() {
    with_master(|master| async move {
        let made = master.create(1).await;
        assert_eq!(
            (made.status, made.kind, &*made.alias),
            (Status::Stopped, "client", "number 1")
        );
        assert!(made.id.len() == 8 && made.restart);
        let running = master.until(&made.id, Status::Running).await;
        assert_eq!(running.mode, 1);
        let all = master.control.list();
        assert_eq!(
            all.iter().map(|one| &*one.id).collect::<Vec<_>>(),
            [KEY_INSTANCE, &*made.id]
        );
        assert_eq!((all[0].url.len(), all[0].config.len()), (32, 16));
        master.control.delete(&made.id).await.unwrap();
        assert_eq!(master.control.get(&made.id), Err(Error::NotFound));
        assert_eq!(master.control.delete(&made.id).await, Err(Error::NotFound));
        assert_eq!(master.runner.alive(), 0);
        assert_eq!(master.control.list().len(), 1);
    });
}

#[test]
fn what_cannot_be_done_is_refused() {
    with_master(|Master { control, .. }| async move {
        let long = "x".repeat(257);
        let table = [
            (create(None, None), Error::Body),
            (create(Some(""), None), Error::Body),
            (create(Some("x"), Some(&long)), Error::UrlFormat),
            (create(Some("http://x/y"), None), Error::UrlScheme),
            (create(Some(&url(1)), Some(&long)), Error::Alias),
        ];
        for (new, expected) in table {
            assert_eq!(control.create(new).await.unwrap_err(), expected);
        }
        assert_eq!(control.get("").unwrap_err(), Error::IdRequired);
        assert_eq!(control.get("ffffffff").unwrap_err(), Error::NotFound);
        let nobody = control.patch("ffffffff", action("nonsense")).await;
        assert_eq!(nobody.unwrap_err(), Error::NotFound);
        let nobody = control.replace("ffffffff", replace("")).await;
        assert_eq!(nobody.unwrap_err(), Error::NotFound);
        let key = control.replace(KEY_INSTANCE, replace(&url(1))).await;
        assert_eq!(key.unwrap_err(), Error::KeyInstance);
        assert_eq!(control.delete(KEY_INSTANCE).await, Err(Error::KeyInstance));
        assert_eq!(control.rename(&long).await.unwrap_err(), Error::MasterAlias);
        assert_eq!(control.tcping("").await.unwrap_err(), Error::TargetRequired);
        assert_eq!(control.list().len(), 1);
    });
}

#[test]
fn a_patch_changes_what_it_names_and_tells_it_once() {
    with_master(|master| async move {
        let made = master.running(1).await;
        let starts = master.runner.books().starts;
        let mut stream = master.control.subscribe(None);
        let patch: Patch = serde_json::from_str(
            r#"{"alias":"new","restart":false,"meta":{"peer":{"sid":"s"},"tags":{"k":"v"}}}"#,
        )
        .unwrap();
        let changed = master.control.patch(&made.id, patch.clone()).await.unwrap();
        assert_eq!(
            (&*changed.alias, changed.restart, changed.status),
            ("new", false, Status::Running)
        );
        assert_eq!(
            (&*changed.meta.peer.sid, &*changed.meta.tags["k"]),
            ("s", "v")
        );
        for nothing in [patch, Patch::default(), action("reset"), action("start")] {
            assert_eq!(
                master.control.patch(&made.id, nothing).await.unwrap(),
                changed
            );
        }
        master.control.patch(&made.id, alias("last")).await.unwrap();
        assert_eq!(&*next(&mut stream).await.instance.unwrap().alias, "new");
        assert_eq!(&*next(&mut stream).await.instance.unwrap().alias, "last");
        assert_eq!(
            master.runner.books().starts,
            starts,
            "the run was not touched"
        );
        let wrong = master
            .control
            .patch(&made.id, action("x"))
            .await
            .unwrap_err();
        assert_eq!(wrong.to_string(), "Invalid action: x");
    });
}

#[test]
fn an_object_that_fits_no_event_is_refused() {
    with_master(|master| async move {
        let made = master.create(1).await;
        let tags = (0..64).map(|n| {
            (
                format!("{n:03}{}", "\u{1}".repeat(250)),
                "\u{1}".repeat(256),
            )
        });
        let meta = MetaPatch {
            tags: Some(tags.collect()),
            peer: None,
        };
        let patch = Patch {
            meta: Some(meta),
            alias: Some("x".to_owned()),
            ..Patch::default()
        };
        let refused = master.control.patch(&made.id, patch).await;
        assert_eq!(refused.unwrap_err(), Error::TooLarge);
        assert_eq!(&*master.control.get(&made.id).unwrap().alias, "number 1");
    });
}

#[test]
fn another_url_is_run_under_the_same_id() {
    with_master(|master| async move {
        let made = master.running(1).await;
        let life = master.runner.run_of(1).unwrap();
        life.stats.tcp_rx.add(5);
        master
            .control
            .patch(&made.id, action("stop"))
            .await
            .unwrap();
        master.until(&made.id, Status::Stopped).await;
        let mut stream = master.control.subscribe(None);
        let new = "client://10.0.0.2:1/127.0.0.1:2?min=3&foo=bar";
        let replaced = master
            .control
            .replace(&made.id, replace(new))
            .await
            .unwrap();
        assert_eq!(*replaced.url, format!("{new}&log=info"));
        assert!(replaced.config.contains("10.0.0.2"));
        assert_eq!(
            (&replaced.id, &replaced.alias, replaced.tcprx),
            (&made.id, &made.alias, 5)
        );
        let event = next(&mut stream).await;
        assert_eq!(
            (event.kind, event.instance.unwrap().url.clone()),
            (Kind::Update, replaced.url)
        );
        master.until(&made.id, Status::Running).await;
        assert_eq!(master.runner.run_of(2).unwrap().stats.snapshot().tcp_rx, 5);
        let same = "client://10.0.0.2:1/127.0.0.1:2?foo=bar&min=3";
        let conflict = master.control.replace(&made.id, replace(same)).await;
        assert_eq!(conflict.unwrap_err(), Error::UrlConflict);
        let bad = master.control.replace(&made.id, replace("http://x")).await;
        assert_eq!(bad.unwrap_err(), Error::UrlScheme);
        assert_eq!(master.runner.books().most, 1);
    });
}

#[test]
fn counters_go_on_over_runs_until_they_are_reset() {
    with_master(|master| async move {
        let made = master.running(1).await;
        let first = master.runner.run_of(1).unwrap();
        first.stats.tcp_rx.add(5);
        first.stats.udp_tx.set(u64::MAX);
        first.stats.dial_failures.add(2);
        let object = master.control.get(&made.id).unwrap();
        assert_eq!((object.tcprx, object.udptx), (5, (1 << 63) - 1));
        first.fail();
        master.until(&made.id, Status::Error).await;
        master.until(&made.id, Status::Running).await;
        let second = master.runner.run_of(1).unwrap();
        second.stats.tcp_rx.add(1);
        second.stats.dial_failures.add(1);
        assert_eq!(master.control.get(&made.id).unwrap().tcprx, 6);
        let metrics = master.control.metrics();
        assert_eq!(metrics.instances[0].counted.dial_failures, 3);
        assert_eq!(metrics.instances[0].restarts, 1);
        let object = master
            .control
            .patch(&made.id, action("reset"))
            .await
            .unwrap();
        assert_eq!(
            (object.tcprx, object.udptx, object.status),
            (0, 0, Status::Running)
        );
        second.stats.tcp_tx.add(3);
        master
            .control
            .patch(&made.id, action("stop"))
            .await
            .unwrap();
        let object = master.until(&made.id, Status::Stopped).await;
        assert_eq!((object.tcprx, object.tcptx), (0, 3));
        let object = master
            .control
            .patch(&made.id, action("reset"))
            .await
            .unwrap();
        assert_eq!(object.tcptx, 0);
    });
}

#[test]
fn there_is_a_most_of_instances() {
    let registry = crate::instances::Registry::default();
    let mut number = 0;
    let mut reserve = || {
        registry.reserve(|| {
            number += 1;
            // Every id comes up twice.
            format!("{:08x}", number / 2)
        })
    };
    for _ in 0..MAX_INSTANCES {
        reserve().unwrap();
    }
    let Err(error) = reserve() else {
        panic!("one too many")
    };
    assert_eq!((error.status(), error), (409, Error::TooMany));
}
