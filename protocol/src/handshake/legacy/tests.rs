use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::config::Sni;
use crate::handshake::{Established, HandshakeError, Step};
use crate::terms::Flow;
use crate::time::{Duration, Instant};
use crate::wire::http::Params;
use crate::wire::native::RefuseReason;

const TIMEOUT: Duration = Duration::from_secs(5);
const ALL: [Spoken; 3] = [Spoken::Http, Spoken::Https, Spoken::Classic];

fn keys(key: &str) -> LegacyKeys {
    LegacyKeys::new(&TunnelKey::new(key), None)
}

fn start(spoken: Spoken, key: &str, least_tls: DataTls) -> (AwaitAnswer, Vec<u8>) {
    let config = LegacyConfig {
        host: "server.example".into(),
        least_tls,
    };
    let (now, mut out) = (Instant::default(), Vec::new());
    let wait = LegacyHandshake::start(spoken, &config, &keys(key), now, TIMEOUT, &mut out);
    (wait.unwrap(), out)
}

fn wait(spoken: Spoken) -> AwaitLegacy {
    AwaitLegacy::new(spoken, &keys("KEY"), Instant::default(), TIMEOUT).unwrap()
}

fn params(flow: Flow, tls: DataTls) -> Params {
    let max = 1024;
    Params { flow, max, tls }
}

/// The server's answer to a client with the right key.
fn answer(spoken: Spoken, request: &[u8], params: &Params) -> Vec<u8> {
    let LegacyStep::Verified(client) = wait(spoken).handle_bytes(request).unwrap() else {
        panic!("not verified");
    };
    let mut out = Vec::new();
    client.answer(params, &mut out).unwrap();
    out
}

fn outcome(wait: AwaitAnswer, pieces: &[&[u8]]) -> Result<Established, HandshakeError> {
    let mut wait = wait;
    let mut pieces = pieces.iter();
    while let Some(piece) = pieces.next() {
        match wait.handle_bytes(piece)? {
            Step::NeedsInput(next) => wait = next,
            Step::Done(mut established) => {
                pieces.for_each(|more| established.rest.extend_from_slice(more));
                return Ok(established);
            }
        }
    }
    wait.handle_eof()
}

fn agree(spoken: Spoken, flow: Flow, tls: DataTls) -> Result<Established, HandshakeError> {
    let (client, request) = start(spoken, "KEY", DataTls::Plain);
    let answer = answer(spoken, &request, &params(flow, tls));
    outcome(client, &[&answer])
}

#[test]
fn two_ends_with_one_key_agree_in_every_generation() {
    for spoken in ALL {
        for tls in [DataTls::Plain, DataTls::Pinned] {
            let established = agree(spoken, Flow::Reverse, tls).unwrap();
            assert_eq!((established.flow, established.tls), (Flow::Reverse, tls));
            assert_eq!(established.dialect.generation, spoken.generation());
            assert_eq!((established.session, established.max), (None, 1024));
        }
    }
}

#[test]
fn what_each_generation_can_do() {
    let capabilities = |spoken, tls| {
        let established = agree(spoken, Flow::Forward, tls).unwrap();
        established.dialect.capabilities
    };
    let max = limits::HTTP_DATAGRAM;
    let http = capabilities(Spoken::Http, DataTls::Pinned);
    assert_eq!(http.datagrams, Form::Bare { max });
    assert_eq!(http.control, ControlOn::DataConnection);
    assert!(http.check.unwrap().send);
    let https = capabilities(Spoken::Https, DataTls::Pinned);
    assert_eq!(https.datagrams, Form::Framed { max });
    assert!(https.check.unwrap().send);
    assert_eq!(capabilities(Spoken::Https, DataTls::Verified).check, None);
    assert_eq!(capabilities(Spoken::Http, DataTls::Plain).check, None);
    let classic = capabilities(Spoken::Classic, DataTls::Pinned);
    assert_eq!(classic.control, ControlOn::Handshake);
    assert_eq!(classic.data, DataBy::Address(IdForm::Digits));
    assert_eq!((classic.check, classic.datagrams.max()), (None, 8192));
    let report = Duration::from_secs(60);
    for (capabilities, ping, silence, idle) in [
        (http, 5, 15, None),
        (https, 5, 15, None),
        (classic, 5, 20, Some(20)),
    ] {
        let liveness = capabilities.liveness;
        assert_eq!(capabilities.relay_idle, idle.map(Duration::from_secs));
        assert_eq!(liveness.ping_interval(report), Duration::from_secs(ping));
        assert_eq!(liveness.silence(report), Duration::from_secs(silence));
    }
}

