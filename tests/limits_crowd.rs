//! More users, sessions and bytes than an end takes: what happens to the one too many, and that the
//! others are served. `SECURITY.md` lists these limits.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::Instant;

use crate::support::attacker::{self, Control, hello_line, mac, tunnel_secret};
use crate::support::binary::{Launch, Process};
use crate::support::course::at_once;
use crate::support::kernel::{raise_descriptor_limit, until_listening};
use crate::support::legacy::ask::{answer, status};
use crate::support::legacy::codec::{Signal, decode, encode};
use crate::support::legacy::conn::{Conn, Lines};
use crate::support::legacy::{Generation, head};
use crate::support::peers::Target;
use crate::support::ports::Port;
use crate::support::tunnel::{Flow, KEY, Pair, Setup};
use crate::support::until::{millis, secs, until};
use crate::support::users::{self, End, end_of};

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A server without clients, its tunnel address, and where users or the target are.
fn server(mode: u8, other: SocketAddr, params: &str) -> (Process, Port) {
    let tunnel = Port::reserve();
    let url = format!(
        "server://{KEY}@{}/{other}?mode={mode}{params}",
        tunnel.addr()
    );
    let server = Launch::new([url]).env("NP_REPORT_INTERVAL", "1m").start();
    until_listening(tunnel.addr());
    (server, tunnel)
}

/// The end that accepts users.
const fn ingress(pair: &Pair, flow: Flow) -> &Process {
    match flow {
        Flow::Reverse => &pair.server,
        Flow::Forward => &pair.client,
    }
}

/// A tunnel whose other end has gone, as its ingress has noticed.
fn half_a_tunnel(flow: Flow, target: SocketAddr) -> Pair {
    let mut pair = Setup::new(flow, 0, target)
        .env("NP_POOL_GET_TIMEOUT", "2m")
        .start();
    match flow {
        Flow::Reverse => {
            pair.client.kill();
            pair.server.remark(&["session ended"], secs(20));
        }
        Flow::Forward => {
            pair.server.kill();
            pair.client.remark(&["no session"], secs(20));
        }
    }
    pair
}

#[test]
fn a_thousand_and_24_users_wait_for_a_connection_and_the_next_is_reset() {
    raise_descriptor_limit();
    at_once(&[Flow::Reverse, Flow::Forward], |&flow| {
        let target = Target::echo();
        let mut pair = half_a_tunnel(flow, target.addr());
        let told = |pair: &Pair| {
            ingress(pair, flow)
                .lines_with(&["WARN", "1024 users"])
                .len()
        };
        let users: Vec<TcpStream> = (0..1024).map(|_| users::connect(pair.users())).collect();
        for _ in 0..10 {
            let end = users::end_after(pair.users(), b"one more", secs(20));
            assert_eq!(end, End::Reset, "{flow:?}");
        }
        ingress(&pair, flow).remark(&["WARN", "1024 users"], secs(10));
        assert_eq!(told(&pair), 1, "{flow:?}: said once");
        assert!(users.iter().all(users::is_open), "{flow:?}");
        match flow {
            Flow::Reverse => pair.restart_client(),
            Flow::Forward => pair.restart_server(),
        }
        for user in &users {
            user.set_read_timeout(Some(secs(60))).unwrap();
            users::echo(user, b"at last").expect("who waited is served");
        }
        drop(users);
        users::until_served(pair.users(), secs(20));
    });
}

#[test]
fn sixty_four_sessions_are_served_and_the_longest_silent_makes_room() {
    let users = Port::reserve();
    let (server, tunnel) = server(1, users.addr(), "");
    let at = tunnel.addr();
    let mut sessions: Vec<Control> = (0..64).map(|_| Control::open(at, KEY)).collect();
    for (number, session) in sessions.iter_mut().enumerate() {
        assert!(number == 7 || session.answers(), "session {number}");
    }
    let told = || server.lines_with(&["session ended", "64 exist"]).len();
    assert_eq!(told(), 0);

    let mut another = Control::open(at, KEY);
    let silent = sessions.remove(7);
    assert_ne!(silent.end(secs(20)), End::StillOpen);
    assert!(another.answers());
    for session in &mut sessions {
        assert!(session.answers(), "one that is alive was ended");
    }
    server.remark(&["session ended", "64 exist"], secs(10));
    assert_eq!(told(), 1);
    let mut data = sessions[0].data(at, 1);
    let _user = users::connect(users.addr());
    data.read_exact(&mut [0]).expect("a user is launched");
}

