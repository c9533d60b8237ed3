//! The state file, the key, and stopping.

use super::*;

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
