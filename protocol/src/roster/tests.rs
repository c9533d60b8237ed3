use alloc::vec;
use alloc::vec::Vec;

use super::*;
use crate::terms::Transport;
use crate::time::Duration;

const GOOD: Fingerprint = Fingerprint([1; 32]);
const BAD: Fingerprint = Fingerprint([2; 32]);
const SENDS: Check = Check {
    send: true,
    blind_passes: false,
};

struct Run {
    roster: Roster,
    now: u64,
}

fn conn(n: u64) -> ConnId {
    ConnId::from_number(n)
}

fn user(source: &str) -> Launch {
    Launch::from_text(Transport::Tcp, source)
}

impl Run {
    fn new(ingress: bool, check: Option<Check>) -> Self {
        let config = Config { ingress, check };
        Self {
            roster: Roster::new(config, Instant::default()),
            now: 0,
        }
    }

    fn at(&self) -> Instant {
        Instant::from_origin(Duration::from_millis(self.now))
    }

    fn feed(&mut self, input: Input) -> Vec<Output> {
        self.roster.handle_input(self.at(), input);
        self.drain()
    }

    fn wait(&mut self, millis: u64) -> Vec<Output> {
        self.now += millis;
        self.roster.handle_timeout(self.at());
        self.drain()
    }

    fn drain(&mut self) -> Vec<Output> {
        core::iter::from_fn(|| self.roster.poll_output()).collect()
    }

    fn numbered(&mut self, n: u32) -> Vec<Output> {
        self.feed(Input::Numbered {
            conn: conn(n.into()),
            id: DataId(n),
            leaf: Some(GOOD),
        })
    }

    fn launched(&mut self, n: u32) -> Vec<Output> {
        self.feed(Input::Launch {
            id: DataId(n),
            launch: user("192.0.2.1:5"),
        })
    }

    fn verify(&mut self, n: u32, fp: Option<Fingerprint>) -> Vec<Output> {
        self.feed(Input::Verify { id: DataId(n), fp })
    }
}

fn serve(n: u64) -> Output {
    Output::Serve {
        conn: conn(n),
        launch: user("192.0.2.1:5"),
    }
}

#[test]
fn a_launch_finds_its_connection_in_either_order() {
    let mut run = Run::new(false, None);
    assert_eq!(run.numbered(1), []);
    assert_eq!(run.launched(1), [serve(1)]);
    assert_eq!(run.launched(2), []);
    assert_eq!(run.wait(4_999), []);
    assert_eq!(run.numbered(2), [serve(2)]);
    (1..=2).for_each(|n| drop(run.feed(Input::Gone(conn(n)))));
    assert!(run.roster.is_empty());
}

#[test]
fn a_second_launch_on_a_connection_ends_what_is_served_on_it() {
    let mut run = Run::new(false, None);
    run.numbered(1);
    assert_eq!(run.launched(1), [serve(1)]);
    for untouched in [Input::Flushed, Input::Spare(conn(1)), Input::Early(conn(1))] {
        assert_eq!(run.feed(untouched), []);
    }
    assert_eq!(run.launched(1), [Output::Close(conn(1))]);
    assert!(run.roster.is_empty());
}

#[test]
fn a_launch_without_a_connection_is_given_up() {
    let mut run = Run::new(false, None);
    assert_eq!(run.launched(9), []);
    assert_eq!(run.wait(5_000), [Output::Missing(DataId(9))]);
    assert_eq!(run.numbered(9), []);
    assert_eq!(run.roster.len(), 1, "the connection is just idle");
}

#[test]
fn bytes_before_the_launch_wait_for_it_but_not_for_ever() {
    let mut run = Run::new(false, None);
    run.numbered(1);
    run.numbered(2);
    assert_eq!(run.feed(Input::Early(conn(1))), []);
    assert_eq!(run.feed(Input::Early(conn(2))), []);
    assert_eq!(run.wait(4_999), []);
    assert_eq!(run.launched(1), [serve(1)]);
    assert_eq!(run.feed(Input::Early(conn(2))), [], "said twice");
    assert_eq!(run.wait(1), [Output::Close(conn(2))]);
    assert_eq!(run.roster.poll_timeout(), None);
}

