//! One connection's bytes: a buffer of what was read, and writing that does not wait for ever.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use runtime_smol::net::Stream;
use runtime_smol::timer::Timer;
use smol::future;
use smol::io::{AsyncRead as _, AsyncWrite as _, AsyncWriteExt as _};

use super::limits::Limits;

/// Read at once, in bytes.
const PIECE: usize = 4096;
/// A buffer above this is not kept while the connection is idle.
const KEPT: usize = 16 * 1024;
/// Bytes that nobody wanted and that are still taken: after an answer, or during an event stream.
const UNWANTED: usize = 256 * 1024;

/// A connection and what was read from it.
#[derive(Debug)]
pub(super) struct Wire {
    stream: Stream,
    buffer: Vec<u8>,
    /// Bytes that were thrown away.
    unwanted: usize,
    limits: Limits,
}

impl Wire {
    pub(super) const fn new(stream: Stream, limits: Limits) -> Self {
        Self {
            stream,
            buffer: Vec::new(),
            unwanted: 0,
            limits,
        }
    }

    pub(super) const fn limits(&self) -> Limits {
        self.limits
    }

    pub(super) const fn stream(&self) -> &Stream {
        &self.stream
    }

    /// What was read and not consumed.
    pub(super) fn buffer(&self) -> &[u8] {
        &self.buffer
    }

    /// The first `count` bytes of the buffer are done with.
    pub(super) fn consume(&mut self, count: usize) {
        self.buffer.drain(..count.min(self.buffer.len()));
        if self.buffer.is_empty() && self.buffer.capacity() > KEPT {
            self.buffer = Vec::new();
        }
    }

    /// Reads more into the buffer: how much; 0 at the end. Dropping the future loses nothing.
    pub(super) async fn fill(&mut self) -> io::Result<usize> {
        poll_fn(|cx| self.poll_fill(cx)).await
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let start = self.buffer.len();
        self.buffer.resize(start + PIECE, 0);
        let room = self.buffer.get_mut(start..).unwrap_or_default();
        let polled = Pin::new(&mut self.stream).poll_read(cx, room);
        let count = match &polled {
            Poll::Ready(Ok(count)) => *count,
            Poll::Ready(Err(_)) | Poll::Pending => 0,
        };
        self.buffer.truncate(start + count);
        polled
    }

    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// The caller is gone or has read nothing for the time for writing.
    pub(super) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_or(bytes, |_, _| Poll::Pending).await
    }

    /// The same for one who is not to send anything meanwhile: also fails when the caller ends its
    /// side.
    pub(super) async fn write_watching(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_or(bytes, Self::poll_gone).await
    }

    async fn write_or(
        &mut self,
        bytes: &[u8],
        fail: impl Fn(&mut Self, &mut Context<'_>) -> Poll<io::Error>,
    ) -> io::Result<()> {
        let time = self.limits.write;
        let mut left = bytes;
        while !left.is_empty() {
            let step = poll_fn(|cx| {
                if let Poll::Ready(error) = fail(self, cx) {
                    return Poll::Ready(Err(error));
                }
                Pin::new(&mut self.stream).poll_write(cx, left)
            });
            let count = within(time, step).await?;
            if count == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            left = left.get(count..).unwrap_or_default();
        }
        let flush = poll_fn(|cx| Pin::new(&mut self.stream).poll_flush(cx));
        within(time, flush).await
    }

    /// Waits until the caller ends its side, or sends much that nobody wants. What it sends is not
    /// kept: no request is read from this connection any more.
    pub(super) async fn gone(&mut self) -> io::Error {
        poll_fn(|cx| self.poll_gone(cx)).await
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        while self.unwanted < UNWANTED {
            self.buffer.clear();
            match ready!(self.poll_fill(cx)) {
                Ok(0) => return Poll::Ready(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.unwanted += count,
                Err(error) => return Poll::Ready(error),
            }
        }
        Poll::Ready(io::ErrorKind::InvalidData.into())
    }

    /// Ends our side.
    pub(super) async fn close(&mut self) {
        // A caller that is gone has nothing to be told.
        drop(within(self.limits.linger, self.stream.close()).await);
    }

    /// Ends our side and takes what is still coming: closing at once would have the system reset
    /// the connection, and the answer might be lost with it.
    pub(super) async fn linger(&mut self) {
        let time = self.limits.linger;
        self.close().await;
        self.buffer = Vec::new();
        let gone = async { Err::<(), _>(self.gone().await) };
        drop(within(time, gone).await);
    }
}

/// `future`, or a timeout.
pub(super) async fn within<T>(
    time: Duration,
    future: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    let late = async {
        Timer::after(time).await;
        Err(io::ErrorKind::TimedOut.into())
    };
    future::or(future, late).await
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::{TcpListener, TcpStream};
    use std::thread;

    use runtime_smol::net::Polled;

    use super::*;

    #[test]
    fn what_nobody_wants_is_not_kept() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut caller = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let stream = Polled::new(listener.accept().unwrap().0).unwrap();
        let flood = thread::spawn(move || {
            // Ends with an error when the other side has had enough.
            while caller.write_all(&[b'x'; PIECE]).is_ok() {}
        });
        let mut wire = Wire::new(Stream::Plain(stream), Limits::REST);
        let why = async_io::block_on(wire.gone());
        assert_eq!(why.kind(), io::ErrorKind::InvalidData);
        assert!(wire.buffer.capacity() <= KEPT, "{}", wire.buffer.capacity());
        drop(wire);
        flood.join().unwrap();
    }
}
