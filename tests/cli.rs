//! The command line: usage, errors, exit codes, `NP_URL`.

use std::net::TcpListener;

use crate::support::binary::{Finished, Launch};
use crate::support::certificates::Authority;
use crate::support::kernel::until_listening;
use crate::support::peers::Target;
use crate::support::ports::Port;
use crate::support::scratch::Scratch;
use crate::support::until::secs;
use crate::support::users;

/// The URL and the word that the error must begin with.
const BAD_URLS: &[(&str, &str)] = &[
    // The URL itself.
    ("ftp://127.0.0.1:1/127.0.0.1:2", "scheme"),
    ("127.0.0.1:1/127.0.0.1:2", "scheme"),
    ("server://127.0.0.1:1", "target"),
    ("server://127.0.0.1:1/", "target"),
    ("server://127.0.0.1/127.0.0.1:2", "port"),
    ("server://127.0.0.1:70000/127.0.0.1:2", "port"),
    ("server://127.0.0.1:1/127.0.0.1:70000", "target"),
    ("client://127.0.0.1:0/127.0.0.1:2?mode=2", "port"),
    ("client://127.0.0.1:1/127.0.0.1:0?mode=1", "target"),
    ("server://[::1/127.0.0.1:2", "host"),
    ("server://127.0.0.1:1/127.0.0.1:1", "target"),
    ("server://%ZZ@127.0.0.1:1/127.0.0.1:2", "url"),
    // Parameters, in the order of the specification.
    ("server://127.0.0.1:1/127.0.0.1:2?log=loud", "log"),
    ("server://127.0.0.1:1/127.0.0.1:2?tls=3", "tls"),
    ("server://127.0.0.1:1/127.0.0.1:2?tls=yes", "tls"),
    ("server://127.0.0.1:1/127.0.0.1:2?mode=1&tls=2", "crt"),
    (
        "server://127.0.0.1:1/127.0.0.1:2?mode=1&tls=2&crt=/dev/null",
        "key",
    ),
    ("server://127.0.0.1:1/127.0.0.1:2?proto=quic", "proto"),
    ("client://127.0.0.1:1/127.0.0.1:2?min=0", "min"),
    ("client://127.0.0.1:1/127.0.0.1:2?min=65536", "min"),
    ("client://127.0.0.1:1/127.0.0.1:2?min=many", "min"),
    ("server://127.0.0.1:1/127.0.0.1:2?max=0", "max"),
    ("server://127.0.0.1:1/127.0.0.1:2?max=-1", "max"),
    ("server://127.0.0.1:1/127.0.0.1:2?mode=3", "mode"),
    ("server://127.0.0.1:1/127.0.0.1:2?type=1", "type"),
    ("server://127.0.0.1:1/127.0.0.1:2?type=9", "type"),
    ("server://127.0.0.1:1/127.0.0.1:2?lbs=3", "lbs"),
    ("server://127.0.0.1:1/127.0.0.1:2?dns=soon", "dns"),
    ("server://127.0.0.1:1/127.0.0.1:2?dns=-5m", "dns"),
    ("server://127.0.0.1:1/127.0.0.1:2?dial=somewhere", "dial"),
    ("server://127.0.0.1:1/127.0.0.1:2?read=5x", "read"),
    ("server://127.0.0.1:1/127.0.0.1:2?read=5", "read"),
    ("server://127.0.0.1:1/127.0.0.1:2?rate=fast", "rate"),
    ("server://127.0.0.1:1/127.0.0.1:2?rate=-1", "rate"),
    ("server://127.0.0.1:1/127.0.0.1:2?slot=-1", "slot"),
    (
        "server://127.0.0.1:1/127.0.0.1:2?slot=99999999999999999999",
        "slot",
    ),
    ("server://127.0.0.1:1/127.0.0.1:2?proxy=3", "proxy"),
    ("server://127.0.0.1:1/127.0.0.1:2?block=4", "block"),
    ("server://127.0.0.1:1/127.0.0.1:2?notcp=2", "notcp"),
    ("server://127.0.0.1:1/127.0.0.1:2?noudp=x", "noudp"),
    ("server://127.0.0.1:1/127.0.0.1:2?notcp=1&noudp=1", "no"),
    (
        "server://127.0.0.1:1/127.0.0.1:2,127.0.0.1:3?mode=1",
        "target",
    ),
];

#[test]
fn a_bad_url_gives_exit_2_and_one_line_that_names_the_parameter() {
    for (url, parameter) in BAD_URLS {
        for args in [vec![*url], vec!["check", *url]] {
            let ended = Launch::new(args).finish();
            one_line(&ended, 2, url);
            let start = format!("error: {parameter}");
            assert!(ended.stderr.starts_with(&start), "{url}: {}", ended.stderr);
            assert!(
                ended.stderr.contains("; "),
                "{url}: no word on what is allowed"
            );
        }
    }
}

