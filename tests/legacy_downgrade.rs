//! Who would like a client to go down to an older generation, and what becomes of that.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::attacker::ELSEWHERE;
use crate::support::binary::{Launch, Process};
use crate::support::course::{at_once, echo};
use crate::support::cutter::{Cutter, Way};
use crate::support::kernel::until_listening;
use crate::support::legacy::conn::Conn;
use crate::support::legacy::{Generation, Script, head, interval};
use crate::support::mixed::{Mix, patience};
use crate::support::ports::Port;
use crate::support::tunnel::{End, Flow, KEY, Setup};
use crate::support::until::{never, secs, until};
use crate::support::users::{self, connect_from};

#[test]
fn a_native_client_goes_down_to_nobody_and_says_so() {
    at_once(&Generation::ALL, |generation| {
        let (tcp, _udp) = echo();
        let mix = Mix::new(End::Client, *generation).params("&proto=native");
        let mixed = mix.start(tcp.addr());
        mixed.ours.remark(&["native"], patience());
        never("it goes down", interval() * 12, || {
            mixed.peer.saw("asked").then_some(())
        });
        assert_eq!((mixed.peer.sessions(), tcp.accepted()), (0, 0));
    });
}

#[test]
fn a_client_goes_only_where_its_proto_allows() {
    let rows = [
        ("native,http", Generation::Https),
        ("native,https", Generation::Http),
        ("https", Generation::Http),
        ("auto", Generation::Classic),
        ("http", Generation::Classic),
        ("classic", Generation::Http),
    ];
    at_once(&rows, |(proto, generation)| {
        let (tcp, _udp) = echo();
        let mix = Mix::new(End::Client, *generation).params(&format!("&proto={proto}"));
        let mixed = mix.start(tcp.addr());
        users::never_served(mixed.users(), interval() * 12);
        assert_eq!((mixed.peer.sessions(), tcp.accepted()), (0, 0));
        assert!(!mixed.peer.saw("answered 200"));
    });
}

/// `tls` on a client is the least that it accepts.
#[test]
fn a_lower_tls_than_the_url_says_is_refused() {
    at_once(&Generation::ALL, |generation| {
        let (tcp, _udp) = echo();
        let mix = Mix::new(End::Client, *generation).params("&tls=1");
        let mixed = mix.start(tcp.addr());
        mixed.ours.remark(&["tls"], patience());
        users::never_served(mixed.users(), interval() * 8);
        assert_eq!(tcp.accepted(), 0);
    });
}

/// Somebody on the path says that `tls` is 0.
#[test]
fn a_lowered_tls_is_refused() {
    let (tcp, _udp) = echo();
    let (tunnel, user) = (Port::reserve(), Port::reserve());
    let script = Script {
        tls: 1,
        key: Some(KEY.to_owned()),
        ..Script::new(Generation::Http, tunnel.addr(), user.addr())
    };
    let _server = script.serve();
    let cutter = Cutter::before(tunnel.addr());
    cutter.edit(|_, way, chunk| {
        let from: &[u8] = b"\"tls\":\"1\"";
        if way == Way::Down
            && let Some(at) = chunk.windows(from.len()).position(|part| part == from)
        {
            chunk[at + 7] = b'0';
        }
    });
    let url = format!(
        "client://{KEY}@{}/{}?mode=2&min=4&tls=1",
        cutter.addr(),
        tcp.addr()
    );
    let client = Launch::new([url]).start();
    client.remark(&["tls"], patience());
    users::never_served(user.addr(), interval() * 8);
    assert_eq!(tcp.accepted(), 0);
}

/// What somebody on the path does with what a native server answers.
const TRICKS: [&[u8]; 3] = [
    b"",
    b"HTTP/1.1 400 Bad Request\r\n\r\n400 Bad Request",
    b"\x0a\x1b\x2c\x3d",
];

/// Whether a plain request, or a `classic` line, has passed.
fn went_down(cutter: &Cutter) -> bool {
    let line = head::handshake(Generation::Classic, KEY);
    (0..cutter.count())
        .map(|number| cutter.recorded(number, Way::Up))
        .any(|up| up.starts_with(b"GET ") || up.starts_with(&line))
}

/// More than the three failures after which a client looks for other generations.
fn several_attempts(cutter: &Cutter, before: usize) {
    until("several attempts", secs(30), || {
        (cutter.count() >= before + 6).then_some(())
    });
}

