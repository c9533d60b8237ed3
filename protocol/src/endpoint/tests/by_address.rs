use super::*;

const MAPPED: &str = "::ffff:192.0.2.1";

impl Door {
    fn addressed(&mut self, from: &str, control: ControlOn) -> (LinkId, Vec<Output>) {
        let (conn, _) = self.accept(from);
        let mut outputs = self.feed(Input::Addressed { conn, control });
        match outputs.pop() {
            Some(Output::Welcome { link, .. }) => (link, outputs),
            other => panic!("no welcome but {other:?}"),
        }
    }

    fn silent(&mut self, from: &str, tls: bool) -> Vec<Output> {
        let (conn, _) = self.accept(from);
        self.feed(Input::Silent { conn, tls })
    }

    fn expects(&self, from: &str) -> Expected {
        self.endpoint.expected(from.parse().unwrap())
    }
}

#[test]
fn the_first_data_connection_is_the_control_channel_where_the_handshake_is_not() {
    let mut door = Door::new(DataTls::Plain);
    let (link, _) = door.addressed(HERE, ControlOn::DataConnection);
    let first = door.silent(MAPPED, false);
    assert!(
        matches!(first[..], [Output::Control(_, of)] if of == link),
        "{first:?}"
    );
    let mut ids = Vec::new();
    for _ in 0..3 {
        match door.silent(HERE, false)[..] {
            [Output::Numbered(_, of, id)] if of == link => ids.push(id),
            ref other => panic!("{other:?}"),
        }
    }
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 3);
    assert_eq!(door.wait(60_000), [], "and it was in time");

    let (link, _) = door.addressed(THERE, ControlOn::Handshake);
    let first = door.silent(THERE, false);
    assert!(
        matches!(first[..], [Output::Numbered(_, of, _)] if of == link),
        "{first:?}"
    );
}

#[test]
fn silence_from_elsewhere_or_in_the_wrong_mode_is_closed() {
    for (tls, expected) in [
        (DataTls::Plain, Expected::Plain),
        (DataTls::Pinned, Expected::Tls),
    ] {
        let mut door = Door::new(tls);
        assert_eq!(door.expects(HERE), Expected::Nothing);
        door.addressed(MAPPED, ControlOn::Handshake);
        assert_eq!(
            (door.expects(HERE), door.expects(THERE)),
            (expected, Expected::Nothing)
        );
        let inside = tls != DataTls::Plain;
        let stranger = door.silent(THERE, inside);
        assert_eq!(refusal(&stranger), Some(Refusal::UnknownSession));
        let wrong = door.silent(HERE, !inside);
        assert_eq!(refusal(&wrong), Some(Refusal::WrongTls));
        assert_eq!(refusal(&door.silent(HERE, inside)), None);
    }
}

#[test]
fn idle_ones_are_bounded_and_the_control_channel_is_none_of_them() {
    let mut door = Door::new(DataTls::Plain);
    let (link, _) = door.addressed(HERE, ControlOn::DataConnection);
    door.silent(HERE, false);
    let idle: Vec<Output> = (0..16).flat_map(|_| door.silent(HERE, false)).collect();
    assert!(idle.iter().all(|it| matches!(it, Output::Numbered(..))));
    let Output::Numbered(first, ..) = idle[0] else {
        panic!()
    };
    let (conn, tls) = (door.accept(HERE).0, false);
    let full = Output::Notice(Notice::IdleLimit(link));
    let one_more = door.feed(Input::Silent { conn, tls });
    assert_eq!(one_more, [full, Output::Wait(conn)]);
    assert_eq!(door.endpoint.half_open(), 1);
    let again = door.feed(Input::Silent { conn, tls });
    assert_eq!(again, [Output::Wait(conn)], "it is said once");
    door.feed(Input::NotIdle(first));
    let now = door.feed(Input::Silent { conn, tls });
    assert!(
        matches!(now[..], [Output::Numbered(it, ..)] if it == conn),
        "{now:?}"
    );
    door.feed(Input::SessionEnded(link));
    assert_eq!(door.expects(HERE), Expected::Nothing);
}

