//! Tunnels that only the API made: they carry traffic, count it, and outlive the master.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::time::Instant;

use serde_json::{Value, json};

use crate::support::api::{Api, PATIENCE};
use crate::support::kernel::{is_listening, until_listening};
use crate::support::master::{Master, Setup};
use crate::support::noise;
use crate::support::peers::{Target, UdpTarget, digest_at_end};
use crate::support::ports::Port;
use crate::support::sse::Stream;
use crate::support::until::{millis, secs};
use crate::support::users::{self, until_served, until_served_udp};

/// A tunnel with its server in one master and its client in another, or in the same.
struct Tunnel {
    server: String,
    client: String,
    users: Port,
    _tunnel: Port,
}

impl Tunnel {
    /// Reverse: users come to the server.
    fn reverse(at_server: &Api, at_client: &Api, target: SocketAddr, tls: u8) -> Self {
        let (tunnel, users) = (Port::reserve(), Port::reserve());
        let server = at_server.create_id(&format!(
            "server://key@{}/{}?mode=1&tls={tls}",
            tunnel.addr(),
            users.addr()
        ));
        let client = at_client.create_id(&format!(
            "client://key@{}/{target}?mode=2&min=4",
            tunnel.addr()
        ));
        Self {
            server,
            client,
            users,
            _tunnel: tunnel,
        }
    }

    /// Forward: users come to the client.
    fn forward(at_server: &Api, at_client: &Api, target: SocketAddr, tls: u8) -> Self {
        let (tunnel, users) = (Port::reserve(), Port::reserve());
        let server = at_server.create_id(&format!(
            "server://key@{}/{target}?mode=2&tls={tls}",
            tunnel.addr()
        ));
        let client = at_client.create_id(&format!(
            "client://key@{}/{}?mode=2&min=4",
            tunnel.addr(),
            users.addr()
        ));
        Self {
            server,
            client,
            users,
            _tunnel: tunnel,
        }
    }

    const fn users(&self) -> SocketAddr {
        self.users.addr()
    }
}

/// Sends `sent` bytes to a target that answers with the 64 letters of their digest.
fn send(users: SocketAddr, sent: usize) {
    let mut user = users::connect(users);
    let bytes = noise(sent, 5);
    user.write_all(&bytes).unwrap();
    user.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    user.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, crate::support::sha256(&bytes));
}

/// Waits until an instance counts exactly this much.
fn counts(api: &Api, id: &str, counters: [(&str, u64); 2]) {
    api.until(id, &format!("{counters:?}"), |found| {
        counters.iter().all(|(name, value)| found[*name] == *value)
    });
}

#[test]
fn both_ends_in_one_master_carry_tcp_and_udp() {
    for tls in [0, 1] {
        for make in [Tunnel::reverse, Tunnel::forward] {
            let master = Setup::default().env("NP_REPORT_INTERVAL", "1s").start();
            let target = Target::echo();
            let udp = UdpTarget::echo_on(target.addr());
            let tunnel = make(&master.api, &master.api, target.addr(), tls);
            until_served(tunnel.users(), PATIENCE);
            until_served_udp(tunnel.users(), PATIENCE);
            assert!(udp.received() > 0);
            for id in [&tunnel.server, &tunnel.client] {
                master.api.until(id, "idle connections are shown", |found| {
                    found["status"] == "running" && found["pool"].as_u64() > Some(0)
                });
            }
            assert!(target.accepted() > 0);
        }
    }
}

#[test]
fn two_masters_make_a_tunnel_and_count_every_byte() {
    let (one, two) = (Master::start(), Master::start());
    let target = Target::start(digest_at_end);
    let tunnel = Tunnel::reverse(&one.api, &two.api, target.addr(), 1);
    until_listening(tunnel.users());
    for round in 1..4 {
        send(tunnel.users(), 100_000);
        // RX is what this end read from its user or target, TX what it wrote to it.
        counts(
            &one.api,
            &tunnel.server,
            [("tcprx", 100_000 * round), ("tcptx", 64 * round)],
        );
        counts(
            &two.api,
            &tunnel.client,
            [("tcptx", 100_000 * round), ("tcprx", 64 * round)],
        );
    }
    for (api, id) in [(&one.api, &tunnel.server), (&two.api, &tunnel.client)] {
        let found = api.until(id, "no relay", |found| found["tcps"] == 0);
        assert_eq!(found["mode"], if *id == tunnel.server { 1 } else { 2 });
        assert_eq!((&found["udprx"], &found["udptx"]), (&0.into(), &0.into()));
    }
}

