//! Sockets whose readiness a task waits for.

use std::fmt;
use std::future::poll_fn;
use std::io::{self, IoSlice, Read as _, Write as _};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use async_io::Async;
use smol::io::{AsyncRead, AsyncWrite};

use crate::reactor::{Registration, Sure, Tick, Way};

mod room;

pub use room::Room;

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
                    self.used_up(way, tick, Sure::Certain)?;
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
            self.used_up(Way::Write, tick, Sure::Certain)?;
        }
        written
    }

    /// There is nothing more for now, after `tick`.
    fn used_up(&self, way: Way, tick: Tick, sure: Sure) -> io::Result<()> {
        if let Teller::Thread {
            registration,
            socket,
        } = &self.0
        {
            registration.used_up(way, tick, sure);
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
            self.used_up(Way::Read, tick, Sure::Perhaps)?;
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
            self.used_up(Way::Write, tick, Sure::Perhaps)?;
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

#[cfg(test)]
mod tests;