/// A native server behind a path on which its answers can be replaced, and a client of `proto`.
fn on_a_bad_path(
    proto: &str,
    bad: &Arc<AtomicBool>,
    trick: &'static [u8],
) -> (Cutter, Process, Process, Port) {
    let (tcp, _udp) = echo();
    let (tunnel, user) = (Port::reserve(), Port::reserve());
    let url = format!("server://{KEY}@{}/{}?mode=1", tunnel.addr(), user.addr());
    let server = Launch::new([url]).start();
    until_listening(tunnel.addr());
    let cutter = Cutter::before(tunnel.addr());
    let switch = Arc::clone(bad);
    cutter.edit(move |_, way, chunk| {
        if way == Way::Down && switch.load(Ordering::SeqCst) {
            *chunk = trick.to_vec();
        }
    });
    let url = format!(
        "client://{KEY}@{}/{}?mode=2&min=2&proto={proto}",
        cutter.addr(),
        tcp.addr()
    );
    // Where nothing is answered, each attempt ends by this.
    let client = Launch::new([url])
        .env("NP_HANDSHAKE_TIMEOUT", "500ms")
        .start();
    // The target may go: nobody is to reach it here.
    (cutter, server, client, user)
}

#[test]
fn a_native_client_does_not_go_down_whatever_is_suppressed() {
    at_once(&TRICKS, |trick| {
        let (cutter, _server, client, user) =
            on_a_bad_path("native", &Arc::new(AtomicBool::new(true)), trick);
        several_attempts(&cutter, 0);
        users::never_served(user.addr(), secs(1));
        assert!(!went_down(&cutter), "{:?}", client.lines());
    });
}

#[test]
fn only_an_http_answer_leads_a_client_down() {
    at_once(&TRICKS, |trick| {
        let (cutter, _server, client, _user) =
            on_a_bad_path("auto", &Arc::new(AtomicBool::new(true)), trick);
        if trick.starts_with(b"HTTP/") {
            until("a plain request", secs(20), || {
                went_down(&cutter).then_some(())
            });
        } else {
            several_attempts(&cutter, 0);
            assert!(!went_down(&cutter), "{:?}", client.lines());
        }
    });
}

#[test]
fn a_client_that_was_native_once_stays_native() {
    at_once(&TRICKS, |trick| {
        let bad = Arc::new(AtomicBool::new(false));
        let (cutter, _server, client, _user) = on_a_bad_path("auto", &bad, trick);
        until("data connections", secs(10), || {
            (cutter.count() >= 3).then_some(())
        });
        bad.store(true, Ordering::SeqCst);
        cutter.reset_all();
        several_attempts(&cutter, cutter.count());
        assert!(!went_down(&cutter), "{:?}", client.lines());
        bad.store(false, Ordering::SeqCst);
        cutter.reset_all();
        let again = cutter.count();
        until("the session is back", secs(30), || {
            (cutter.count() >= again + 3).then_some(())
        });
    });
}

/// After an `http` session a client looks upwards, and takes a native server that stands there.
#[test]
fn a_client_goes_up_when_it_can() {
    let (tcp, _udp) = echo();
    let mut mixed = Mix::new(End::Client, Generation::Http).start(tcp.addr());
    users::until_served(mixed.users(), patience());
    mixed.peer.stop();
    let url = format!(
        "server://{KEY}@{}/{}?mode=1&proto=native",
        mixed.tunnel.addr(),
        mixed.users()
    );
    let _native = Launch::new([url]).start();
    users::until_served(mixed.users(), secs(60));
}

/// A man in the middle with a certificate of his own, who speaks to each end as the other would.
#[test]
fn a_man_in_the_middle_of_tls_gets_into_no_native_tunnel() {
    for flow in [Flow::Reverse, Flow::Forward] {
        let (tcp, _udp) = echo();
        let pair = Setup::new(flow, 1, tcp.addr())
            .server("proto=native")
            .client("proto=native")
            .start();
        users::served(pair.users());
        let middle = middle_man(pair.tunnel.addr());
        let user = Port::reserve();
        let local = if flow == Flow::Reverse {
            tcp.addr()
        } else {
            user.addr()
        };
        let url = format!("client://{KEY}@{middle}/{local}?mode=2&min=2&proto=native");
        let client = Launch::new([url]).start();
        client.remark(&["key"], secs(20));
        let accepted = tcp.accepted();
        never("a session with the man in the middle", secs(2), || {
            client.lines_with(&["session up"]).pop()
        });
        pair.server.only_line_with(&["session up"]);
        if flow == Flow::Forward {
            users::never_served(user.addr(), secs(1));
        }
        assert_eq!(tcp.accepted(), accepted);
        users::served(pair.users());
    }
}

/// Decrypts on one side and encrypts on the other, for ever; where it listens.
fn middle_man(server: SocketAddr) -> SocketAddr {
    use crate::support::legacy::identity::Identity;
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let identity = Arc::new(Identity::fresh(&["nodepass/1"]));
        for socket in listener.incoming().map_while(Result::ok) {
            let identity = Arc::clone(&identity);
            std::thread::spawn(move || {
                let Ok((towards_client, _)) = Conn::tls_server(socket, &identity) else {
                    return;
                };
                let Ok(towards_server) =
                    Conn::tls_client(connect_from(ELSEWHERE, server), &["nodepass/1"])
                else {
                    return;
                };
                crate::support::legacy::relay(towards_client, towards_server);
            });
        }
    });
    addr
}
