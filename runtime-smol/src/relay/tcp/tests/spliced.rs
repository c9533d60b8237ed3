//! Relays while they splice. Each runs on the test's own thread, so that its pipes can be seen.

use std::io;

use async_io::block_on;
use socket2::SockRef;

use super::*;
use crate::relay::splice::testing::{count, counts};
use crate::relay::testing::sockets;

const LEN: usize = 8 * 1024 * 1024;

/// A connection whose relay end has little room, and the other end, which takes little.
fn narrow() -> (Stream, TcpStream) {
    let (here, there) = sockets();
    SockRef::from(&here)
        .set_send_buffer_size(16 * 1024)
        .unwrap();
    SockRef::from(&there)
        .set_recv_buffer_size(16 * 1024)
        .unwrap();
    (Stream::Plain(Polled::new(here).unwrap()), there)
}

/// Runs `scenario` beside a relay between a wide and a narrow connection.
fn beside_narrow<T>(
    settings: &Settings,
    scenario: impl AsyncFnOnce(TcpStream, TcpStream) -> T,
) -> (Ended, T) {
    Path::Any.prepare();
    let ((mut near, user), (mut peer, far)) = (connection(), narrow());
    let relay = async move {
        let ended = relay(&mut near, &mut peer, settings, None, Initial::default()).await;
        if !ended.is_orderly() {
            near.reset();
            peer.reset();
        }
        ended
    };
    block_on(zip(relay, scenario(user, far)))
}

/// Reads `far` until the relay splices, and then no more, so that it stalls with bytes in a pipe: on
/// this thread, a pipe that is seen lent is one that a relay waits with. Returns what was read.
async fn stall(far: &TcpStream) -> Vec<u8> {
    let mut got = Vec::new();
    while counts().lent == 0 {
        assert!(got.len() < LEN / 2, "no pipe after half of the bytes");
        let mut far = far.try_clone().unwrap();
        let more = elsewhere(move || {
            let mut more = vec![0; 128 * 1024];
            far.read_exact(&mut more).map(|()| more)
        });
        got.extend(more.await.unwrap());
        smol::Timer::after(Duration::from_millis(5)).await;
    }
    got
}

/// Has `work` done by a thread.
async fn elsewhere<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    smol::unblock(work).await
}

fn send_all(user: TcpStream) -> thread::JoinHandle<io::Result<()>> {
    send(user, LEN)
}

fn send(mut user: TcpStream, len: usize) -> thread::JoinHandle<io::Result<()>> {
    in_thread(move || {
        user.write_all(&pattern(5, len))?;
        user.shutdown(Shutdown::Write)
    })
}

#[test]
fn bytes_in_a_pipe_come_before_a_half_close() {
    let settings = settings();
    let (ended, (got, answer)) = beside_narrow(&settings, async |user, far| {
        let sending = send_all(user.try_clone().unwrap());
        let mut got = stall(&far).await;
        let far = elsewhere(move || exchange(far, b"answer".to_vec()));
        let user = elsewhere(move || {
            let mut answer = String::new();
            (&user).read_to_string(&mut answer).map(|_| answer)
        });
        let (rest, answer) = zip(far, user).await;
        sending.join().unwrap().unwrap();
        got.extend(rest.unwrap());
        (got, answer.unwrap())
    });
    assert!(got == pattern(5, LEN));
    assert_eq!(answer, "answer");
    assert!(ended.is_orderly());
    assert_eq!((counts().lent, buffer::lent()), (0, 0));
    assert!(counts().bytes > LEN / 2, "{:?}", counts());
    let counted = settings.stats.snapshot();
    assert_eq!((counted.tcp_rx, counted.tcp_tx), (LEN as u64, 6));
}

#[test]
fn a_stalled_sink_holds_one_pipe_and_the_other_direction_goes_on() {
    let (ended, ()) = beside_narrow(&settings(), async |user, far| {
        let sending = send_all(user.try_clone().unwrap());
        stall(&far).await;
        let answered = elsewhere(move || {
            let mut answer = [0; 6];
            for _ in 0..100 {
                (&far).write_all(b"answer")?;
                (&user).read_exact(&mut answer)?;
            }
            io::Result::Ok(far)
        });
        let mut far = answered.await.unwrap();
        assert_eq!((counts().lent, buffer::lent()), (1, 0));
        elsewhere(move || io::copy(&mut far, &mut io::sink()))
            .await
            .unwrap();
        sending.join().unwrap().unwrap();
    });
    assert!(ended.is_orderly());
}

