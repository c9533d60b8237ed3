mod by_address;

use alloc::vec::Vec;

use super::*;
use crate::wire::preface;

const EXPORTER: [u8; 32] = [5; 32];
const HERE: &str = "192.0.2.1";
const THERE: &str = "192.0.2.2";

fn secret() -> DataSecret {
    DataSecret::from_bytes([9; 32])
}

fn at(millis: u64) -> Instant {
    Instant::from_origin(core::time::Duration::from_millis(millis))
}

struct Door {
    endpoint: Endpoint,
    now: u64,
}

impl Door {
    fn new(tls: DataTls) -> Self {
        let config = Config {
            tls,
            max: 16,
            max_total: 40,
        };
        Self {
            endpoint: Endpoint::new(config, Seed([1; 32]), at(0)),
            now: 0,
        }
    }

    fn feed(&mut self, input: Input) -> Vec<Output> {
        self.endpoint.handle_input(at(self.now), input);
        self.drain()
    }

    fn wait(&mut self, millis: u64) -> Vec<Output> {
        self.now += millis;
        self.endpoint.handle_timeout(at(self.now));
        self.drain()
    }

    fn drain(&mut self) -> Vec<Output> {
        core::iter::from_fn(|| self.endpoint.poll_output()).collect()
    }

    fn accept(&mut self, from: &str) -> (ConnId, Vec<Output>) {
        let conn = self.endpoint.next_conn();
        let outputs = self.feed(Input::Accepted {
            conn,
            from: from.parse().unwrap(),
        });
        (conn, outputs)
    }

    fn session(&mut self, from: &str, instance: u8) -> (LinkId, SessionId, Vec<Output>) {
        let (conn, _) = self.accept(from);
        let instance = InstanceId([instance; 16]);
        let mut outputs = self.feed(Input::Hello {
            conn,
            instance,
            data_secret: secret(),
        });
        match outputs.pop() {
            Some(Output::Welcome { link, session, .. }) => (link, session, outputs),
            other => panic!("no welcome but {other:?}"),
        }
    }

    fn preface(&mut self, preface: Preface, exporter: Option<[u8; 32]>) -> Vec<Output> {
        let (conn, _) = self.accept(HERE);
        self.feed(Input::Preface {
            conn,
            preface,
            exporter,
        })
    }

    fn wrong_proof(&mut self, from: &str) -> Vec<Output> {
        let (conn, refused) = self.accept(from);
        if refused.is_empty() {
            self.feed(Input::WrongProof(conn))
        } else {
            refused
        }
    }
}

fn signed(session: SessionId, seq: u64, exporter: Option<&[u8; 32]>) -> Preface {
    Preface {
        session,
        seq,
        tag: preface::tag(&secret(), session, seq, exporter),
    }
}

fn refusal(outputs: &[Output]) -> Option<Refusal> {
    outputs.iter().find_map(|output| match output {
        Output::Close(_, why) => Some(*why),
        _ => None,
    })
}

#[test]
fn a_data_connection_belongs_to_the_session_that_signed_it() {
    let mut door = Door::new(DataTls::Pinned);
    let (link, session, _) = door.session(HERE, 1);
    let outputs = door.preface(signed(session, 1, Some(&EXPORTER)), Some(EXPORTER));
    assert!(
        matches!(outputs[..], [Output::Data(_, to)] if to == link),
        "{outputs:?}"
    );
    assert_eq!(door.endpoint.half_open(), 0);
}

#[test]
fn every_forged_preface_is_refused_without_a_word() {
    let mut door = Door::new(DataTls::Pinned);
    let (link, session, _) = door.session(HERE, 1);
    let good = signed(session, 7, Some(&EXPORTER));
    let stolen_for_another_connection = door.preface(good, Some([6; 32]));
    assert_eq!(
        refusal(&stolen_for_another_connection),
        Some(Refusal::WrongTag)
    );
    let lowered = door.preface(signed(session, 7, None), None);
    assert_eq!(refusal(&lowered), Some(Refusal::WrongTls));
    let unknown = door.preface(
        signed(SessionId([0; 16]), 7, Some(&EXPORTER)),
        Some(EXPORTER),
    );
    assert_eq!(refusal(&unknown), Some(Refusal::UnknownSession));
    let other_seq = door.preface(Preface { seq: 8, ..good }, Some(EXPORTER));
    assert_eq!(refusal(&other_seq), Some(Refusal::WrongTag));
    assert_eq!(
        refusal(&door.preface(good, Some(EXPORTER))),
        None,
        "the real one is still good"
    );
    assert_eq!(
        refusal(&door.preface(good, Some(EXPORTER))),
        Some(Refusal::Replayed)
    );
    door.feed(Input::SessionEnded(link));
    let late = door.preface(signed(session, 9, Some(&EXPORTER)), Some(EXPORTER));
    assert_eq!(refusal(&late), Some(Refusal::UnknownSession));
    assert_eq!(
        refusal(&door.wrong_proof(HERE)),
        None,
        "forged prefaces never ban"
    );
}