#[test]
fn what_may_be_a_handshake_is_judged_late_and_few_at_a_time() {
    let mut run = Run::new(false, None);
    (1..=7).for_each(|n| drop(run.numbered(n)));
    assert_eq!(run.feed(Input::Shown(conn(7))), [], "it is not early");
    for n in 1..=6 {
        assert_eq!(run.feed(Input::Early(conn(n))), []);
        assert_eq!(run.feed(Input::Shown(conn(n))), []);
        assert_eq!(run.feed(Input::Shown(conn(n))), [], "said twice");
    }
    // A launch wins over the judgement.
    assert_eq!(run.launched(1), [serve(1)]);
    assert_eq!(run.wait(999), []);
    let judge = |n| Output::Judge(conn(n));
    assert_eq!(run.wait(1), [judge(2), judge(3), judge(4), judge(5)]);
    assert_eq!(run.wait(999), []);
    assert_eq!(run.launched(2), [serve(2)], "it was a user after all");
    assert_eq!(run.wait(1), [judge(6)]);
    let close = |n| Output::Close(conn(n));
    assert_eq!(run.wait(3_000), [close(3), close(4), close(5), close(6)]);
    assert_eq!(run.roster.poll_timeout(), None);
}

#[test]
fn a_guess_is_forgotten_with_its_connection() {
    let mut run = Run::new(false, None);
    run.numbered(1);
    run.feed(Input::Early(conn(1)));
    run.feed(Input::Shown(conn(1)));
    run.feed(Input::Gone(conn(1)));
    assert_eq!(run.roster.poll_timeout(), None);
}

#[test]
fn ingress_announces_who_takes_a_connection_and_ignores_the_peers_launches() {
    let mut run = Run::new(true, None);
    run.numbered(1);
    let launch = user("192.0.2.1:5");
    assert_eq!(run.launched(1), []);
    let taken = Input::Taken {
        conn: conn(1),
        launch: launch.clone(),
    };
    let id = DataId(1);
    assert_eq!(
        run.feed(taken.clone()),
        [Output::Send(Signal::Launch { id, launch })]
    );
    assert_eq!(run.feed(taken), [Output::Close(conn(1))], "taken once only");
}

#[test]
fn a_matching_certificate_is_confirmed_and_its_connection_closed() {
    let mut run = Run::new(true, Some(SENDS));
    run.numbered(1);
    run.numbered(2);
    let done = |n| vec![Output::Close(conn(n)), Output::Matched];
    assert_eq!(run.verify(1, Some(GOOD)), done(1));
    // The close that follows a `verify` overtakes it.
    run.feed(Input::Early(conn(2)));
    assert_eq!(run.verify(2, Some(GOOD)), done(2));
    // So does the line its connection.
    assert_eq!(run.verify(3, Some(GOOD)), []);
    assert_eq!(run.numbered(3), done(3));
}

#[test]
fn another_certificate_ends_the_session() {
    for (check, fp, matches) in [
        (SENDS, Some(BAD), false),
        (SENDS, None, false),
        (SENDS, Some(GOOD), true),
    ]
    .into_iter()
    .chain([
        (
            Check {
                blind_passes: true,
                ..SENDS
            },
            None,
            true,
        ),
        (
            Check {
                blind_passes: true,
                ..SENDS
            },
            Some(BAD),
            false,
        ),
    ]) {
        let mut run = Run::new(false, Some(check));
        run.numbered(1);
        let expected = match matches {
            true => Output::Matched,
            false => Output::Mismatched(DataId(1)),
        };
        assert_eq!(run.verify(1, fp), [Output::Close(conn(1)), expected]);
    }
}

