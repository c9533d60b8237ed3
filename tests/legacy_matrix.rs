//! Our client and our server with every older generation, in both flows, with and without TLS, with
//! a key and without.

use crate::support::course::{at_once, carry, echo};
use crate::support::kernel::raise_descriptor_limit;
use crate::support::legacy::{Generation, field, interval};
use crate::support::mixed::{Mix, Mixed, patience};
use crate::support::tunnel::End;
use crate::support::until::{pause, until};
use crate::support::users;

/// How many intervals of pings a session must last.
const INTERVALS: u32 = 12;

fn serves_in_every_mode(ours: End, generation: Generation) {
    raise_descriptor_limit();
    at_once(&Mix::table(ours, generation), |mix| {
        let (tcp, _udp) = echo();
        let mut mixed = mix.start(tcp.addr());
        comes_up(&mixed, mix);
        carry(mixed.users());
        mixed.fair_play();
        lasts(&mixed, generation);
        for _ in 0..if field() { 3 } else { 1 } {
            mixed.restart_ours();
            users::until_served(mixed.users(), patience());
            mixed.restart_peer();
            users::until_served(mixed.users(), patience());
            mixed.fair_play();
        }
    });
}

fn comes_up(mixed: &Mixed, mix: &Mix) {
    users::until_served(mixed.users(), patience());
    mixed.peer.until_verified(mix.tls, patience());
    until("a warning about what is lacking", patience(), || {
        (!mixed.warnings(mix.generation).is_empty()).then_some(())
    });
}

fn lasts(mixed: &Mixed, generation: Generation) {
    pause(interval() * INTERVALS);
    assert!(
        mixed.peer.is_up() && mixed.peer.sessions() == 1,
        "the session did not last"
    );
    users::served(mixed.users());
    let warnings = mixed.warnings(generation);
    assert_eq!(
        warnings.len(),
        1,
        "one warning for one session: {warnings:#?}"
    );
}

#[test]
fn our_client_with_an_http_server() {
    serves_in_every_mode(End::Client, Generation::Http);
}

#[test]
fn our_server_with_an_http_client() {
    serves_in_every_mode(End::Server, Generation::Http);
}

#[test]
fn our_client_with_an_https_server() {
    serves_in_every_mode(End::Client, Generation::Https);
}

#[test]
fn our_server_with_an_https_client() {
    serves_in_every_mode(End::Server, Generation::Https);
}

#[test]
fn our_client_with_a_classic_server() {
    serves_in_every_mode(End::Client, Generation::Classic);
}

#[test]
fn our_server_with_a_classic_client() {
    serves_in_every_mode(End::Server, Generation::Classic);
}
