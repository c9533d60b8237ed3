//! Port 443, where the GET of a 1.14 client goes inside ordinary HTTPS: its server stands behind a
//! front end that ends TLS. Needs the right to listen there, on loopback addresses of its own.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::thread;

use crate::support::binary::{Launch, Process};
use crate::support::certificates::Authority;
use crate::support::course::{at_once, datagrams, echo};
use crate::support::legacy::conn::Conn;
use crate::support::legacy::identity::Identity;
use crate::support::legacy::{Generation, Peer, Script, interval, relay};
use crate::support::mixed::patience;
use crate::support::ports::Port;
use crate::support::scratch::Scratch;
use crate::support::tunnel::{Flow, KEY};
use crate::support::until::{millis, secs, until};
use crate::support::users;

/// An address with port 443 that no other test has; `None`, and a line that says so, where that
/// port is not for us.
fn address() -> Option<SocketAddr> {
    static LAST: AtomicU8 = AtomicU8::new(0);
    let run = u8::try_from(std::process::id() % 250).unwrap();
    let last = LAST.fetch_add(1, Ordering::Relaxed);
    let addr = SocketAddr::from((Ipv4Addr::new(127, 43, run, last + 1), 443));
    match TcpListener::bind(addr) {
        Ok(_) => Some(addr),
        Err(error) => {
            eprintln!("not tested: {addr} cannot be listened on: {error}");
            None
        }
    }
}

/// What an authority has issued for `addr`: its own certificate, in a file, and a leaf.
fn issued(addr: SocketAddr) -> (Scratch, (String, String)) {
    let (scratch, authority) = (Scratch::new(), Authority::new());
    authority.issue_into(&scratch);
    let (crt, key, _) = authority.issue(&[&addr.ip().to_string()]);
    (scratch, (crt, key))
}

/// Ends TLS at `addr` and passes on what is inside; what is not TLS, too. How many came in TLS.
fn front_end(addr: SocketAddr, server: SocketAddr, pem: &(String, String)) -> Arc<AtomicUsize> {
    let listener = TcpListener::bind(addr).unwrap();
    let identity = Arc::new(Identity::from_pem(pem, &[]));
    let in_tls = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&in_tls);
    thread::spawn(move || {
        for socket in listener.incoming().map_while(Result::ok) {
            let (identity, count) = (Arc::clone(&identity), Arc::clone(&count));
            thread::spawn(move || {
                // A data connection says nothing by itself.
                socket.set_read_timeout(Some(millis(300))).unwrap();
                let is_tls = socket.peek(&mut [0]).is_ok_and(|count| count > 0);
                socket.set_read_timeout(None).unwrap();
                let outside = if is_tls {
                    count.fetch_add(1, Ordering::SeqCst);
                    Conn::tls_server(socket, &identity)
                        .ok()
                        .map(|(conn, _)| conn)
                } else {
                    Some(Conn::plain(socket))
                };
                if let (Some(outside), Ok(inside)) = (outside, TcpStream::connect(server)) {
                    relay(outside, Conn::plain(inside));
                }
            });
        }
    });
    in_tls
}

/// A scripted server of 1.14, and one of our clients that comes to it through a front end.
struct Behind {
    server: Peer,
    client: Process,
    in_tls: Arc<AtomicUsize>,
    users: Port,
    _files: [Scratch; 2],
}

impl Behind {
    /// `None` where port 443 is not for us.
    fn start(proto: &str, trusted: bool, target: SocketAddr) -> Option<Self> {
        let addr = address()?;
        let (tunnel, users) = (Port::reserve(), Port::reserve());
        let (roots, pem) = issued(addr);
        let (others, _) = issued(addr);
        let script = Script {
            key: Some(KEY.to_owned()),
            ..Script::new(Generation::Http, tunnel.addr(), users.addr())
        };
        let server = script.serve();
        let in_tls = front_end(addr, tunnel.addr(), &pem);
        let known = if trusted { &roots } else { &others };
        Some(Self {
            server,
            client: client(addr, target, proto, known),
            in_tls,
            users,
            _files: [roots, others],
        })
    }
}

/// A client for which the authority in `roots` is one of the system's.
fn client(server: SocketAddr, target: SocketAddr, proto: &str, roots: &Scratch) -> Process {
    let url = format!("client://{KEY}@{server}/{target}?mode=2&min=4&proto={proto}");
    Launch::new([url])
        .env(
            "NP_REPORT_INTERVAL",
            format!("{}ms", interval().as_millis()),
        )
        .env(
            "SSL_CERT_FILE",
            roots.path().join("ca.pem").display().to_string(),
        )
        .start()
}

const PROTOS: [&str; 3] = ["auto", "http", "native,http"];

#[test]
fn an_http_server_behind_a_front_end_is_spoken_to_inside_https() {
    at_once(&PROTOS, |proto| {
        let (tcp, _udp) = echo();
        let Some(behind) = Behind::start(proto, true, tcp.addr()) else {
            return;
        };
        users::until_served(behind.users.addr(), patience());
        // In `https` they would be framed.
        datagrams(behind.users.addr(), 5);
        assert!(behind.in_tls.load(Ordering::SeqCst) > 0);
        assert_eq!(behind.server.sessions(), 1);
        behind.client.remark(&["WARN", "legacy session"], secs(10));
        let warned = behind
            .client
            .lines_with(&["WARN", "http", "legacy session"]);
        assert_eq!(warned.len(), 1, "{warned:?}");
    });
}

/// A man in the middle has a certificate, but no good one.
#[test]
fn an_untrusted_certificate_is_shown_no_token_and_one_line_says_so() {
    at_once(&PROTOS, |proto| {
        let (tcp, _udp) = echo();
        let Some(behind) = Behind::start(proto, false, tcp.addr()) else {
            return;
        };
        behind
            .client
            .remark(&["WARN", "trusted authority"], secs(20));
        until("it tries again", secs(60), || {
            (behind.in_tls.load(Ordering::SeqCst) >= 5).then_some(())
        });
        assert!(!behind.server.saw("asked"), "the token is out");
        let lines = behind.client.lines_with(&["WARN", "no session"]);
        assert_eq!(lines.len(), 1, "{lines:?}");
    });
}

#[test]
fn a_2_0_server_needs_a_good_certificate_or_to_be_named() {
    // `proto`, whether the server has a certificate of a trusted authority, and whether it is served.
    let rows = [
        ("auto", false, false),
        ("https", false, true),
        ("native,https", false, true),
        ("auto", true, true),
    ];
    at_once(&rows, |&(proto, trusted, served)| {
        let Some(addr) = address() else { return };
        let ((tcp, _udp), users) = (echo(), Port::reserve());
        let (roots, pem) = issued(addr);
        let script = Script {
            key: Some(KEY.to_owned()),
            flow: Flow::Forward,
            tls: if trusted { 2 } else { 0 },
            pem: trusted.then_some(pem),
            ..Script::new(Generation::Https, addr, tcp.addr())
        };
        let server = script.serve();
        let client = client(addr, users.addr(), proto, &roots);
        if served {
            users::until_served(users.addr(), patience());
            datagrams(users.addr(), 5);
            return assert!(server.is_up());
        }
        client.remark(&["WARN", "trusted authority", "proto=https"], secs(20));
        users::never_served(users.addr(), interval() * 8);
        assert!(!server.saw("asked"), "the token is out");
    });
}