#[test]
fn a_plain_server_refuses_tls_prefaces() {
    let mut door = Door::new(DataTls::Plain);
    let (_, session, _) = door.session(HERE, 1);
    assert_eq!(refusal(&door.preface(signed(session, 1, None), None)), None);
    let outputs = door.preface(signed(session, 2, Some(&EXPORTER)), Some(EXPORTER));
    assert_eq!(refusal(&outputs), Some(Refusal::WrongTls));
}

#[test]
fn the_fifth_wrong_key_bans_its_address_and_no_other() {
    let mut door = Door::new(DataTls::Plain);
    for _ in 1..limits::BAN_FAILURES {
        let outputs = door.wrong_proof(HERE);
        assert!(
            matches!(outputs.last(), Some(Output::Refuse(_))),
            "{outputs:?}"
        );
    }
    let outputs = door.wrong_proof(HERE);
    assert!(outputs.contains(&Output::Notice(Notice::Banned(HERE.parse().unwrap()))));
    assert_eq!(refusal(&door.accept(HERE).1), Some(Refusal::Banned));
    assert_eq!(door.accept(THERE).1, []);
    door.wait(60_000);
    assert_eq!(door.accept(HERE).1, [], "a ban ends");
}

#[test]
fn a_neighbour_of_a_live_session_is_slowed_down_instead() {
    let mut door = Door::new(DataTls::Plain);
    door.session(HERE, 1);
    for _ in 0..10 {
        let outputs = door.wrong_proof(HERE);
        let said_nothing = outputs.iter().all(|o| matches!(o, Output::Notice(_)));
        assert!(said_nothing, "neither answered nor closed: {outputs:?}");
    }
    assert_eq!(door.accept(HERE).1, [], "the address is not closed out");
    assert_eq!(door.wait(999), []);
    for (answers, millis) in [(4, 1), (0, 999), (4, 1), (0, 999), (2, 1)] {
        let outputs = door.wait(millis);
        assert_eq!(outputs.len(), answers, "{outputs:?}");
        assert!(outputs.iter().all(|o| matches!(o, Output::Refuse(_))));
    }
    assert_eq!(door.endpoint.half_open(), 1);
}

#[test]
fn wrong_proofs_that_wait_are_bounded_by_the_half_open_limits() {
    let mut door = Door::new(DataTls::Plain);
    door.session(HERE, 1);
    for _ in 0..4 * limits::HALF_OPEN_PER_ADDRESS {
        let (conn, _) = door.accept(HERE);
        door.feed(Input::WrongProof(conn));
    }
    assert_eq!(door.endpoint.half_open(), limits::HALF_OPEN_PER_ADDRESS);
    assert_eq!(
        door.wait(1_000).len(),
        limits::REFUSALS_DELAYED,
        "those that were evicted take nobody's turn"
    );
}

#[test]
fn a_neighbour_cannot_lock_out_a_client_that_restarts() {
    let mut door = Door::new(DataTls::Plain);
    let (link, _, _) = door.session(HERE, 1);
    door.feed(Input::SessionEnded(link));
    door.wait(59_000);
    for _ in 0..=limits::BAN_FAILURES {
        let outputs = door.wrong_proof(HERE);
        assert_eq!(refusal(&outputs), None);
        assert!(
            !outputs.iter().any(|o| matches!(o, Output::Refuse(_))),
            "slowed down as if the session were still up: {outputs:?}"
        );
    }
    let (back, _, _) = door.session(HERE, 1);
    door.feed(Input::SessionEnded(back));
    door.wait(30_000);
    assert_eq!(
        door.accept(HERE).1,
        [],
        "within a minute of the last session"
    );
}