#[test]
fn a_bad_environment_variable_gives_exit_2_and_one_line_that_names_it() {
    for (name, value) in [
        ("NP_REPORT_INTERVAL", "often"),
        ("NP_HANDSHAKE_TIMEOUT", "-1s"),
        ("NP_TCP_DATA_BUF_SIZE", "big"),
        ("NP_THREADS", "0"),
        ("NP_SHUTDOWN_TIMEOUT", "5"),
    ] {
        let url = "server://127.0.0.1:1/127.0.0.1:2?mode=1";
        let ended = Launch::new([url]).env(name, value).finish();
        one_line(&ended, 2, name);
        assert!(
            ended.stderr.starts_with(&format!("error: {name}")),
            "{}",
            ended.stderr
        );
    }
}

#[test]
fn no_argument_shows_the_usage_and_exits_with_2() {
    let ended = Launch::default().finish();
    assert_eq!(ended.code, Some(2));
    assert!(ended.stderr.contains("server://") && ended.stderr.contains("client://"));
    assert_eq!(ended.stdout, "");
}

#[test]
fn an_unknown_option_and_too_many_arguments_exit_with_2() {
    for args in [
        vec!["--loud"],
        vec!["check"],
        vec!["check", "client://a:1/b:2", "more"],
    ] {
        let ended = Launch::new(args.clone()).finish();
        assert_eq!(ended.code, Some(2), "{args:?}");
        assert!(!ended.stderr.is_empty(), "{args:?}");
    }
}

#[test]
fn help_and_version_go_to_stdout() {
    let help = Launch::new(["--help"]).finish();
    assert_eq!((help.code, help.stderr.as_str()), (Some(0), ""));
    for word in ["server://", "client://", "check", "--version", "NP_URL"] {
        assert!(help.stdout.contains(word), "no {word} in the help");
    }
    let version = Launch::new(["--version"]).finish();
    assert_eq!((version.code, version.stderr.as_str()), (Some(0), ""));
    assert!(
        version.stdout.contains(env!("CARGO_PKG_VERSION")),
        "{}",
        version.stdout
    );
}

#[test]
fn check_prints_the_configuration_in_force_and_runs_nothing() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!(
        "server://key@{}/127.0.0.1:2?mode=1&tls=1&min=3&max=7",
        taken.local_addr().unwrap()
    );
    let ended = Launch::new(["check", &url]).finish();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    for word in [
        "tls=1",
        "max=7",
        "lbs=0",
        "dns=5m",
        "slot=65536",
        "proto=",
        "block=0",
    ] {
        assert!(ended.stdout.contains(word), "no {word} in {}", ended.stdout);
    }
    // Defaults of the environment belong to the configuration in force as well, but a client's
    // parameter on a server does not.
    assert!(!ended.stdout.contains("min=3"), "{}", ended.stdout);
}

#[test]
fn what_is_odd_is_ignored_with_a_warning() {
    for (key, params, words) in [
        ("key", "tsl=1", ["tsl", "tls"]),
        ("key", "max=5&max=6", ["max", "twice"]),
        ("key:word", "max=5", ["key", "%3a"]),
    ] {
        let (tunnel, user) = (Port::reserve(), Port::reserve());
        let url = format!(
            "server://{key}@{}/{}?mode=1&{params}",
            tunnel.addr(),
            user.addr()
        );
        let server = Launch::new([url]).start();
        server.line_with(&words, secs(20));
        until_listening(tunnel.addr());
    }
}

#[test]
fn a_port_in_use_gives_exit_1_and_one_line() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap();
    let free = Port::reserve();
    for url in [
        format!("server://key@{taken}/{}?mode=1", free.addr()),
        format!("server://key@{}/{taken}?mode=1", free.addr()),
        format!("client://{taken}/{}?mode=1", free.addr()),
    ] {
        one_line(&Launch::new([url.as_str()]).finish(), 1, &url);
    }
}

#[test]
fn an_address_that_this_machine_lacks_gives_exit_1_and_one_line() {
    let free = Port::reserve();
    for url in [
        format!(
            "server://key@192.0.2.1:{}/{}?mode=1",
            free.number(),
            free.addr()
        ),
        format!(
            "client://192.0.2.1:{}/{}?mode=1",
            free.number(),
            free.addr()
        ),
        format!(
            "server://key@{}/127.0.0.1:9?mode=2&dial=192.0.2.1",
            free.addr()
        ),
    ] {
        one_line(&Launch::new([url.as_str()]).finish(), 1, &url);
    }
}

