use super::*;
use alloc::vec::Vec;

fn at(millis: u64) -> Instant {
    Instant::from_origin(Duration::from_millis(millis))
}

fn config(min: usize, max: usize) -> Config {
    Config {
        min,
        max,
        min_interval: Duration::from_millis(100),
        max_interval: Duration::from_secs(1),
        control_wait: None,
    }
}

fn pool(min: usize, max: usize) -> Pool {
    Pool::new(config(min, max), Mint::default(), Seed([7; 32]), at(0))
}

fn drain(pool: &mut Pool) -> Vec<Output> {
    core::iter::from_fn(|| pool.poll_output()).collect()
}

fn dials(outputs: &[Output]) -> Vec<ConnId> {
    let dials = outputs.iter().filter_map(|output| match output {
        Output::Dial(conn) => Some(*conn),
        _ => None,
    });
    dials.collect()
}

/// Opens everything that is asked for, until nothing more is.
fn fill(pool: &mut Pool, now: Instant) -> Vec<ConnId> {
    let mut opened = Vec::new();
    loop {
        let wanted = dials(&drain(pool));
        if wanted.is_empty() {
            return opened;
        }
        for conn in wanted {
            pool.handle_input(now, Input::Opened(conn));
            opened.push(conn);
        }
    }
}

#[test]
fn it_fills_to_min_with_a_bounded_number_of_dials_and_then_rests() {
    let mut pool = pool(64, 1024);
    assert_eq!(dials(&drain(&mut pool)).len(), limits::DIALS_IN_FLIGHT);
    let mut pool = self::pool(64, 1024);
    assert_eq!(fill(&mut pool, at(1)).len(), 64);
    assert_eq!(pool.poll_timeout(), None, "no timer at rest");
}

#[test]
fn a_control_channel_that_never_comes_is_waited_for_only_so_long() {
    let config = Config {
        control_wait: Some(limits::ID_WAIT),
        ..config(2, 64)
    };
    let due = at(0).after(limits::ID_WAIT);
    for comes in [false, true] {
        let mut pool = Pool::new(config, Mint::default(), Seed([7; 32]), at(0));
        let wanted = dials(&drain(&mut pool));
        assert_eq!(pool.poll_timeout(), Some(due));
        pool.handle_input(at(1), Input::Opened(wanted[0]));
        if comes {
            pool.handle_input(at(2), Input::Control(wanted[1]));
        }
        pool.handle_timeout(due);
        let told = drain(&mut pool).contains(&Output::NoControl);
        assert_eq!((told, pool.poll_timeout()), (!comes, None));
    }
}

#[test]
fn a_server_that_forgot_the_session_is_noticed_before_its_control_channel_is_given_up() {
    let long = Duration::from_secs(5);
    let short = Duration::from_millis(3_900);
    let config = Config {
        control_wait: Some(limits::ID_WAIT),
        ..config(4, 64)
    };
    let told = |steps: &[(usize, Option<Duration>)]| {
        let mut pool = Pool::new(config, Mint::default(), Seed([7; 32]), at(0));
        let wanted = dials(&drain(&mut pool));
        let mut told = 0;
        for &(nth, open) in steps {
            let conn = wanted[nth];
            let input = match open {
                Some(open) => Input::NotNumbered { conn, open },
                None => Input::Opened(conn),
            };
            pool.handle_input(at(5_000), input);
            let outputs = drain(&mut pool);
            told += outputs
                .iter()
                .filter(|it| **it == Output::NoControl)
                .count();
        }
        told
    };
    assert_eq!(told(&[(0, Some(long))]), 0, "it may be chance");
    assert_eq!(told(&[(0, Some(long)), (1, Some(long))]), 1);
    let all = [0, 1, 2, 3].map(|nth| (nth, Some(long)));
    assert_eq!(told(&all), 1, "said once");
    // Reset while it does not listen.
    assert_eq!(told(&[0, 1, 2, 3].map(|nth| (nth, Some(short)))), 0);
    // It numbers others.
    let others = [(0, Some(long)), (1, None), (2, Some(long))];
    assert_eq!(told(&others), 0);
}

#[test]
fn with_a_control_channel_an_unnumbered_connection_is_a_failed_dial() {
    let mut pool = pool(2, 64);
    let wanted = dials(&drain(&mut pool));
    for conn in wanted {
        let open = Duration::from_secs(60);
        pool.handle_input(at(60_000), Input::NotNumbered { conn, open });
    }
    assert_eq!(drain(&mut pool), [], "no more before the back-off");
    assert!(pool.poll_timeout().is_some());
}

