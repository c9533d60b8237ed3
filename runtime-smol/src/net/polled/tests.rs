use std::future::Future;
use std::net::{Shutdown, UdpSocket};
use std::thread;

use smol::channel::bounded;
use smol::future::{or, poll_once, zip};
use smol::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tracing::Dispatch;

use super::*;
use crate::Runtime;
use crate::executor::stepped_aside;
use crate::group::Group;
use crate::relay::testing::{PATIENCE, pattern, sockets};
use crate::timer::Timer;

/// On a thread of ours and on one of nobody.
fn everywhere<F: Future<Output = ()>>(test: impl Fn() -> F) {
    Runtime::new(1).unwrap().block_on(test());
    async_io::block_on(test());
}

/// What `future` comes to, if it does not wait in vain.
async fn in_time<T>(future: impl Future<Output = T>) -> T {
    let late = async {
        Timer::after(PATIENCE).await;
        panic!("it waits in vain")
    };
    or(future, late).await
}

fn pair() -> (Polled<TcpStream>, TcpStream) {
    let (here, there) = sockets();
    (Polled::new(here).unwrap(), there)
}

#[test]
fn bytes_and_their_end_in_one_go_are_two_reads() {
    everywhere(|| async {
        for end in [Shutdown::Write, Shutdown::Both] {
            let (mut here, mut there) = pair();
            there.write_all(b"last words").unwrap();
            there.shutdown(end).unwrap();
            // Both are known before anything is read.
            here.readable().await.unwrap();
            let mut buffer = [0; 64];
            assert_eq!(here.read(&mut buffer).await.unwrap(), 10);
            assert_eq!(in_time(here.read(&mut buffer)).await.unwrap(), 0);
            assert_eq!(here.read(&mut buffer).await.unwrap(), 0);
        }
    });
}

#[test]
fn a_reader_that_takes_little_at_a_time_misses_nothing() {
    everywhere(|| async {
        let (mut here, mut there) = pair();
        let sent = pattern(3, 100_000);
        let sending = thread::spawn({
            let sent = sent.clone();
            move || {
                sent.chunks(977)
                    .for_each(|part| there.write_all(part).unwrap())
            }
        });
        let mut got = Vec::new();
        let mut buffer = [0; 512];
        loop {
            let room = 1 + got.len() % buffer.len();
            match here.read(&mut buffer[..room]).await.unwrap() {
                0 => break,
                len => got.extend_from_slice(&buffer[..len]),
            }
            if got.len() % 3 == 0 && got.len() < sent.len() {
                here.peek(&mut buffer).await.unwrap();
                here.readable().await.unwrap();
            }
        }
        assert!(got == sent);
        sending.join().unwrap();
    });
}

#[test]
fn what_was_written_while_nobody_read_arrives() {
    everywhere(|| async {
        let (mut here, there) = pair();
        let (mut back, sent) = (Polled::new(there).unwrap(), pattern(5, 8 << 20));
        let mut got = vec![0; sent.len()];
        let writing = async {
            here.write_all(&sent).await.unwrap();
            assert!(poll_once(here.read(&mut [0])).await.is_none());
            here.get_ref().shutdown(Shutdown::Write).unwrap();
        };
        zip(writing, async { back.read_exact(&mut got).await.unwrap() }).await;
        assert!(got == sent);
        assert_eq!(back.read(&mut [0]).await.unwrap(), 0);
    });
}

#[test]
fn a_lost_peer_wakes_reader_and_writer() {
    everywhere(|| async {
        let (mut here, there) = pair();
        let mut wrote = 0;
        let filling = async {
            loop {
                match here.write(&[7; 65_536]).await {
                    Ok(len) => wrote += len,
                    Err(error) => return error,
                }
            }
        };
        // It is waiting for room when the peer goes.
        let mut filling = Box::pin(filling);
        while poll_once(&mut filling).await.is_some() {}
        crate::relay::testing::reset(there);
        let error = filling.await;
        assert!(
            matches!(
                error.kind(),
                io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
            ),
            "{error}"
        );
        assert!(wrote > 0);
        here.readable().await.unwrap();
    });
}

