//! Lets connections into the handshake no faster than they are handled.
//!
//! A burst of honest data connections arrives faster than a busy machine handles them. Accepted all
//! at once, they would count as half-open and push each other out (`wire.md` §6). So accepting waits
//! while [`WIDTH`] connections have bytes that wait for us. One that waits for its peer leaves the
//! gate after [`QUIET`]: whoever connects and says nothing holds nobody up.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use smol::lock::{Semaphore, SemaphoreGuardArc};

use crate::timer::Timer;

/// Connections in the gate. With the dials a client has in flight it stays below what one address
/// may have half-open.
const WIDTH: usize = 24;
/// A connection whose task was not woken for this long waits for its peer, not for us.
const QUIET: Duration = Duration::from_millis(10);
/// The longest that any connection stays in the gate: one that sends byte by byte is never quiet.
const STAY: Duration = Duration::from_millis(100);

/// The gate of one tunnel port.
#[derive(Clone, Debug)]
pub(super) struct Gate(Arc<Semaphore>);

/// A connection's place in the gate.
#[derive(Debug)]
pub(super) struct Pass {
    _place: SemaphoreGuardArc,
}

impl Gate {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(WIDTH)))
    }

    /// Waits for a place.
    pub(super) async fn enter(&self) -> Pass {
        Pass {
            _place: self.0.acquire_arc().await,
        }
    }
}

/// Runs `handshake`, which holds `pass` while it makes progress.
pub(super) async fn through<T>(pass: Pass, handshake: impl Future<Output = T>) -> T {
    let mut handshake = pin!(handshake);
    let mut pass = Some(pass);
    let leave = Instant::now() + STAY;
    let mut quiet = Timer::after(QUIET);
    poll_fn(|cx| {
        if let Poll::Ready(done) = handshake.as_mut().poll(cx) {
            return Poll::Ready(done);
        }
        if pass.is_some() {
            if Pin::new(&mut quiet).poll(cx).is_ready() {
                pass = None;
            } else {
                quiet.set_at(leave.min(Instant::now() + QUIET));
                if Pin::new(&mut quiet).poll(cx).is_ready() {
                    pass = None;
                }
            }
        }
        Poll::Pending
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use smol::future::pending;

    #[test]
    fn a_silent_connection_leaves_the_gate_and_a_finished_one_frees_it() {
        smol::block_on(async {
            let gate = Gate::new();
            let mut passes = Vec::new();
            for _ in 0..WIDTH {
                passes.push(gate.enter().await);
            }
            assert!(gate.0.try_acquire().is_none());
            let silent = through(passes.remove(0), pending::<()>());
            let entered = async { drop(gate.enter().await) };
            smol::future::or(silent, entered).await;
            let restless = through(passes.remove(0), async {
                loop {
                    smol::future::yield_now().await;
                }
            });
            smol::future::or(restless, async { drop(gate.enter().await) }).await;
            through(passes.remove(0), async {}).await;
            assert!(gate.0.try_acquire().is_some());
        });
    }
}
