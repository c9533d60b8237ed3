use super::*;
use alloc::vec;

const INTERVAL: Duration = Duration::from_secs(5);

fn at(millis: u64) -> Instant {
    Instant::from_origin(Duration::from_millis(millis))
}

fn drain(session: &mut Session) -> Vec<Output> {
    core::iter::from_fn(|| session.poll_output()).collect()
}

fn text(session: &mut Session) -> String {
    let text = String::from_utf8(session.control_out().to_vec()).unwrap();
    session.control_sent(text.len());
    text
}

fn open() -> Session {
    let mut session = Session::new(&Dialect::native(), INTERVAL, at(0));
    assert_eq!(text(&mut session), "{\"action\":\"ping\",\"seq\":1}\n");
    session
}

#[test]
fn a_ping_is_answered_and_a_pong_gives_the_round_trip() {
    let mut session = open();
    session.handle_input(at(30), Input::Control(b"{\"action\":\"pong\",\"seq\":1}\n"));
    assert_eq!(
        drain(&mut session),
        [Output::Heard, Output::RoundTrip(Duration::from_millis(30))]
    );
    session.handle_input(at(31), Input::Control(b"{\"action\":\"pong\",\"seq\":1}\n"));
    assert_eq!(
        drain(&mut session),
        [Output::Heard],
        "a second pong says nothing new"
    );
    session.handle_input(
        at(32),
        Input::Control(b"{\"action\":\"ping\",\"seq\":77}\n"),
    );
    drain(&mut session);
    assert_eq!(text(&mut session), "{\"action\":\"pong\",\"seq\":77}\n");
}

#[test]
fn an_answer_to_an_earlier_ping_is_no_round_trip() {
    let mut session = open();
    session.handle_timeout(at(5_000));
    session.handle_input(
        at(5_010),
        Input::Control(b"{\"action\":\"pong\",\"seq\":1}\n"),
    );
    assert_eq!(drain(&mut session), [Output::Heard]);
    session.handle_input(
        at(5_020),
        Input::Control(b"{\"action\":\"pong\",\"seq\":2}\n"),
    );
    let round_trip = Output::RoundTrip(Duration::from_millis(20));
    assert_eq!(drain(&mut session), [Output::Heard, round_trip]);
}

#[test]
fn three_silent_intervals_end_it_unclean() {
    let mut session = open();
    for millis in [5_000, 10_000] {
        assert_eq!(session.poll_timeout(), Some(at(millis)));
        session.handle_timeout(at(millis));
        assert_eq!(drain(&mut session), vec![]);
    }
    assert_eq!(session.poll_timeout(), Some(at(15_000)));
    session.handle_timeout(at(15_000));
    assert_eq!(drain(&mut session), [Output::Closed(End::Silent)]);
    assert!(!End::Silent.is_clean());
    assert_eq!(session.poll_timeout(), None);
}

#[test]
fn any_line_counts_as_life_even_one_that_is_not_understood() {
    let mut session = open();
    session.handle_input(
        at(9_000),
        Input::Control(b"{\"action\":\"later\"}\nnoise\n"),
    );
    assert_eq!(drain(&mut session), [Output::Heard, Output::Skipped]);
    session.handle_timeout(at(15_001));
    assert_eq!(drain(&mut session), vec![]);
}

#[test]
fn an_end_after_bye_is_clean_whoever_said_it() {
    let bye = || Signal::Bye {
        reason: "stop".into(),
        retry_ms: 0,
    };
    let mut ours = open();
    ours.handle_input(at(1), Input::Send(bye()));
    ours.handle_input(at(2), Input::ControlEof);
    assert_eq!(drain(&mut ours), [Output::Closed(End::Graceful)]);
    assert!(End::Graceful.is_clean());

    let mut theirs = open();
    let line = b"{\"action\":\"bye\",\"reason\":\"stop\",\"retry_ms\":200}\n";
    theirs.handle_input(at(1), Input::Control(line));
    theirs.handle_input(at(2), Input::ControlEof);
    let retry_after = Duration::from_millis(200);
    let reason = "stop".into();
    assert_eq!(
        drain(&mut theirs),
        [
            Output::Heard,
            Output::Leaving {
                reason,
                retry_after
            },
            Output::Closed(End::Graceful)
        ]
    );

    let mut neither = open();
    neither.handle_input(at(1), Input::ControlEof);
    assert_eq!(drain(&mut neither), [Output::Closed(End::Lost)]);
    neither.handle_input(at(3), Input::Control(b"{\"action\":\"flush\"}\n"));
    assert_eq!(drain(&mut neither), vec![], "the end is final");
}