#[test]
fn a_dial_that_became_the_control_channel_is_made_up_for() {
    let mut pool = pool(2, 64);
    let wanted = dials(&drain(&mut pool));
    pool.handle_input(at(1), Input::Control(wanted[1]));
    assert_eq!(dials(&drain(&mut pool)).len(), 1);
    assert_eq!(pool.poll_timeout(), None, "no failure");
    pool.handle_input(at(2), Input::Opened(wanted[1]));
    assert_eq!(pool.idle(), 0, "it is no data connection");
}

#[test]
fn min_above_max_means_max() {
    let mut pool = pool(64, 5);
    assert_eq!(fill(&mut pool, at(1)).len(), 5);
}

#[test]
fn a_taken_connection_is_replaced_at_once() {
    let mut pool = pool(4, 64);
    let conns = fill(&mut pool, at(1));
    pool.handle_input(at(10), Input::Taken(conns[0]));
    assert_eq!(dials(&drain(&mut pool)).len(), 1);
}

#[test]
fn demand_opens_that_many_more_and_is_used_up_as_they_are_taken() {
    let mut pool = pool(4, 1024);
    fill(&mut pool, at(1));
    pool.handle_input(at(10), Input::Demand(10));
    let extra = fill(&mut pool, at(11));
    assert_eq!(extra.len(), 10);
    for conn in extra {
        pool.handle_input(at(11), Input::Taken(conn));
    }
    let refill = dials(&drain(&mut pool)).len();
    assert!(refill <= 10, "the surge is not refilled twice: {refill}");
}

#[test]
fn a_hostile_demand_stays_within_max() {
    let mut pool = pool(4, 100);
    pool.handle_input(at(1), Input::Demand(u32::MAX));
    pool.handle_input(at(1), Input::Demand(u32::MAX));
    assert_eq!(fill(&mut pool, at(2)).len(), 100);
}

#[test]
fn use_raises_the_target_and_rest_lowers_it_slowly_to_min() {
    let mut pool = pool(4, 1024);
    let mut now = 0;
    // All are taken as soon as they are open, and opening takes 20 ms.
    for _ in 0..100 {
        let wanted = dials(&drain(&mut pool));
        now += 20;
        for conn in wanted {
            pool.handle_input(at(now), Input::Opened(conn));
            pool.handle_input(at(now), Input::Taken(conn));
        }
    }
    let high = pool.target;
    assert!(high > 50, "{high}");
    fill(&mut pool, at(now));
    let mut looks = 0;
    while let Some(due) = pool.poll_timeout() {
        let due = due.max(pool.now);
        pool.handle_timeout(due);
        fill(&mut pool, due);
        looks += 1;
    }
    assert_eq!(pool.idle(), 4);
    assert!(looks > 5, "{looks}");
}

#[test]
fn failing_dials_back_off_and_sixteen_in_a_row_are_the_end() {
    let mut pool = pool(1, 8);
    let mut now = at(0);
    let mut last = Duration::ZERO;
    for round in 1..=limits::DIAL_FAILURES {
        let conn = dials(&drain(&mut pool))[0];
        pool.handle_input(now, Input::DialFailed(conn));
        let outputs = drain(&mut pool);
        assert_eq!(
            outputs.contains(&Output::Exhausted),
            round == limits::DIAL_FAILURES
        );
        let next = pool.poll_timeout().unwrap();
        let delay = next.saturating_since(now);
        assert!(delay >= Duration::from_millis(80) && delay <= Duration::from_secs(6));
        if round < 5 {
            assert!(delay > last, "doubling");
        }
        last = delay;
        pool.handle_timeout(next);
        now = next;
    }
}

#[test]
fn a_success_ends_the_row() {
    let mut pool = pool(2, 8);
    for _ in 0..40 {
        let now = pool.poll_timeout().unwrap_or(pool.now);
        pool.handle_timeout(now);
        let outputs = drain(&mut pool);
        assert!(!outputs.contains(&Output::Exhausted));
        let mut open = dials(&outputs).into_iter();
        if let Some(conn) = open.next() {
            pool.handle_input(now, Input::DialFailed(conn));
        }
        if let Some(conn) = open.next() {
            pool.handle_input(now, Input::Opened(conn));
            pool.handle_input(now, Input::Taken(conn));
        }
    }
}

#[test]
fn connections_that_end_right_after_their_preface_count_as_failed() {
    let mut pool = pool(1, 8);
    let mut exhausted = false;
    for _ in 0..limits::DIAL_FAILURES {
        let now = pool.poll_timeout().unwrap_or(pool.now);
        pool.handle_timeout(now);
        let conn = dials(&drain(&mut pool))[0];
        pool.handle_input(now, Input::Opened(conn));
        pool.handle_input(now, Input::Ended(conn));
        exhausted |= pool.outputs.contains(&Output::Exhausted);
    }
    assert!(exhausted);
    let mut old = self::pool(1, 8);
    let conn = fill(&mut old, at(1))[0];
    old.handle_input(at(6_000), Input::Ended(conn));
    assert_eq!(
        old.early_ends, 0,
        "an old one that ends is replaced, no failure"
    );
    assert_eq!(dials(&drain(&mut old)).len(), 1);
}