#[test]
fn a_1_14_server_with_tls_2_is_never_asked_and_its_blindness_passes() {
    let check = |side| {
        let dialect = keys("KEY").dialect(Spoken::Http, DataTls::Verified, side);
        dialect.unwrap().capabilities.check.unwrap()
    };
    assert!(!check(Side::Client).send && check(Side::Client).blind_passes);
    assert!(check(Side::Server).send);
    assert!(agree(Spoken::Http, Flow::Forward, DataTls::Verified).is_ok());
    let error = agree(Spoken::Http, Flow::Reverse, DataTls::Verified).unwrap_err();
    assert_eq!(error, HandshakeError::ServesNobody);
    assert!(!error.to_string().contains('\n'));
    assert!(agree(Spoken::Https, Flow::Reverse, DataTls::Verified).is_ok());
}

#[test]
fn a_wrong_key_is_refused_and_counts() {
    for spoken in ALL {
        let (client, request) = start(spoken, "OTHER KEY", DataTls::Plain);
        let step = wait(spoken).handle_bytes(&request);
        let Ok(LegacyStep::Refused { answer, why }) = step else {
            panic!("accepted, or taken for noise: {step:?}");
        };
        assert_eq!(why, HandshakeError::WrongProof);
        assert!(why.counts_for_ban());
        let told = outcome(client, &[&answer]).unwrap_err();
        let expected = match spoken {
            Spoken::Classic => HandshakeError::Eof,
            Spoken::Http | Spoken::Https => HandshakeError::Refused(RefuseReason::Auth),
        };
        assert_eq!(told, expected);
    }
}

