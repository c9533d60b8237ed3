use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, ToSocketAddrs, UdpSocket};
use std::time::Duration;

use async_io::Async;
use protocol::wire::datagram::Form;
use smol::channel::{Receiver, unbounded};
use smol::future::{or, pending};
use smol::io::{AsyncReadExt as _, AsyncWriteExt as _};
use socket2::SockRef;
use tracing::Dispatch;

use super::*;
use crate::group::Group;
use crate::net::datagram::take_trains;
use crate::net::{Polled, Stream, tune_datagrams};
use crate::relay::buffer;
use crate::relay::testing::{ANY, Driven, PATIENCE, connection, pattern, settings, sockets, tls};
use crate::stats::Snapshot;

fn socket() -> UdpSocket {
    socket_on(ANY)
}

fn socket_on(address: impl ToSocketAddrs) -> UdpSocket {
    let socket = UdpSocket::bind(address).unwrap();
    tune_datagrams(&socket);
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn connected(to: SocketAddr) -> UdpSocket {
    let socket = socket();
    socket.connect(to).unwrap();
    socket
}

fn receive(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = vec![0; 65_536];
    let len = socket.recv(&mut buffer).unwrap();
    buffer.truncate(len);
    buffer
}

fn echo(socket: &UdpSocket, datagram: &[u8]) {
    socket.send(datagram).unwrap();
    assert_eq!(receive(socket), datagram);
}

#[derive(Clone, Copy)]
enum Path {
    Framed,
    FramedTls,
    Raw(usize),
    Direct,
}

/// Users' socket, relays and an echoing target, on threads of their own.
struct Tunnel {
    users: SocketAddr,
    settings: Arc<Settings>,
    ended: Receiver<Ended>,
    group: Arc<Group>,
    runtime: Driven,
}

impl Tunnel {
    fn new(path: Path, settings: Settings, target: SocketAddr) -> Self {
        let runtime = Driven::new();
        let group = Arc::new(Group::new(Dispatch::none()));
        let users = socket();
        take_trains(&users);
        let address = users.local_addr().unwrap();
        let settings = Arc::new(settings);
        let (tell, ended) = unbounded();
        let (control, all) = (runtime.control(), Arc::downgrade(&group));
        let (idle, stats) = (settings.udp_idle, Arc::clone(&settings.stats));
        let shared = Arc::clone(&settings);
        let serve = async move {
            let begin = |user: UdpUser| {
                let (settings, tell) = (Arc::clone(&shared), tell.clone());
                let session = async move {
                    let ended = session(path, user, &settings, target).await;
                    drop(tell.send(ended).await);
                };
                all.upgrade().unwrap().spawn(&control, session);
            };
            serve(Polled::new(users).unwrap(), idle, 8, stats, begin).await;
        };
        group.spawn(&runtime.control(), serve);
        Self {
            users: address,
            settings,
            ended,
            group,
            runtime,
        }
    }

    fn echoing(path: Path) -> Self {
        let target = socket();
        let address = target.local_addr().unwrap();
        let tunnel = Self::new(path, settings(), address);
        tunnel.group.spawn(&tunnel.runtime.control(), async move {
            let target = Async::new(target).unwrap();
            let mut buffer = vec![0; 65_536];
            loop {
                let (len, from) = target.recv_from(&mut buffer).await.unwrap();
                target.send_to(&buffer[..len], from).await.unwrap();
            }
        });
        tunnel
    }
}

impl Tunnel {
    /// Ends all tasks, so that what they counted is final.
    fn finish(self) -> Snapshot {
        self.group.close();
        smol::block_on(self.group.idle());
        self.settings.stats.snapshot()
    }
}

async fn session(path: Path, user: UdpUser, settings: &Settings, to: SocketAddr) -> Ended {
    let mut near = Side::user(user);
    let target = connected(to);
    take_trains(&target);
    let mut target = Side::target(Polled::new(target).unwrap());
    if matches!(path, Path::Direct) {
        return relay(&mut near, target, settings, None).await;
    }
    let (mut a, mut b) = if matches!(path, Path::FramedTls) {
        tls().await
    } else {
        let (a, b) = sockets();
        (
            Stream::Plain(Polled::new(a).unwrap()),
            Stream::Plain(Polled::new(b).unwrap()),
        )
    };
    let form = match path {
        Path::Raw(max) => Form::Bare { max },
        Path::Framed | Path::FramedTls | Path::Direct => Form::NATIVE,
    };
    let (here, there) = (
        Side::stream(&mut a, Vec::new(), form),
        Side::stream(&mut b, Vec::new(), form),
    );
    let far = crate::relay::testing::settings();
    let egress = relay(&mut target, there, &far, None);
    or(relay(&mut near, here, settings, None), async {
        egress.await;
        pending().await
    })
    .await
}

fn burst(path: Path, datagrams: &[Vec<u8>]) {
    burst_through(Tunnel::echoing(path), datagrams);
}

fn burst_through(tunnel: Tunnel, datagrams: &[Vec<u8>]) {
    let user = connected(tunnel.users);
    // All at once, if the system lets a socket have so much room.
    let (room, mut used) = (SockRef::from(&user).recv_buffer_size().unwrap(), 0);
    let mut waiting = VecDeque::new();
    for (number, datagram) in datagrams.iter().enumerate() {
        used += room_of(datagram);
        while used > room {
            used -= room_of(receive_next(&user, &mut waiting));
        }
        user.send(datagram).unwrap();
        waiting.push_back((number, datagram));
    }
    while !waiting.is_empty() {
        receive_next(&user, &mut waiting);
    }
    let payload: usize = datagrams.iter().map(Vec::len).sum();
    let payload = u64::try_from(payload).unwrap();
    let counted = tunnel.finish();
    assert_eq!((counted.udp_rx, counted.udp_tx), (payload, payload));
    assert_eq!((counted.udps, counted.dropped), (0, 0));
}

/// What the system counts a waiting datagram as, at most.
fn room_of(datagram: &[u8]) -> usize {
    2 * datagram.len() + 2048
}

fn receive_next<'a>(user: &UdpSocket, waiting: &mut VecDeque<(usize, &'a Vec<u8>)>) -> &'a Vec<u8> {
    let (number, datagram) = waiting.pop_front().unwrap();
    assert!(receive(user) == *datagram, "datagram {number}");
    datagram
}

