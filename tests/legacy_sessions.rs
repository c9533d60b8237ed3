//! Sessions of the older generations: who may have one, how they end, and several beside each other.

use std::io::Read;
use std::net::{Ipv6Addr, TcpStream};

use crate::support::attacker::ELSEWHERE;
use crate::support::binary::Launch;
use crate::support::certificates::Authority;
use crate::support::course::{at_once, bulk, echo};
use crate::support::legacy::{Generation, Script, interval};
use crate::support::mixed::{Mix, patience};
use crate::support::peers::{Target, greet};
use crate::support::ports::Port;
use crate::support::scratch::Scratch;
use crate::support::tunnel::{End, Flow, KEY};
use crate::support::until::{millis, never, secs, until};
use crate::support::users::{self, connect_from, end_of};

#[test]
fn a_peer_that_falls_silent_is_dead_and_may_come_back() {
    at_once(&Mix::every(), |mix| {
        let (tcp, _udp) = echo();
        let mixed = mix.start(tcp.addr());
        users::until_served(mixed.users(), patience());
        mixed.peer.mute(true);
        // That is a time of the wire, 15 or 20 s, whatever our own interval is.
        until("our end gives it up", interval() * 4 + secs(30), || {
            mixed.peer.saw("the other side closed").then_some(())
        });
        mixed.peer.mute(false);
        users::until_served(mixed.users(), patience());
        assert!(mixed.peer.sessions() > 1);
    });
}

#[test]
fn a_wrong_certificate_in_verify_ends_the_session() {
    let rows = [Generation::Http, Generation::Https]
        .into_iter()
        .flat_map(|generation| {
            [End::Client, End::Server].map(|ours| Mix::new(ours, generation).with(Flow::Reverse, 1))
        });
    at_once(&rows.collect::<Vec<_>>(), |mix| {
        let (tcp, _udp) = echo();
        let mixed = mix.start_as(tcp.addr(), |script| script.quirks.wrong_fp = true);
        mixed.peer.until_up(patience());
        until("our end refuses it", patience(), || {
            let said = mixed.ours.lines_with(&["certificate"]);
            said.into_iter().find(|line| !line.contains("://"))
        });
        until("the session is over", secs(10), || {
            (mixed.peer.sessions() > 1 || !mixed.peer.is_up()).then_some(())
        });
    });
}

/// With `tls=2` that server cannot check anything, so it serves nobody in a reverse tunnel.
#[test]
fn an_http_server_with_tls_2_works_forward_and_says_why_not_in_reverse() {
    let (scratch, authority) = (Scratch::new(), Authority::new());
    authority.issue_into(&scratch);
    let (crt, key, _) = authority.issue(&["localhost", "127.0.0.1"]);
    let ca = format!("&ca={}", scratch.path().join("ca.pem").display());
    at_once(&[Flow::Forward, Flow::Reverse], |flow| {
        let (tcp, _udp) = echo();
        let mix = Mix::new(End::Client, Generation::Http)
            .with(*flow, 2)
            .params(&ca);
        let mixed = mix.start_as(tcp.addr(), |script| {
            script.pem = Some((crt.clone(), key.clone()))
        });
        if *flow == Flow::Forward {
            users::until_served(mixed.users(), patience());
            never("the session breaks", interval() * 6, || {
                (mixed.peer.sessions() > 1).then_some(())
            });
            users::served(mixed.users());
        } else {
            mixed.ours.remark(&["tls=2"], patience());
        }
        mixed.fair_play();
    });
}

#[test]
fn an_http_server_with_tls_2_and_an_unknown_authority_serves_nobody() {
    let (scratch, authority) = (Scratch::new(), Authority::new());
    Authority::new().issue_into(&scratch);
    let (crt, key, _) = authority.issue(&["localhost", "127.0.0.1"]);
    let ca = format!("&ca={}", scratch.path().join("ca.pem").display());
    let (tcp, _udp) = echo();
    let mix = Mix::new(End::Client, Generation::Http)
        .with(Flow::Forward, 2)
        .params(&ca);
    let mixed = mix.start_as(tcp.addr(), |script| script.pem = Some((crt, key)));
    mixed.ours.remark(&["certificate"], patience());
    users::never_served(mixed.users(), interval() * 6);
    assert_eq!(tcp.accepted(), 0);
}

#[test]
fn our_server_with_tls_2_serves_http_and_classic_clients() {
    let (scratch, authority) = (Scratch::new(), Authority::new());
    authority.issue_into(&scratch);
    let dir = scratch.path().display().to_string();
    at_once(&[Generation::Http, Generation::Classic], |generation| {
        let (tcp, _udp) = echo();
        let params = format!("&crt={dir}/crt.pem&key={dir}/key.pem");
        let mix = Mix::new(End::Server, *generation)
            .with(Flow::Reverse, 2)
            .params(&params);
        let mixed = mix.start(tcp.addr());
        users::until_served(mixed.users(), patience());
        bulk(mixed.users(), 1 << 20);
        mixed.one_session();
    });
}