#[test]
fn noise_never_counts() {
    for (spoken, bytes) in [
        (Spoken::Http, &b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"[..]),
        (Spoken::Http, b"GET /x HTTP/1.1\r\n\r\n"),
        (Spoken::Http, b"GET / SPDY\r\n\r\n"),
        (Spoken::Classic, b"\x01\x02\n"),
        (Spoken::Classic, &[b'a'; limits::CLASSIC_LINE]),
        (Spoken::Http, &[b'a'; limits::HTTP_HEAD]),
    ] {
        match wait(spoken).handle_bytes(bytes) {
            Ok(LegacyStep::Refused { why, .. }) | Err(why) => assert!(!why.counts_for_ban()),
            Ok(other) => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_request_names_the_server_unless_it_has_no_name() {
    let other = Sni::Name("other.org".to_string());
    for (sni, host, named) in [
        (&Sni::Host, "example.org", "example.org"),
        (&Sni::Host, "192.0.2.1", "none"),
        (&Sni::Host, "2001:db8::1", "none"),
        (&Sni::Host, "", "none"),
        (&Sni::None, "example.org", "none"),
        (&other, "192.0.2.1", "other.org"),
    ] {
        assert_eq!(LegacyConfig::new(sni, host, DataTls::Plain).host, named);
    }
}

#[test]
fn the_least_tls_holds() {
    for spoken in ALL {
        let (client, request) = start(spoken, "KEY", DataTls::Verified);
        let answer = answer(spoken, &request, &params(Flow::Forward, DataTls::Pinned));
        assert!(matches!(
            outcome(client, &[&answer]),
            Err(HandshakeError::TlsTooLow { .. })
        ));
    }
}

#[test]
fn other_answers_are_told_apart() {
    let head = "HTTP/1.1 200 OK\r\n\r\n";
    let body = |pool: &str| {
        format!("{head}{{\"flow\":\"+\",\"max\":1,\"tls\":\"0\",\"type\":\"{pool}\"}}")
    };
    for (spoken, bytes, error) in [
        (Spoken::Http, "\0\0\0\0".into(), HandshakeError::NotHttp),
        (Spoken::Https, "\x7c\x02".into(), HandshakeError::NotHttp),
        (Spoken::Http, String::new(), HandshakeError::Eof),
        (
            Spoken::Http,
            "HTTP/1.1 200 OK\r\n".into(),
            HandshakeError::Eof,
        ),
        (
            Spoken::Http,
            "HTTP/1.1 503 Busy\r\n\r\n".into(),
            HandshakeError::HttpStatus(503),
        ),
        (Spoken::Http, head.into(), HandshakeError::NotHttp),
        (Spoken::Http, body("1"), HandshakeError::PoolType),
        (
            Spoken::Classic,
            "noise\n".into(),
            HandshakeError::NotClassic,
        ),
        (Spoken::Classic, "x".repeat(512), HandshakeError::TooLong),
    ] {
        let (client, _) = start(spoken, "KEY", DataTls::Plain);
        assert_eq!(outcome(client, &[bytes.as_bytes()]), Err(error), "{bytes}");
    }
    let (client, _) = start(Spoken::Http, "KEY", DataTls::Plain);
    let by_eof = outcome(client, &[body("0").as_bytes()]).unwrap();
    assert_eq!(by_eof.flow, Flow::Forward);
}

#[test]
fn a_classic_peer_may_speak_at_once_behind_its_line() {
    let (client, request) = start(Spoken::Classic, "KEY", DataTls::Plain);
    let mut bytes = answer(
        Spoken::Classic,
        &request,
        &params(Flow::Reverse, DataTls::Plain),
    );
    bytes.extend_from_slice(b"\x20\x6a\x0a\x20");
    assert_eq!(
        outcome(client, &[&bytes]).unwrap().rest,
        b"\x20\x6a\x0a\x20"
    );

    let LegacyStep::Verified(client) = wait(Spoken::Classic)
        .handle_bytes(b"\x48\x46\x5a\x0a\x20\x6a\x0a")
        .unwrap()
    else {
        panic!("not verified");
    };
    assert_eq!(client.rest, b"\x20\x6a\x0a");
}

#[test]
fn what_does_not_begin_as_http_is_none_however_it_goes_on() {
    let headers = format!("\tHTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(65));
    for stream in [headers.into_bytes(), alloc::vec![b'x'; limits::HTTP_HEAD]] {
        for len in [1, stream.len()] {
            let (client, _) = start(Spoken::Http, "KEY", DataTls::Plain);
            let pieces: Vec<&[u8]> = stream.chunks(len).collect();
            assert_eq!(outcome(client, &pieces), Err(HandshakeError::NotHttp));
        }
    }
}

#[test]
fn what_is_behind_the_classic_line_is_not_judged_with_it() {
    let (client, mut to_server) = start(Spoken::Classic, "KEY", DataTls::Plain);
    let params = params(Flow::Reverse, DataTls::Plain);
    let mut to_client = answer(Spoken::Classic, &to_server, &params);
    let endless = [0; limits::CLASSIC_LINE + 1];
    to_client.extend_from_slice(&endless);
    assert_eq!(outcome(client, &[&to_client]).unwrap().rest, endless);

    to_server.extend_from_slice(&endless);
    let LegacyStep::Verified(client) = wait(Spoken::Classic).handle_bytes(&to_server).unwrap()
    else {
        panic!("not verified");
    };
    assert_eq!(client.rest, endless);
}

#[test]
fn keys_without_a_user_name_differ_by_generation() {
    let key = TunnelKey::default_for(10101);
    let keys = LegacyKeys::new(&key, Some(10101));
    let hello = |spoken| {
        let config = LegacyConfig {
            host: "h".into(),
            least_tls: DataTls::Plain,
        };
        let (now, mut out) = (Instant::default(), Vec::new());
        let wait = LegacyHandshake::start(spoken, &config, &keys, now, TIMEOUT, &mut out);
        assert!(wait.is_ok());
        out
    };
    assert_eq!(hello(Spoken::Classic), b"6331\n", "2775 under its length");
    let token = Proof::token(&TunnelKey::new("e68be2b4")).to_hex();
    let request = String::from_utf8(hello(Spoken::Http)).unwrap();
    assert!(request.contains(&token));
}

#[test]
fn a_key_that_classic_cannot_speak_leaves_the_others_alone() {
    let keys = keys(&"k".repeat(37));
    let error = keys
        .check(Generations::only(Generation::Classic))
        .unwrap_err();
    assert_eq!(keys.check(Generations::AUTO), Ok(Some(error)));
    assert_eq!(keys.check(Generations::only(Generation::Http)), Ok(None));
    assert!(error.to_string().contains("37"));
    let now = Instant::default();
    assert_eq!(
        AwaitLegacy::new(Spoken::Classic, &keys, now, TIMEOUT).unwrap_err(),
        HandshakeError::ClassicKey(error)
    );
    assert!(AwaitLegacy::new(Spoken::Http, &keys, now, TIMEOUT).is_ok());
}

#[test]
fn silence_ends_at_the_deadline() {
    let deadline = Instant::from_origin(TIMEOUT);
    for spoken in ALL {
        let (client, _) = start(spoken, "KEY", DataTls::Plain);
        assert_eq!(client.deadline(), deadline);
        let client = client.handle_timeout(Instant::default()).unwrap();
        assert_eq!(
            client.handle_timeout(deadline).unwrap_err(),
            HandshakeError::TimedOut
        );
        let server = wait(spoken).handle_timeout(Instant::default()).unwrap();
        assert_eq!(
            server.handle_timeout(deadline).unwrap_err(),
            HandshakeError::TimedOut
        );
        assert_eq!(wait(spoken).handle_eof(), HandshakeError::Eof);
    }
}

#[test]
fn only_a_complete_handshake_with_the_right_key_is_a_client_that_returned() {
    let keys = keys("KEY");
    let wrong = start(Spoken::Http, "OTHER", DataTls::Plain).1;
    let right = start(Spoken::Http, "KEY", DataTls::Plain).1;
    let path = String::from_utf8(right.clone()).unwrap();
    let path = path.replace("GET / ", "GET /x ");
    let (shown, early) = (Seen::Shown, Seen::Early);
    let returned = Ok(());
    let wrong_key = Err(Some(HandshakeError::WrongProof));
    for (bytes, seen, judged) in [
        (&right[..], shown, returned),
        (&right[..right.len() - 1], early, Err(None)),
        (&wrong[..], shown, wrong_key),
        (
            b"GET / HTTP/1.1\r\nHost: h\r\n\r\n",
            shown,
            Err(Some(HandshakeError::NoToken)),
        ),
        (
            path.as_bytes(),
            shown,
            Err(Some(HandshakeError::NotThisPath)),
        ),
        (b"HFZ\n", shown, returned),
        (b"HFZ\nand more", shown, returned),
        (b"HFZ", early, Err(None)),
        (b"HFX\n", shown, wrong_key),
        (b"\x80\n", shown, Err(Some(HandshakeError::NotClassic))),
        (b"NPD", early, Err(None)),
    ] {
        for peer in [Peer::Egress, Peer::Ingress] {
            let mut held = Held::of(peer);
            let text = String::from_utf8_lossy(bytes);
            assert_eq!(held.feed(bytes), seen, "{text}");
            match (held.judge(&keys), peer) {
                (Judged::Returned, _) => assert_eq!(judged, Ok(()), "{text}"),
                (Judged::Refused { answer, why }, Peer::Egress) => {
                    assert_eq!(judged, Err(Some(why)), "{text}");
                    let at_door = b"HTTP/1.1 4";
                    assert_eq!(answer.starts_with(at_door), bytes.starts_with(b"GET"));
                }
                (Judged::Users, Peer::Egress) => assert_eq!(judged, Err(None), "{text}"),
                (Judged::Users, _) => assert_ne!(judged, Ok(()), "{text}"),
                (other, _) => panic!("{other:?} for {text} of {peer:?}"),
            }
            assert_eq!(held.into_bytes(), bytes);
        }
    }
    let mut at_client = Held::of(Peer::Server);
    assert_eq!(at_client.feed(&right), early);
    assert_eq!(
        at_client.judge(&keys),
        Judged::Users,
        "nobody dials a client"
    );
}

#[test]
fn what_no_client_sends_before_a_launch_closes_its_connection_only() {
    for bytes in [&b"\x16\x03\x01"[..], b"NPD1"] {
        let mut held = Held::of(Peer::Egress);
        assert_eq!(held.feed(bytes), Seen::Foreign);
        assert_eq!(held.feed(b"\n"), Seen::Foreign, "nor with what follows");
        // Through a forward tunnel users speak first, and most of them TLS.
        assert_eq!(Held::of(Peer::Ingress).feed(bytes), Seen::Early);
    }
}

#[test]
fn a_handshake_byte_by_byte_is_shown_with_its_last() {
    for spoken in [Spoken::Http, Spoken::Classic] {
        let right = start(spoken, "KEY", DataTls::Plain).1;
        let mut held = Held::of(Peer::Egress);
        let (last, before) = right.split_last().unwrap();
        for byte in before {
            assert_eq!(held.feed(&[*byte]), Seen::Early);
        }
        assert_eq!(held.feed(&[*last]), Seen::Shown);
        assert_eq!(held.feed(b"\n\r\n\r\n"), Seen::Early, "seen once");
        assert_eq!(held.judge(&keys("KEY")), Judged::Returned);
    }
}

#[test]
fn held_bytes_are_bounded() {
    let mut held = Held::of(Peer::Ingress);
    assert!(held.is_empty());
    assert_eq!(held.feed(&[b'x'; 9000]), Seen::Early);
    assert_eq!(held.feed(b"\n"), Seen::Early);
    assert_eq!(held.room(), 0);
    assert_eq!(held.into_bytes().len(), limits::EARLY_BYTES);
}

proptest! {
    #[test]
    fn chunks_do_not_matter(
        which in 0..3_usize,
        garble in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
        chunk in 1_usize..40,
    ) {
        let spoken = ALL[which];
        let (_, request) = start(spoken, "KEY", DataTls::Plain);
        let mut bytes = answer(spoken, &request, &params(Flow::Reverse, DataTls::Pinned));
        if let Some((at, byte)) = garble {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let client = || start(spoken, "KEY", DataTls::Plain).0;
        let whole = outcome(client(), &[&bytes]);
        let pieces: Vec<&[u8]> = bytes.chunks(chunk).collect();
        prop_assert_eq!(outcome(client(), &pieces), whole);
    }
}
