//! Lets connections into the handshake no faster than they are handled.
//!
//! A burst of honest data connections arrives faster than a busy machine handles them. Accepted all
//! at once, they would count as half-open and push each other out (`wire.md` §6). So accepting waits
//! while [`WIDTH`] connections have bytes that wait for us, however long that takes us. One that waits for
//! its peer leaves the gate after [`QUIET`], so that whoever connects and says nothing holds nobody up,
//! and is in it again when its peer goes on, a few times.

use std::future::{Future, poll_fn};
use std::mem;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use event_listener::Event;

use crate::timer::Timer;

/// Connections in the gate. With the dials a client has in flight it stays below what one address
/// may have half-open.
const WIDTH: usize = 24;
/// A connection that has had nothing to do for this long waits for its peer, not for us.
const QUIET: Duration = Duration::from_millis(10);
/// How often a connection is woken in the gate, or into it: one that sends byte by byte is hardly ever
/// quiet. A handshake with TLS takes half of it.
const STEPS: u32 = 8;

/// The gate of one tunnel port.
#[derive(Clone, Debug, Default)]
pub(super) struct Gate(Arc<Inside>);

#[derive(Debug, Default)]
struct Inside {
    /// Connections in the gate.
    count: AtomicUsize,
    /// One has left.
    left: Event,
}

/// A connection's place in the gate.
#[derive(Debug)]
pub(super) struct Pass(Gate);

impl Gate {
    /// Waits for a place. It is for one that accepts connections, one after the other.
    pub(super) async fn enter(&self) -> Pass {
        loop {
            let left = self.0.left.listen();
            if self.0.count.load(Ordering::SeqCst) < WIDTH {
                return self.join();
            }
            left.await;
        }
    }

    /// A place, however many there are: who was let in before does not wait.
    fn join(&self) -> Pass {
        self.0.count.fetch_add(1, Ordering::SeqCst);
        Pass(self.clone())
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let Gate(inside) = &self.0;
        inside.count.fetch_sub(1, Ordering::SeqCst);
        inside.left.notify(1);
    }
}

/// Runs `handshake`, which begins with `pass` and holds one whenever it can go on.
///
/// On a busy machine it is woken long before it is polled, and the time for being quiet may be over by
/// then: what it was woken for comes first.
pub(super) async fn through<T>(pass: Pass, handshake: impl Future<Output = T>) -> T {
    let mut handshake = pin!(handshake);
    let knocker = Arc::new(Knocker {
        gate: pass.0.clone(),
        state: Mutex::new(State {
            pass: Some(pass),
            steps: 0,
            woken: true,
            sleeper: Waker::noop().clone(),
        }),
    });
    let waker = Waker::from(Arc::clone(&knocker));
    let staying = Staying(knocker);
    let mut quiet = Timer::never();
    poll_fn(|cx| {
        if staying.0.was_woken(cx) {
            let polled = handshake.as_mut().poll(&mut Context::from_waker(&waker));
            if polled.is_ready() {
                return polled;
            }
            if staying.0.is_inside() {
                quiet.set_after(QUIET);
            }
        }
        if Pin::new(&mut quiet).poll(cx).is_ready() {
            staying.0.leave();
        }
        Poll::Pending
    })
    .await
}

/// Until it is dropped a handshake may be in the gate, whoever keeps its waker.
struct Staying(Arc<Knocker>);

impl Drop for Staying {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.steps = STEPS;
        let pass = state.pass.take();
        drop(state);
        drop(pass);
    }
}

/// Wakes a handshake, which is in the gate from then on.
struct Knocker {
    gate: Gate,
    state: Mutex<State>,
}

struct State {
    pass: Option<Pass>,
    steps: u32,
    woken: bool,
    sleeper: Waker,
}

impl Knocker {
    /// Whether the handshake was woken since the last call. From now on the task of `cx` is.
    fn was_woken(&self, cx: &Context<'_>) -> bool {
        let mut state = self.state();
        state.sleeper.clone_from(cx.waker());
        mem::take(&mut state.woken)
    }

    fn is_inside(&self) -> bool {
        self.state().pass.is_some()
    }

