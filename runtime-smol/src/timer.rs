//! Timers.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::reactor::Alarm;

/// A future that is ready at a certain time, once; then it is as one that [never](Self::never) is.
///
/// On a thread of a [`Runtime`](crate::Runtime) it is at most a millisecond late, apart from what keeps the
/// thread busy.
#[derive(Debug, Default)]
pub struct Timer {
    at: Option<Instant>,
    waking: Waking,
}

/// Who wakes the task in time.
#[derive(Debug, Default)]
enum Waking {
    /// It did not wait yet.
    #[default]
    Nobody,
    Thread(Alarm),
    AsyncIo(Box<async_io::Timer>),
}

impl Timer {
    /// A timer that is never ready until it is set. It costs nothing until then.
    #[must_use]
    pub fn never() -> Self {
        Self::default()
    }

    /// Ready after this time; never if that is too far away to be represented.
    #[must_use]
    pub fn after(duration: Duration) -> Self {
        let mut timer = Self::never();
        timer.set_after(duration);
        timer
    }

    /// Ready at this time.
    #[must_use]
    pub fn at(at: Instant) -> Self {
        let mut timer = Self::never();
        timer.set_at(at);
        timer
    }

    /// Sets it anew. It must be polled again for that to be noticed.
    pub fn set_after(&mut self, duration: Duration) {
        match Instant::now().checked_add(duration) {
            Some(at) => self.set_at(at),
            None => self.clear(),
        }
    }

    /// The same, with the time itself.
    pub fn set_at(&mut self, at: Instant) {
        self.clear();
        self.at = Some(at);
    }

    /// Makes it one that is never ready.
    pub fn clear(&mut self) {
        self.at = None;
        self.waking = Waking::Nobody;
    }
}

impl Future for Timer {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(at) = self.at else {
            return Poll::Pending;
        };
        if let Waking::Thread(alarm) = &self.waking
            && alarm.wake(cx)
        {
            return Poll::Pending;
        }
        if Instant::now() >= at {
            self.clear();
            return Poll::Ready(());
        }
        if let Waking::Nobody | Waking::Thread(_) = self.waking {
            self.waking = match Alarm::here(at, cx) {
                Some(alarm) => Waking::Thread(alarm),
                None => Waking::AsyncIo(Box::new(async_io::Timer::at(at))),
            };
        }
        match &mut self.waking {
            Waking::AsyncIo(timer) => Pin::new(&mut **timer).poll(cx).map(|_| self.clear()),
            Waking::Nobody | Waking::Thread(_) => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, poll_fn};

    use smol::future::{or, poll_once};

    use super::*;
    use crate::Runtime;

    const SOON: Duration = Duration::from_millis(5);
    const LATE: Duration = Duration::from_secs(3600);

    /// On a thread of ours and on one of nobody.
    fn everywhere<F: Future<Output = ()>>(test: impl Fn() -> F) {
        Runtime::new(1).unwrap().block_on(test());
        async_io::block_on(test());
    }

    #[test]
    fn it_is_ready_in_time_and_once() {
        everywhere(|| async {
            let start = Instant::now();
            let mut timer = Timer::after(SOON);
            (&mut timer).await;
            assert!(start.elapsed() >= SOON);
            assert!(poll_once(timer).await.is_none());
            Timer::at(start).await;
        });
    }

    #[test]
    fn it_can_be_set_anew_before_and_after() {
        everywhere(|| async {
            let mut timer = Timer::after(LATE);
            assert!(poll_once(&mut timer).await.is_none());
            timer.set_after(SOON);
            (&mut timer).await;
            timer.set_at(Instant::now() + SOON);
            (&mut timer).await;
            timer.set_after(SOON);
            assert!(poll_once(&mut timer).await.is_none());
            timer.clear();
            let silence = async { Timer::after(3 * SOON).await };
            or(
                async {
                    timer.await;
                    panic!("it was cleared")
                },
                silence,
            )
            .await;
        });
    }

    #[test]
    fn what_cannot_be_represented_never_comes() {
        everywhere(|| async {
            assert!(poll_once(Timer::after(Duration::MAX)).await.is_none());
            assert!(poll_once(Timer::never()).await.is_none());
        });
    }

    #[test]
    fn many_fire_in_their_order() {
        everywhere(|| async {
            let start = Instant::now();
            let mut timers: Vec<_> = (1..=9).map(|n| Timer::at(start + SOON * n / 3)).collect();
            let mut due = Vec::new();
            poll_fn(|cx| {
                for (index, timer) in timers.iter_mut().enumerate() {
                    if Pin::new(timer).poll(cx).is_ready() {
                        due.push(index);
                    }
                }
                if due.len() < 9 {
                    Poll::Pending
                } else {
                    Poll::Ready(())
                }
            })
            .await;
            assert!(due.is_sorted());
        });
    }

    #[test]
    fn one_that_is_taken_to_another_thread_fires_there() {
        let (here, there) = (Runtime::new(1).unwrap(), Runtime::new(1).unwrap());
        for wait in [SOON, LATE] {
            let mut timer = Timer::after(wait);
            here.block_on(async { assert!(poll_once(&mut timer).await.is_none()) });
            if wait == LATE {
                timer.set_after(SOON);
            }
            there.block_on(or(timer, pending()));
        }
    }
}