#[test]
fn our_check_takes_the_newest_of_several_and_is_sent_once() {
    let mut run = Run::new(true, Some(SENDS));
    (1..=3).for_each(|n| drop(run.numbered(n)));
    assert_eq!(run.wait(4_999), []);
    let verify = Signal::Verify {
        id: DataId(3),
        fp: Some(GOOD),
    };
    assert_eq!(run.wait(1), [Output::Claim(conn(3)), Output::Send(verify)]);
    // The peer ends it, or it is closed some time.
    assert_eq!(run.feed(Input::Early(conn(3))), [Output::Close(conn(3))]);
    assert_eq!(run.wait(60_000), []);
    assert_eq!(run.roster.len(), 2);
}

#[test]
fn a_claimed_connection_that_the_peer_leaves_open_is_closed() {
    let mut run = Run::new(true, Some(SENDS));
    run.numbered(1);
    run.numbered(2);
    assert_eq!(run.wait(5_000).len(), 2);
    assert_eq!(run.wait(5_000), [Output::Close(conn(2))]);
}

#[test]
fn a_single_connection_is_left_to_the_peers_check() {
    let mut run = Run::new(true, Some(SENDS));
    run.numbered(1);
    assert_eq!(run.wait(5_000), []);
    assert_eq!(run.verify(1, Some(GOOD)).len(), 2);
    run.numbered(2);
    assert_eq!(run.wait(5_000)[0], Output::Claim(conn(2)));

    // A peer that never asks is asked in the end.
    let mut run = Run::new(true, Some(SENDS));
    run.numbered(1);
    assert_eq!((run.wait(5_000), run.wait(5_000)), (vec![], vec![]));
    assert_eq!(run.wait(5_000)[0], Output::Claim(conn(1)));
}

#[test]
fn an_end_that_must_not_ask_does_not() {
    let check = Check {
        send: false,
        blind_passes: true,
    };
    let mut run = Run::new(true, Some(check));
    run.numbered(1);
    run.numbered(2);
    assert_eq!(run.roster.poll_timeout(), None);
    assert_eq!(
        run.verify(1, None),
        [Output::Close(conn(1)), Output::Matched]
    );
}

#[test]
fn an_id_that_is_used_twice_costs_the_second_connection() {
    let mut run = Run::new(false, None);
    run.numbered(1);
    let again = Input::Numbered {
        conn: conn(2),
        id: DataId(1),
        leaf: None,
    };
    assert_eq!(run.feed(again), [Output::Close(conn(2))]);
    assert_eq!(run.launched(1), [serve(1)]);
}

#[test]
fn a_flush_closes_what_is_idle_and_nothing_else() {
    let mut run = Run::new(false, None);
    (1..=3).for_each(|n| drop(run.numbered(n)));
    run.feed(Input::Early(conn(2)));
    run.feed(Input::Gone(conn(3)));
    assert_eq!(run.feed(Input::Flushed), [Output::Close(conn(1))]);
    assert_eq!(run.launched(2), [serve(2)]);
}

#[test]
fn a_spare_connection_goes_unless_something_is_under_way_on_it() {
    let mut run = Run::new(false, None);
    (1..=2).for_each(|n| drop(run.numbered(n)));
    run.feed(Input::Early(conn(2)));
    assert_eq!(run.feed(Input::Spare(conn(1))), [Output::Close(conn(1))]);
    assert_eq!(run.feed(Input::Spare(conn(2))), []);
    assert_eq!(run.launched(2), [serve(2)]);
}

#[test]
fn the_parking_is_bounded() {
    let mut run = Run::new(false, None);
    let most = u32::try_from(limits::PARKED).unwrap();
    for n in 1..=most {
        assert_eq!(run.launched(n), []);
    }
    let one_more = most + 1;
    assert_eq!(run.launched(one_more), [Output::Missing(DataId(one_more))]);
    assert_eq!(run.launched(1), [], "known already");
}