#[test]
fn it_follows_its_task_with_all_that_waits() {
    let runtime = Runtime::new(2).unwrap();
    let group = Group::new(Dispatch::none());
    let (tell, told) = bounded(1);
    group.spawn(&runtime.control(), async move {
        let (mut here, mut there) = pair();
        let mut buffer = [0; 8];
        assert!(poll_once(here.read(&mut buffer)).await.is_none());
        there.write_all(b"one").unwrap();
        stepped_aside().await;
        let one = here.read(&mut buffer).await.unwrap();
        let late = thread::spawn(move || {
            there.write_all(b"two").unwrap();
            there
        });
        here.readable().await.unwrap();
        let two = here.read(&mut buffer).await.unwrap();
        drop(late.join().unwrap());
        let end = here.read(&mut buffer).await.unwrap();
        tell.send((one, two, end)).await.unwrap();
    });
    assert_eq!(runtime.block_on(told.recv()).unwrap(), (3, 3, 0));
}

#[test]
fn who_waits_for_room_goes_with_it() {
    let runtime = Runtime::new(2).unwrap();
    let group = Group::new(Dispatch::none());
    let (tell, told) = bounded(1);
    group.spawn(&runtime.control(), async move {
        let (mut here, there) = pair();
        while poll_once(here.write(&[7; 65_536])).await.is_some() {}
        stepped_aside().await;
        let mut there = Some(there);
        let room = poll_fn(|cx| {
            let room = here.poll_writable(cx);
            // Reading takes it to this thread, with the task waiting for room on the other one.
            if let Some(mut there) = there.take() {
                assert!(room.is_pending());
                assert!(Pin::new(&mut here).poll_read(cx, &mut [0]).is_pending());
                thread::spawn(move || io::copy(&mut there, &mut io::sink()));
            }
            room
        });
        tell.send(in_time(room).await).await.unwrap();
    });
    runtime.block_on(told.recv()).unwrap().unwrap();
}

#[test]
fn another_thread_may_wait_for_it() {
    let runtime = Runtime::new(1).unwrap();
    let (here, mut there) = runtime.block_on(async { pair() });
    let waiting = thread::spawn(move || {
        async_io::block_on(here.readable()).unwrap();
        here
    });
    // Nobody else drives its thread's sockets.
    runtime.block_on(async {
        there.write_all(b"news").unwrap();
        Timer::after(std::time::Duration::from_millis(1)).await;
        while !waiting.is_finished() {
            smol::future::yield_now().await;
        }
    });
    let mut here = waiting.join().unwrap();
    let mut buffer = [0; 8];
    assert_eq!(async_io::block_on(here.read(&mut buffer)).unwrap(), 4);
}

#[test]
fn the_failure_of_one_datagram_is_told_once() {
    everywhere(|| async {
        let gone = UdpSocket::bind("127.77.0.8:0").unwrap();
        let here = UdpSocket::bind("127.0.0.1:0").unwrap();
        here.connect(gone.local_addr().unwrap()).unwrap();
        let there = here.local_addr().unwrap();
        let target = gone.local_addr().unwrap();
        drop(gone);
        let here = Polled::new(here).unwrap();
        let receive = |socket: &UdpSocket| socket.recv(&mut [0; 8]);
        here.get_ref().send(b"hello?").unwrap();
        let refused = poll_fn(|cx| here.poll_read_with(cx, receive)).await;
        assert_eq!(
            refused.unwrap_err().kind(),
            io::ErrorKind::ConnectionRefused
        );
        assert!(
            poll_once(poll_fn(|cx| here.poll_read_with(cx, receive)))
                .await
                .is_none()
        );
        let back = UdpSocket::bind(target).unwrap();
        back.send_to(b"yes", there).unwrap();
        assert_eq!(
            poll_fn(|cx| here.poll_read_with(cx, receive))
                .await
                .unwrap(),
            3
        );
    });
}

