use std::fs;
use std::sync::Arc;
use std::time::Duration;

use smol::future::{poll_once, yield_now};

use super::*;
use crate::events::{Event, Kind};
use crate::object::Status;
use crate::testing::{
    Directory, Manners, Master, master, next, run, try_master, until, url, with_master,
};

fn action(action: &str) -> Patch {
    Patch {
        action: Some(action.to_owned()),
        ..Patch::default()
    }
}

fn alias(alias: &str) -> Patch {
    Patch {
        alias: Some(alias.to_owned()),
        ..Patch::default()
    }
}

fn replace(url: &str) -> Replace {
    Replace {
        url: Some(url.to_owned()),
    }
}

fn create(url: Option<&str>, alias: Option<&str>) -> Create {
    Create {
        url: url.map(str::to_owned),
        alias: alias.map(str::to_owned),
    }
}

fn seen(event: &Event) -> (Kind, Status, &str) {
    let instance = event.instance.as_ref().unwrap();
    (event.kind, instance.status, &event.logs)
}

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
fn a_stream_tells_the_life_of_an_instance_in_order() {
    with_master(|master| async move {
        let mut stream = master.control.subscribe(None);
        let first = stream.next().await.unwrap();
        assert_eq!((first.kind, first.number), (Kind::Initial, None));
        let made = master.running(7).await;
        let life = master.runner.run_of(7).unwrap();
        life.say("hello");
        life.say("CHECK_POINT");
        master.control.delete(&made.id).await.unwrap();
        life.say("from the grave");
        master.create(8).await;
        let line = "2026-01-02 03:04:05.678  \x1b[32mINFO\x1b[0m  hello";
        let mut last = 0;
        for expected in [
            (Kind::Create, Status::Stopped, ""),
            (Kind::Update, Status::Running, ""),
            (Kind::Log, Status::Running, line),
            (Kind::Update, Status::Stopped, ""),
            (Kind::Delete, Status::Stopped, ""),
            (Kind::Create, Status::Stopped, ""),
        ] {
            let event = next(&mut stream).await;
            assert_eq!(seen(&event), expected);
            assert!(event.number > Some(last));
            last = event.number.unwrap();
        }
    });
}

#[test]
fn a_reconnect_gets_what_it_missed() {
    with_master(|master| async move {
        let mut stream = master.control.subscribe(None);
        let made = master.running(1).await;
        let first = next(&mut stream).await;
        drop(stream);
        let mut stream = master.control.subscribe(first.number);
        let event = stream.next().await.unwrap();
        assert_eq!(seen(&event), (Kind::Update, Status::Running, ""));
        assert_eq!(event.instance.unwrap().id, made.id);
        let mut stream = master.control.subscribe(Some(12));
        assert_eq!(
            stream.next().await.unwrap().kind,
            Kind::Initial,
            "of an earlier master"
        );
    });
}