#[test]
fn a_missing_or_bad_certificate_gives_exit_1_and_one_line() {
    let (scratch, authority) = (Scratch::new(), Authority::new());
    authority.issue_into(&scratch);
    scratch.write("bad.pem", "this is no certificate\n");
    let dir = scratch.path().display();
    let free = Port::reserve();
    for files in [
        format!("crt={dir}/missing.pem&key={dir}/key.pem"),
        format!("crt={dir}/crt.pem&key={dir}/missing.pem"),
        format!("crt={dir}/bad.pem&key={dir}/key.pem"),
        format!("crt={dir}/crt.pem&key={dir}/bad.pem"),
        format!("crt={dir}/ca.pem&key={dir}/key.pem"),
    ] {
        let url = format!(
            "server://key@{}/127.0.0.1:9?mode=2&tls=2&{files}",
            free.addr()
        );
        one_line(&Launch::new([url.as_str()]).finish(), 1, &files);
    }
}

#[test]
fn a_missing_or_bad_ca_file_gives_exit_1_and_one_line() {
    let scratch = Scratch::new();
    let dir = scratch.path().display();
    scratch.write("text.pem", "this is no certificate\n");
    let rubbish = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    scratch.write("rubbish.pem", rubbish);
    for file in ["missing.pem", "text.pem", "rubbish.pem"] {
        let url = format!("client://key@127.0.0.1:1/127.0.0.1:9?mode=2&tls=2&ca={dir}/{file}");
        let ended = Launch::new([url.as_str()]).finish();
        one_line(&ended, 1, file);
        assert!(ended.stderr.starts_with("error: ca: "), "{}", ended.stderr);
        assert!(ended.stderr.contains(file), "{}", ended.stderr);
    }
}

#[test]
fn a_client_that_decides_to_be_alone_needs_its_certificate() {
    for (files, missing) in [("", "crt"), ("&crt=/dev/null", "key")] {
        let free = Port::reserve();
        let url = format!("client://{}/127.0.0.1:9?tls=2{files}", free.addr());
        let ended = Launch::new([url.as_str()]).finish();
        one_line(&ended, 1, missing);
        let start = format!("error: {missing}: missing");
        assert!(ended.stderr.starts_with(&start), "{}", ended.stderr);
        assert!(ended.stdout.contains("single-end"), "{}", ended.stdout);
    }
}

#[test]
fn the_url_may_come_from_the_environment() {
    let target = Target::echo();
    let port = Port::reserve();
    let url = format!("client://{}/{}?mode=1", port.addr(), target.addr());
    let _client = Launch::default().env("NP_URL", url).start();
    until_listening(port.addr());
    users::served(port.addr());

    let bad = Launch::default()
        .env("NP_URL", "server://127.0.0.1:1/127.0.0.1:2?lbs=9")
        .finish();
    one_line(&bad, 2, "NP_URL");
    assert!(bad.stderr.starts_with("error: lbs"), "{}", bad.stderr);
}

#[test]
fn the_key_is_in_no_line_of_the_log() {
    let (tunnel, user) = (Port::reserve(), Port::reserve());
    let url = format!(
        "server://a-very-secret-key@{}/{}?mode=1&log=debug&what=1",
        tunnel.addr(),
        user.addr()
    );
    let server = Launch::new([url]).start();
    until_listening(tunnel.addr());
    server.line_with(&["what"], secs(20));
    assert_eq!(
        server.lines_with(&["a-very-secret-key"]),
        Vec::<String>::new()
    );
}

#[test]
fn a_key_that_anyone_can_compute_is_warned_about_unless_only_this_machine_can_use_it() {
    let (tunnel, user) = (Port::reserve(), Port::reserve());
    let url = format!("server://:{}/{}?mode=1", tunnel.number(), user.addr());
    let open = Launch::new([url]).start();
    open.line_with(&["key"], secs(20));

    let tunnel = Port::reserve();
    let url = format!(
        "server://{}/{}?mode=1",
        tunnel.addr(),
        Port::reserve().addr()
    );
    let local = Launch::new([url]).start();
    until_listening(tunnel.addr());
    assert_eq!(local.lines_with(&["default", "key"]), Vec::<String>::new());
}

/// Exit code, and one line on standard error that begins with `error: `. With 2 nothing was begun,
/// so there is no log either.
fn one_line(ended: &Finished, code: i32, what: &str) {
    let Finished {
        code: actual,
        stdout,
        stderr,
    } = ended;
    assert_eq!(*actual, Some(code), "{what}: {stderr}");
    assert_eq!(stderr.lines().count(), 1, "{what}: {stderr}");
    assert!(stderr.starts_with("error: "), "{what}: {stderr}");
    assert!(code != 2 || stdout.is_empty(), "{what}: {stdout}");
}