#[test]
fn no_ban_is_announced_where_none_takes_effect() {
    let mut door = Door::new(DataTls::Plain);
    let (link, _, _) = door.session(HERE, 1);
    door.feed(Input::SessionEnded(link));
    door.wait(59_000);
    let here = HERE.parse().unwrap();
    for n in 0..2 * limits::BAN_FAILURES {
        let expected = (n == 0).then_some(Output::Notice(Notice::WrongKey(here)));
        assert_eq!(door.wrong_proof(HERE), Vec::from_iter(expected));
    }
    door.wait(1_000);
    assert_eq!(
        refusal(&door.accept(HERE).1),
        None,
        "nor later, unannounced"
    );
    let outputs = door.wrong_proof(HERE);
    assert!(outputs.contains(&Output::Notice(Notice::Banned(here))));
}

#[test]
fn the_exemption_ends_a_minute_after_the_last_session() {
    let mut door = Door::new(DataTls::Plain);
    let (first, _, _) = door.session(HERE, 1);
    let (last, _, _) = door.session(HERE, 2);
    door.feed(Input::SessionEnded(first));
    door.wait(30_000);
    door.feed(Input::SessionEnded(last));
    door.wait(50_000);
    for _ in 0..limits::BAN_FAILURES {
        door.wrong_proof(HERE);
    }
    door.wait(9_999);
    assert_eq!(refusal(&door.accept(HERE).1), None);
    assert_eq!(door.endpoint.poll_timeout(), Some(at(90_000)));
    door.wait(1);
    assert_eq!(refusal(&door.accept(HERE).1), None, "no ban was announced");
    door.wrong_proof(HERE);
    assert_eq!(refusal(&door.accept(HERE).1), Some(Refusal::Banned));
}

#[test]
fn a_client_whose_proof_was_wrong_cannot_try_again_on_the_same_connection() {
    let mut door = Door::new(DataTls::Plain);
    door.session(HERE, 1);
    let (conn, _) = door.accept(HERE);
    door.feed(Input::WrongProof(conn));
    assert_eq!(door.feed(Input::WrongProof(conn)), []);
    let instance = InstanceId([2; 16]);
    let hello = Input::Hello {
        conn,
        instance,
        data_secret: secret(),
    };
    assert_eq!(door.feed(hello), []);
    assert_eq!(door.wait(1_000), [Output::Refuse(conn)]);
}

#[test]
fn an_ipv6_client_that_changes_its_address_is_not_banned_for_a_neighbour() {
    let mut door = Door::new(DataTls::Plain);
    let (_, session, _) = door.session("2001:db8::1", 1);
    for _ in 0..=limits::BAN_FAILURES {
        door.wrong_proof("2001:db8::bad");
    }
    let (conn, outputs) = door.accept("2001:db8::2");
    assert_eq!(outputs, []);
    let preface = signed(session, 1, None);
    let exporter = None;
    let outputs = door.feed(Input::Preface {
        conn,
        preface,
        exporter,
    });
    assert!(matches!(outputs[..], [Output::Data(..)]), "{outputs:?}");
}

#[test]
fn a_restarted_client_never_waits_for_its_ghost() {
    let mut door = Door::new(DataTls::Plain);
    let (ghost, _, _) = door.session(HERE, 1);
    let (other, _, _) = door.session(HERE, 2);
    let (_, _, outputs) = door.session(THERE, 1);
    assert_eq!(outputs, [Output::EndSession(ghost, Ending::SameInstance)]);
    assert_ne!(ghost, other);
    assert_eq!(door.endpoint.sessions(), 2);
}

#[test]
fn the_longest_silent_session_makes_room_for_the_65th() {
    let mut door = Door::new(DataTls::Plain);
    let mut links = Vec::new();
    for instance in 0..64 {
        door.now += 1;
        links.push(door.session(HERE, instance).0);
    }
    door.now += 1;
    door.feed(Input::Heard(links[0]));
    let (_, _, outputs) = door.session(HERE, 64);
    assert_eq!(outputs, [Output::EndSession(links[1], Ending::Longest)]);
    assert_eq!(door.endpoint.sessions(), limits::SESSIONS);
}