#[test]
fn a_reset_of_either_end_while_bytes_are_in_a_pipe_is_told_apart() {
    for source in [true, false] {
        let (ended, error) = beside_narrow(&settings(), async |user, far| {
            let mut user = smol::Async::new(user).unwrap();
            let sending = async {
                user.write_all(&pattern(5, LEN)).await.unwrap();
                unreachable!("the sink takes half of it");
            };
            or(sending, async { drop(stall(&far).await) }).await;
            let user = user.into_inner().unwrap();
            user.set_nonblocking(false).unwrap();
            let (first, mut second) = if source { (user, far) } else { (far, user) };
            reset(first);
            elsewhere(move || io::copy(&mut second, &mut io::sink())).await
        });
        let expected = if source { End::Near } else { End::Peer };
        assert!(
            matches!(ended, Ended::Failed(end, _) if end == expected),
            "{source}: {ended}"
        );
        assert_eq!(error.unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert_eq!(counts().lent, 0);
    }
}

#[test]
fn small_messages_are_copied_again_after_a_surge() {
    let (ended, ()) = beside_narrow(&settings(), async |user, far| {
        let mut sender = user.try_clone().unwrap();
        let far = elsewhere(move || {
            let reading = in_thread({
                let mut far = far.try_clone().unwrap();
                move || far.read_exact(&mut vec![0; LEN]).unwrap()
            });
            sender.write_all(&vec![1; LEN]).unwrap();
            reading.join().unwrap();
            far
        })
        .await;
        assert!(counts().bytes > 0);
        let talk = async |times: usize| {
            let (mut user, mut far) = (user.try_clone().unwrap(), far.try_clone().unwrap());
            elsewhere(move || {
                for _ in 0..times {
                    user.write_all(b"ping").unwrap();
                    far.read_exact(&mut [0; 4]).unwrap();
                }
            })
            .await;
        };
        // The first may still go the way of the surge.
        talk(2).await;
        let before = counts().bytes;
        talk(20).await;
        assert_eq!(counts().bytes, before);
        assert_eq!((counts().lent, buffer::lent()), (0, 0));
    });
    assert!(ended.is_orderly());
}

#[test]
fn what_follows_urgent_data_is_not_left_behind() {
    const LONG: usize = 4 * 1024 * 1024;
    for (len, ends) in [(16, false), (LONG, false), (16, true), (LONG, true)] {
        let got = crate::Runtime::new(1).unwrap().block_on(async {
            let ((mut near, mut user), (mut peer, mut far)) = (connection(), connection());
            let settings = settings();
            let relaying = relay(&mut near, &mut peer, &settings, None, Initial::default());
            let sending = in_thread(move || {
                user.write_all(&pattern(7, len)).unwrap();
                SockRef::from(&user).send_out_of_band(b"!").unwrap();
                user.write_all(b"the rest").unwrap();
                if ends {
                    user.shutdown(Shutdown::Write).unwrap();
                }
                user
            });
            let reading = elsewhere(move || {
                let mut got = vec![0; len + 8];
                far.read_exact(&mut got).map(|()| (got, far))
            });
            // If the user stays, nothing else wakes the relay.
            let got = or(async { Err(relaying.await) }, async { Ok(reading.await) }).await;
            drop(sending.join().unwrap());
            got
        });
        let (got, _far) = got.unwrap().unwrap();
        assert!(got.starts_with(&pattern(7, len)) && got.ends_with(b"the rest"));
    }
}

#[test]
fn a_limited_relay_does_not_splice() {
    /// Many full reads, but few of the writes that each wait for a narrow window to open.
    const LEN: usize = 512 * 1024;
    let settings = Settings {
        rx: Some(Limiter::new(1 << 40)),
        ..settings()
    };
    let before = counts().bytes;
    let (ended, got) = beside_narrow(&settings, async |user, far| {
        let sending = send(user, LEN);
        let got = elsewhere(move || exchange(far, Vec::new())).await;
        sending.join().unwrap().unwrap();
        got.unwrap().len()
    });
    assert_eq!((got, counts().bytes), (LEN, before));
    assert!(ended.is_orderly());
}

/// Sends in pieces of random sizes, reads in others, and returns what came.
fn randomly(mut socket: TcpStream, seed: u64, bytes: Vec<u8>) -> io::Result<Vec<u8>> {
    let mut sink = socket.try_clone()?;
    let sizes = |seed: u64| {
        let numbers = pattern(seed, 4096);
        (0..4096).cycle().map(move |at| {
            // As many small pieces as large ones.
            let bits = u32::from(numbers[at] % 19);
            (1 << bits) + usize::from(numbers[(at + 1) % 4096])
        })
    };
    let writing = in_thread(move || {
        let mut rest = bytes.as_slice();
        for size in sizes(seed) {
            let (piece, later) = rest.split_at(size.min(rest.len()));
            sink.write_all(piece)?;
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        sink.shutdown(Shutdown::Write)
    });
    let mut got = Vec::new();
    for size in sizes(seed + 1) {
        let mut room = vec![0; size];
        match socket.read(&mut room)? {
            0 => break,
            len => got.extend_from_slice(&room[..len]),
        }
    }
    writing.join().unwrap()?;
    Ok(got)
}

#[test]
fn pieces_of_any_size_arrive_whole_while_pipes_come_and_go() {
    const PART: usize = LEN / 4;
    for seed in 1..=4 {
        let denying = async {
            for at in 0_u64.. {
                count(|counts| counts.denied = at & 0b100 != 0);
                smol::Timer::after(Duration::from_millis(1)).await;
            }
        };
        let (ended, (up, down)) = beside_narrow(&settings(), async |user, far| {
            let (up, down) = (pattern(seed, PART), pattern(seed + 100, PART));
            let user = elsewhere(move || randomly(user, seed, up));
            let far = elsewhere(move || randomly(far, seed + 50, down));
            let both = async { Some(zip(far, user).await) };
            let (up, down) = or(both, async {
                denying.await;
                None
            })
            .await
            .unwrap();
            (up.unwrap(), down.unwrap())
        });
        assert!(up == pattern(seed, PART), "{seed}");
        assert!(down == pattern(seed + 100, PART), "{seed}");
        assert!(ended.is_orderly());
        assert_eq!((counts().lent, buffer::lent()), (0, 0));
    }
}