/// The old session lives on and pings while its client comes again from the same address.
#[test]
fn a_client_that_comes_back_wins_over_its_own_ghost() {
    let rows = Generation::ALL.into_iter().flat_map(|generation| {
        // With `max=4` the old session has all the idle connections that it may have.
        let modes = [
            (0, millis(0), ""),
            (0, millis(300), ""),
            (0, millis(300), "&max=4"),
            (1, millis(0), ""),
        ];
        modes.map(|(tls, slow, params)| (generation, tls, slow, params))
    });
    // The first bytes of `https` are those of TLS. When they come after the id, they close their
    // connection only, so such a client has to be in time.
    let rows =
        rows.filter(|(generation, _, slow, _)| *generation != Generation::Https || slow.is_zero());
    at_once(
        &rows.collect::<Vec<_>>(),
        |(generation, tls, slow, params)| {
            let (tcp, _udp) = echo();
            let mix = Mix::new(End::Server, *generation)
                .with(Flow::Reverse, *tls)
                .params(params);
            let mixed = mix.start_as(tcp.addr(), |script| script.quirks.once = true);
            users::until_served(mixed.users(), patience());
            let mut script: Script = mixed.script.clone();
            script.quirks.slow_start = *slow;
            let back = script.dial();
            back.until_up(patience());
            until("the ghost is gone", secs(10), || {
                (!mixed.peer.is_up()).then_some(())
            });
            users::until_served(mixed.users(), patience());
            assert!(back.is_up());
        },
    );
}

/// Its answer was good, but its data connections are strangers to the server that comes after.
#[test]
fn a_server_that_restarts_after_its_answer_is_asked_again() {
    let rows = [
        (Generation::Http, 0),
        (Generation::Https, 0),
        (Generation::Https, 1),
    ];
    at_once(&rows, |(generation, tls)| {
        let (tcp, _udp) = echo();
        let mix = Mix::new(End::Client, *generation).with(Flow::Reverse, *tls);
        let mixed = mix.start_as(tcp.addr(), |script| script.quirks.forgets = true);
        until("it restarts", patience(), || {
            mixed.peer.saw("it restarts").then_some(())
        });
        // Waiting for the control channel ends after a minute only.
        mixed.peer.until_up(secs(45));
        users::until_served(mixed.users(), patience());
        mixed.one_session();
    });
}

#[test]
fn a_native_and_an_older_client_of_one_address_serve_one_server() {
    at_once(&Generation::ALL, |generation| {
        let (native, older) = (Target::start(greet("n")), Target::start(greet("o")));
        let mixed = Mix::new(End::Server, *generation).start(older.addr());
        until("a user of the older client", patience(), || {
            (users::greeted(mixed.users(), secs(1)) == Some(b'o')).then_some(())
        });
        let url = format!(
            "client://{KEY}@{}/{}?mode=2&min=4&proto=native",
            mixed.tunnel.addr(),
            native.addr()
        );
        let _native = Launch::new([url])
            .env(
                "NP_REPORT_INTERVAL",
                format!("{}ms", interval().as_millis()),
            )
            .start();
        until("a user of the native client", patience(), || {
            (users::greeted(mixed.users(), secs(1)) == Some(b'n')).then_some(())
        });
        // Both go on side by side.
        let mut seen = std::collections::BTreeSet::new();
        until("users of both", patience(), || {
            seen.extend(users::greeted(mixed.users(), secs(2)));
            (seen.len() == 2).then_some(())
        });
        let names =
            (0..20).map(|_| users::greeted(mixed.users(), secs(5)).expect("a user is served"));
        assert!(names.collect::<Vec<u8>>().contains(&b'n'));
        mixed.one_session();
    });
}

#[test]
fn every_generation_works_over_ipv6_alone() {
    let rows = Mix::every()
        .into_iter()
        .flat_map(|mix| [0, 1].map(|tls| mix.clone().with(Flow::Reverse, tls)));
    at_once(&rows.collect::<Vec<_>>(), |mix| {
        let (tcp, _udp) = echo();
        let mix = Mix {
            ip: Ipv6Addr::LOCALHOST.into(),
            ..mix.clone()
        };
        let mixed = mix.start(tcp.addr());
        users::until_served(mixed.users(), patience());
        mixed.peer.until_verified(mix.tls, patience());
        bulk(mixed.users(), 100_000);
        users::until_served_udp(mixed.users(), secs(20));
        mixed.one_session();
    });
}

#[test]
fn a_stranger_gets_no_id_of_an_older_session() {
    at_once(&Generation::ALL, |generation| {
        let (tcp, _udp) = echo();
        let mixed = Mix::new(End::Server, *generation).start(tcp.addr());
        users::until_served(mixed.users(), patience());
        let mut stranger: TcpStream = connect_from(ELSEWHERE, mixed.tunnel.addr());
        let mut bytes = Vec::new();
        stranger
            .read_to_end(&mut bytes)
            .expect("it is closed at the deadline");
        assert_eq!(bytes, b"");
        assert_ne!(end_of(&stranger, secs(1)), users::End::StillOpen);
        users::served(mixed.users());
        mixed.one_session();
    });
}

/// XOR-ed with its length, this key begins as TLS does.
#[test]
fn a_classic_line_may_begin_with_the_first_byte_of_a_client_hello() {
    for ours in [End::Server, End::Client] {
        let (tcp, _udp) = echo();
        let mix = Mix {
            key: Some("6f1ed002ab5595859014ebf0951522d9"),
            ..Mix::new(ours, Generation::Classic)
        };
        let mixed = mix.start(tcp.addr());
        users::until_served(mixed.users(), patience());
        mixed.one_session();
    }
}

/// Key lengths that would turn a signal into the end of its line.
#[test]
fn classic_refuses_keys_that_break_its_lines() {
    for length in [37, 41] {
        let (tunnel, user) = (Port::reserve(), Port::reserve());
        let key = "k".repeat(length);
        let url = format!(
            "client://{key}@{}/{}?mode=2&proto=classic",
            tunnel.addr(),
            user.addr()
        );
        let finished = Launch::new([url]).finish();
        assert_ne!(finished.code, Some(0));
        assert!(finished.stderr.contains("key"), "{}", finished.stderr);
    }
}
