//! Sockets whose readiness a task waits for.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice, Read as _, Write as _};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use async_io::{Async, WritableOwned};
use smol::io::{AsyncRead, AsyncWrite};

use crate::reactor::{Registration, Sure, Tick, Way};

/// A nonblocking socket. One task at a time waits to read, and one to write, except for those in a
/// [`Room`].
///
/// Made on a thread of a [`Runtime`](crate::Runtime), it is told of by that thread, or by the one that it
/// [follows](Self::follow) a task to; made elsewhere, by async-io. It works on any thread.
pub struct Polled<T>(Teller<T>);

/// Who tells when the socket is ready.
enum Teller<T> {
    Thread {
        // Dropped first, as it must be.
        registration: Registration,
        socket: T,
    },
    AsyncIo(Arc<Async<T>>),
}

impl<T: AsFd> Polled<T> {
    /// Takes a socket and makes it nonblocking.
    ///
    /// # Errors
    /// The system has no room for it.
    pub fn new(socket: T) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        Self::new_nonblocking(socket)
    }

    /// Takes a socket that is nonblocking, and connected if it will be.
    ///
    /// # Errors
    /// The system has no room for it.
    pub fn new_nonblocking(socket: T) -> io::Result<Self> {
        Self::register(socket, false)
    }

    /// Takes a socket that is nonblocking and has begun to connect: it is [`writable`](Self::writable) when
    /// it has, or has failed to.
    ///
    /// # Errors
    /// The system has no room for it.
    pub fn connecting(socket: T) -> io::Result<Self> {
        Self::register(socket, true)
    }

    fn register(socket: T, connecting: bool) -> io::Result<Self> {
        Ok(Self(
            match Registration::here(socket.as_fd(), connecting)? {
                Some(registration) => Teller::Thread {
                    registration,
                    socket,
                },
                None => Teller::AsyncIo(Arc::new(Async::new_nonblocking(socket)?)),
            },
        ))
    }

    /// Has this thread tell of the socket from now on, if it is one of a [`Runtime`](crate::Runtime): for
    /// a task that may have [stepped aside](crate::executor::step_aside). A stream does so itself.
    pub fn follow(&mut self) {
        if let Teller::Thread {
            registration,
            socket,
        } = &mut self.0
        {
            registration.follow(socket.as_fd());
        }
    }

    /// Closes it, where there is a copy of its descriptor: nobody is told of that from now on.
    pub fn close_copy(self) {
        if let Teller::Thread {
            registration,
            socket,
        } = self.0
        {
            registration.forget(socket.as_fd());
        }
    }
}

impl<T> Polled<T> {
    /// The socket.
    #[must_use]
    pub fn get_ref(&self) -> &T {
        match &self.0 {
            Teller::Thread { socket, .. } => socket,
            Teller::AsyncIo(socket) => (**socket).get_ref(),
        }
    }
}

impl<T: AsFd> Polled<T> {
    /// Waits until there is something to read (bytes, the end of the stream or an error), without trying to
    /// read. What there was before must have been read.
    ///
    /// # Errors
    /// Those of the reactor.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_ready(Way::Read, cx)
    }

    /// Waits until there is room to write, without trying to write.
    ///
    /// # Errors
    /// Those of the reactor.
    pub fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_ready(Way::Write, cx)
    }

    fn poll_ready(&self, way: Way, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.0 {
            Teller::Thread {
                registration,
                socket,
            } => {
                if way == Way::Write {
                    registration.tell_of_room(socket.as_fd())?;
                }
                registration.poll(way, Sure::Certain, cx).map(|_| Ok(()))
            }
            Teller::AsyncIo(socket) => match way {
                Way::Read => socket.poll_readable(cx),
                Way::Write => socket.poll_writable(cx),
            },
        }
    }

    /// [`poll_readable`](Self::poll_readable) as a future.
    ///
    /// # Errors
    /// Those of the reactor.
    pub async fn readable(&self) -> io::Result<()> {
        poll_fn(|cx| self.poll_readable(cx)).await
    }

    /// [`poll_writable`](Self::poll_writable) as a future.
    ///
    /// # Errors
    /// Those of the reactor.
    pub async fn writable(&self) -> io::Result<()> {
        poll_fn(|cx| self.poll_writable(cx)).await
    }

    /// Reads by `read`, again and again while it says `WouldBlock`.
    ///
    /// # Errors
    /// Those of `read`.
    pub fn poll_read_with<R>(
        &self,
        cx: &mut Context<'_>,
        read: impl FnMut(&T) -> io::Result<R>,
    ) -> Poll<io::Result<R>> {
        let polled = self.poll_with(Way::Read, cx, read);
        polled.map_ok(|(done, _)| done)
    }

    /// Writes by `write`, again and again while it says `WouldBlock`.
    ///
    /// # Errors
    /// Those of `write`.
    pub fn poll_write_with<R>(
        &self,
        cx: &mut Context<'_>,
        write: impl FnMut(&T) -> io::Result<R>,
    ) -> Poll<io::Result<R>> {
        let polled = self.poll_with(Way::Write, cx, write);
        polled.map_ok(|(done, _)| done)
    }

    /// What `attempt` did, and the latest event before.
    fn poll_with<R>(
        &self,
        way: Way,
        cx: &mut Context<'_>,
        mut attempt: impl FnMut(&T) -> io::Result<R>,
    ) -> Poll<io::Result<(R, Tick)>> {
        loop {
            let tick = match &self.0 {
                Teller::Thread { registration, .. } => {
                    ready!(registration.poll(way, Sure::Perhaps, cx))
                }
                Teller::AsyncIo(_) => Tick::default(),
            };
            match attempt(self.get_ref()) {
                Ok(done) => return Poll::Ready(Ok((done, tick))),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.used_up(way, tick)?;
                    if let Teller::AsyncIo(_) = self.0 {
                        ready!(self.poll_ready(way, cx))?;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Writes by `write`, once. If that says `WouldBlock`, there is a [`Room`] to wait in.
    ///
    /// # Errors
    /// Those of `write`.
    pub fn write_with<R>(&self, write: impl FnOnce(&T) -> io::Result<R>) -> io::Result<R> {
        let tick = match &self.0 {
            Teller::Thread { registration, .. } => registration.tick(Way::Write),
            Teller::AsyncIo(_) => Tick::default(),
        };
        let written = write(self.get_ref());
        if let Err(error) = &written
            && error.kind() == io::ErrorKind::WouldBlock
        {
            self.used_up(Way::Write, tick)?;
        }
        written
    }

    /// The system said `WouldBlock`, after `tick`.
    fn used_up(&self, way: Way, tick: Tick) -> io::Result<()> {
        if let Teller::Thread {
            registration,
            socket,
        } = &self.0
        {
            registration.used_up(way, tick);
            if way == Way::Write {
                registration.tell_of_room(socket.as_fd())?;
            }
        }
        Ok(())
    }

    /// Less was read or written than asked for, after `tick`: most probably there is no more.
    fn fell_short(&self, way: Way, tick: Tick) -> io::Result<()> {
        if let Teller::Thread {
            registration,
            socket,
        } = &self.0
        {
            registration.fell_short(way, tick);
            if way == Way::Write {
                registration.tell_of_room(socket.as_fd())?;
            }
        }
        Ok(())
    }
}

impl Polled<TcpStream> {
    /// Copies what comes next to `buffer` and leaves it to be read.
    ///
    /// # Errors
    /// Those of `recv`.
    pub async fn peek(&self, buffer: &mut [u8]) -> io::Result<usize> {
        poll_fn(|cx| self.poll_read_with(cx, |socket| socket.peek(buffer))).await
    }

    /// Whether there is something to read although `splice` says that the stream has `ended`, or that
    /// there is nothing: it stops at urgent data.
    #[cfg_attr(
        not(target_os = "linux"),
        expect(dead_code, reason = "nothing splices")
    )]
    pub(crate) fn is_beyond_splice(&self, ended: bool) -> bool {
        let known = match &self.0 {
            // If its event comes later, so does the next attempt.
            Teller::Thread { registration, .. } => registration.had_urgent_data(),
            Teller::AsyncIo(_) => true,
        };
        (ended || known) && self.get_ref().peek(&mut [0]).is_ok_and(|len| len > 0)
    }
}

impl<T: fmt::Debug> fmt::Debug for Polled<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Polled").field(self.get_ref()).finish()
    }
}