#[test]
fn what_a_client_calls_itself_is_cut_in_the_log() {
    let users = Port::reserve();
    let (server, tunnel) = server(1, users.addr(), "");
    let mut stream = attacker::tls(tunnel.addr(), HERE).unwrap();
    let channel = attacker::exporter(&stream.conn, "EXPORTER-nodepass-auth");
    let hello = hello_line(&mac(&tunnel_secret(KEY), &[b"client", &channel]));
    let hello = hello.replace("by hand", &"n".repeat(3000));
    stream.write_all(hello.as_bytes()).unwrap();
    stream.flush().unwrap();
    let line = server.remark(&["session up", "nnnn"], secs(20));
    assert!(line.contains(&"n".repeat(128)), "{line}");
    assert!(!line.contains(&"n".repeat(129)), "{line}");
}

/// How many bytes come before half a second of silence.
fn bytes_for_half_a_second(mut stream: &TcpStream) -> usize {
    stream.set_read_timeout(Some(millis(500))).unwrap();
    let (mut all, mut buffer) = (0, [0; 16 * 1024]);
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        all += count;
    }
    all
}

#[test]
fn sixteen_kib_of_a_user_are_taken_before_its_launch_is_answered() {
    const ALL: usize = 3 << 20;
    let port = Port::reserve();
    let (_server, tunnel) = server(1, port.addr(), "");
    let session = Control::open(tunnel.addr(), KEY);
    let mut data = session.data(tunnel.addr(), 1);
    let mut user = users::connect(port.addr());
    let writer = std::thread::spawn(move || {
        user.write_all(&vec![b'u'; ALL]).unwrap();
        user
    });
    let mut head = [0; 2];
    data.read_exact(&mut head).unwrap();
    data.read_exact(&mut vec![0; head[1].into()]).unwrap();
    let taken = bytes_for_half_a_second(&data);
    assert!((1..=16 * 1024).contains(&taken), "{taken} bytes");
    data.write_all(&[0]).unwrap();
    data.set_read_timeout(Some(secs(20))).unwrap();
    let mut rest = vec![0; ALL - taken];
    data.read_exact(&mut rest)
        .expect("all of it, once it is connected");
    drop(writer.join().unwrap());
}

/// A reverse server that may have 100 descriptors only, its tunnel port and its user port.
fn poor_server() -> (Process, Port, Port) {
    let (tunnel, user) = (Port::reserve(), Port::reserve());
    let url = format!("server://{KEY}@{}/{}?mode=1", tunnel.addr(), user.addr());
    let server = Launch::new([url])
        .env("NP_REPORT_INTERVAL", "1m")
        .descriptors(100)
        .start();
    until_listening(tunnel.addr());
    (server, tunnel, user)
}

#[test]
fn idle_connections_take_half_of_the_descriptors_at_most() {
    let (_server, tunnel, user) = poor_server();
    let sessions = [0; 2].map(|_| Control::open(tunnel.addr(), KEY));
    for session in &sessions {
        assert_eq!(session.welcome()["max"], 50);
    }
    let mut idle: Vec<TcpStream> = (1..40)
        .flat_map(|seq| sessions.each_ref().map(|it| it.data(tunnel.addr(), seq)))
        .collect();
    until("those beyond half are closed", secs(20), || {
        idle.retain(users::is_open);
        (idle.len() <= 50).then_some(())
    });
    let _users = [0; 20].map(|_| users::connect(user.addr()));
    until("all of them are launched", secs(20), || {
        let launched = idle.iter().filter(|stream| !users::is_open(stream));
        (launched.count() == 20).then_some(())
    });
}

#[test]
fn at_95_per_cent_of_the_descriptors_accepting_pauses_and_goes_on_later() {
    let (server, tunnel, user) = poor_server();
    let users: Vec<TcpStream> = (0..150).map(|_| users::connect(user.addr())).collect();
    server.remark(&["WARN", "accepting pauses"], secs(20));
    drop(users);
    let target = Target::echo();
    let (at, to) = (tunnel.addr(), target.addr());
    let url = format!("client://{KEY}@{at}/{to}?mode=2&min=2");
    let _client = Launch::new([url]).start();
    users::until_served(user.addr(), secs(60));
    // Both ports may have paused, each for all of that time.
    let said = server.lines_with(&["accepting pauses"]).len();
    assert!(said <= 2, "said {said} times");
}

/// Nobody waits for ever for a peer that began something. Each is a wait, so all of them at once.
#[test]
fn every_wait_for_a_peer_has_an_end() {
    let waits: [(&str, fn()); 5] = [
        ("the answer to a launch", a_launch_is_answered_within_15_s),
        ("a control channel", a_control_channel_comes_within_10_s),
        ("the launch of early bytes", early_bytes_are_kept_for_5_s),
        (
            "the connection of a launch",
            at_most_1024_launches_wait_for_their_connections,
        ),
        ("a reader", who_does_not_read_its_control_channel_loses_it),
    ];
    at_once(&waits, |(_, wait)| wait());
}