fn small_ones() -> Vec<Vec<u8>> {
    (0..640)
        .map(|number| pattern(number as u64, number % 100))
        .collect()
}

fn large_ones() -> Vec<Vec<u8>> {
    (0..24).map(|number| pattern(number, DATAGRAM)).collect()
}

#[test]
fn a_burst_of_small_and_empty_datagrams_arrives_whole_and_unmerged() {
    for path in [Path::Framed, Path::FramedTls, Path::Direct] {
        burst(path, &small_ones());
    }
}

#[test]
fn a_burst_of_the_largest_datagrams_arrives_whole() {
    for path in [Path::Framed, Path::FramedTls, Path::Direct] {
        burst(path, &large_ones());
    }
}

#[test]
fn datagrams_of_all_lengths_keep_their_order_from_one_tunnel_to_another() {
    let lens = [
        0, 1200, 1200, 1200, 300, 0, DATAGRAM, 3, 3, 4, 20_000, 20_000, 1,
    ];
    let mixed: Vec<_> = (0..)
        .zip(lens.repeat(30))
        .map(|(number, len)| pattern(number, len))
        .collect();
    for path in [Path::Framed, Path::Direct] {
        // What the one sends at once the other receives at once.
        let inner = Tunnel::echoing(path);
        let outer = Tunnel::new(path, settings(), inner.users);
        burst_through(outer, &mixed);
        assert_eq!(inner.finish().dropped, 0);
    }
}

#[test]
fn a_raw_connection_carries_a_datagram_per_write_and_drops_what_it_cannot() {
    let tunnel = Tunnel::echoing(Path::Raw(8192));
    let user = connected(tunnel.users);
    for number in 0..20 {
        echo(
            &user,
            &pattern(number, 400 * (1 + usize::try_from(number).unwrap())),
        );
    }
    user.send(&pattern(0, 8193)).unwrap();
    user.send(b"").unwrap();
    echo(&user, b"still here");
    assert_eq!(tunnel.finish().dropped, 2);
}

#[test]
fn users_are_kept_apart() {
    let tunnel = Tunnel::echoing(Path::Framed);
    let users: Vec<_> = (0..4).map(|_| connected(tunnel.users)).collect();
    for (number, user) in users.iter().enumerate() {
        user.send(&[u8::try_from(number).unwrap()]).unwrap();
    }
    for (number, user) in users.iter().enumerate() {
        assert_eq!(receive(user), [u8::try_from(number).unwrap()]);
    }
    assert_eq!(tunnel.settings.stats.udps.get(), 4);
}

