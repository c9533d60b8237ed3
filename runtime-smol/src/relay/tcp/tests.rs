use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use smol::future::{or, yield_now, zip};
use smol::io::{AsyncReadExt as _, AsyncWriteExt as _};

#[cfg(target_os = "linux")]
mod spliced;

use super::*;
use crate::limiter::Limiter;
use crate::net::Polled;
use crate::relay::buffer;
use crate::relay::testing::{connection, exchange, pattern, reset, settings, tls};

/// Runs a relay to its end and does with the streams what a caller must.
fn run((mut near, mut peer): (Stream, Stream), settings: &Settings, initial: Initial) -> Ended {
    let relay = relay(&mut near, &mut peer, settings, None, initial);
    let ended = async_io::block_on(relay);
    if !ended.is_orderly() {
        near.reset();
        peer.reset();
    }
    ended
}

fn in_thread<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> thread::JoinHandle<T> {
    thread::spawn(f)
}

fn plain_relay() -> (TcpStream, TcpStream, thread::JoinHandle<Ended>) {
    plain_relay_on(Path::Any)
}

/// How a relay moves bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Path {
    /// As it likes.
    Any,
    /// Through buffers, because there are no pipes.
    Copied,
}

impl Path {
    /// Prepares this thread.
    fn prepare(self) {
        #[cfg(target_os = "linux")]
        crate::relay::splice::testing::count(|counts| counts.denied = self == Self::Copied);
    }
}

fn plain_relay_on(path: Path) -> (TcpStream, TcpStream, thread::JoinHandle<Ended>) {
    let ((near, user), (peer, far)) = (connection(), connection());
    let ended = in_thread(move || {
        path.prepare();
        run((near, peer), &settings(), Initial::default())
    });
    (user, far, ended)
}

/// user ↔ relay ↔ TLS ↔ relay ↔ target: the sockets of user and target.
fn tls_tunnel() -> (TcpStream, TcpStream, thread::JoinHandle<(Ended, Ended)>) {
    let ((mut near, user), (mut far, target)) = (connection(), connection());
    let ended = in_thread(move || {
        async_io::block_on(async {
            let (mut client, mut server) = tls().await;
            let settings = settings();
            let (none, rest) = (Initial::default(), Initial::default());
            let ingress = relay(&mut near, &mut client, &settings, None, none);
            let egress = relay(&mut far, &mut server, &settings, None, rest);
            zip(ingress, egress).await
        })
    });
    (user, target, ended)
}

fn half_close(mut first: TcpStream, mut second: TcpStream) {
    first.write_all(b"question").unwrap();
    first.shutdown(Shutdown::Write).unwrap();
    let mut got = String::new();
    second.read_to_string(&mut got).unwrap();
    assert_eq!(got, "question");
    second.write_all(b"answer").unwrap();
    drop(second);
    got.clear();
    first.read_to_string(&mut got).unwrap();
    assert_eq!(got, "answer");
}

#[test]
fn a_half_close_is_passed_on_and_the_other_direction_goes_on() {
    for swap in [false, true] {
        let (user, far, ended) = plain_relay();
        let (first, second) = if swap { (far, user) } else { (user, far) };
        half_close(first, second);
        assert!(ended.join().unwrap().is_orderly());
    }
}

#[test]
fn a_half_close_is_passed_on_through_tls() {
    for swap in [false, true] {
        let (user, target, ended) = tls_tunnel();
        let (first, second) = if swap { (target, user) } else { (user, target) };
        half_close(first, second);
        let (ingress, egress) = ended.join().unwrap();
        assert!(ingress.is_orderly() && egress.is_orderly());
    }
}

#[test]
fn a_small_message_passes_tls_without_another_one_to_push_it() {
    let (mut user, mut target, ended) = tls_tunnel();
    let mut got = [0; 4];
    for _ in 0..3 {
        user.write_all(b"ping").unwrap();
        target.read_exact(&mut got).unwrap();
        target.write_all(b"pong").unwrap();
        user.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"pong");
    }
    drop((user, target));
    ended.join().unwrap();
}

