//! A hub's hold on a task of its tunnel: it gives orders, and cuts the leash to end the task.
//!
//! A channel would do, but there is a leash for every idle connection, and a channel is four times as
//! large.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use protocol::wire::launch::Launch;

use super::user::User;

/// Orders that wait for a task: a judgement, a launch, and the end of what it served.
const ROOM: usize = 3;

/// What a hub says to the task of a data connection, or to one in handshake.
#[derive(Debug)]
pub(super) enum Order {
    /// Launch this user on the connection.
    Launch(Box<User>),
    /// The peer launched this user on it, by a signal.
    Serve(Launch),
    /// Judge what it showed before a launch.
    Judge,
    /// The peer wants it for another user: end what is served on it.
    End,
}

/// A leash: the hub's end, and the task's.
pub(super) fn leash() -> (Leash, Orders) {
    let shared = Arc::new(Mutex::new(State {
        waiting: VecDeque::new(),
        task: None,
        holders: 1,
        ended: false,
    }));
    (Leash(Arc::clone(&shared)), Orders(shared))
}

/// The hub's end. When the last clone is dropped, the task ends: gently if it is idle.
#[derive(Debug)]
pub(super) struct Leash(Arc<Mutex<State>>);

/// The task's end; one future at a time waits for it.
#[derive(Debug)]
pub(super) struct Orders(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    /// At most [`ROOM`].
    waiting: VecDeque<Order>,
    task: Option<Waker>,
    /// Clones of the hub's end.
    holders: u32,
    /// The task takes no more orders.
    ended: bool,
}

impl Leash {
    /// Gives an order, or gives it back: the task has ended, or does not read them.
    pub(super) fn give(&self, order: Order) -> Result<(), Order> {
        let mut state = locked(&self.0);
        if state.ended || state.waiting.len() == ROOM {
            return Err(order);
        }
        state.waiting.push_back(order);
        wake(state);
        Ok(())
    }
}

impl Clone for Leash {
    fn clone(&self) -> Self {
        let mut state = locked(&self.0);
        state.holders = state.holders.saturating_add(1);
        drop(state);
        Self(Arc::clone(&self.0))
    }
}

impl Drop for Leash {
    fn drop(&mut self) {
        let mut state = locked(&self.0);
        state.holders = state.holders.saturating_sub(1);
        if state.holders == 0 {
            wake(state);
        }
    }
}

impl Orders {
    /// Waits for the next order. `None`: the leash is cut.
    pub(super) async fn next(&self) -> Option<Order> {
        poll_fn(|cx| self.poll(cx)).await
    }

    /// Waits until the leash is cut; a stray order is ignored.
    pub(super) async fn cut(&self) {
        while self.next().await.is_some() {}
    }

    /// Takes no more orders. Those that crossed this.
    pub(super) fn end(&self) -> VecDeque<Order> {
        let mut state = locked(&self.0);
        state.ended = true;
        mem::take(&mut state.waiting)
    }

    fn poll(&self, cx: &Context<'_>) -> Poll<Option<Order>> {
        let mut state = locked(&self.0);
        if let Some(order) = state.waiting.pop_front() {
            return Poll::Ready(Some(order));
        }
        if state.holders == 0 {
            return Poll::Ready(None);
        }
        match &mut state.task {
            Some(task) => task.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

impl Drop for Orders {
    fn drop(&mut self) {
        let mut state = locked(&self.0);
        state.ended = true;
        let unread = mem::take(&mut state.waiting);
        drop(state);
        // A user among them leaves by this: not for the hub to wait for.
        drop(unread);
    }
}

/// Nothing panics while it holds the lock.
fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Wakes the task, after the lock is open.
fn wake(mut state: MutexGuard<'_, State>) {
    let task = state.task.take();
    drop(state);
    if let Some(task) = task {
        task.wake();
    }
}

#[cfg(test)]
impl Orders {
    /// An order that is there already.
    pub(super) fn take(&self) -> Option<Order> {
        locked(&self.0).waiting.pop_front()
    }

    /// Whether the leash is cut.
    pub(super) fn is_cut(&self) -> bool {
        locked(&self.0).holders == 0
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use smol::future::{block_on, poll_once};

    use super::*;

    #[test]
    fn orders_come_in_turn_and_before_the_cut() {
        let (leash, orders) = leash();
        let other = leash.clone();
        assert!(leash.give(Order::Judge).is_ok());
        assert!(other.give(Order::End).is_ok());
        assert!(leash.give(Order::End).is_ok());
        assert!(leash.give(Order::End).is_err(), "there is no more room");
        drop((leash, other));
        assert!(matches!(block_on(orders.next()), Some(Order::Judge)));
        assert!(matches!(block_on(orders.next()), Some(Order::End)));
        assert!(matches!(block_on(orders.next()), Some(Order::End)));
        assert!(block_on(orders.next()).is_none());
    }

    #[test]
    fn a_task_that_waits_is_woken_by_an_order_and_by_the_last_cut() {
        let (leash, orders) = leash();
        let other = leash.clone();
        for _ in 0..2 {
            let giver = leash.clone();
            let thread = std::thread::spawn(move || giver.give(Order::End).is_ok());
            assert!(matches!(block_on(orders.next()), Some(Order::End)));
            assert!(thread.join().unwrap());
        }
        let mut cut = pin!(orders.cut());
        assert!(block_on(poll_once(cut.as_mut())).is_none());
        drop(leash);
        assert!(block_on(poll_once(cut.as_mut())).is_none());
        let thread = std::thread::spawn(move || drop(other));
        block_on(cut);
        thread.join().unwrap();
        assert!(orders.is_cut());
    }

    #[test]
    fn an_order_that_crosses_the_end_is_not_lost() {
        let (leash, orders) = leash();
        assert!(leash.give(Order::End).is_ok());
        assert!(matches!(orders.end().pop_front(), Some(Order::End)));
        assert!(leash.give(Order::End).is_err());

        let (leash, orders) = super::leash();
        drop(orders);
        assert!(leash.give(Order::End).is_err());
    }
}
