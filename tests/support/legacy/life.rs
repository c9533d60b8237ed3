//! When the threads of a peer must end, and what closes then.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::conn::Conn;

/// The longest that a thread sleeps without looking whether it is over.
const NAP: Duration = Duration::from_millis(100);

/// A peer's time, or one session's: ended once, it closes every connection opened in it.
#[derive(Debug, Default)]
pub(crate) struct Life {
    over: Mutex<bool>,
    bell: Condvar,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    conns: Vec<Weak<Conn>>,
    children: Vec<Weak<Life>>,
}

impl Life {
    /// One within this one.
    pub(crate) fn child(&self) -> Arc<Self> {
        let child = Arc::new(Self::default());
        self.inner
            .lock()
            .unwrap()
            .children
            .push(Arc::downgrade(&child));
        if self.is_over() {
            child.end();
        }
        child
    }

    /// Closes `conn` when it is over.
    pub(crate) fn holds(&self, conn: Conn) -> Arc<Conn> {
        let conn = Arc::new(conn);
        let mut inner = self.inner.lock().unwrap();
        inner.conns.retain(|other| other.strong_count() > 0);
        inner.conns.push(Arc::downgrade(&conn));
        drop(inner);
        if self.is_over() {
            conn.close();
        }
        conn
    }

    /// Ends it.
    pub(crate) fn end(&self) {
        *self.over.lock().unwrap() = true;
        self.bell.notify_all();
        let inner = std::mem::take(&mut *self.inner.lock().unwrap());
        inner
            .conns
            .iter()
            .filter_map(Weak::upgrade)
            .for_each(|conn| conn.close());
        inner
            .children
            .iter()
            .filter_map(Weak::upgrade)
            .for_each(|child| child.end());
    }

    /// Whether it has ended.
    pub(crate) fn is_over(&self) -> bool {
        *self.over.lock().unwrap()
    }

    /// Sleeps; whether it goes on afterwards.
    pub(crate) fn pause(&self, span: Duration) -> bool {
        let over = self.over.lock().unwrap();
        let (over, _) = self
            .bell
            .wait_timeout_while(over, span, |over| !*over)
            .unwrap();
        !*over
    }

    /// Asks `probe` until it answers, `limit` has passed or all is over.
    pub(crate) fn wait<T>(
        &self,
        limit: Duration,
        mut probe: impl FnMut() -> Option<T>,
    ) -> Option<T> {
        let end = Instant::now() + limit;
        loop {
            if let Some(found) = probe() {
                return Some(found);
            }
            if Instant::now() >= end || !self.pause(Duration::from_millis(5)) {
                return None;
            }
        }
    }

    /// Listens on `addr` as soon as it is free; `None` when all is over before.
    pub(crate) fn listen(&self, addr: SocketAddr) -> Option<TcpListener> {
        loop {
            if let Ok(listener) = TcpListener::bind(addr) {
                listener.set_nonblocking(true).unwrap();
                return Some(listener);
            }
            if !self.pause(Duration::from_millis(10)) {
                return None;
            }
        }
    }

    /// The next connection; `None` when `limit` has passed or all is over.
    pub(crate) fn accept(
        &self,
        listener: &TcpListener,
        limit: Duration,
    ) -> Option<(std::net::TcpStream, SocketAddr)> {
        let end = Instant::now() + limit;
        while !self.is_over() {
            if let Ok((stream, from)) = listener.accept() {
                stream.set_nonblocking(false).unwrap();
                drop(stream.set_nodelay(true));
                return Some((stream, from));
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            readable(listener, left.min(NAP));
        }
        None
    }
}

/// Waits until something can be read or accepted, or `limit` has passed.
fn readable(source: &impl AsFd, limit: Duration) {
    let limit = Timespec::try_from(limit).unwrap();
    let mut sources = [PollFd::new(source, PollFlags::IN)];
    // A signal only makes the caller look once more.
    poll(&mut sources, Some(&limit)).ok();
}
