//! A path that loses one packet of twenty and takes 200 ms for a round trip, and for a while
//! everything.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, UdpSocket};

use crate::support::binary::{Launch, Process};
use crate::support::lossy::{self, HERE, HERE_CLEAN, Lossy, THERE_CLEAN};
use crate::support::peers::{Target, UdpTarget};
use crate::support::ports::Port;
use crate::support::tunnel::{Flow, KEY};
use crate::support::until::{millis, secs, until};
use crate::support::{noise, users};

/// Bytes that a user sends and gets back.
const SIZE: usize = 1 << 20;

const TUNNELS: [(Flow, u8); 4] = [
    (Flow::Reverse, 0),
    (Flow::Forward, 1),
    (Flow::Reverse, 1),
    (Flow::Forward, 0),
];

#[test]
fn tunnels_live_on_a_bad_path_and_after_one_that_was_cut() {
    lossy::run_inside("faults_loss::on_a_bad_path", secs(180));
}

#[test]
#[ignore = "the test above runs it where it has a network of its own"]
fn on_a_bad_path() {
    if !lossy::is_inside() {
        return;
    }
    let mut path = Lossy::make();
    path.behave(5, millis(100));
    let there = path.there();
    let tunnels: Vec<Tunnel> = (0..)
        .zip(TUNNELS)
        .map(|(number, (flow, tls))| Tunnel::start(flow, tls, number, &there))
        .collect();
    for_all(&tunnels, Tunnel::carries_everything);
    let talking: Vec<_> = tunnels
        .iter()
        .map(|tunnel| users::connect(tunnel.users))
        .collect();
    for user in &talking {
        users::echo(user, b"before").unwrap();
    }

    path.behave(100, millis(100));
    for tunnel in &tunnels {
        // Both ends give each other up.
        tunnel.server.remark(&["session ended"], secs(20));
        tunnel.client.remark(&["session ended"], secs(20));
    }
    path.behave(5, millis(100));
    for_all(&tunnels, |tunnel| {
        users::until_served(tunnel.users, secs(30));
        tunnel.carries_datagrams();
    });
    for user in &talking {
        users::echo(user, b"its path is back").unwrap();
    }
}

/// Does it for all of them at once.
fn for_all(tunnels: &[Tunnel], act: impl Fn(&Tunnel) + Sync) {
    std::thread::scope(|scope| {
        for tunnel in tunnels {
            let act = &act;
            scope.spawn(move || act(tunnel));
        }
    });
}

/// A server on this side and a client on the other.
struct Tunnel {
    server: Process,
    client: Process,
    users: SocketAddr,
    _targets: (Target, UdpTarget),
    _ports: [Port; 2],
}

impl Tunnel {
    /// Users and targets are on this side; what they cannot reach here they reach by the good link.
    fn start(flow: Flow, tls: u8, number: u16, there: &[String]) -> Self {
        let tunnel = Port::reserve_on(HERE);
        // Nobody else is in this namespace.
        let (target, users) = match flow {
            Flow::Reverse => (Port::reserve_on(HERE_CLEAN), (HERE_CLEAN, 7000 + number)),
            Flow::Forward => (Port::reserve(), (THERE_CLEAN, 7000 + number)),
        };
        let users = SocketAddr::from(users);
        let (mode, of_server, of_client) = match flow {
            Flow::Reverse => (1, users, target.addr()),
            Flow::Forward => (2, target.addr(), users),
        };
        let targets = (
            Target::start_on(target.addr(), crate::support::peers::echo),
            UdpTarget::echo_on(target.addr()),
        );
        let addr = tunnel.addr();
        let start = |url: String| Launch::new([url]).env("NP_REPORT_INTERVAL", "1s");
        let server = start(format!(
            "server://{KEY}@{addr}/{of_server}?mode={mode}&tls={tls}"
        ));
        let client = start(format!("client://{KEY}@{addr}/{of_client}?mode=2&min=4"));
        Self {
            server: server.start(),
            client: client.under(there.iter().cloned()).start(),
            users,
            _targets: targets,
            _ports: [tunnel, target],
        }
    }

    fn carries_everything(&self) {
        self.client.remark(&["session up"], secs(20));
        users::until_served(self.users, secs(20));
        let sent = noise(SIZE, 3);
        let mut user = users::connect(self.users);
        user.set_read_timeout(Some(secs(60))).unwrap();
        let (mut writer, all) = (user.try_clone().unwrap(), sent.clone());
        let upload = std::thread::spawn(move || {
            writer.write_all(&all).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut back = Vec::new();
        user.read_to_end(&mut back).unwrap();
        upload.join().unwrap();
        assert!(back == sent, "{} bytes came back", back.len());
        self.carries_datagrams();
    }

    fn carries_datagrams(&self) {
        let socket = UdpSocket::bind((HERE_CLEAN, 0)).unwrap();
        socket.connect(self.users).unwrap();
        until("a datagram comes back", secs(30), || {
            users::echo_datagram(&socket, b"are you there?", secs(1)).then_some(())
        });
    }
}