#[test]
fn the_oldest_half_open_connection_goes_first_per_address_and_in_all() {
    let mut door = Door::new(DataTls::Plain);
    let (oldest, _) = door.accept(HERE);
    for _ in 1..limits::HALF_OPEN_PER_ADDRESS {
        assert_eq!(door.accept(HERE).1, []);
    }
    let outputs = door.accept(HERE).1;
    assert_eq!(
        outputs,
        [
            Output::Close(oldest, Refusal::HalfOpen),
            Output::Notice(Notice::HalfOpenLimit)
        ]
    );
    let quiet = door.accept(HERE).1;
    assert!(
        matches!(quiet[..], [Output::Close(_, Refusal::HalfOpen)]),
        "said once: {quiet:?}"
    );
    for n in 0..300 {
        door.accept(&alloc::format!("198.51.100.{}", n % 250));
    }
    assert_eq!(door.endpoint.half_open(), limits::HALF_OPEN);
    let (conn, _) = door.accept(THERE);
    let instance = InstanceId([1; 16]);
    let outputs = door.feed(Input::Hello {
        conn,
        instance,
        data_secret: secret(),
    });
    assert!(
        matches!(outputs[..], [Output::Welcome { .. }]),
        "a real client gets in: {outputs:?}"
    );
}

#[test]
fn one_ipv6_network_cannot_take_every_place() {
    let mut door = Door::new(DataTls::Plain);
    let (other, _) = door.accept("2001:db8:0:1::1");
    let (oldest, _) = door.accept("2001:db8::");
    for n in 1..limits::HALF_OPEN_PER_ADDRESS {
        assert_eq!(door.accept(&alloc::format!("2001:db8::{n:x}")).1, []);
    }
    let outputs = door.accept("2001:db8::ffff:ffff").1;
    assert_eq!(
        outputs.first(),
        Some(&Output::Close(oldest, Refusal::HalfOpen)),
        "not {other:?}"
    );
    assert_eq!(door.endpoint.half_open(), limits::HALF_OPEN_PER_ADDRESS + 1);
}

#[test]
fn what_was_evicted_is_ignored_when_it_speaks_late() {
    let mut door = Door::new(DataTls::Plain);
    let (oldest, _) = door.accept(HERE);
    for _ in 0..limits::HALF_OPEN_PER_ADDRESS {
        door.accept(HERE);
    }
    let instance = InstanceId([1; 16]);
    let late = door.feed(Input::Hello {
        conn: oldest,
        instance,
        data_secret: secret(),
    });
    assert_eq!(late, []);
    assert_eq!(door.feed(Input::WrongProof(oldest)), []);
}

#[test]
fn a_session_has_at_most_max_idle_connections() {
    let mut door = Door::new(DataTls::Plain);
    let (link, session, _) = door.session(HERE, 1);
    let mut idle = Vec::new();
    for seq in 1..=16 {
        match door.preface(signed(session, seq, None), None)[..] {
            [Output::Data(conn, _)] => idle.push(conn),
            ref other => panic!("{other:?}"),
        }
    }
    let outputs = door.preface(signed(session, 17, None), None);
    assert_eq!(outputs[0], Output::Notice(Notice::IdleLimit(link)));
    assert_eq!(refusal(&outputs), Some(Refusal::TooManyIdle));
    door.feed(Input::NotIdle(idle[0]));
    door.feed(Input::NotIdle(idle[0]));
    assert_eq!(
        refusal(&door.preface(signed(session, 18, None), None)),
        None
    );
    let outputs = door.preface(signed(session, 19, None), None);
    assert_eq!(refusal(&outputs), Some(Refusal::TooManyIdle));
    assert_eq!(outputs.len(), 1, "it is said once");
}

#[test]
fn all_sessions_together_have_at_most_max_total_idle_connections() {
    let mut door = Door::new(DataTls::Plain);
    let mut idle = 0;
    for instance in 0..3 {
        let (_, session, _) = door.session(HERE, instance);
        for seq in 1..=16 {
            let outputs = door.preface(signed(session, seq, None), None);
            match outputs[..] {
                [Output::Data(..)] => idle += 1,
                _ => assert_eq!(refusal(&outputs), Some(Refusal::TooManyIdle)),
            }
        }
    }
    assert_eq!(idle, 40);
    let (link, _, _) = door.session(HERE, 0);
    door.feed(Input::SessionEnded(link));
    let (_, session, _) = door.session(HERE, 3);
    let outputs = door.preface(signed(session, 1, None), None);
    assert_eq!(
        refusal(&outputs),
        None,
        "those of a session that ended are gone"
    );
}

#[test]
fn secrets_are_not_printed() {
    let input = Input::Hello {
        conn: ConnId::from_number(1),
        instance: InstanceId([1; 16]),
        data_secret: secret(),
    };
    let text = alloc::format!("{input:?}");
    assert!(text.contains("DataSecret(***)"), "{text}");
}
