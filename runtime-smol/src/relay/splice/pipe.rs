//! Pipes, of which each thread keeps some that are empty.

use std::cell::RefCell;
use std::io;
use std::net::TcpStream;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::task::{Context, Poll, ready};

use rustix::io::Errno;
use rustix::pipe::{
    PipeFlags, SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with, splice,
};
use rustix::process::{Resource, getrlimit};

use super::{CAPACITY, STANDARD};
use crate::net::Polled;

/// Empty pipes that a thread keeps.
const KEPT: usize = 32;

/// Pipes may be made while less than one in so many of the process's descriptors is in use:
/// connections need them more.
const SHARE: u64 = 2;

#[derive(Default)]
struct Cache {
    free: Vec<Ends>,
    #[cfg(test)]
    counts: testing::Counts,
}

thread_local! {
    static CACHE: RefCell<Cache> = RefCell::default();
}

#[derive(Debug)]
struct Ends {
    read: OwnedFd,
    write: OwnedFd,
}

impl Ends {
    fn open() -> Option<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        // The system gives out the lowest free number, so all below it are in use.
        if u64::try_from(write.as_raw_fd()).ok()? >= limit / SHARE {
            return None;
        }
        // A user that has all the memory for pipes that it is allowed gets the default, which works
        // too, and later pipes that are too small to be of use.
        let grown = fcntl_setpipe_size(&write, CAPACITY);
        let capacity = grown.or_else(|_| fcntl_getpipe_size(&write)).ok()?;
        (capacity >= STANDARD).then_some(Self { read, write })
    }
}

/// A borrowed pipe and how many bytes are in it. Dropping it gives it back, if it is empty.
#[derive(Debug)]
pub(crate) struct Pipe {
    ends: Option<Ends>,
    len: usize,
}

impl Pipe {
    /// An empty pipe; `None` if descriptors are short.
    pub(crate) fn borrow() -> Option<Self> {
        let kept = with_cache(|cache| {
            #[cfg(test)]
            if cache.counts.denied {
                return None;
            }
            cache.free.pop().or_else(Ends::open)
        });
        let ends = kept?;
        #[cfg(test)]
        testing::count(|counts| counts.lent += 1);
        Some(Self {
            ends: Some(ends),
            len: 0,
        })
    }

    /// Bytes in it.
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// Fills the empty pipe from `source`: how many bytes came, 0 at the end of the stream.
    ///
    /// # Errors
    /// Those of reading; `Unsupported` if this socket cannot be spliced.
    pub(crate) fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        source: &Polled<TcpStream>,
    ) -> Poll<io::Result<usize>> {
        let Some(ends) = &self.ends else {
            return Poll::Ready(Err(io::ErrorKind::Unsupported.into()));
        };
        let filled = ready!(source.poll_read_with(cx, |socket| {
            let flags = SpliceFlags::NONBLOCK;
            match splice(socket, None, &ends.write, None, CAPACITY, flags) {
                Err(Errno::INVAL | Errno::NOSYS | Errno::PERM) => {
                    Err(io::ErrorKind::Unsupported.into())
                }
                Err(Errno::AGAIN) if source.is_beyond_splice(false) => {
                    Err(io::ErrorKind::Unsupported.into())
                }
                Ok(0) if source.is_beyond_splice(true) => Err(io::ErrorKind::Unsupported.into()),
                filled => Ok(filled?),
            }
        }))?;
        self.len += filled;
        Poll::Ready(Ok(filled))
    }

    /// Empties the pipe into `sink`, as far as it takes it: how many bytes it took. (A sink that is
    /// closed raises SIGPIPE, which Rust programs ignore.)
    ///
    /// # Errors
    /// Those of writing.
    pub(crate) fn poll_drain(
        &mut self,
        cx: &mut Context<'_>,
        sink: &Polled<TcpStream>,
    ) -> Poll<io::Result<usize>> {
        let Some(ends) = &self.ends else {
            return Poll::Ready(Ok(0));
        };
        let drained = ready!(sink.poll_write_with(cx, |sink| {
            let flags = SpliceFlags::NONBLOCK;
            Ok(splice(&ends.read, None, sink, None, self.len, flags)?)
        }))?;
        self.len = self.len.saturating_sub(drained);
        #[cfg(test)]
        testing::count(|counts| counts.bytes += drained);
        Poll::Ready(Ok(drained))
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let ends = self.ends.take();
        with_cache(|cache| {
            #[cfg(test)]
            {
                cache.counts.lent -= 1;
            }
            // Bytes that are left are lost with their relay; nobody else may see them.
            if self.len == 0 && cache.free.len() < KEPT {
                cache.free.extend(ends);
            }
        });
    }
}

/// The default when the thread is ending and its cache is gone.
fn with_cache<T: Default>(with: impl FnOnce(&mut Cache) -> T) -> T {
    CACHE
        .try_with(|cache| with(&mut cache.borrow_mut()))
        .unwrap_or_default()
}

/// What tests look at and change, on their thread.
#[cfg(test)]
pub(crate) mod testing {
    use super::with_cache;

    #[derive(Clone, Copy, Debug, Default)]
    pub(crate) struct Counts {
        /// Pipes borrowed and not given back.
        pub(crate) lent: isize,
        /// Bytes that went through pipes.
        pub(crate) bytes: usize,
        /// There are no pipes to be had.
        pub(crate) denied: bool,
    }

    pub(crate) fn count(change: impl FnOnce(&mut Counts)) {
        with_cache(|cache| change(&mut cache.counts));
    }

    pub(crate) fn counts() -> Counts {
        with_cache(|cache| cache.counts)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use async_io::block_on;
    use smol::future::poll_fn;

    use super::super::super::testing::sockets;
    use super::*;

    fn kept() -> usize {
        with_cache(|cache| cache.free.len())
    }

    #[test]
    fn some_empty_pipes_are_kept_and_used_again() {
        let many: Vec<_> = (0..=KEPT).map(|_| Pipe::borrow().unwrap()).collect();
        assert_eq!((testing::counts().lent, kept()), (33, 0));
        drop(many);
        assert_eq!((testing::counts().lent, kept()), (0, KEPT));
        drop(Pipe::borrow());
        assert_eq!(kept(), KEPT);
    }

    #[test]
    fn a_pipe_with_bytes_in_it_is_not_used_again() {
        let (source, mut there) = sockets();
        let source = Polled::new(source).unwrap();
        there.write_all(b"secret").unwrap();
        let mut pipe = Pipe::borrow().unwrap();
        let filled = block_on(poll_fn(|cx| pipe.poll_fill(cx, &source)));
        assert_eq!((filled.unwrap(), pipe.len()), (6, 6));
        drop(pipe);
        assert_eq!(kept(), 0);
    }

    #[test]
    fn bytes_go_through_and_the_end_shows() {
        let ((source, mut from), (sink, mut to)) = (sockets(), sockets());
        let (source, sink) = (Polled::new(source).unwrap(), Polled::new(sink).unwrap());
        from.write_all(b"hello").unwrap();
        drop(from);
        let mut pipe = Pipe::borrow().unwrap();
        let mut fill = || block_on(poll_fn(|cx| pipe.poll_fill(cx, &source))).unwrap();
        assert_eq!(fill(), 5);
        // The end alone leaves what is in the pipe alone.
        assert_eq!(fill(), 0);
        let drained = block_on(poll_fn(|cx| pipe.poll_drain(cx, &sink)));
        assert_eq!((drained.unwrap(), pipe.len()), (5, 0));
        drop(sink);
        let mut got = String::new();
        to.read_to_string(&mut got).unwrap();
        assert_eq!(got, "hello");
    }
}