#[test]
fn datagrams_are_counted_too() {
    let master = Master::start();
    let target = UdpTarget::answer(|datagram| [datagram, datagram].concat());
    let tunnel = Tunnel::forward(&master.api, &master.api, target.addr(), 0);
    until_listening(tunnel.users());
    let user = users::datagrams(tunnel.users());
    user.set_read_timeout(Some(millis(500))).unwrap();
    let mut sent = 0;
    let mut buffer = [0; 400];
    // Until the tunnel is up, datagrams may be lost.
    while user.recv(&mut buffer).ok() != Some(200) {
        assert!(sent < 100, "no datagram came back");
        user.send(&[7; 100]).unwrap();
        sent += 1;
    }
    master
        .api
        .until(&tunnel.client, "datagrams are counted", |found| {
            found["udptx"].as_u64() >= Some(200)
        });
    let found = master.api.instance(&tunnel.client);
    assert_eq!(found["udprx"].as_u64().unwrap() % 100, 0, "{found}");
    assert_eq!(found["udptx"].as_u64().unwrap() % 200, 0, "{found}");
    assert_eq!((&found["tcprx"], &found["tcptx"]), (&0.into(), &0.into()));
    assert_eq!(found["udps"], 1);
}

#[test]
fn relays_are_counted_while_they_run() {
    let master = Master::start();
    let target = Target::echo();
    let port = Port::reserve();
    let id = master.api.create_id(&format!(
        "client://{}/{}?mode=1",
        port.addr(),
        target.addr()
    ));
    until_listening(port.addr());
    let held: Vec<_> = (0..3).map(|_| users::connect(port.addr())).collect();
    for user in &held {
        users::echo(user, b"hello").unwrap();
    }
    assert_eq!(master.api.instance(&id)["tcps"], 3);
    // The counters are live, not those of the last report.
    assert_eq!(master.api.instance(&id)["tcprx"], 15);
    drop(held);
    master
        .api
        .until(&id, "no relay", |found| found["tcps"] == 0);
}

#[test]
fn counters_outlive_stops_and_end_with_reset() {
    let mut master = Master::start();
    let target = Target::start(digest_at_end);
    let port = Port::reserve();
    // Whatever the level of the log, bytes are counted.
    let (port_addr, target_addr) = (port.addr(), target.addr());
    let url = format!("client://{port_addr}/{target_addr}?mode=1&log=none");
    let id = master.api.create_id(&url);
    until_listening(port.addr());
    send(port.addr(), 5000);
    counts(&master.api, &id, [("tcprx", 5000), ("tcptx", 64)]);
    master.api.act(&id, "restart");
    master.api.until_status(&id, "stopped");
    counts(&master.api, &id, [("tcprx", 5000), ("tcptx", 64)]);
    master.api.until_status(&id, "running");
    send(port.addr(), 5000);
    counts(&master.api, &id, [("tcprx", 10_000), ("tcptx", 128)]);
    master.stop_and_restart();
    counts(&master.api, &id, [("tcprx", 10_000), ("tcptx", 128)]);
    until_listening(port.addr());
    master.api.put(&id, &format!("{url}&rate=0")).expect(200);
    until_listening(port.addr());
    send(port.addr(), 5000);
    counts(&master.api, &id, [("tcprx", 15_000), ("tcptx", 192)]);
    let stream = Stream::open(&master.api);
    stream.first("initial", &id);
    let reset = master.api.act(&id, "reset");
    assert_eq!((&reset["tcprx"], &reset["tcptx"]), (&0.into(), &0.into()));
    stream.until("an update with zeroes", |events| {
        events
            .iter()
            .find(|event| event.is("update", &id) && event.instance["tcprx"] == 0)
            .map(drop)
    });
    send(port.addr(), 10);
    counts(&master.api, &id, [("tcprx", 10), ("tcptx", 64)]);
}

#[test]
fn telemetry_comes_once_per_interval() {
    let master = Setup::default().env("NP_REPORT_INTERVAL", "1s").start();
    let target = Target::echo();
    let tunnel = Tunnel::reverse(&master.api, &master.api, target.addr(), 0);
    until_served(tunnel.users(), PATIENCE);
    let stream = Stream::open(&master.api);
    stream.first("initial", &tunnel.server);
    let user = users::connect(tunnel.users());
    let began = Instant::now();
    let mut sent: u64 = 0;
    while began.elapsed() < secs(4) {
        users::echo(&user, b"0123456789").unwrap();
        sent += 10;
    }
    stream.until("telemetry with the bytes", |events| {
        let told = |event: &&crate::support::sse::Event| {
            event.is("update", &tunnel.server) && event.instance["tcprx"].as_u64() >= Some(sent)
        };
        events.iter().find(told).map(drop)
    });
    let span = began.elapsed().as_secs() + 2;
    let updates = stream
        .about(&tunnel.server)
        .iter()
        .filter(|event| event.kind == "update")
        .count() as u64;
    assert!(
        (2..=span).contains(&updates),
        "{updates} updates in {span} s"
    );
}

