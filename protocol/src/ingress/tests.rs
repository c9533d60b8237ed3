use super::*;

fn at(millis: u64) -> Instant {
    Instant::from_origin(Duration::from_millis(millis))
}

fn ingress() -> Ingress {
    let seconds = Duration::from_secs;
    Ingress::new(
        Config {
            wait: seconds(5),
            report_interval: seconds(5),
        },
        at(0),
    )
}

fn user(n: u64) -> UserId {
    UserId::from_number(n)
}

fn conn(n: u64) -> ConnId {
    ConnId::from_number(n)
}

fn link(n: u64) -> LinkId {
    LinkId::from_number(n)
}

fn feed(ingress: &mut Ingress, millis: u64, inputs: &[Input]) -> Vec<Output> {
    for &input in inputs {
        ingress.handle_input(at(millis), input);
    }
    drain(ingress)
}

fn drain(ingress: &mut Ingress) -> Vec<Output> {
    core::iter::from_fn(|| ingress.poll_output()).collect()
}

#[test]
fn an_idle_connection_serves_a_user_at_once_oldest_first() {
    let mut ingress = ingress();
    let setup = [
        Input::SessionUp(link(1)),
        Input::Idle(link(1), conn(1)),
        Input::Idle(link(1), conn(2)),
    ];
    assert_eq!(feed(&mut ingress, 0, &setup), []);
    let launch = Output::Launch {
        user: user(1),
        conn: conn(1),
        link: link(1),
    };
    assert_eq!(feed(&mut ingress, 1, &[Input::User(user(1))]), [launch]);
    assert_eq!(ingress.poll_timeout(), None);
}

#[test]
fn without_one_the_user_waits_the_peer_is_asked_once_and_time_runs_out() {
    let mut ingress = ingress();
    let outputs = feed(
        &mut ingress,
        0,
        &[Input::SessionUp(link(1)), Input::User(user(1))],
    );
    assert_eq!(outputs, [Output::Demand(link(1), 1)]);
    assert_eq!(feed(&mut ingress, 1, &[Input::Heard(link(1))]), []);
    assert_eq!(feed(&mut ingress, 2, &[Input::User(user(2))]), []);
    assert_eq!(
        ingress.poll_timeout(),
        Some(at(10)),
        "bursts are told of together"
    );
    for millis in [10, 510] {
        ingress.handle_timeout(at(millis));
        let both = [Output::Demand(link(1), 2)];
        assert_eq!(drain(&mut ingress), both, "at {millis} ms");
    }
    ingress.handle_timeout(at(5_000));
    let outputs = drain(&mut ingress);
    assert!(outputs.contains(&Output::Expired(user(1))), "{outputs:?}");
    assert!(!outputs.contains(&Output::Expired(user(2))));
}

#[test]
fn sessions_take_turns_and_a_silent_one_comes_last() {
    let mut ingress = ingress();
    for l in 1..=2 {
        feed(&mut ingress, 0, &[Input::SessionUp(link(l))]);
        for c in 0..3 {
            feed(&mut ingress, 0, &[Input::Idle(link(l), conn(10 * l + c))]);
        }
    }
    let mut used = Vec::new();
    for n in 0..4 {
        for output in feed(&mut ingress, 1, &[Input::User(user(n))]) {
            if let Output::Launch { link, .. } = output {
                used.push(link.number());
            }
        }
    }
    assert_eq!(used, [1, 2, 1, 2]);
    feed(&mut ingress, 8_000, &[Input::Heard(link(2))]);
    let outputs = feed(
        &mut ingress,
        8_001,
        &[Input::User(user(8)), Input::User(user(9))],
    );
    let links = outputs.iter().filter_map(|output| match output {
        Output::Launch { link, .. } => Some(link.number()),
        _ => None,
    });
    assert_eq!(
        links.collect::<Vec<_>>(),
        [2, 1],
        "the silent one only without another"
    );
}