/// A server whose count is full withdraws what comes: one connection too few, the others live.
#[test]
fn a_server_without_room_is_asked_ever_less_often() {
    let mut pool = pool(4, 4);
    let wanted = dials(&drain(&mut pool));
    for &conn in &wanted[1..] {
        pool.handle_input(at(0), Input::Opened(conn));
    }
    let (mut conn, mut now, mut delay) = (wanted[0], at(60_000), Duration::ZERO);
    for round in 0..2 * limits::DIAL_FAILURES {
        pool.handle_input(now, Input::Opened(conn));
        now = now.after(Duration::from_millis(1));
        pool.handle_input(now, Input::Withdrawn(conn));
        let due = pool.poll_timeout().unwrap();
        let last = core::mem::replace(&mut delay, due.saturating_since(now));
        assert!(round > 4 || delay > last, "doubling: {delay:?}");
        now = due;
        pool.handle_timeout(now);
        let outputs = drain(&mut pool);
        conn = dials(&outputs)[0];
        assert_eq!(outputs.len(), 1, "the session is of use");
    }
    assert!(delay > Duration::from_secs(3), "{delay:?}");

    // Two ways in which the server has shown that there is room.
    let soon = Duration::from_millis(120);
    pool.handle_input(now, Input::Opened(conn));
    now = now.after(limits::EARLY_END);
    pool.handle_input(now, Input::Withdrawn(wanted[1]));
    assert!(pool.poll_timeout().unwrap() <= now.after(soon));
    pool.handle_input(now, Input::Taken(wanted[2]));
    assert_eq!(dials(&drain(&mut pool)).len(), 2, "at once");
}

#[test]
fn a_dial_that_succeeds_or_fails_while_draining_changes_nothing_more() {
    let mut pool = pool(40, 64);
    let conns = dials(&drain(&mut pool));
    pool.handle_input(at(1), Input::Drain);
    pool.handle_input(at(2), Input::Opened(conns[0]));
    assert_eq!(drain(&mut pool), [Output::Close(conns[0])]);
    for &conn in &conns[1..] {
        pool.handle_input(at(3), Input::DialFailed(conn));
    }
    assert_eq!(
        drain(&mut pool),
        [],
        "a session that leaves is not exhausted"
    );
    assert_eq!((pool.idle(), pool.poll_timeout()), (0, None));
}

#[test]
fn a_demand_that_nobody_uses_is_closed_again() {
    let mut pool = pool(4, 1024);
    fill(&mut pool, at(1));
    pool.handle_input(at(2), Input::Demand(100));
    assert_eq!(fill(&mut pool, at(3)).len(), 100);
    while let Some(due) = pool.poll_timeout() {
        pool.handle_timeout(due);
        drain(&mut pool);
    }
    assert_eq!(pool.idle(), 4);
}

#[test]
fn exhaustion_is_said_once() {
    let mut pool = pool(32, 64);
    let mut said = 0;
    for _ in 0..2 * limits::DIAL_FAILURES {
        let now = pool.poll_timeout().unwrap_or(pool.now);
        pool.handle_timeout(now);
        let wanted = dials(&drain(&mut pool));
        let later = now.after(Duration::from_millis(1));
        for conn in wanted {
            pool.handle_input(later, Input::DialFailed(conn));
            said += drain(&mut pool).len();
        }
    }
    assert_eq!(said, 1);
}

#[test]
fn a_moments_outage_counts_once() {
    let mut pool = pool(64, 64);
    for conn in dials(&drain(&mut pool)) {
        pool.handle_input(at(5), Input::DialFailed(conn));
    }
    assert!(!drain(&mut pool).contains(&Output::Exhausted));
    assert!(pool.poll_timeout().unwrap() <= at(130));
    let conns = {
        pool.handle_timeout(at(200));
        fill(&mut pool, at(201))
    };
    for conn in conns {
        pool.handle_input(at(9_000), Input::Withdrawn(conn));
    }
    assert!(!drain(&mut pool).contains(&Output::Exhausted));
    assert!(pool.poll_timeout().unwrap() <= at(9_130));
}

#[test]
fn flush_closes_idle_ones_and_refills_and_drain_does_not() {
    let mut pool = pool(3, 8);
    fill(&mut pool, at(1));
    pool.handle_input(at(2), Input::Flush);
    let outputs = drain(&mut pool);
    assert_eq!(dials(&outputs).len(), 3);
    assert_eq!(outputs.len(), 6);
    pool.handle_input(at(3), Input::Drain);
    assert_eq!(dials(&drain(&mut pool)).len(), 0);
    assert_eq!(pool.poll_timeout(), None);
}
