//! Certificates that change while a server runs.

use crate::support::attacker::{self, Control};
use crate::support::binary::Process;
use crate::support::peers::Target;
use crate::support::tunnel::{Flow, KEY, Setup};
use crate::support::until::{never, secs, until};
use crate::support::users;

/// Users, a hand-made session and the client see a certificate change, which `trigger` makes the
/// server notice.
fn swap(flow: Flow, env: &[(&str, &str)], trigger: impl Fn(&Process)) {
    let target = Target::echo();
    let setup = Setup::new(flow, 2, target.addr()).through_cutter();
    let setup = env
        .iter()
        .fold(setup, |setup, (name, value)| setup.env(name, value));
    let pair = setup.start();
    let user = users::connect(pair.users());
    users::echo(&user, b"before").unwrap();
    let mut session = Control::open(pair.tunnel.addr(), KEY);

    let (scratch, authority) = pair.files();
    let fingerprint = authority.issue_into(scratch);
    trigger(&pair.server);

    // The fingerprint is announced before the certificate is used.
    let line = session
        .line("cert", secs(15))
        .expect("the session hears of the new certificate");
    let announced = line["fp"].as_array().unwrap();
    assert!(
        announced.iter().any(|fp| *fp == fingerprint.as_str()),
        "{line}"
    );
    until("the new certificate is presented", secs(10), || {
        (attacker::presented(pair.tunnel.addr()) == fingerprint).then_some(())
    });

    users::echo(&user, b"after").expect("a user who was connected stays");
    for _ in 0..30 {
        users::served(pair.users());
    }
    users::echo(&user, b"and later").expect("a user who was connected stays");
    assert!(pair.cutter().is_whole(0), "the control connection was lost");
}

#[test]
fn a_swap_of_the_files_is_noticed() {
    let env = [("NP_RELOAD_INTERVAL", "0"), ("NP_REPORT_INTERVAL", "1s")];
    swap(Flow::Reverse, &env, |_| {});
}

#[test]
fn a_sighup_reads_the_files_at_once() {
    swap(Flow::Forward, &[], Process::hang_up);
}

#[test]
fn a_swap_to_bad_files_keeps_the_old_certificate() {
    let target = Target::echo();
    let mut pair = Setup::new(Flow::Reverse, 2, target.addr()).start();
    let before = attacker::presented(pair.tunnel.addr());
    let (scratch, _) = pair.files();
    scratch.write("crt.pem", "half of a fi");
    let spoken = pair.server.lines_with(&["crt"]).len();
    pair.server.hang_up();
    until("a line about the bad file", secs(10), || {
        (pair.server.lines_with(&["crt"]).len() > spoken).then_some(())
    });
    assert!(pair.server.is_running());
    assert_eq!(attacker::presented(pair.tunnel.addr()), before);
    users::served(pair.users());
}

#[test]
fn a_sighup_without_files_changes_nothing() {
    let target = Target::echo();
    let mut pair = Setup::new(Flow::Reverse, 1, target.addr()).start();
    let before = attacker::presented(pair.tunnel.addr());
    pair.server.hang_up();
    pair.client.hang_up();
    never("an end stops", secs(1), || {
        (!pair.server.is_running() || !pair.client.is_running()).then_some(())
    });
    assert_eq!(attacker::presented(pair.tunnel.addr()), before);
    users::served(pair.users());
}
