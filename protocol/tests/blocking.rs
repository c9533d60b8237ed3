//! The second driver, `examples/blocking`, as whole processes: it passes bytes both ways.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a helper that fails fails its test"
)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Nobody else uses this address, so nobody takes a port while it is free for a moment.
const HOST: &str = "127.77.0.4";

/// Far above what anything here takes: a test that hangs is to fail.
const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn reverse_plain() {
    carries_users(Users::AtServer, "mode=1");
}

#[test]
fn reverse_tls() {
    carries_users(Users::AtServer, "mode=1&tls=1");
}

#[test]
fn forward_plain() {
    carries_users(Users::AtClient, "mode=2");
}

#[test]
fn forward_tls() {
    carries_users(Users::AtClient, "mode=2&tls=1");
}

#[test]
fn a_user_whose_target_refuses_is_reset() {
    let nobody = {
        let listener = TcpListener::bind(format!("{HOST}:0")).unwrap();
        listener.local_addr().unwrap()
    };
    let tunnel = Tunnel::start(Users::AtServer, "mode=1", nobody);
    let mut user = tunnel.user();
    let error = user.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn a_client_outlives_its_server() {
    let (target, _served) = echo(3);
    let mut tunnel = Tunnel::start(Users::AtServer, "mode=1", target);
    assert_eq!(exchange(tunnel.user(), b"before"), b"before!");
    tunnel.restart_server();
    assert_eq!(exchange(tunnel.user(), b"after"), b"after!");
}

#[test]
fn a_client_with_another_key_gets_nothing() {
    let (target, _served) = echo(0);
    let (_server, mut out) = run("server://KEY@127.0.0.1:0/127.0.0.1:0?mode=1");
    let door = address(&mut out);
    let client = format!("client://YEK@{door}/{target}?mode=2");
    let mut client = Process::start(&client, Stdio::null(), Stdio::piped());
    let said = client.0.stderr.take().unwrap();
    let first = BufReader::new(said).lines().next().unwrap().unwrap();
    assert_eq!(
        first,
        "no session with the server: the server refused the session: it has another key"
    );
}

#[test]
fn what_cannot_work_is_said_in_one_line() {
    for (url, code) in [
        ("server://KEY@127.0.0.1:0", 2),
        ("server://KEY@127.0.0.1:0/127.0.0.1:0?tls=3", 2),
        ("server://KEY@127.0.0.1:0/127.0.0.1:0?proto=http", 2),
        ("server://KEY@192.0.2.1:10101/127.0.0.1:0?mode=1", 1),
    ] {
        let output = example().arg(url).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{url}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(
            said.lines().last().unwrap().starts_with("error: "),
            "{said}"
        );
    }
}

#[derive(Clone, Copy)]
enum Users {
    AtServer,
    AtClient,
}

/// Many users at once, each with more bytes than any buffer holds, in both directions at the same
/// time; the target answers the end of the user's stream with the end of its own.
fn carries_users(users: Users, parameters: &str) {
    const USERS: u8 = 8;
    let (target, served) = echo(usize::from(USERS));
    let tunnel = Tunnel::start(users, parameters, target);
    let users: Vec<JoinHandle<()>> = (0..USERS)
        .map(|n| {
            let user = tunnel.user();
            thread::spawn(move || {
                let sent: Vec<u8> = (0..1_000_000_u32).map(|i| (i % 251) as u8 ^ n).collect();
                let received = exchange(user, &sent);
                assert_eq!(received.len(), sent.len() + 1);
                assert!(received.starts_with(&sent));
            })
        })
        .collect();
    for user in users {
        user.join().unwrap();
    }
    served.join().unwrap();
}

/// A target that sends back what comes, and after its end a `!` and the end, for so many users.
fn echo(users: usize) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serve = move || {
        let served: Vec<JoinHandle<()>> = (0..users)
            .map(|_| {
                let (mut socket, _) = listener.accept().unwrap();
                thread::spawn(move || {
                    let mut reader = socket.try_clone().unwrap();
                    std::io::copy(&mut reader, &mut socket).unwrap();
                    socket.write_all(b"!").unwrap();
                })
            })
            .collect();
        for user in served {
            user.join().unwrap();
        }
    };
    (address, thread::spawn(serve))
}

