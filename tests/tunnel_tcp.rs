//! TCP through a tunnel: both flows, every `tls`.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::process::{Command, Stdio};
use std::thread;

use crate::support::binary::Launch;
use crate::support::ports::Port;
use crate::support::tools::{Iperf, Ssh, program, succeed};
use crate::support::tunnel::{Flow, Setup, in_every_mode};
use crate::support::until::{pause, secs, until};
use crate::support::{full, hex, http, noise, optimised, peers, scratch::Scratch, sha256, users};
use peers::Target;

in_every_mode!(
    curl_downloads_and_uploads_whole_files,
    ssh_runs_a_command_and_scp_copies_a_file,
    iperf3_runs_with_1_and_8_streams_both_ways,
    a_server_may_speak_first,
    a_half_close_is_passed_on_either_way,
    a_user_is_served_half_a_second_after_the_start,
    two_hundred_users_at_once_are_served,
    a_target_that_refuses_resets_the_user,
);

fn curl_downloads_and_uploads_whole_files(flow: Flow, tls: u8) {
    let size: u64 = if full() { 1 << 30 } else { 32 << 20 };
    let target = Target::start(http::serve);
    let pair = Setup::new(flow, tls, target.addr()).start();
    let expected = http::body_sha256(size);

    let url = format!("http://{}/{size}", pair.users());
    let mut curl = Command::new(program("curl"));
    curl.args([
        "--silent",
        "--show-error",
        "--fail",
        "--max-time",
        "120",
        &url,
    ]);
    let mut curl = curl
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let downloaded = http::digest(curl.stdout.take().unwrap()).unwrap();
    assert!(curl.wait().unwrap().success());
    assert_eq!(hex(&downloaded), expected, "download");

    let scratch = Scratch::new();
    let mut file = std::fs::File::create(scratch.path().join("upload")).unwrap();
    http::body(size, |block| file.write_all(block)).unwrap();
    let path = scratch.path().join("upload").display().to_string();
    let args = [
        "--silent",
        "--show-error",
        "--max-time",
        "120",
        "-H",
        "Expect:",
        "-T",
        &path,
        &url,
    ];
    assert_eq!(succeed("curl", &args, secs(130)), expected, "upload");
}

fn ssh_runs_a_command_and_scp_copies_a_file(flow: Flow, tls: u8) {
    let ssh = Ssh::start();
    let pair = Setup::new(flow, tls, ssh.addr()).start();
    assert_eq!(
        ssh.command(pair.users(), "echo through the tunnel"),
        "through the tunnel\n"
    );

    let scratch = Scratch::new();
    let content = noise(3_000_000, 3);
    let (from, to) = (scratch.write("from", &content), scratch.path().join("to"));
    ssh.copy(pair.users(), &from, &to);
    assert!(std::fs::read(&to).unwrap() == content, "the copy differs");
}

fn iperf3_runs_with_1_and_8_streams_both_ways(flow: Flow, tls: u8) {
    let iperf = Iperf::start();
    let pair = Setup::new(flow, tls, iperf.addr()).start();
    let seconds = if full() { 10 } else { 1 };
    for streams in ["1", "8"] {
        for direction in [["-P", streams].as_slice(), ["-P", streams, "-R"].as_slice()] {
            // The server takes one test at a time and needs a moment between two.
            until("iperf3 moves bytes", secs(30), || {
                (Iperf::measure(pair.users(), seconds, direction) > 1e6).then_some(())
            });
        }
    }
}

fn a_server_may_speak_first(flow: Flow, tls: u8) {
    const BANNER: &str = "220 mail.example ESMTP\r\n";
    let target = Target::start(peers::greet(BANNER));
    for block in ["block=0", "block=123"] {
        let pair = Setup::new(flow, tls, target.addr()).ingress(block).start();
        let mut user = users::connect(pair.users());
        let mut banner = vec![0; BANNER.len()];
        user.read_exact(&mut banner).unwrap();
        assert_eq!(banner, BANNER.as_bytes(), "{block}");
        users::echo(&user, b"EHLO user.example\r\n").unwrap();
    }
}

fn a_half_close_is_passed_on_either_way(flow: Flow, tls: u8) {
    // The user ends first and waits for an answer.
    let target = Target::start(peers::digest_at_end);
    let pair = Setup::new(flow, tls, target.addr()).start();
    for size in [0, 1, 100_000, 2_000_000] {
        let sent = noise(size, 11);
        let mut user = users::connect(pair.users());
        user.write_all(&sent).unwrap();
        user.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        user.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, sha256(&sent), "{size} bytes");
    }

    // The target ends first and goes on listening.
    let target = Target::start(|mut stream| {
        stream.write_all(b"that is all")?;
        stream.shutdown(Shutdown::Write)?;
        peers::discard(stream)
    });
    let pair = Setup::new(flow, tls, target.addr()).start();
    let mut user = users::connect(pair.users());
    let mut words = String::new();
    user.read_to_string(&mut words).unwrap();
    assert_eq!(words, "that is all");
    user.write_all(&noise(500_000, 5))
        .expect("the other direction goes on");
    until("the target still reads", secs(20), || {
        (target.open() == 1).then_some(())
    });
    drop(user);
    until("the target sees the end", secs(20), || {
        (target.open() == 0).then_some(())
    });
}