#[test]
fn a_withdrawn_launch_is_repeated_before_others() {
    let mut ingress = ingress();
    feed(
        &mut ingress,
        0,
        &[Input::SessionUp(link(1)), Input::User(user(1))],
    );
    feed(&mut ingress, 1, &[Input::Again(user(2))]);
    let outputs = feed(&mut ingress, 2, &[Input::Idle(link(1), conn(1))]);
    assert_eq!(
        outputs,
        [Output::Launch {
            user: user(2),
            conn: conn(1),
            link: link(1)
        }]
    );
}

#[test]
fn the_queue_is_bounded() {
    let mut ingress = ingress();
    let limit = u64::try_from(limits::QUEUED_USERS).unwrap();
    for n in 0..limit {
        assert_eq!(feed(&mut ingress, 0, &[Input::User(user(n))]), []);
    }
    assert_eq!(
        feed(&mut ingress, 0, &[Input::User(user(limit))]),
        [Output::Refused(user(limit))]
    );
    assert_eq!(
        feed(&mut ingress, 0, &[Input::User(user(0))]),
        [],
        "it waits already"
    );
    assert_eq!(
        feed(&mut ingress, 0, &[Input::Again(user(limit + 1))]),
        [Output::Refused(user(limit - 1))],
        "a withdrawn launch goes before the last who came"
    );
}

#[test]
fn a_connection_or_session_announced_twice_counts_once() {
    let mut ingress = ingress();
    let up = [
        Input::SessionUp(link(1)),
        Input::SessionUp(link(2)),
        Input::Idle(link(1), conn(1)),
        Input::Idle(link(2), conn(1)),
        Input::SessionUp(link(1)),
    ];
    feed(&mut ingress, 0, &up);
    assert_eq!(ingress.idle(), 1);
    let users = [Input::User(user(1)), Input::User(user(2))];
    let outputs = feed(&mut ingress, 1, &users);
    let launched = |output: &&Output| matches!(output, Output::Launch { .. });
    assert_eq!(outputs.iter().filter(launched).count(), 1, "{outputs:?}");
}

#[test]
fn the_missing_connections_are_divided_among_live_sessions() {
    let mut ingress = ingress();
    for l in 1..=3 {
        feed(&mut ingress, 0, &[Input::SessionUp(link(l))]);
    }
    let users: Vec<Input> = (0..5).map(|n| Input::User(user(n))).collect();
    feed(&mut ingress, 0, &users);
    ingress.handle_timeout(at(10));
    let shares = drain(&mut ingress).into_iter().map(|output| match output {
        Output::Demand(_, n) => n,
        other => panic!("{other:?}"),
    });
    assert_eq!(shares.collect::<Vec<_>>(), [2, 2, 1]);
}

#[test]
fn a_flush_closes_the_idle_connections_of_that_session_alone() {
    let mut ingress = ingress();
    for l in 1..=2 {
        feed(
            &mut ingress,
            0,
            &[Input::SessionUp(link(l)), Input::Idle(link(l), conn(l))],
        );
    }
    assert_eq!(
        feed(&mut ingress, 1, &[Input::Flushed(link(1))]),
        [Output::Close(conn(1))]
    );
    assert_eq!(ingress.idle(), 1);
    assert_eq!(
        feed(&mut ingress, 2, &[Input::Idle(link(1), conn(3))]),
        [],
        "it goes on"
    );
}

#[test]
fn a_lost_session_takes_its_idle_connections_along() {
    let mut ingress = ingress();
    feed(
        &mut ingress,
        0,
        &[Input::SessionUp(link(1)), Input::Idle(link(1), conn(1))],
    );
    assert_eq!(
        feed(&mut ingress, 1, &[Input::SessionGone(link(1))]),
        [Output::Close(conn(1))]
    );
    assert_eq!(ingress.idle(), 0);
    let stale = [Input::Lost(conn(1)), Input::Idle(link(1), conn(2))];
    assert_eq!(feed(&mut ingress, 2, &stale), [Output::Close(conn(2))]);
}

#[test]
fn a_user_who_left_is_not_launched() {
    let mut ingress = ingress();
    feed(
        &mut ingress,
        0,
        &[Input::SessionUp(link(1)), Input::User(user(1))],
    );
    feed(&mut ingress, 1, &[Input::UserGone(user(1))]);
    assert_eq!(feed(&mut ingress, 2, &[Input::Idle(link(1), conn(1))]), []);
}