#[test]
fn urgent_data_hides_nothing_that_follows() {
    everywhere(|| async {
        let (mut here, mut there) = pair();
        there.write_all(b"abc").unwrap();
        socket2::SockRef::from(&there)
            .send_out_of_band(b"!")
            .unwrap();
        there.write_all(b"def").unwrap();
        // All of it is known before anything is read.
        here.readable().await.unwrap();
        let mut got = [0; 6];
        in_time(here.read_exact(&mut got)).await.unwrap();
        assert_eq!(&got, b"abcdef");
    });
}

/// How often, and of what, the system tells of `socket`, by `proc_pid_fdinfo(5)`.
#[cfg(target_os = "linux")]
fn told_of(socket: &impl std::os::fd::AsRawFd) -> Vec<u32> {
    let mut told = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fdinfo").unwrap() {
        // Other tests close theirs.
        let info = std::fs::read_to_string(entry.unwrap().path()).unwrap_or_default();
        for line in info.lines().filter(|line| line.starts_with("tfd:")) {
            let words: Vec<_> = line.split_whitespace().collect();
            if words[1].parse() == Ok(socket.as_raw_fd()) {
                told.push(u32::from_str_radix(words[3], 16).unwrap());
            }
        }
    }
    told
}

#[test]
#[cfg(target_os = "linux")]
fn nobody_is_told_of_room_before_somebody_waits_for_it() {
    let out = rustix::event::epoll::EventFlags::OUT.bits();
    Runtime::new(1).unwrap().block_on(async {
        let there = UdpSocket::bind("127.0.0.1:0").unwrap();
        let here = UdpSocket::bind("127.0.0.1:0").unwrap();
        here.connect(there.local_addr().unwrap()).unwrap();
        let here = Polled::new(here).unwrap();
        let sent = poll_fn(|cx| here.poll_write_with(cx, |socket| socket.send(b"1"))).await;
        assert_eq!(sent.unwrap(), 1);
        assert!(told_of(here.get_ref()).iter().all(|flags| flags & out == 0));
        here.writable().await.unwrap();
        assert!(told_of(here.get_ref()).iter().any(|flags| flags & out != 0));
    });
}

#[test]
#[cfg(target_os = "linux")]
fn nobody_is_told_of_a_copy_that_is_closed() {
    Runtime::new(1).unwrap().block_on(async {
        let (here, mut there) = pair();
        let copy = here.get_ref().try_clone().unwrap();
        let number = copy.try_clone().unwrap();
        let copy = Polled::new_nonblocking(copy).unwrap();
        there.write_all(b"x").unwrap();
        copy.readable().await.unwrap();
        let before = told_of(copy.get_ref()).len();
        let raw = std::os::fd::AsRawFd::as_raw_fd(copy.get_ref());
        copy.close_copy();
        drop(number);
        assert!(before > 0);
        assert!(told_of(&raw).is_empty());
    });
}

#[test]
fn all_that_wait_for_room_get_it() {
    everywhere(|| async {
        let (here, mut there) = pair();
        let here = Arc::new(here);
        let fill = || here.write_with(|mut socket| socket.write(&[7; 65_536]));
        while fill().is_ok() {}
        assert_eq!(fill().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let (mut first, mut second) = (Room::new(&here), Room::new(&here));
        assert!(poll_once(&mut first).await.is_none());
        assert!(poll_once(&mut second).await.is_none());
        let reading = thread::spawn(move || {
            let _all = io::copy(&mut there, &mut io::sink());
        });
        let (first, second) = zip(first, second).await;
        assert!(first.is_ok() && second.is_ok());
        here.get_ref().shutdown(Shutdown::Both).unwrap();
        reading.join().unwrap();
    });
}
