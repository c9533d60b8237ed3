//! What goes wrong or happens at once.

use super::*;

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