/// Sends everything and the end of the stream, while it receives until the peer's end.
fn exchange(user: TcpStream, bytes: &[u8]) -> Vec<u8> {
    let (mut writer, sent) = (user.try_clone().unwrap(), bytes.to_vec());
    let writing = thread::spawn(move || {
        writer.write_all(&sent).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut received = Vec::new();
    let mut reader = user;
    reader.read_to_end(&mut received).unwrap();
    writing.join().unwrap();
    received
}

/// A server and a client of the example.
struct Tunnel {
    server: Process,
    /// Where the server listens, to start it there again.
    server_url: String,
    _client: Process,
    users: SocketAddr,
}

impl Tunnel {
    fn start(users: Users, parameters: &str, target: SocketAddr) -> Self {
        let (at_server, at_client) = match users {
            Users::AtServer => (format!("{HOST}:0"), target.to_string()),
            Users::AtClient => (target.to_string(), format!("{HOST}:0")),
        };
        let (server, mut from_server) =
            run(&format!("server://KEY@{HOST}:0/{at_server}?{parameters}"));
        let door = address(&mut from_server);
        let (client, mut from_client) =
            run(&format!("client://KEY@{door}/{at_client}?min=4&mode=2"));
        let users = match users {
            Users::AtServer => address(&mut from_server),
            Users::AtClient => address(&mut from_client),
        };
        Self {
            server,
            server_url: format!("server://KEY@{door}/{users}?{parameters}"),
            _client: client,
            users,
        }
    }

    fn user(&self) -> TcpStream {
        let user = TcpStream::connect(self.users).unwrap();
        user.set_read_timeout(Some(PATIENCE)).unwrap();
        user.set_write_timeout(Some(PATIENCE)).unwrap();
        user
    }

    fn restart_server(&mut self) {
        self.server.stop();
        let (server, mut out) = run(&self.server_url);
        self.server = server;
        address(&mut out);
        address(&mut out);
    }
}

/// A process of the example; it ends with the test.
struct Process(Child);

impl Process {
    fn start(url: &str, out: Stdio, err: Stdio) -> Self {
        let mut command = example();
        let child = command.arg(url).stdout(out).stderr(err).spawn();
        Self(child.expect("the example is built: cargo test does, but not with --test"))
    }

    fn stop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn run(url: &str) -> (Process, BufReader<ChildStdout>) {
    let mut process = Process::start(url, Stdio::piped(), Stdio::inherit());
    let out = process.0.stdout.take().unwrap();
    (process, BufReader::new(out))
}

/// The address in the next line of a process: `listening for … on <address>`.
fn address(out: &mut BufReader<ChildStdout>) -> SocketAddr {
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    let (_, address) = line
        .trim_end()
        .rsplit_once(' ')
        .expect("a line with an address");
    address.parse().unwrap()
}

/// `target/<profile>/deps/blocking-<hash>` is this test, `target/<profile>/examples/blocking` that.
/// `NODEPASS_RUNNER` runs it where the machine cannot.
fn example() -> Command {
    let test = std::env::current_exe().unwrap();
    let profile = test.ancestors().nth(2).unwrap();
    let example = profile
        .join("examples")
        .join("blocking")
        .with_extension(std::env::consts::EXE_EXTENSION);
    let runner = std::env::var("NODEPASS_RUNNER").unwrap_or_default();
    let mut words = runner.split_whitespace();
    match words.next() {
        None => Command::new(example),
        Some(program) => {
            let mut command = Command::new(program);
            command.args(words).arg(example);
            command
        }
    }
}