#[test]
fn a_peer_that_never_reads_is_paused_then_dropped() {
    let mut session = open();
    while session.wants_control() {
        session.handle_input(at(1), Input::Control(b"{\"action\":\"ping\",\"seq\":9}\n"));
        drain(&mut session);
    }
    assert!(session.control_out().len() < limits::CONTROL_BACKLOG / 2);
    loop {
        session.handle_input(at(1), Input::Send(Signal::Flush));
        if let Some(end) = drain(&mut session).pop() {
            assert_eq!(end, Output::Closed(End::Backlog));
            break;
        }
    }
}

/// Leaves `n` bytes for the peer.
fn leave(session: &mut Session, n: usize) {
    while session.control_out().len() < n {
        session.handle_input(at(1), Input::Send(Signal::Flush));
    }
    session.control_sent(session.control_out().len() - n);
}

#[test]
fn nothing_is_read_while_a_quarter_of_the_limit_is_unread() {
    let mut session = open();
    assert!(session.wants_control());
    leave(&mut session, limits::CONTROL_BACKLOG / 4);
    assert!(!session.wants_control());
    session.control_sent(1);
    assert!(session.wants_control());
    session.handle_input(at(2), Input::ControlEof);
    assert!(!session.wants_control(), "the end is final");
}

#[test]
fn the_limit_itself_may_wait_for_a_peer() {
    let mut session = open();
    session.handle_input(at(1), Input::Send(Signal::Flush));
    let line = session.control_out().len();
    leave(&mut session, limits::CONTROL_BACKLOG - line);
    session.handle_input(at(1), Input::Send(Signal::Flush));
    assert_eq!(drain(&mut session), vec![]);
    leave(&mut session, limits::CONTROL_BACKLOG - line + 1);
    session.handle_input(at(1), Input::Send(Signal::Flush));
    assert_eq!(drain(&mut session), [Output::Closed(End::Backlog)]);
}

#[test]
fn a_peer_that_reads_all_but_a_byte_does_not_make_the_buffer_grow() {
    let mut session = open();
    for seq in 0..20_000 {
        session.handle_input(at(1), Input::Send(Signal::Pong { seq: Some(seq) }));
        session.control_sent(session.control_out().len() - 1);
    }
    assert_eq!(drain(&mut session), vec![]);
    assert!(session.control.len() <= 2 * limits::CONTROL_BACKLOG);
    session.control_sent(1);
    assert!(session.control.is_empty(), "nothing of it is kept");
}

#[test]
fn lines_before_an_endless_one_count_however_the_bytes_are_cut() {
    let mut bytes = b"{\"action\":\"flush\"}\n".to_vec();
    bytes.extend([b'x'; limits::CONTROL_LINE]);
    let mut session = open();
    session.handle_input(at(1), Input::Control(&bytes));
    assert_eq!(
        drain(&mut session),
        [
            Output::Heard,
            Output::Flush,
            Output::Closed(End::LineTooLong)
        ]
    );
}

#[test]
fn an_endless_report_interval_is_no_overflow() {
    let session = Session::new(&Dialect::native(), Duration::MAX, at(1));
    assert!(session.poll_timeout().is_some_and(|due| due > at(1)));
}

#[test]
fn an_endless_line_ends_the_session() {
    let mut session = open();
    session.handle_input(at(1), Input::Control(&[b'x'; limits::CONTROL_LINE + 1]));
    assert_eq!(drain(&mut session), [Output::Closed(End::LineTooLong)]);
}

