//! What ends a relay from outside its bytes: silence, and the death of its session.

use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use event_listener::{Event, EventListener};
use protocol::limits::ORPHAN_SILENCE;
use protocol::time::{Instant, earliest};

use super::Ended;
use crate::clock::{Clock, Deadline};

/// Whether the session that a relay belongs to is still there, and how long its peer keeps a relay
/// without data; one per session, shared by its relays.
#[derive(Debug)]
pub struct Fate {
    dead: AtomicBool,
    died: Event,
    silence: Duration,
    idle: Option<Duration>,
}

impl Fate {
    /// A living session, whose relays survive its unclean death for
    /// [`ORPHAN_SILENCE`] without a byte from the peer. After `idle` without data in either direction
    /// they end, however long the instance would let them be; `None`: only the instance says.
    #[must_use]
    pub fn new(idle: Option<Duration>) -> Arc<Self> {
        Self::with_silence(ORPHAN_SILENCE, idle)
    }

    /// The same with another duration instead of [`ORPHAN_SILENCE`].
    #[must_use]
    pub fn with_silence(silence: Duration, idle: Option<Duration>) -> Arc<Self> {
        Arc::new(Self {
            dead: AtomicBool::new(false),
            died: Event::new(),
            silence,
            idle,
        })
    }

    /// The session died unclean: from now on its relays must hear from the peer.
    pub fn died_unclean(&self) {
        self.dead.store(true, Ordering::Release);
        self.died.notify(usize::MAX);
    }

    fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }
}

/// A relay's watch over both, with the relay's only timer.
#[derive(Debug)]
pub(crate) struct Watch {
    clock: Clock,
    timer: Deadline,
    idle: Option<Duration>,
    active: Instant,
    fate: Option<Arc<Fate>>,
    listener: Option<(EventListener, Waker)>,
    /// When the peer was last heard; counted only once the session is dead.
    heard: Option<Instant>,
}

impl Watch {
    pub(crate) fn new(idle: Option<Duration>, fate: Option<Arc<Fate>>) -> Self {
        let clock = Clock::new();
        let of_session = fate.as_ref().and_then(|fate| fate.idle);
        let idle = idle.into_iter().chain(of_session).min();
        Self {
            clock,
            timer: Deadline::never(),
            idle,
            active: clock.now(),
            fate,
            listener: None,
            heard: None,
        }
    }

    /// Notes that bytes moved, and whether some came from the peer.
    pub(crate) fn note(&mut self, moved: bool, heard: bool) {
        if moved && (self.idle.is_some() || self.heard.is_some()) {
            let now = self.clock.now();
            self.active = now;
            if heard && self.heard.is_some() {
                self.heard = Some(now);
            }
        }
    }

    /// Ready when the relay must end. Otherwise the task is woken in time, at `pause` at the latest.
    ///
    /// The timer is armed no later than the next deadline and looked at again when it fires, so
    /// traffic does not move it.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, pause: Option<Instant>) -> Poll<Ended> {
        self.poll_fate(cx);
        loop {
            let idle = self.idle.map(|idle| self.active.after(idle));
            let orphan = self.orphaned_at();
            let Some(due) = earliest(earliest(idle, orphan), pause) else {
                return Poll::Pending;
            };
            let now = self.clock.now();
            if orphan.is_some_and(|at| at <= now) {
                return Poll::Ready(Ended::Orphaned);
            }
            if idle.is_some_and(|at| at <= now) {
                return Poll::Ready(Ended::Idle);
            }
            if pause.is_some_and(|at| at <= now) {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            self.timer.bring_forward(due);
            if self.timer.poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }

    fn orphaned_at(&self) -> Option<Instant> {
        let silence = self.fate.as_ref()?.silence;
        Some(self.heard?.after(silence))
    }

    /// Learns of the session's death. The listener is polled again only if the waker changed, since
    /// all relays of a session share one list of them.
    fn poll_fate(&mut self, cx: &mut Context<'_>) {
        let Some(fate) = &self.fate else { return };
        if self.heard.is_some() {
            return;
        }
        let known = self.listener.as_ref();
        if !fate.is_dead() && !known.is_some_and(|(_, waker)| waker.will_wake(cx.waker())) {
            let mut listener = fate.died.listen();
            // If it is ready at once, the session died right now, which is seen below.
            if Pin::new(&mut listener).poll(cx).is_pending() {
                self.listener = Some((listener, cx.waker().clone()));
            }
        }
        if fate.is_dead() {
            self.listener = None;
            self.heard = Some(self.clock.now());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    fn poll_once(watch: &mut Watch) -> Poll<Ended> {
        async_io::block_on(poll_fn(|cx| Poll::Ready(watch.poll(cx, None))))
    }

    #[test]
    fn only_bytes_from_the_peer_put_off_the_end_of_an_orphan() {
        let fate = Fate::with_silence(Duration::from_secs(3600), None);
        let mut watch = Watch::new(None, Some(Arc::clone(&fate)));
        assert!(poll_once(&mut watch).is_pending());
        watch.note(true, true);
        assert_eq!(watch.orphaned_at(), None);
        fate.died_unclean();
        assert!(poll_once(&mut watch).is_pending());
        let at = watch.orphaned_at().unwrap();
        watch.note(true, false);
        assert_eq!(watch.orphaned_at(), Some(at));
        watch.note(true, true);
        assert!(watch.orphaned_at() > Some(at));
    }

    #[test]
    fn the_shorter_of_two_idle_times_ends_a_relay() {
        const SOON: Duration = Duration::ZERO;
        const LATE: Duration = Duration::from_secs(3600);
        for (own, of_session, ends) in [
            (None, None, false),
            (Some(LATE), None, false),
            (None, Some(LATE), false),
            (Some(SOON), Some(LATE), true),
            (Some(LATE), Some(SOON), true),
            (None, Some(SOON), true),
        ] {
            let mut watch = Watch::new(own, Some(Fate::new(of_session)));
            let ended = poll_once(&mut watch);
            assert_eq!(
                matches!(ended, Poll::Ready(Ended::Idle)),
                ends,
                "{own:?} {of_session:?}"
            );
        }
    }

    #[test]
    fn the_death_of_a_session_wakes_its_relays() {
        let fate = Fate::with_silence(Duration::ZERO, None);
        let mut watch = Watch::new(None, Some(Arc::clone(&fate)));
        assert!(poll_once(&mut watch).is_pending());
        let ended = async {
            let watching = poll_fn(|cx| watch.poll(cx, None));
            let dying = async {
                fate.died_unclean();
                smol::future::pending().await
            };
            smol::future::or(watching, dying).await
        };
        assert!(matches!(async_io::block_on(ended), Ended::Orphaned));
    }

    #[test]
    fn a_pause_wakes_the_task_in_time() {
        let mut watch = Watch::new(None, None);
        let at = watch.clock.now().after(Duration::from_millis(5));
        async_io::block_on(poll_fn(|cx| {
            if Clock::new().now() >= at {
                return Poll::Ready(());
            }
            watch.poll(cx, Some(at)).map(|_| ())
        }));
    }
}