fn a_launch_is_answered_within_15_s() {
    let port = Port::reserve();
    let (_server, tunnel) = server(1, port.addr(), "");
    let session = Control::open(tunnel.addr(), KEY);
    let _data = session.data(tunnel.addr(), 1);
    let user = users::connect(port.addr());
    let began = Instant::now();
    assert_eq!(end_of(&user, secs(40)), End::Reset);
    assert!(began.elapsed() > secs(14), "{:?}", began.elapsed());
}

/// A hand-made client of 1.14 has shown the key.
fn granted(tunnel: SocketAddr) {
    let request = head::handshake(Generation::Http, KEY);
    assert_eq!(status(&answer(tunnel, HERE, &request, false)), "200");
}

/// Its next data connection, with its id.
fn numbered(tunnel: SocketAddr) -> (Conn, [u8; 4]) {
    let conn = Conn::plain(users::connect(tunnel));
    let mut id = [0; 4];
    conn.read_exact(&mut id).expect("an id");
    (conn, id)
}

/// Says something on its control channel.
fn say(control: &Conn, signal: &Signal) {
    let line = encode(Generation::Http, KEY, signal);
    control.write_all(&line).unwrap();
}

fn a_control_channel_comes_within_10_s() {
    let port = Port::reserve();
    let (server, tunnel) = server(1, port.addr(), "");
    granted(tunnel.addr());
    let began = Instant::now();
    server.remark(&["session ended", "no data connection"], secs(30));
    assert!(began.elapsed() > secs(8), "{:?}", began.elapsed());
}

fn early_bytes_are_kept_for_5_s() {
    let port = Port::reserve();
    let (_server, tunnel) = server(1, port.addr(), "");
    granted(tunnel.addr());
    let (control, zero) = numbered(tunnel.addr());
    assert_eq!(zero, [0; 4]);
    let (early, _) = numbered(tunnel.addr());
    let (idle, id) = numbered(tunnel.addr());
    let began = Instant::now();
    // More than is kept, and no word of which user they belong to.
    drop(early.write_all(&[b'e'; 20_000]));
    early.patience(Some(secs(30)));
    assert!(!matches!(early.read(&mut [0]), Ok(1..)));
    assert!(began.elapsed() > secs(3), "{:?}", began.elapsed());
    // The session and its other connection go on.
    let user = users::connect(port.addr());
    let mut lines = Lines::default();
    until("the user's launch", secs(20), || {
        let line = lines.next(&control, secs(20)).expect("a line");
        let digits = crate::support::hex(&id);
        let signal = decode(Generation::Http, KEY, &line).unwrap();
        matches!(signal, Signal::Tcp { id, .. } if id == digits).then_some(())
    });
    (&user).write_all(b"hi").unwrap();
    idle.read_exact(&mut [0; 2]).expect("what the user says");
}

fn at_most_1024_launches_wait_for_their_connections() {
    let target = Target::echo();
    let (server, tunnel) = server(2, target.addr(), "&log=debug");
    granted(tunnel.addr());
    let (control, _) = numbered(tunnel.addr());
    let (data, id) = numbered(tunnel.addr());
    let id = crate::support::hex(&id);
    let launch = |id: String| Signal::Tcp {
        id,
        remote: "127.0.0.1:9".to_owned(),
    };
    let given_up = || server.lines_with(&["never came"]).len();
    let began = Instant::now();
    let unknown = (1..)
        .map(|number| format!("{number:08x}"))
        .filter(|other| *other != id);
    unknown
        .take(1100)
        .for_each(|other| say(&control, &launch(other)));
    until("those beyond 1024 are given up", secs(20), || {
        (given_up() >= 76).then_some(())
    });
    assert!(
        given_up() == 76 || began.elapsed() > secs(4),
        "{}",
        given_up()
    );
    say(&control, &launch(id));
    data.write_all(b"hello").unwrap();
    data.patience(Some(secs(20)));
    data.read_exact(&mut [0; 5]).expect("an echo of the target");
    until("the others are given up", secs(20), || {
        (given_up() == 1100).then_some(())
    });
}

fn who_does_not_read_its_control_channel_loses_it() {
    let target = Target::echo();
    let pair = Setup::new(Flow::Reverse, 0, target.addr())
        .env("NP_REPORT_INTERVAL", "1s")
        .start();
    let mut deaf = Control::open(pair.tunnel.addr(), KEY);
    let began = Instant::now();
    while deaf.send("{\"action\":\"ping\",\"seq\":1}").is_ok() {
        assert!(began.elapsed() < secs(60), "it may say as much as it likes");
    }
    pair.server.remark(&["session ended"], secs(20));
    users::served(pair.users());
}