mod legacy {
    use super::*;

    use crate::handshake::legacy::{LegacyKeys, Spoken};
    use crate::key::TunnelKey;
    use crate::proof::Side;
    use crate::terms::{DataTls, Transport};

    const PING: &[u8] = b"MGc4KDEwJCt7cWcpIis+aTg=\n";
    const PONG: &[u8] = b"MGc4KDEwJCt7cWcpJCs+aTg=\n";

    fn dialect(spoken: Spoken) -> Dialect {
        let keys = LegacyKeys::new(&TunnelKey::new("KEY"), None);
        keys.dialect(spoken, DataTls::Plain, Side::Server).unwrap()
    }

    fn open(spoken: Spoken) -> Session {
        Session::new(&dialect(spoken), INTERVAL, at(0))
    }

    fn written(session: &mut Session) -> Vec<u8> {
        let bytes = session.control_out().to_vec();
        session.control_sent(bytes.len());
        bytes
    }

    #[test]
    fn pings_have_no_numbers_and_may_come_in_bursts() {
        let mut session = open(Spoken::Http);
        assert_eq!(written(&mut session), PING);
        let burst = [PING, PONG, PING].concat();
        session.handle_input(at(7), Input::Control(&burst));
        let round_trip = Output::RoundTrip(Duration::from_millis(7));
        assert_eq!(drain(&mut session), [Output::Heard, round_trip]);
        assert_eq!(written(&mut session), [PONG, PONG].concat());
        session.handle_input(at(9), Input::Control(PONG));
        assert_eq!(drain(&mut session), [Output::Heard], "not asked for");
    }

    #[test]
    fn silence_is_death_after_the_time_of_the_generation() {
        for (spoken, seconds) in [
            (Spoken::Http, 15),
            (Spoken::Https, 15),
            (Spoken::Classic, 20),
        ] {
            let mut session = open(spoken);
            while let Some(due) = session.poll_timeout() {
                session.handle_timeout(due);
                if let Some(Output::Closed(end)) = session.poll_output() {
                    assert_eq!((end, due), (End::Silent, at(seconds * 1000)));
                }
            }
        }
    }

    #[test]
    fn a_peer_is_pinged_in_time_however_rare_the_reports() {
        let minute = Duration::from_secs(60);
        let session = Session::new(&dialect(Spoken::Http), minute, at(0));
        assert_eq!(session.poll_timeout(), Some(at(5_000)));
    }

    #[test]
    fn launches_are_reported_and_sent() {
        for spoken in [Spoken::Http, Spoken::Https, Spoken::Classic] {
            let id = DataId(0x0a1b_2c3d);
            let launch = Launch::from_text(Transport::Udp, "192.0.2.1:5000");
            let (mut from, mut to) = (open(spoken), open(spoken));
            let signal = Signal::Launch {
                id,
                launch: launch.clone(),
            };
            from.handle_input(at(1), Input::Send(signal));
            let bytes = written(&mut from);
            to.handle_input(at(2), Input::Control(&bytes));
            assert_eq!(
                drain(&mut to),
                [Output::Heard, Output::Launch { id, launch }]
            );
        }
    }

    #[test]
    fn what_the_peer_has_no_words_for_is_not_sent_but_bye_still_counts() {
        let mut session = open(Spoken::Classic);
        written(&mut session);
        session.handle_input(at(1), Input::Send(Signal::Demand { n: 4 }));
        let (reason, retry_ms) = ("stop".into(), 0);
        session.handle_input(at(1), Input::Send(Signal::Bye { reason, retry_ms }));
        assert_eq!(written(&mut session), b"");
        session.handle_input(at(2), Input::ControlEof);
        assert_eq!(drain(&mut session), [Output::Closed(End::Graceful)]);
    }

    #[test]
    fn a_classic_line_is_shorter() {
        let mut session = open(Spoken::Classic);
        session.handle_input(at(1), Input::Control(&[b'x'; limits::CLASSIC_LINE]));
        assert_eq!(drain(&mut session), [Output::Closed(End::LineTooLong)]);
    }
}