fn a_user_is_served_half_a_second_after_the_start(flow: Flow, tls: u8) {
    let target = Target::echo();
    let pair = Setup::new(flow, tls, target.addr()).launch();
    pause(std::time::Duration::from_millis(500));
    // An unoptimised build beside other tests is given time; the claim is about the real one.
    let limit = secs(if optimised() { 0 } else { 20 });
    users::until_served(pair.users(), limit);
}

fn two_hundred_users_at_once_are_served(flow: Flow, tls: u8) {
    let target = Target::echo();
    let pair = Setup::new(flow, tls, target.addr()).start();
    thread::scope(|scope| {
        for _ in 0..200 {
            scope.spawn(|| users::served(pair.users()));
        }
    });
    assert_eq!(target.accepted(), 200);
}

fn a_target_that_refuses_resets_the_user(flow: Flow, tls: u8) {
    let nobody = Port::reserve();
    let pair = Setup::new(flow, tls, nobody.addr()).start();
    assert_eq!(
        users::end_after(pair.users(), b"hello?", secs(10)),
        users::End::Reset
    );
}

#[test]
fn bytes_arrive_once_and_in_order_over_a_slow_network_in_pieces() {
    let target = Target::echo();
    let pair = Setup::new(Flow::Reverse, 0, target.addr())
        .through_cutter()
        .start();
    pair.cutter().delay(std::time::Duration::from_millis(2));
    let message = noise(300_000, 17);
    let user = users::connect(pair.users());
    let mut writer = user.try_clone().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            for piece in message.chunks(777) {
                writer.write_all(piece).unwrap();
            }
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut echoed = Vec::new();
        (&user).read_to_end(&mut echoed).unwrap();
        assert!(
            echoed == message,
            "{} of {} bytes came back",
            echoed.len(),
            message.len()
        );
    });
}

#[test]
fn a_target_by_name_is_resolved() {
    let target = Target::echo();
    let port = Port::reserve();
    let url = format!(
        "client://{}/localhost:{}?mode=1",
        port.addr(),
        target.addr().port()
    );
    let _client = Launch::new([url]).start();
    users::until_served(port.addr(), secs(10));
}

#[test]
fn an_ipv6_tunnel_and_target_work() {
    let loopback = std::net::Ipv6Addr::LOCALHOST.into();
    let (tunnel, user) = (Port::reserve_on(loopback), Port::reserve_on(loopback));
    let listens = Port::reserve_on(loopback);
    let target = Target::start_on(listens.addr(), peers::echo);
    let server = format!("server://key@{}/{}?mode=1", tunnel.addr(), user.addr());
    let client = format!(
        "client://key@{}/{}?mode=2&min=2",
        tunnel.addr(),
        target.addr()
    );
    let _server = Launch::new([server]).start();
    let _client = Launch::new([client]).start();
    users::until_served(user.addr(), secs(10));
}

#[test]
fn several_clients_serve_one_server_together() {
    let (one, two) = (
        Target::start(peers::greet("1")),
        Target::start(peers::greet("2")),
    );
    let pair = Setup::new(Flow::Reverse, 1, one.addr()).min(2).start();
    let url = format!(
        "client://{}@{}/{}?mode=2&min=2",
        crate::support::tunnel::KEY,
        pair.tunnel.addr(),
        two.addr()
    );
    let _second = Launch::new([url]).start();
    for name in [b'2', b'1', b'2', b'1'] {
        until("both clients serve", secs(20), || {
            let greeting = users::greeted(pair.users(), secs(10));
            (greeting.expect("everyone is served") == name).then_some(())
        });
    }
}

#[test]
fn a_port_left_to_the_system_is_logged() {
    let target = Target::echo();
    let url = format!("server://key@127.0.0.1:0/{}?mode=2", target.addr());
    let server = Launch::new([url]).start();
    let ports = |line: &String| -> Vec<u16> {
        line.split("127.0.0.1:")
            .skip(1)
            .filter_map(|rest| {
                rest.split(|c: char| !c.is_ascii_digit())
                    .next()?
                    .parse()
                    .ok()
            })
            .collect()
    };
    until("the logged port listens", secs(10), || {
        let logged: Vec<u16> = server.lines().iter().flat_map(ports).collect();
        let other = target.addr().port();
        let listens = |port: &u16| {
            let addr = std::net::SocketAddr::from(([127, 0, 0, 1], *port));
            *port != other && *port != 0 && crate::support::kernel::is_listening(addr)
        };
        logged.into_iter().find(listens)
    });
}