#[test]
fn a_target_that_refuses_does_not_end_the_session() {
    for path in [Path::Framed, Path::Direct] {
        // Nobody else uses this address, so nobody takes the port meanwhile.
        let gone = socket_on("127.77.0.1:0");
        let target = gone.local_addr().unwrap();
        let tunnel = Tunnel::new(path, settings(), target);
        let user = connected(tunnel.users);
        user.send(b"first").unwrap();
        let mut buffer = [0; 16];
        let (len, from) = gone.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..len], b"first");
        drop(gone);
        for _ in 0..20 {
            user.send(b"nobody there").unwrap();
        }
        let back = UdpSocket::bind(target).unwrap();
        back.set_read_timeout(Some(PATIENCE)).unwrap();
        // The same session goes on: the datagram comes from the same socket.
        user.send(b"last").unwrap();
        while &buffer[..4] != b"last" {
            assert_eq!(back.recv_from(&mut buffer).unwrap().1, from);
        }
        assert!(tunnel.ended.is_empty());
    }
}

#[test]
fn a_session_without_datagrams_ends_and_the_next_datagram_begins_another() {
    let target = socket();
    let short = Settings {
        udp_idle: Duration::from_millis(30),
        ..settings()
    };
    let tunnel = Tunnel::new(Path::Direct, short, target.local_addr().unwrap());
    let user = connected(tunnel.users);
    for _ in 0..2 {
        user.send(b"x").unwrap();
        assert_eq!(receive(&target), b"x");
        let ended = smol::block_on(tunnel.ended.recv()).unwrap();
        assert!(matches!(ended, Ended::Expired), "{ended}");
    }
}

#[test]
fn the_number_of_sessions_is_bounded() {
    let tunnel = Tunnel::echoing(Path::Direct);
    let users: Vec<_> = (0..8).map(|_| connected(tunnel.users)).collect();
    for user in &users {
        echo(user, b"in");
    }
    connected(tunnel.users).send(b"one too many").unwrap();
    echo(&users[0], b"still in");
    let counted = tunnel.settings.stats.snapshot();
    assert_eq!((counted.udps, counted.refused, counted.dropped), (8, 1, 1));
}

#[test]
fn a_slow_session_drops_only_its_own_datagrams() {
    let users = socket();
    let to = users.local_addr().unwrap();
    let settings = settings();
    let stats = Arc::clone(&settings.stats);
    let runtime = Driven::new();
    let group = Group::new(Dispatch::none());
    let (tell, told) = unbounded();
    let counted = Arc::clone(&stats);
    group.spawn(&runtime.control(), async move {
        let begin = |user| tell.try_send(user).unwrap();
        serve(Polled::new(users).unwrap(), PATIENCE, 8, counted, begin).await;
    });
    let (slow, quick) = (connected(to), connected(to));
    slow.send(b"").unwrap();
    let held = smol::block_on(told.recv()).unwrap();
    quick.send(b"").unwrap();
    let other = smol::block_on(told.recv()).unwrap();
    let target = socket();
    let near = Polled::new(connected(target.local_addr().unwrap())).unwrap();
    group.spawn(&runtime.control(), async move {
        let mut user = Side::user(other);
        relay(&mut user, Side::target(near), &settings, None).await;
    });
    assert_eq!(receive(&target), b"");
    let large = pattern(9, DATAGRAM);
    for _ in 0..80 {
        slow.send(&large).unwrap();
        quick.send(b"quick").unwrap();
        assert_eq!(receive(&target), b"quick");
    }
    let dropped = stats.dropped.get();
    assert!((16..=17).contains(&dropped), "{dropped}");
    drop(held);
}

#[test]
fn a_frame_beyond_the_limit_and_the_end_of_the_stream_end_the_session() {
    let target = socket();
    for (bytes, orderly) in [(&b"\xff\xff"[..], false), (b"\0\x02ok", true)] {
        let (mut stream, mut far) = connection();
        far.write_all(bytes).unwrap();
        drop(far);
        let near = Polled::new(connected(target.local_addr().unwrap())).unwrap();
        let peer = Side::stream(&mut stream, Vec::new(), Form::NATIVE);
        let mut target = Side::target(near);
        let ended = async_io::block_on(relay(&mut target, peer, &settings(), None));
        assert_eq!(ended.is_orderly(), orderly, "{ended}");
        assert_eq!(matches!(ended, Ended::Failed(End::Peer, _)), !orderly);
    }
    assert_eq!(receive(&target), b"ok");
}