#[test]
fn tunnels_come_back_after_the_master_was_killed() {
    let mut one = Master::start();
    let mut two = Master::start();
    let target = Target::echo();
    let tunnels: Vec<_> = (0..3)
        .map(|number| {
            let make = if number % 2 == 0 {
                Tunnel::reverse
            } else {
                Tunnel::forward
            };
            make(&one.api, &two.api, target.addr(), 1)
        })
        .collect();
    for tunnel in &tunnels {
        until_served(tunnel.users(), PATIENCE);
    }
    one.kill_and_restart();
    for tunnel in &tunnels {
        until_served(tunnel.users(), PATIENCE);
    }
    two.kill_and_restart();
    for tunnel in &tunnels {
        until_served(tunnel.users(), PATIENCE);
        assert_eq!(two.api.instance(&tunnel.client)["status"], "running");
    }
}

#[test]
fn a_port_in_use_is_an_error_until_it_is_free() {
    let master = Master::start();
    let target = Target::echo();
    let port = Port::reserve();
    let holder = std::net::TcpListener::bind(port.addr()).unwrap();
    let url = format!("client://{}/{}?mode=1", port.addr(), target.addr());
    let id = master.api.create_id(&url);
    master.api.until_status(&id, "error");
    // `stop` works from there, and `start` tries again.
    master.api.act(&id, "stop");
    master.api.until_status(&id, "stopped");
    master.api.act(&id, "start");
    master.api.until_status(&id, "error");
    drop(holder);
    master.api.until_status(&id, "running");
    until_served(port.addr(), PATIENCE);
}

#[test]
fn two_instances_on_one_port_are_one_too_many() {
    let master = Master::start();
    let port = Port::reserve();
    let url = format!("server://key@{}/127.0.0.1:0?mode=1", port.addr());
    let first = master.api.create_id(&url);
    master.api.until_status(&first, "running");
    let second = master.api.create_id(&url);
    master.api.until_status(&second, "error");
    assert_eq!(master.api.instance(&first)["status"], "running");
    master.api.delete(&first);
    master.api.until_status(&second, "running");
}

#[test]
fn a_client_that_waits_for_its_server_is_running() {
    let master = Master::start();
    let (tunnel, target) = (Port::reserve(), Target::echo());
    let id = master.api.create_id(&format!(
        "client://key@{}/{}?mode=2",
        tunnel.addr(),
        target.addr()
    ));
    let found = master.api.until_status(&id, "running");
    assert_eq!((&found["ping"], &found["pool"]), (&0.into(), &0.into()));
    let users = Port::reserve();
    master.api.create(&format!(
        "server://key@{}/{}?mode=1",
        tunnel.addr(),
        users.addr()
    ));
    until_served(users.addr(), PATIENCE);
}

#[test]
fn a_change_of_the_url_moves_the_tunnel() {
    let master = Master::start();
    let (first, second) = (
        Target::start(crate::support::peers::greet("1")),
        Target::start(crate::support::peers::greet("2")),
    );
    let port = Port::reserve();
    let url = |target: SocketAddr| format!("client://{}/{target}?mode=1", port.addr());
    let id = master.api.create_id(&url(first.addr()));
    until_listening(port.addr());
    assert_eq!(users::greeted(port.addr(), PATIENCE), Some(b'1'));
    master.api.put(&id, &url(second.addr())).expect(200);
    until_listening(port.addr());
    assert_eq!(users::greeted(port.addr(), PATIENCE), Some(b'2'));
}

#[test]
fn a_stop_of_the_master_stops_every_instance() {
    let mut master = Setup::default().env("NP_SHUTDOWN_TIMEOUT", "1s").start();
    let target = Target::echo();
    let tunnel = Tunnel::reverse(&master.api, &master.api, target.addr(), 0);
    until_served(tunnel.users(), PATIENCE);
    let before: Value = master.api.instance(&tunnel.server)["url"].clone();
    master.stop();
    assert!(!is_listening(tunnel.users()));
    master.restart();
    until_served(tunnel.users(), PATIENCE);
    assert_eq!(master.api.instance(&tunnel.server)["url"], before);
    master
        .api
        .patch(&tunnel.server, &json!({ "restart": false }));
}