impl AsyncRead for Polled<TcpStream> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.follow();
        let (read, tick) = ready!(self.poll_with(Way::Read, cx, |mut socket| socket.read(buf)))?;
        if 0 < read && read < buf.len() {
            self.fell_short(Way::Read, tick)?;
        }
        Poll::Ready(Ok(read))
    }
}

impl AsyncWrite for Polled<TcpStream> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.follow();
        let (written, tick) =
            ready!(self.poll_with(Way::Write, cx, |mut socket| socket.write(buf)))?;
        if written < buf.len() {
            self.fell_short(Way::Write, tick)?;
        }
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.follow();
        self.poll_write_with(cx, |mut socket| socket.write_vectored(bufs))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Nothing: whoever closes a stream shuts it down.
    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Waits until there is room to write in a socket that many tasks write to.
pub struct Room<T>(Door<T>);

enum Door<T> {
    Thread(Arc<Polled<T>>),
    AsyncIo(Pin<Box<WritableOwned<T>>>),
}

impl<T: AsFd> Room<T> {
    /// Waits after [`write_with`](Polled::write_with) said `WouldBlock`.
    #[must_use]
    pub fn new(socket: &Arc<Polled<T>>) -> Self {
        Self(match &socket.0 {
            Teller::Thread { .. } => Door::Thread(Arc::clone(socket)),
            Teller::AsyncIo(socket) => Door::AsyncIo(Box::pin(Arc::clone(socket).writable_owned())),
        })
    }
}

impl<T> Future for Room<T> {
    type Output = io::Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Door::Thread(socket) => match &socket.0 {
                Teller::Thread { registration, .. } => {
                    registration.poll_crowded(cx).map(|_| Ok(()))
                }
                Teller::AsyncIo(_) => Poll::Ready(Ok(())),
            },
            Door::AsyncIo(writable) => writable.as_mut().poll(cx),
        }
    }
}

impl<T> fmt::Debug for Room<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Room").finish()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Shutdown, UdpSocket};
    use std::thread;

    use smol::channel::bounded;
    use smol::future::{poll_once, zip};
    use smol::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tracing::Dispatch;

    use super::*;
    use crate::Runtime;
    use crate::executor::stepped_aside;
    use crate::group::Group;
    use crate::relay::testing::{pattern, sockets};

    /// On a thread of ours and on one of nobody.
    fn everywhere<F: Future<Output = ()>>(test: impl Fn() -> F) {
        Runtime::new(1).unwrap().block_on(test());
        async_io::block_on(test());
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
                let mut buffer = [0; 64];
                assert_eq!(here.read(&mut buffer).await.unwrap(), 10);
                assert_eq!(here.read(&mut buffer).await.unwrap(), 0);
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
            crate::timer::Timer::after(std::time::Duration::from_millis(1)).await;
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
            let mut got = Vec::new();
            let mut buffer = [0; 64];
            while got.len() < 6 {
                let len = here.read(&mut buffer).await.unwrap();
                got.extend_from_slice(&buffer[..len]);
            }
            assert_eq!(got, b"abcdef");
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
}