#[test]
fn a_reset_at_one_end_is_a_reset_at_the_other() {
    for swap in [false, true] {
        let (user, far, ended) = plain_relay();
        let (first, mut second) = if swap { (far, user) } else { (user, far) };
        reset(first);
        let error = second.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        let expected = if swap { End::Peer } else { End::Near };
        let ended = ended.join().unwrap();
        assert!(
            matches!(ended, Ended::Failed(end, _) if end == expected),
            "{ended}"
        );
    }
}

fn both_ways(user: TcpStream, far: TcpStream) {
    const LEN: usize = 64 * 1024 * 1024;
    let (up, down) = (pattern(1, LEN), pattern(2, LEN));
    let (sent, answer) = (up.clone(), down.clone());
    let far = in_thread(move || exchange(far, answer));
    assert!(exchange(user, sent).unwrap() == down);
    assert!(far.join().unwrap().unwrap() == up);
}

#[test]
fn sixty_four_mebibytes_arrive_whole_both_ways() {
    for path in [Path::Any, Path::Copied] {
        let (user, far, ended) = plain_relay_on(path);
        both_ways(user, far);
        assert!(ended.join().unwrap().is_orderly());
    }
}

#[test]
fn amounts_around_the_sizes_of_buffers_and_pipes_arrive_whole() {
    const B: usize = buffer::STANDARD;
    let sizes = [1, B - 1, B, B + 1, 2 * B, 2 * B + 1, 6 * B - 1, 50 * B + 7];
    for (path, size) in [Path::Any, Path::Copied]
        .into_iter()
        .flat_map(|path| sizes.map(|size| (path, size)))
    {
        let (user, far, ended) = plain_relay_on(path);
        let (up, down) = (pattern(3, size), pattern(4, size / 2));
        let (sent, answer) = (up.clone(), down.clone());
        let far = in_thread(move || exchange(far, answer));
        assert!(exchange(user, sent).unwrap() == down, "{path:?}, {size}");
        assert!(far.join().unwrap().unwrap() == up, "{path:?}, {size}");
        assert!(ended.join().unwrap().is_orderly());
    }
}

#[test]
fn sixty_four_mebibytes_arrive_whole_both_ways_through_tls() {
    let (user, target, ended) = tls_tunnel();
    both_ways(user, target);
    let (ingress, egress) = ended.join().unwrap();
    assert!(ingress.is_orderly() && egress.is_orderly());
}

#[test]
fn bytes_read_earlier_go_first_and_traffic_is_counted() {
    let ((near, user), (peer, far)) = (connection(), connection());
    let initial = Initial {
        to_near: b"early ".to_vec(),
        to_peer: b"header ".to_vec(),
        ..Initial::default()
    };
    let settings = Arc::new(settings());
    let shared = Arc::clone(&settings);
    let ended = in_thread(move || run((near, peer), &shared, initial));
    let far = in_thread(move || exchange(far, b"answer".to_vec()));
    assert_eq!(
        exchange(user, b"question".to_vec()).unwrap(),
        b"early answer"
    );
    assert_eq!(far.join().unwrap().unwrap(), b"header question");
    assert!(ended.join().unwrap().is_orderly());
    let counted = settings.stats.snapshot();
    assert_eq!((counted.tcp_rx, counted.tcp_tx, counted.tcps), (8, 12, 0));
}

/// Runs `scenario` beside a relay on this thread, so that its buffers can be counted.
fn beside<T>(
    settings: &Settings,
    fate: Option<Arc<Fate>>,
    scenario: impl AsyncFnOnce(Polled<TcpStream>, Polled<TcpStream>) -> T,
) -> Result<T, Ended> {
    let ((mut near, user), (mut peer, far)) = (connection(), connection());
    let (user, far) = (Polled::new(user).unwrap(), Polled::new(far).unwrap());
    let relay = relay(&mut near, &mut peer, settings, fate, Initial::default());
    let relay = async { Err(relay.await) };
    async_io::block_on(or(relay, async { Ok(scenario(user, far).await) }))
}

#[test]
fn an_idle_relay_holds_no_buffer() {
    let settings = settings();
    let held = beside(&settings, None, async |mut user, mut far| {
        let mut got = [0; 5];
        for _ in 0..3 {
            user.write_all(b"hello").await.unwrap();
            far.read_exact(&mut got).await.unwrap();
            far.write_all(b"hello").await.unwrap();
            user.read_exact(&mut got).await.unwrap();
        }
        assert_eq!(settings.stats.snapshot().tcps, 1);
        buffer::lent()
    });
    assert_eq!(held.unwrap(), 0);
}