/// A session with as many idle connections as it may have.
fn full(door: &mut Door) -> LinkId {
    let (link, _) = door.addressed(HERE, ControlOn::Handshake);
    (0..16).for_each(|_| drop(door.silent(HERE, false)));
    link
}

#[test]
fn a_late_handshake_wins_though_its_session_is_full() {
    let mut door = Door::new(DataTls::Plain);
    let old = full(&mut door);
    let (conn, _) = door.accept(HERE);
    door.feed(Input::Silent { conn, tls: false });
    let control = ControlOn::Handshake;
    let outputs = door.feed(Input::Addressed { conn, control });
    assert_eq!(outputs[0], Output::EndSession(old, Ending::SameAddress));
    assert!(matches!(outputs[1], Output::Welcome { .. }));
}

#[test]
fn those_without_room_go_before_anybody_else() {
    let mut door = Door::new(DataTls::Plain);
    full(&mut door);
    let (honest, _) = door.accept(THERE);
    let mut spare = Vec::new();
    for _ in 0..limits::HALF_OPEN_SPARE {
        let (conn, _) = door.accept(HERE);
        assert_eq!(
            refusal(&door.feed(Input::Silent { conn, tls: false })),
            None
        );
        spare.push(conn);
    }
    // Of one address there are only so many.
    let (conn, _) = door.accept(HERE);
    let outputs = door.feed(Input::Silent { conn, tls: false });
    let oldest = Output::Close(spare[0], Refusal::TooManyIdle);
    assert_eq!(outputs, [oldest, Output::Wait(conn)]);
    // A wrong key from one of them is forgotten with it.
    door.feed(Input::WrongProof(spare[1]));
    // Then they make room for others, without a notice, and whoever came before them stays.
    let places = limits::HALF_OPEN - door.endpoint.half_open();
    let others = |n: usize| alloc::format!("198.51.100.{}", n % 8);
    for n in 0..places {
        assert_eq!(door.accept(&others(n)).1, []);
    }
    for (n, conn) in spare[1..].iter().enumerate() {
        let closed = Output::Close(*conn, Refusal::HalfOpen);
        assert_eq!(door.accept(&others(n)).1, [closed]);
    }
    assert_eq!(door.feed(Input::WrongProof(honest)).len(), 2);
}

#[test]
fn those_without_room_go_before_others_of_their_address() {
    let mut door = Door::new(DataTls::Plain);
    full(&mut door);
    let (late, _) = door.accept(HERE);
    let (spare, _) = door.accept(HERE);
    door.feed(Input::Silent {
        conn: spare,
        tls: false,
    });
    for _ in 2..limits::HALF_OPEN_SILENT {
        assert_eq!(door.accept(HERE).1, []);
    }
    let closed = |conn| Output::Close(conn, Refusal::HalfOpen);
    assert_eq!(door.accept(HERE).1, [closed(spare)]);
    assert_eq!(door.accept(HERE).1[0], closed(late));
}

#[test]
fn a_wrong_key_on_a_data_connection_counts_as_one_at_the_door() {
    let mut door = Door::new(DataTls::Plain);
    let (link, _) = door.addressed(MAPPED, ControlOn::Handshake);
    let here = HERE.parse().unwrap();
    let first = door.feed(Input::WrongKey(link));
    assert_eq!(first, [Output::Notice(Notice::WrongKey(here))]);
    for _ in 0..2 * limits::BAN_FAILURES {
        assert_eq!(door.feed(Input::WrongKey(link)), []);
    }
    assert_eq!(door.accept(HERE).1, [], "its neighbour stays");
    door.feed(Input::SessionEnded(link));
    assert_eq!(door.feed(Input::WrongKey(link)), []);
    door.wait(59_000);
    // The failures of a live session's address leave it one short of a ban.
    assert_eq!(door.accept(HERE).1, []);
}

#[test]
fn more_of_them_may_be_in_handshake_together() {
    let mut door = Door::new(DataTls::Plain);
    door.addressed(HERE, ControlOn::Handshake);
    for _ in 0..limits::HALF_OPEN_SILENT {
        assert_eq!(door.accept(HERE).1, []);
    }
    assert_eq!(refusal(&door.accept(HERE).1), Some(Refusal::HalfOpen));
    for _ in 0..limits::HALF_OPEN_PER_ADDRESS {
        assert_eq!(door.accept(THERE).1, [], "and there is room for others");
    }
}

