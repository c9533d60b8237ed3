//! The UDP socket that users send to, and which of its datagrams are whose.

use std::collections::BTreeMap;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use protocol::id::UserId;
use protocol::udp::{FlowTable, Touch};
use tracing::debug;

use super::Budget;
use super::buffer::{Buffer, STANDARD};
use super::queue::{Closed, PER_USER, Pushed, Queue, Quota};
use super::side::concerns_one_peer;
use crate::clock::{Clock, Deadline};
use crate::net::Polled;
use crate::net::datagram::{Received, Route, receive};
use crate::stats::Stats;

/// Receives on `socket` until that fails, and hands each datagram to its session. `begin` is given
/// each new session, whose first datagram waits in it; dropping it refuses the user.
///
/// At most `cap` sessions exist at once; one ends after `idle` without a datagram in either
/// direction. A session that does not keep up drops its own datagrams. When the future is dropped
/// all sessions end; for a graceful stop refuse new ones and let it run.
pub async fn serve(
    socket: Polled<UdpSocket>,
    idle: Duration,
    cap: usize,
    stats: Arc<Stats>,
    mut begin: impl FnMut(UdpUser),
) -> io::Error {
    let hub = Hub {
        socket: Arc::new(socket),
        clock: Clock::new(),
        quota: Quota::process(),
        stats,
        sessions: Mutex::new(Sessions {
            table: FlowTable::new(idle, cap),
            users: BTreeMap::new(),
        }),
    };
    let serving = Serving(Arc::new(hub));
    let mut timer = Deadline::never();
    poll_fn(|cx| serving.0.poll(cx, &mut timer, &mut begin)).await
}

/// A UDP session at the end that accepts users: its queue of datagrams, and the way back.
///
/// Dropping it ends the session; the next datagram from that address begins a new one.
pub struct UdpUser {
    hub: Arc<Hub>,
    id: UserId,
    address: SocketAddr,
    queue: Arc<Queue>,
}

impl UdpUser {
    /// The user's address, for the launch and the log: IPv4 as such also on a dual-stack socket.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.address.ip().to_canonical(), self.address.port())
    }

    pub(crate) fn poll_take(
        &self,
        cx: &Context<'_>,
        frames: &mut Vec<u8>,
    ) -> Poll<Result<(), Closed>> {
        self.queue.poll_take(cx, frames)
    }

    /// The way to the user: from the address that it sent its latest datagram to.
    pub(crate) fn route(&self) -> Route {
        let sessions = self.hub.sessions();
        Route {
            to: Some(self.address),
            from: sessions.users.get(&self.id).and_then(|user| user.asked),
        }
    }

    pub(crate) fn socket(&self) -> &Arc<Polled<UdpSocket>> {
        &self.hub.socket
    }

    /// Datagrams went to the user, which keeps the session alive.
    pub(crate) fn refresh(&self) {
        let now = self.hub.clock.now();
        self.hub.sessions().table.refresh(now, self.id);
    }
}

impl fmt::Debug for UdpUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("UdpUser").field(&self.address).finish()
    }
}

impl Drop for UdpUser {
    fn drop(&mut self) {
        let mut sessions = self.hub.sessions();
        sessions.table.remove(self.id);
        sessions.users.remove(&self.id);
    }
}

struct Hub {
    /// Read by the task of [`serve`] alone; written by the relays.
    socket: Arc<Polled<UdpSocket>>,
    clock: Clock,
    quota: Arc<Quota>,
    stats: Arc<Stats>,
    sessions: Mutex<Sessions>,
}

struct Sessions {
    table: FlowTable,
    users: BTreeMap<UserId, Box<Session>>,
}

struct Session {
    queue: Arc<Queue>,
    /// Which of our addresses the latest datagram was sent to, if it matters and is known.
    asked: Option<IpAddr>,
}

impl Hub {
    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn poll(
        self: &Arc<Self>,
        cx: &mut Context<'_>,
        timer: &mut Deadline,
        begin: &mut impl FnMut(UdpUser),
    ) -> Poll<io::Error> {
        let mut budget = Budget::of_datagrams();
        let mut buffer = Buffer::borrow(STANDARD);
        while !budget.is_spent() {
            let received = self
                .socket
                .poll_read_with(cx, |socket| receive(socket, &mut buffer));
            match received {
                Poll::Ready(Ok(received)) => {
                    self.deliver(&received, &buffer, begin, &mut budget);
                }
                Poll::Pending => {
                    self.poll_expired(cx, timer);
                    return Poll::Pending;
                }
                Poll::Ready(Err(error)) if concerns_one_peer(&error) => budget.spend(0),
                Poll::Ready(Err(error)) => return Poll::Ready(error),
            }
        }
        self.poll_expired(cx, timer);
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn deliver(
        self: &Arc<Self>,
        received: &Received,
        buffer: &[u8],
        begin: &mut impl FnMut(UdpUser),
        budget: &mut Budget,
    ) {
        let (queue, new) = self.session(received);
        for datagram in received.datagrams(buffer) {
            budget.spend(datagram.len());
            let pushed = queue.as_ref().map(|queue| queue.push(datagram));
            if pushed != Some(Pushed::Taken) {
                self.stats.dropped.add(1);
            }
            if pushed == Some(Pushed::Dropped { first: true }) {
                debug!(
                    user = %received.from,
                    "a UDP user's datagrams are dropped, its session does not keep up"
                );
            }
        }
        if let (Some(id), Some(queue)) = (new, queue) {
            begin(UdpUser {
                hub: Arc::clone(self),
                id,
                address: received.from,
                queue,
            });
        }
    }

    /// The queue of the user that sent something, if there may be one more, and its number if it is
    /// new.
    fn session(&self, received: &Received) -> (Option<Arc<Queue>>, Option<UserId>) {
        let mut sessions = self.sessions();
        let (id, is_new) = match sessions.table.touch(self.clock.now(), received.from) {
            Touch::Known(id) => (id, false),
            Touch::New(id) => (id, true),
            Touch::Full => {
                self.stats.refused.add(1);
                return (None, None);
            }
        };
        let session = sessions.users.entry(id).or_insert_with(|| {
            let queue = Arc::new(Queue::new(Arc::clone(&self.quota), PER_USER));
            Box::new(Session { queue, asked: None })
        });
        session.asked = received.to;
        (Some(Arc::clone(&session.queue)), is_new.then_some(id))
    }

    /// Ends the sessions whose time has come, and sees to being woken for the next.
    fn poll_expired(&self, cx: &mut Context<'_>, timer: &mut Deadline) {
        loop {
            let mut sessions = self.sessions();
            let Some(due) = sessions.table.poll_timeout() else {
                return;
            };
            let now = self.clock.now();
            if due <= now {
                sessions.table.handle_timeout(now);
                while let Some(expired) = sessions.table.poll_output() {
                    if let Some(session) = sessions.users.remove(&expired.0) {
                        session.queue.close(Closed::Idle);
                    }
                }
                continue;
            }
            drop(sessions);
            timer.bring_forward(due);
            if timer.poll(cx).is_pending() {
                return;
            }
        }
    }
}

/// Ends all sessions when the task of [`serve`] ends.
struct Serving(Arc<Hub>);

impl Drop for Serving {
    fn drop(&mut self) {
        let users = std::mem::take(&mut self.0.sessions().users);
        for session in users.values() {
            session.queue.close(Closed::Stopped);
        }
    }
}