#[test]
fn a_saturated_relay_lets_other_tasks_run() {
    const LEN: usize = 32 * 1024 * 1024;
    let ((mut near, user), (mut peer, far)) = (connection(), connection());
    let far = in_thread(move || exchange(far, Vec::new()));
    let user = in_thread(move || exchange(user, vec![7; LEN]));
    let settings = settings();
    let stats = Arc::clone(&settings.stats);
    let other = async move {
        let (mut worst, mut before) = (0, 0_usize);
        while before < LEN {
            let moved = usize::try_from(stats.tcp_rx.get()).unwrap();
            worst = worst.max(moved - before);
            before = moved;
            yield_now().await;
        }
        worst
    };
    let executor = smol::LocalExecutor::new();
    let other = executor.spawn(other);
    let relay = relay(&mut near, &mut peer, &settings, None, Initial::default());
    let relay = executor.spawn(relay);
    let (worst, ended) = async_io::block_on(executor.run(zip(other, relay)));
    assert!(ended.is_orderly());
    // Each turn of the other task comes after at most two polls of the relay.
    let budget = 2 * (crate::relay::BYTES + crate::relay::splice::CAPACITY);
    assert!(worst > 0 && worst <= budget, "{worst} bytes in one turn");
    assert_eq!(far.join().unwrap().unwrap().len(), LEN);
    user.join().unwrap().unwrap();
}

#[test]
fn silence_ends_a_relay_when_asked_to() {
    let settings = Settings {
        tcp_idle: Some(Duration::from_millis(30)),
        ..settings()
    };
    let start = Instant::now();
    let ended = beside(&settings, None, async |_user, _far| {
        smol::future::pending::<()>().await;
    });
    assert!(matches!(ended, Err(Ended::Idle)));
    assert!(start.elapsed() >= Duration::from_millis(30));
}

#[test]
fn a_relay_of_a_lost_session_ends_although_its_user_goes_on() {
    let fate = Fate::with_silence(Duration::from_millis(30), None);
    let settings = settings();
    let doomed = Arc::clone(&fate);
    let ended = beside(&settings, Some(fate), async |mut user, mut far| {
        let mut got = [0; 1];
        loop {
            user.write_all(b"u").await.unwrap();
            far.read_exact(&mut got).await.unwrap();
            doomed.died_unclean();
        }
    });
    assert!(matches!(ended, Err(Ended::Orphaned)));
}

#[test]
fn a_relay_of_a_living_session_may_be_silent() {
    let fate = Fate::with_silence(Duration::ZERO, None);
    let got = beside(&settings(), Some(fate), async |mut user, mut far| {
        user.write_all(b"late").await.unwrap();
        let mut got = [0; 4];
        far.read_exact(&mut got).await.unwrap();
        got
    });
    assert_eq!(&got.unwrap(), b"late");
}

#[test]
fn a_rate_limits_each_direction_by_itself() {
    const RATE: usize = 1024 * 1024;
    /// A minute's worth, if it were limited.
    const FREE: usize = 60 * RATE;
    let settings = Settings {
        rx: Some(Limiter::new(RATE as u64)),
        ..settings()
    };
    let ((near, user), (peer, far)) = (connection(), connection());
    let start = Instant::now();
    let relay = in_thread(move || run((near, peer), &settings, Initial::default()));
    let far = in_thread(move || exchange(far, vec![1; FREE]));
    assert_eq!(exchange(user, vec![2; RATE / 2]).unwrap().len(), FREE);
    assert_eq!(far.join().unwrap().unwrap().len(), RATE / 2);
    let took = start.elapsed();
    assert!(
        took >= Duration::from_millis(350),
        "half a second's worth in {took:?}"
    );
    assert!(
        took < Duration::from_secs(40),
        "the other direction was limited: {took:?}"
    );
    assert!(relay.join().unwrap().is_orderly());
}

#[test]
fn a_relay_is_small() {
    let ((mut near, _user), (mut peer, _far)) = (connection(), connection());
    let settings = settings();
    let relay = relay(&mut near, &mut peer, &settings, None, Initial::default());
    let size = size_of_val(&relay);
    assert!(size < 1024, "{size} bytes");
}