#[test]
fn a_client_that_restarts_wins_at_once() {
    let mut door = Door::new(DataTls::Plain);
    let (old, _) = door.addressed(HERE, ControlOn::DataConnection);
    let (new, outputs) = door.addressed(MAPPED, ControlOn::Handshake);
    assert_eq!(outputs, [Output::EndSession(old, Ending::SameAddress)]);
    // The ghost's own end comes late and changes nothing.
    door.feed(Input::SessionEnded(old));
    let first = door.silent(HERE, false);
    assert!(
        matches!(first[..], [Output::Numbered(_, of, _)] if of == new),
        "{first:?}"
    );

    assert_eq!(
        door.feed(Input::Returned(new)),
        [Output::EndSession(new, Ending::Returned)]
    );
    assert_eq!(door.feed(Input::Returned(new)), []);
    assert_eq!(door.expects(HERE), Expected::Nothing);
}

#[test]
fn what_was_dialled_before_a_handshake_is_not_of_its_session() {
    let mut door = Door::new(DataTls::Plain);
    door.addressed(HERE, ControlOn::DataConnection);
    let (of_the_old, _) = door.accept(HERE);
    let (new, _) = door.addressed(HERE, ControlOn::DataConnection);
    let (conn, tls) = (of_the_old, false);
    let late = door.feed(Input::Silent { conn, tls });
    assert_eq!(refusal(&late), Some(Refusal::UnknownSession));
    let first = door.silent(HERE, false);
    assert!(
        matches!(first[..], [Output::Control(_, of)] if of == new),
        "{first:?}"
    );
}

#[test]
fn it_stands_beside_named_sessions_of_the_same_address() {
    let mut door = Door::new(DataTls::Plain);
    let (named, session, _) = door.session(HERE, 1);
    let (addressed, outputs) = door.addressed(HERE, ControlOn::Handshake);
    assert_eq!(outputs, []);
    let silent = door.silent(HERE, false);
    assert!(matches!(silent[..], [Output::Numbered(_, of, _)] if of == addressed));
    let signed = door.preface(signed(session, 1, None), None);
    assert!(matches!(signed[..], [Output::Data(_, of)] if of == named));
    assert_eq!(door.endpoint.sessions(), 2);
}

#[test]
fn its_name_opens_nothing() {
    let mut door = Door::new(DataTls::Plain);
    let (conn, _) = door.accept(HERE);
    let control = ControlOn::Handshake;
    let outputs = door.feed(Input::Addressed { conn, control });
    let [Output::Welcome { session, .. }] = outputs[..] else {
        panic!("{outputs:?}")
    };
    let forged = door.preface(signed(session, 1, None), None);
    assert_eq!(refusal(&forged), Some(Refusal::UnknownSession));
}

#[test]
fn a_session_whose_control_channel_never_comes_ends() {
    let mut door = Door::new(DataTls::Plain);
    let (link, _) = door.addressed(HERE, ControlOn::DataConnection);
    assert_eq!(door.wait(9_999), []);
    assert_eq!(door.wait(1), [Output::EndSession(link, Ending::NoControl)]);
    assert_eq!(door.endpoint.sessions(), 0);
}

#[test]
fn too_many_sessions_cost_the_longest_silent_one() {
    let mut door = Door::new(DataTls::Plain);
    let (first, _) = door.addressed("198.51.100.0", ControlOn::Handshake);
    door.now += 1;
    for n in 1..limits::SESSIONS {
        door.addressed(&alloc::format!("198.51.100.{n}"), ControlOn::Handshake);
    }
    let (_, outputs) = door.addressed(HERE, ControlOn::Handshake);
    assert_eq!(outputs, [Output::EndSession(first, Ending::Longest)]);
    assert_eq!(door.endpoint.sessions(), limits::SESSIONS);
}

#[test]
fn a_wrong_token_bans_as_a_wrong_proof_does() {
    let mut door = Door::new(DataTls::Plain);
    for _ in 0..limits::BAN_FAILURES {
        door.wrong_proof(MAPPED);
    }
    assert_eq!(refusal(&door.accept(HERE).1), Some(Refusal::Banned));
}