#[test]
fn frames_read_earlier_go_first_and_frames_may_be_cut_anywhere() {
    let target = socket();
    let (mut stream, mut far) = connection();
    far.set_nodelay(true).unwrap();
    far.write_all(b"wo\0\0\0\x05th").unwrap();
    let near = connected(target.local_addr().unwrap());
    let to = near.local_addr().unwrap();
    let peer = Side::stream(
        &mut stream,
        b"\0\x03one\0\x03t".to_vec(),
        Form::Framed { max: 4 },
    );
    let mut near = Side::target(Polled::new(near).unwrap());
    let settings = settings();
    let stats = Arc::clone(&settings.stats);
    let scenario = std::thread::spawn(move || {
        let mut got = vec![receive(&target), receive(&target), receive(&target)];
        far.write_all(b"ree").unwrap();
        got.push(receive(&target));
        target.send_to(b"too long", to).unwrap();
        target.send_to(b"fits", to).unwrap();
        let mut frame = [0; 6];
        far.read_exact(&mut frame).unwrap();
        (got, frame)
    });
    let ended = async_io::block_on(relay(&mut near, peer, &settings, None));
    let (got, frame) = scenario.join().unwrap();
    assert_eq!(got, [&b"one"[..], b"two", b"", b"three"]);
    assert_eq!(&frame, b"\0\x04fits");
    assert_eq!((stats.dropped.get(), ended.is_orderly()), (1, true));
}

#[test]
fn an_idle_session_is_small_and_holds_no_buffer() {
    let target = Async::new(socket()).unwrap();
    let (mut stream, far) = connection();
    let near = connected(target.get_ref().local_addr().unwrap());
    let mut near = Side::target(Polled::new(near).unwrap());
    let settings = settings();
    let peer = Side::stream(&mut stream, Vec::new(), Form::NATIVE);
    let relay = relay(&mut near, peer, &settings, None);
    let size = size_of_val(&relay);
    assert!(size < 1024, "{size} bytes");
    let scenario = async {
        let (mut far, mut buffer) = (Async::new(far).unwrap(), [0; 16]);
        far.write_all(b"\0\x04ping").await.unwrap();
        let (len, from) = target.recv_from(&mut buffer).await.unwrap();
        target.send_to(&buffer[..len], from).await.unwrap();
        far.read_exact(&mut buffer[..6]).await.unwrap();
        assert_eq!(&buffer[..6], b"\0\x04ping");
        Ok(buffer::lent())
    };
    let held = async_io::block_on(or(async { Err(relay.await) }, scenario));
    assert_eq!(held.unwrap(), 0);
}

#[test]
fn a_session_of_a_lost_tunnel_session_ends_although_its_target_goes_on() {
    let target = socket();
    let (mut stream, _far) = connection();
    let near = connected(target.local_addr().unwrap());
    target.connect(near.local_addr().unwrap()).unwrap();
    target.send(b"on and on").unwrap();
    let fate = Fate::with_silence(Duration::from_millis(20), None);
    fate.died_unclean();
    let settings = settings();
    let peer = Side::stream(&mut stream, Vec::new(), Form::NATIVE);
    let mut near = Side::target(Polled::new(near).unwrap());
    let ended = async_io::block_on(relay(&mut near, peer, &settings, Some(fate)));
    assert!(matches!(ended, Ended::Orphaned));
    assert_eq!(settings.stats.udp_rx.get(), 9);
}

#[test]
fn a_rate_limits_datagrams() {
    let target = socket();
    let limited = Settings {
        rx: Some(Limiter::new(512 * 1024)),
        ..settings()
    };
    let tunnel = Tunnel::new(Path::Direct, limited, target.local_addr().unwrap());
    let user = connected(tunnel.users);
    let start = std::time::Instant::now();
    for _ in 0..16 {
        user.send(&[7; 16 * 1024]).unwrap();
    }
    for _ in 0..16 {
        assert_eq!(receive(&target).len(), 16 * 1024);
    }
    let took = start.elapsed();
    assert!(
        took >= Duration::from_millis(300),
        "half a second's worth in {took:?}"
    );
}
