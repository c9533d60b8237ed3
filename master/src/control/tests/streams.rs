//! What event streams are told.

use super::*;

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