#[test]
fn a_reader_that_does_not_read_loses_log_lines_alone() {
    with_master(|master| async move {
        let mut slow = master.control.subscribe(None);
        let made = master.running(1).await;
        let life = master.runner.run_of(1).unwrap();
        let line = "x".repeat(1000);
        for _ in 0..1000 {
            life.say(&line);
        }
        master.control.delete(&made.id).await.unwrap();
        let mut kinds = Vec::new();
        loop {
            let event = next(&mut slow).await;
            kinds.push(event.kind);
            if kinds.len() == 3 {
                assert!(
                    event
                        .logs
                        .ends_with(" log lines were lost, the reader is too slow")
                );
            }
            if event.kind == Kind::Delete {
                break;
            }
        }
        assert_eq!(
            kinds[..4],
            [Kind::Create, Kind::Update, Kind::Log, Kind::Log]
        );
        assert_eq!(kinds[kinds.len() - 2], Kind::Update);
        assert!(kinds.len() < 400, "{}", kinds.len());
        assert!(master.control.metrics().lines_lost > 600);
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
fn telemetry_is_told_when_there_is_some() {
    run(|executor| async move {
        let directory = Directory::new();
        let master = master(&executor, &directory, &[("NP_REPORT_INTERVAL", "20ms")]);
        let made = master.running(1).await;
        let mut stream = master.control.subscribe(None);
        let life = master.runner.run_of(1).unwrap();
        for number in 1..=3 {
            life.stats.tcp_rx.add(1);
            let event = next(&mut stream).await;
            assert_eq!(
                (event.kind, event.instance.unwrap().tcprx),
                (Kind::Update, number)
            );
        }
        master
            .control
            .patch(&made.id, action("stop"))
            .await
            .unwrap();
        assert_eq!(
            seen(&next(&mut stream).await),
            (Kind::Update, Status::Stopped, "")
        );
    });
}

#[test]
fn a_hundred_creations_at_once_are_a_hundred_instances() {
    run(|executor| async move {
        let directory = Directory::new();
        let first = master(&executor, &directory, &[]);
        let mut stream = first.control.subscribe(None);
        let making = (0..100).map(|number| {
            let control = first.control.clone();
            executor
                .spawn(async move { control.create(create(Some(&url(number + 1)), None)).await })
        });
        let making: Vec<_> = making.collect();
        let mut ids = std::collections::BTreeSet::new();
        for task in making {
            ids.insert(task.await.unwrap().id);
        }
        assert_eq!((ids.len(), first.control.list().len()), (100, 101));
        let mut created = 0;
        while created < 100 {
            created += usize::from(next(&mut stream).await.kind == Kind::Create);
        }
        for id in &ids {
            first.until(id, Status::Running).await;
        }
        assert_eq!((first.runner.alive(), first.runner.books().most), (100, 1));
        let before = first.control.list();
        first.control.stop().await;
        drop(first);
        let second = master(&executor, &directory, &[]);
        let after = second.control.list();
        assert!(
            after
                .iter()
                .zip(&before)
                .all(|(a, b)| a.id == b.id && a.url == b.url)
        );
        assert_eq!(after.len(), 101);
    });
}

/// All that can be asked of an instance, many times at once.
#[test]
fn racing_actions_leave_one_run_or_none() {
    run(|executor| async move {
        for (round, delete) in [false, true, false, true].into_iter().enumerate() {
            let directory = Directory::new();
            let master = master(&executor, &directory, &[]);
            let made = master.running(1).await;
            let racing = (0..24).map(|number| {
                let (control, id) = (master.control.clone(), Arc::clone(&made.id));
                executor.spawn(async move {
                    for _ in 0..(number * 7 + round) % 5 {
                        yield_now().await;
                    }
                    match number % 6 {
                        0 => control.patch(&id, action("restart")).await.map(drop),
                        1 => control.patch(&id, action("stop")).await.map(drop),
                        2 => control
                            .patch(&id, alias(&number.to_string()))
                            .await
                            .map(drop),
                        3 if number > 12 && delete => control.delete(&id).await,
                        3 => {
                            let url = format!("client://10.0.0.{number}:1/127.0.0.1:1");
                            control.replace(&id, replace(&url)).await.map(drop)
                        }
                        4 => control.patch(&id, action("reset")).await.map(drop),
                        _ => control.patch(&id, action("start")).await.map(drop),
                    }
                })
            });
            for task in racing.collect::<Vec<_>>() {
                let result = task.await;
                let gone = delete && result == Err(Error::NotFound);
                assert!(result.is_ok() || gone, "{result:?}");
            }
            if delete {
                assert_eq!(master.control.get(&made.id), Err(Error::NotFound));
                assert_eq!(master.runner.alive(), 0);
            } else {
                master
                    .control
                    .patch(&made.id, action("start"))
                    .await
                    .unwrap();
                master.until(&made.id, Status::Running).await;
                assert_eq!(master.runner.alive(), 1);
            }
            assert_eq!(master.runner.books().most, 1);
        }
    });
}

#[test]
fn a_deletion_is_final_whatever_is_under_way() {
    with_master(|master| async move {
        let made = master.running(1).await;
        master
            .control
            .patch(&made.id, action("restart"))
            .await
            .unwrap();
        let restarting = master.control.patch(&made.id, action("restart"));
        let deleting = master.control.delete(&made.id);
        let (restarted, deleted) = smol::future::zip(restarting, deleting).await;
        assert_eq!((restarted.is_ok(), deleted), (true, Ok(())));
        let hanging = Manners {
            hanging_start: true,
            ..Manners::default()
        };
        master.runner.behave(2, hanging);
        let other = master.create(2).await;
        until(|| (master.runner.books().starts > 1).then_some(())).await;
        master.control.delete(&other.id).await.unwrap();
        // Longer than any restart waits.
        Timer::after(Duration::from_millis(400)).await;
        assert_eq!((master.runner.alive(), master.control.list().len()), (0, 1));
    });
}

#[test]
fn another_url_ends_a_start_that_hangs() {
    with_master(|master| async move {
        master.runner.behave(
            1,
            Manners {
                hanging_start: true,
                ..Manners::default()
            },
        );
        let made = master.create(1).await;
        until(|| (master.runner.books().starts == 1).then_some(())).await;
        master
            .control
            .replace(&made.id, replace(&url(2)))
            .await
            .unwrap();
        master.until(&made.id, Status::Running).await;
        assert!(master.runner.run_of(1).is_none() && master.runner.run_of(2).is_some());
    });
}

#[test]
fn a_run_that_will_not_end_is_cut_off() {
    with_master(|master| async move {
        master.runner.behave(
            1,
            Manners {
                stubborn: true,
                ..Manners::default()
            },
        );
        let made = master.running(1).await;
        let other = master.running(2).await;
        let deleting = master.control.delete(&made.id);
        let others = async {
            // Instances do not wait for each other.
            master
                .control
                .patch(&other.id, alias("quick"))
                .await
                .unwrap();
            master.control.get(&made.id).is_ok()
        };
        let (deleted, was_there) = smol::future::zip(deleting, others).await;
        assert_eq!((deleted, was_there), (Ok(()), true));
        assert_eq!(master.runner.alive(), 1);
    });
}

#[test]
fn failures_are_shown_logged_once_and_retried() {
    with_master(|master| async move {
        master.runner.behave(
            1,
            Manners {
                failing_starts: 3,
                ..Manners::default()
            },
        );
        let mut stream = master.control.subscribe(None);
        let made = master.create(1).await;
        master.until(&made.id, Status::Running).await;
        let mut kinds = Vec::new();
        for _ in 0..4 {
            let event = next(&mut stream).await;
            kinds.push((event.kind, event.instance.unwrap().status));
        }
        assert_eq!(
            kinds,
            [
                (Kind::Create, Status::Stopped),
                (Kind::Log, Status::Stopped),
                (Kind::Update, Status::Error),
                (Kind::Update, Status::Running),
            ]
        );
    });
}

#[test]
fn a_panic_is_the_failure_of_its_instance_alone() {
    with_master(|master| async move {
        let healthy = master.running(1).await;
        master.runner.behave(
            2,
            Manners {
                panicking_start: true,
                ..Manners::default()
            },
        );
        let made = master.create(2).await;
        master.until(&made.id, Status::Error).await;
        master.runner.behave(
            2,
            Manners {
                panicking_stop: true,
                ..Manners::default()
            },
        );
        master.until(&made.id, Status::Running).await;
        let failed = master.control.patch(&made.id, action("stop")).await;
        assert_eq!(failed.unwrap_err(), Error::Internal);
        master.until(&made.id, Status::Error).await;
        assert_eq!(master.runner.run_of(2).map(drop), None);
        master.runner.behave(2, Manners::default());
        master
            .control
            .patch(&made.id, action("start"))
            .await
            .unwrap();
        master.until(&made.id, Status::Running).await;
        assert_eq!(
            master.control.get(&healthy.id).unwrap().status,
            Status::Running
        );
        assert_eq!(master.runner.books().most, 1);
        master.control.delete(&made.id).await.unwrap();
    });
}

#[test]
fn a_caller_that_goes_away_leaves_no_half_made_instance() {
    run(|executor| async move {
        let directory = Directory::new();
        let first = master(&executor, &directory, &[]);
        let mut making = Box::pin(first.control.create(create(Some(&url(1)), None)));
        assert!(poll_once(&mut making).await.is_none());
        drop(making);
        let made = until(|| first.control.list().get(1).cloned()).await;
        first.until(&made.id, Status::Running).await;
        first.control.stop().await;
        drop(first);
        assert_eq!(master(&executor, &directory, &[]).control.list().len(), 2);
    });
}

#[test]
fn what_cannot_be_saved_is_not_done() {
    with_master(|master| async move {
        let made = master.running(1).await;
        fs::remove_dir_all(master.directory.path()).unwrap();
        let refused = master.control.create(create(Some(&url(2)), None)).await;
        assert!(matches!(refused, Err(Error::State(_))), "{refused:?}");
        let refused = master.control.patch(&made.id, alias("x")).await;
        assert!(matches!(refused, Err(Error::State(_))), "{refused:?}");
        let refused = master.control.replace(&made.id, replace(&url(2))).await;
        assert!(matches!(refused, Err(Error::State(_))), "{refused:?}");
        let refused = master.control.delete(&made.id).await;
        assert!(matches!(refused, Err(Error::State(_))), "{refused:?}");
        let key = master.control.list()[0].url.clone();
        let refused = master.control.patch(KEY_INSTANCE, action("restart")).await;
        assert!(matches!(refused, Err(Error::State(_))), "{refused:?}");
        assert!(master.control.is_key(key.as_bytes()));
        let shown = master.control.get(&made.id).unwrap();
        assert_eq!(
            (shown.alias, shown.url, shown.status),
            (made.alias, made.url, Status::Running)
        );
        fs::create_dir(master.directory.path()).unwrap();
        master.control.patch(&made.id, alias("y")).await.unwrap();
        master.control.delete(&made.id).await.unwrap();
    });
}

#[test]
fn another_key_refuses_the_old_one_and_ends_every_stream() {
    with_master(|master| async move {
        let Master { control, .. } = &master;
        let old = control.get(KEY_INSTANCE).unwrap();
        for nothing in [
            action("stop"),
            alias("x"),
            Patch::default(),
            action("nonsense"),
        ] {
            assert_eq!(control.patch(KEY_INSTANCE, nothing).await.unwrap(), old);
        }
        let mut stream = control.subscribe(None);
        assert!(stream.next().await.is_some());
        let new = control
            .patch(KEY_INSTANCE, action("restart"))
            .await
            .unwrap();
        assert!(new.url != old.url && new.url.len() == 32 && new.config == old.config);
        assert!(!control.is_key(old.url.as_bytes()) && control.is_key(new.url.as_bytes()));
        let last = stream.next().await.unwrap();
        assert_eq!((last.kind, last.instance.is_none()), (Kind::Shutdown, true));
        assert!(stream.next().await.is_none());
        let stored = crate::state::stored_key(&master.directory.state()).unwrap();
        assert_eq!(stored, *new.url);
        let mut stream = control.subscribe(None);
        assert_eq!(stream.next().await.unwrap().instance.unwrap().url, new.url);
    });
}

#[test]
fn a_disk_that_does_not_answer_keeps_no_master_from_stopping() {
    with_master(|master| async move {
        let state = master.directory.state();
        fs::remove_file(&state).unwrap();
        // Whoever reads this waits until nobody has it open for writing any more.
        let kind = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU);
        rustix::fs::mknodat(rustix::fs::CWD, &state, kind.0, kind.1, 0).unwrap();
        let Master { control, .. } = &master;
        let stuck = control.create(create(Some(&url(1)), None));
        let stop = async {
            let held = until(|| {
                let nonblocking = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::NONBLOCK;
                rustix::fs::open(&state, nonblocking, rustix::fs::Mode::empty()).ok()
            })
            .await;
            control.stop().await;
            held
        };
        let (created, _held) = smol::future::zip(stuck, stop).await;
        assert_eq!(created, Err(Error::Closing));
    });
}

#[test]
fn a_place_where_nothing_can_be_saved_is_refused_at_start() {
    run(|executor| async move {
        let directory = Directory::new();
        let first = master(&executor, &directory, &[]);
        first.control.stop().await;
        drop(first);
        let before = fs::read(directory.state()).unwrap();
        // In the way of every save.
        fs::create_dir(directory.path().join("state.json.tmp")).unwrap();
        let refused = try_master(&executor, &directory, &[]).map(drop);
        let refused = refused.unwrap_err().to_string();
        assert!(refused.starts_with("state: cannot write "), "{refused}");
        assert_eq!(fs::read(directory.state()).unwrap(), before);
    });
}

#[test]
fn a_key_that_cannot_be_printed_is_explained_without_numbers() {
    let directory = Directory::new();
    let error = crate::state::stored_key(&directory.state()).unwrap_err();
    let path = directory.state().display().to_string();
    let expected = format!("cannot read {path}: no such file or directory");
    assert_eq!(error.to_string(), expected);
}

#[test]
fn a_master_that_stops_says_so_and_keeps_everything() {
    run(|executor| async move {
        let directory = Directory::new();
        let first = master(&executor, &directory, &[]);
        let stays = first.running(1).await;
        let rests = first.running(2).await;
        let patch = Patch {
            restart: Some(false),
            ..Patch::default()
        };
        first.control.patch(&rests.id, patch).await.unwrap();
        first.control.rename("mine").await.unwrap();
        first.runner.run_of(1).unwrap().stats.udp_rx.add(11);
        let mut stream = first.control.subscribe(None);
        let info = first.control.info();
        first.control.stop().await;
        while let Some(event) = stream.next().await {
            assert!(matches!(event.kind, Kind::Initial | Kind::Shutdown));
        }
        assert_eq!(first.runner.alive(), 0);
        let late = first.control.create(create(Some(&url(3)), None)).await;
        assert_eq!(late.unwrap_err(), Error::Closing);
        let late = first.control.patch(&stays.id, alias("late")).await;
        assert_eq!(late.unwrap_err(), Error::Closing);
        let mut late = first.control.subscribe(Some(1));
        while late.next().await.is_some() {}
        let key = first.control.list()[0].url.clone();
        drop((first, stream, late));

        let second = master(&executor, &directory, &[]);
        assert_eq!(second.control.list()[0].url, key);
        let again = second.control.info();
        assert_eq!((&*again.alias, again.mid), ("mine", info.mid));
        assert_eq!(&*second.control.get(KEY_INSTANCE).unwrap().alias, "mine");
        let kept = second.control.get(&stays.id).unwrap();
        assert_eq!(
            (kept.status, kept.udprx, kept.url),
            (Status::Stopped, 11, stays.url)
        );
        second.control.launch();
        second.until(&stays.id, Status::Running).await;
        assert_eq!(
            second.control.get(&rests.id).unwrap().status,
            Status::Stopped
        );
        assert_eq!(second.runner.alive(), 1);
    });
}

#[test]
fn one_state_file_has_one_master() {
    run(|executor| async move {
        let directory = Directory::new();
        let first = master(&executor, &directory, &[]);
        let before = fs::read(directory.state()).unwrap();
        let refused = try_master(&executor, &directory, &[]).map(drop);
        assert!(matches!(refused, Err(OpenError::Locked(_))), "{refused:?}");
        assert_eq!(fs::read(directory.state()).unwrap(), before);
        first.control.stop().await;
        assert!(try_master(&executor, &directory, &[]).is_ok());
    });
}

#[test]
fn a_file_by_hand_is_taken_as_it_is() {
    run(|executor| async move {
        let directory = Directory::new();
        let text = r#"{"version":1,"later":true,"instances":[
            {"id":"00000001","url":"client://10.0.0.1:1/127.0.0.1:1","mood":"good"},
            {"id":"00000002","url":"client://10.0.0.1:1/127.0.0.1:2?min=none"}]}"#;
        fs::write(directory.state(), text).unwrap();
        let master = master(&executor, &directory, &[]);
        master.control.launch();
        master.until("00000001", Status::Running).await;
        let broken = master.until("00000002", Status::Error).await;
        assert_eq!((broken.kind, &broken.url), ("", &broken.config));
        master
            .control
            .patch("00000001", alias("named"))
            .await
            .unwrap();
        master.control.delete("00000002").await.unwrap();
        let written = fs::read_to_string(directory.state()).unwrap();
        assert!(written.contains(r#""mood":"good""#) && written.contains(r#""later":true"#));
        assert!(!written.contains("00000002"));
    });
}

#[test]
fn only_the_owner_can_read_the_file() {
    use std::os::unix::fs::PermissionsExt as _;
    with_master(|master| async move {
        master.create(1).await;
        for suffix in ["", ".bak", ".lock"] {
            let path = format!("{}{suffix}", master.directory.state().display());
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{path}");
        }
    });
}

#[test]
fn nothing_is_written_when_nothing_changes() {
    use std::os::unix::fs::MetadataExt as _;
    with_master(|master| async move {
        let made = master.running(1).await;
        let inode = || fs::metadata(master.directory.state()).unwrap().ino();
        let before = inode();
        for nothing in [
            alias("number 1"),
            action("restart"),
            action("reset"),
            Patch::default(),
        ] {
            master.control.patch(&made.id, nothing).await.unwrap();
        }
        master.control.rename("").await.unwrap();
        assert_eq!(inode(), before);
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
