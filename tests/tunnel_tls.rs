//! What `tls` puts on the wire, and who verifies what.

use crate::support::binary::Launch;
use crate::support::certificates::Authority;
use crate::support::cutter::Way;
use crate::support::peers::Target;
use crate::support::scratch::Scratch;
use crate::support::tunnel::{Flow, KEY, Setup};
use crate::support::until::{never, secs};
use crate::support::{attacker, users};

/// A TLS record that carries a handshake.
const TLS: u8 = 0x16;

/// What a user says, and nobody between the ends may read with `tls` 1 or 2.
const SECRET: &[u8] = b"a sentence that nobody else should read";

#[test]
fn tls_1_and_2_hide_what_users_say_and_tls_0_does_not() {
    for tls in [0, 1, 2] {
        let target = Target::echo();
        let pair = Setup::new(Flow::Reverse, tls, target.addr())
            .through_cutter()
            .start();
        users::echo(&users::connect(pair.users()), SECRET).unwrap();
        let cutter = pair.cutter();
        let wire: Vec<Vec<u8>> = (0..cutter.count())
            .flat_map(|number| [Way::Up, Way::Down].map(|way| cutter.recorded(number, way)))
            .collect();
        let readable = wire
            .iter()
            .any(|bytes| bytes.windows(SECRET.len()).any(|part| part == SECRET));
        assert_eq!(readable, tls == 0, "tls={tls}");
        for number in 0..cutter.count() {
            let up = cutter.recorded(number, Way::Up);
            let plain = up.starts_with(b"NPD1");
            // The first connection is the control one: inside TLS always.
            assert!(
                number > 0 || up.first() == Some(&TLS),
                "the control connection is not TLS"
            );
            assert!(
                !plain || tls == 0,
                "tls={tls}, but connection {number} is plain"
            );
            assert!(
                !up.windows(KEY.len()).any(|part| part == KEY.as_bytes()),
                "the key is readable"
            );
        }
    }
}

#[test]
fn tls_2_with_an_unknown_authority_serves_nobody() {
    let (scratch, authority) = (Scratch::new(), Authority::new());
    authority.issue_into(&scratch);
    let stranger = Scratch::new();
    Authority::new().issue_into(&stranger);
    let target = Target::echo();
    let (tunnel, user) = reserve_two();
    let dir = scratch.path().display();
    let server = Launch::new([format!(
        "server://{KEY}@{}/{}?mode=1&tls=2&crt={dir}/crt.pem&key={dir}/key.pem",
        tunnel.addr(),
        user.addr()
    )]);
    let client = Launch::new([format!(
        "client://{KEY}@{}/{}?mode=2&ca={}/ca.pem",
        tunnel.addr(),
        target.addr(),
        stranger.path().display()
    )]);
    let (_server, client) = (server.start(), client.start());
    client.remark(&["certificate"], secs(10));
    users::never_served(user.addr(), secs(2));
    assert_eq!(target.accepted(), 0);
}

#[test]
fn tls_2_verifies_the_name_that_sni_gives() {
    let (scratch, authority) = (Scratch::new(), Authority::new());
    authority.issue_into(&scratch);
    let target = Target::echo();
    let (tunnel, user) = reserve_two();
    let dir = scratch.path().display();
    let _server = Launch::new([format!(
        "server://{KEY}@{}/{}?mode=1&tls=2&crt={dir}/crt.pem&key={dir}/key.pem",
        tunnel.addr(),
        user.addr()
    )])
    .start();
    let client = |sni: &str| {
        let (at, to) = (tunnel.addr(), target.addr());
        Launch::new([format!(
            "client://{KEY}@{at}/{to}?mode=2&min=2&ca={dir}/ca.pem&sni={sni}"
        )])
    };
    {
        let wrong = client("wrong.example").start();
        wrong.remark(&["certificate"], secs(10));
        users::never_served(user.addr(), secs(1));
    }
    let _right = client("localhost").start();
    users::until_served(user.addr(), secs(10));
}

#[test]
fn a_client_refuses_less_than_the_tls_it_asks_for() {
    for (server_tls, client_tls) in [(0, 1), (0, 2), (1, 2)] {
        let target = Target::echo();
        let pair = Setup::new(Flow::Reverse, server_tls, target.addr())
            .client(&format!("tls={client_tls}"))
            .launch();
        pair.client.remark(&["tls"], secs(10));
        users::never_served(pair.users(), secs(1));
        assert_eq!(
            target.accepted(),
            0,
            "server {server_tls}, client {client_tls}"
        );
    }
}

#[test]
fn a_client_takes_more_than_the_tls_it_asks_for() {
    let target = Target::echo();
    let pair = Setup::new(Flow::Reverse, 2, target.addr())
        .client("tls=1")
        .start();
    users::served(pair.users());
}

#[test]
fn the_tunnel_port_speaks_tls_13_and_nodepass_1_whatever_tls_says() {
    let target = Target::echo();
    for tls in [0, 1] {
        let pair = Setup::new(Flow::Reverse, tls, target.addr()).start();
        let stream = attacker::tls(pair.tunnel.addr(), pair.tunnel.addr().ip()).unwrap();
        assert_eq!(stream.conn.alpn_protocol(), Some(b"nodepass/1".as_slice()));
    }
}

#[test]
fn a_changed_byte_inside_tls_reaches_nobody() {
    let target = Target::echo();
    let pair = Setup::new(Flow::Reverse, 1, target.addr())
        .through_cutter()
        .min(1)
        .launch();
    pair.cutter().edit(|number, way, chunk| {
        // Application data of the data connections, after their handshakes.
        if number > 0 && way == Way::Up && chunk.first() == Some(&0x17) && chunk.len() > 200 {
            chunk[100] ^= 1;
        }
    });
    never("changed bytes arrive", secs(3), || {
        let user = users::try_connect(pair.users(), secs(1)).ok()?;
        let message = [b'x'; 400];
        match users::echo(&user, &message) {
            Err(error) if error.to_string() == "the echo differs" => Some(()),
            _ => None,
        }
    });
}

fn reserve_two() -> (crate::support::ports::Port, crate::support::ports::Port) {
    use crate::support::ports::Port;
    (Port::reserve(), Port::reserve())
}