    /// It waits for its peer, unless it was woken just now.
    fn leave(&self) {
        let mut state = self.state();
        let pass = match state.woken {
            true => None,
            false => state.pass.take(),
        };
        drop(state);
        drop(pass);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Knocker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let mut state = self.state();
        let mut left = None;
        if !mem::replace(&mut state.woken, true) && state.steps < STEPS {
            state.steps += 1;
            match state.steps {
                STEPS => left = state.pass.take(),
                _ if state.pass.is_none() => state.pass = Some(self.gate.join()),
                _ => {}
            }
        }
        let sleeper = state.sleeper.clone();
        drop(state);
        drop(left);
        sleeper.wake();
    }
}

#[cfg(test)]
mod tests {
    use smol::channel::bounded;
    use smol::future::{or, pending, poll_once, yield_now};

    use super::*;

    /// A gate with as many in it as fit.
    async fn full() -> (Gate, Vec<Pass>) {
        let (gate, mut passes) = (Gate::default(), Vec::new());
        for _ in 0..WIDTH {
            passes.push(gate.enter().await);
        }
        assert!(is_full(&gate).await);
        (gate, passes)
    }

    async fn is_full(gate: &Gate) -> bool {
        poll_once(gate.enter()).await.is_none()
    }

    #[test]
    fn who_is_silent_or_never_quiet_leaves_the_gate_and_who_is_done_frees_it() {
        smol::block_on(async {
            let (gate, mut passes) = full().await;
            let silent = through(passes.remove(0), pending::<Option<Pass>>());
            let place = or(silent, async { Some(gate.enter().await) }).await;
            assert!(place.is_some() && is_full(&gate).await);
            let restless = through(passes.remove(0), async {
                loop {
                    yield_now().await;
                }
            });
            let another = or(restless, async { Some(gate.enter().await) }).await;
            assert!(another.is_some() && is_full(&gate).await);
            through(passes.remove(0), async {}).await;
            assert!(!is_full(&gate).await);
        });
    }

    #[test]
    fn one_that_was_quiet_is_in_the_gate_again_before_it_is_polled() {
        smol::block_on(async {
            let (gate, mut passes) = full().await;
            let (say, said) = bounded(1);
            let pass = passes.remove(0);
            let mut quiet = pin!(through(pass, async { said.recv().await.is_ok() }));
            let place = or(async { Err(quiet.as_mut().await) }, async {
                Ok(gate.enter().await)
            });
            let _place = place.await.unwrap();
            assert!(is_full(&gate).await);
            drop(passes.remove(0));
            assert!(!is_full(&gate).await);
            say.try_send(()).unwrap();
            assert!(is_full(&gate).await);
            assert!(quiet.await);
            assert!(!is_full(&gate).await);
        });
    }

    #[test]
    fn one_that_is_over_is_not_in_the_gate_whoever_wakes_it() {
        smol::block_on(async {
            let (gate, mut passes) = full().await;
            let done = poll_fn(|cx| Poll::Ready(cx.waker().clone()));
            let waker = through(passes.remove(0), done).await;
            waker.wake();
            let (keep, kept) = bounded(1);
            let cut_short = through(
                passes.remove(0),
                poll_fn(|cx| {
                    keep.try_send(cx.waker().clone()).unwrap();
                    Poll::<()>::Pending
                }),
            );
            assert!(poll_once(cut_short).await.is_none());
            kept.recv().await.unwrap().wake();
            assert_eq!(gate.0.count.load(Ordering::SeqCst), WIDTH - 2);
        });
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the machine is busy meanwhile")]
    fn one_that_we_were_too_slow_for_stays() {
        smol::block_on(async {
            let (gate, mut passes) = full().await;
            let (say, said) = bounded(1);
            let mut waiting = pin!(through(passes.remove(0), async {
                let heard = said.recv().await.is_ok();
                pending::<()>().await;
                heard
            }));
            assert!(poll_once(waiting.as_mut()).await.is_none());
            say.try_send(()).unwrap();
            // Both the time and the bytes have come when it is polled next.
            std::thread::sleep(QUIET * 2);
            assert!(poll_once(waiting.as_mut()).await.is_none());
            assert!(is_full(&gate).await);
        });
    }
}
