//! `tls=2` without `ca`: the roots of the system say which certificates are good. A test names its own
//! instead of the real ones, with the variable that other programs read, too.

use crate::support::binary::{Launch, Process};
use crate::support::certificates::Authority;
use crate::support::course::{at_once, echo};
use crate::support::kernel::until_listening;
use crate::support::legacy::Generation;
use crate::support::mixed::{Mix, patience};
use crate::support::ports::Port;
use crate::support::scratch::Scratch;
use crate::support::tunnel::{End, Flow, KEY};
use crate::support::until::secs;
use crate::support::users;

/// `sni`, whether the certificate's authority is trusted, and whether anybody is served. The
/// certificate is for `localhost` and 127.0.0.1, which is what clients dial.
const ROWS: [(&str, bool, bool); 5] = [
    ("", true, true),
    ("none", true, true),
    ("localhost", true, true),
    ("wrong.example", true, false),
    ("localhost", false, false),
];

/// A directory with an authority and a leaf of it, and the file of whom a client trusts.
fn issued(trusted: bool) -> (Scratch, Scratch, String) {
    let [issuer, other] = [Scratch::new(), Scratch::new()];
    for scratch in [&issuer, &other] {
        Authority::new().issue_into(scratch);
    }
    let known = if trusted { &issuer } else { &other };
    let roots = known.path().join("ca.pem").display().to_string();
    (issuer, other, roots)
}

fn refused(client: &Process) {
    client.remark(&["WARN", "certificate"], secs(20));
}

#[test]
fn a_native_server_is_verified_with_the_roots_of_the_system() {
    at_once(&ROWS, |(sni, trusted, served)| {
        let (tcp, _udp) = echo();
        let (tunnel, user) = (Port::reserve(), Port::reserve());
        let (files, _other, roots) = issued(*trusted);
        let (at, to, dir) = (tunnel.addr(), user.addr(), files.path().display());
        let pem = format!("crt={dir}/crt.pem&key={dir}/key.pem");
        let server = format!("server://{KEY}@{at}/{to}?mode=1&tls=2&{pem}");
        let _server = Launch::new([server]).start();
        until_listening(at);
        let client = format!("client://{KEY}@{at}/{}?mode=2&min=2&sni={sni}", tcp.addr());
        let client = Launch::new([client]).env("SSL_CERT_FILE", roots).start();
        if *served {
            return users::until_served(user.addr(), secs(20));
        }
        refused(&client);
        users::never_served(user.addr(), secs(1));
        assert_eq!(tcp.accepted(), 0);
    });
}

#[test]
fn an_http_server_is_verified_with_the_roots_of_the_system() {
    at_once(&ROWS, |(sni, trusted, served)| {
        let (tcp, _udp) = echo();
        let (files, _other, roots) = issued(*trusted);
        let read = |name: &str| std::fs::read_to_string(files.path().join(name)).unwrap();
        let mix = Mix::new(End::Client, Generation::Http)
            .with(Flow::Forward, 2)
            .params(&format!("&sni={sni}"))
            .env("SSL_CERT_FILE", roots);
        let mixed = mix.start_as(tcp.addr(), |script| {
            script.pem = Some((read("crt.pem"), read("key.pem")));
            if !sni.is_empty() {
                script.host = sni;
            }
        });
        if *served {
            users::until_served(mixed.users(), patience());
            return mixed.fair_play();
        }
        refused(&mixed.ours);
        users::never_served(mixed.users(), secs(1));
        assert_eq!(tcp.accepted(), 0);
    });
}
