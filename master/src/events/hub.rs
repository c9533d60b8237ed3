//! Numbers events and hands them to everyone who watches.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use super::queue::Queue;
use super::ring::Ring;
use super::{Class, Event, Kind};
use crate::object::Object;
use crate::time::rfc3339;

/// Where changes become events.
#[derive(Debug)]
pub(crate) struct Hub {
    inner: Mutex<Inner>,
    /// Log lines that a slow subscriber did not get.
    lost: AtomicU64,
    /// Subscriptions that were ended because they were too far behind.
    ended: AtomicU64,
}

#[derive(Debug)]
struct Inner {
    next: u64,
    ring: Ring,
    subscribers: BTreeMap<u64, Subscriber>,
    last_subscriber: u64,
    closed: bool,
}

#[derive(Debug, Default)]
struct Subscriber {
    queue: Queue,
    wake: Arc<event_listener::Event>,
    /// Nothing comes after what is in the queue.
    ended: bool,
}

/// The events of one change, made while nobody can subscribe or publish.
#[derive(Debug)]
pub(crate) struct Draft<'a> {
    inner: &'a mut Inner,
    hub: &'a Hub,
    now: Arc<str>,
}

impl Hub {
    /// One without subscribers. Numbers start from the clock, so that those of an earlier master are
    /// below them.
    pub(crate) fn new() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let next = u64::try_from(since.unwrap_or_default().as_micros()).unwrap_or(1);
        Self {
            inner: Mutex::new(Inner {
                next,
                ring: Ring::new(next),
                subscribers: BTreeMap::new(),
                last_subscriber: 0,
                closed: false,
            }),
            lost: AtomicU64::new(0),
            ended: AtomicU64::new(0),
        }
    }

    /// Makes a change and tells of it: a subscriber finds the change in its snapshot or is told of
    /// it. `change` must neither block nor come back here.
    pub(crate) fn commit<T>(&self, change: impl FnOnce(&mut Draft<'_>) -> T) -> T {
        let now = rfc3339(SystemTime::now());
        let mut inner = self.lock();
        let inner = &mut *inner;
        change(&mut Draft {
            inner,
            hub: self,
            now,
        })
    }

    /// A new subscriber: told what it missed since `last`, if that is known, else `snapshot`.
    pub(crate) fn subscribe(
        self: &Arc<Self>,
        last: Option<u64>,
        snapshot: impl FnOnce() -> Vec<Object>,
    ) -> Subscription {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let mut subscriber = Subscriber::default();
        let missed = last.and_then(|last| inner.ring.since(last, inner.next));
        let initial = match missed {
            Some(missed) => {
                for (number, event, class) in missed {
                    // The ring is smaller than a queue.
                    drop(subscriber.queue.push(number, event.clone(), class));
                }
                Vec::new()
            }
            None => snapshot(),
        };
        if inner.closed {
            subscriber.end(&rfc3339(SystemTime::now()), inner.next);
        }
        inner.last_subscriber += 1;
        let key = inner.last_subscriber;
        inner.subscribers.insert(key, subscriber);
        Subscription {
            hub: Arc::clone(self),
            key,
            initial: initial.into(),
        }
    }

    /// Tells everyone who watches now to go.
    pub(crate) fn dismiss(&self) {
        let now = rfc3339(SystemTime::now());
        let mut inner = self.lock();
        let next = inner.next;
        for subscriber in inner.subscribers.values_mut() {
            subscriber.end(&now, next);
        }
    }

    /// Tells everyone to go, those who come later included.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.dismiss();
    }

    /// How many watch.
    pub(crate) fn subscribers(&self) -> usize {
        self.lock().subscribers.len()
    }

    /// Log lines lost by slow subscribers, and subscriptions that were ended for being too slow.
    pub(crate) fn losses(&self) -> (u64, u64) {
        (self.lost.load(Relaxed), self.ended.load(Relaxed))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Subscriber {
    fn end(&mut self, now: &Arc<str>, number: u64) {
        if !self.ended {
            let event = Event {
                number: None,
                kind: Kind::Shutdown,
                time: Arc::clone(now),
                instance: None,
                logs: Arc::default(),
            };
            // A subscriber that has no room for it is ended all the same.
            drop(self.queue.push(number, event, Class::Vital));
            self.ended = true;
            self.wake.notify(usize::MAX);
        }
    }
}

impl Draft<'_> {
    /// A new instance.
    pub(crate) fn create(&mut self, object: Object) {
        self.publish(Kind::Create, Class::Vital, object, Arc::default());
    }

    /// Its configuration or its status changed.
    pub(crate) fn update(&mut self, object: Object) {
        self.publish(Kind::Update, Class::Vital, object, Arc::default());
    }

    /// Its counters changed.
    pub(crate) fn telemetry(&mut self, object: Object) {
        self.publish(Kind::Update, Class::Telemetry, object, Arc::default());
    }

    /// It is gone.
    pub(crate) fn delete(&mut self, object: Object) {
        self.publish(Kind::Delete, Class::Vital, object, Arc::default());
    }

    /// A line of its log.
    pub(crate) fn log(&mut self, object: Object, line: Arc<str>) {
        self.publish(Kind::Log, Class::Log, object, line);
    }

    fn publish(&mut self, kind: Kind, class: Class, object: Object, logs: Arc<str>) {
        let number = self.inner.next;
        self.inner.next += 1;
        let event = Event {
            number: Some(number),
            kind,
            time: Arc::clone(&self.now),
            instance: Some(Arc::new(object)),
            logs,
        };
        for subscriber in self.inner.subscribers.values_mut() {
            if subscriber.ended {
                continue;
            }
            match subscriber.queue.push(number, event.clone(), class) {
                Ok(lost) => {
                    self.hub.lost.fetch_add(lost, Relaxed);
                }
                Err(_) => {
                    subscriber.queue = Queue::default();
                    subscriber.ended = true;
                    self.hub.ended.fetch_add(1, Relaxed);
                }
            }
            subscriber.wake.notify(usize::MAX);
        }
        self.inner.ring.push(number, event, class);
    }
}

/// What one subscriber is still to be told. Dropping it unsubscribes.
#[derive(Debug)]
pub struct Subscription {
    hub: Arc<Hub>,
    key: u64,
    initial: VecDeque<Object>,
}

impl Subscription {
    /// The next event; waits for it. `None` after `shutdown`, or when the subscriber fell too far
    /// behind and must reconnect.
    ///
    /// Cancel-safe: an event is lost only if it was returned.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.try_next() {
                return Some(event);
            }
            let listener = {
                let inner = self.hub.lock();
                let subscriber = inner.subscribers.get(&self.key)?;
                if !subscriber.queue.is_empty() {
                    continue;
                }
                if subscriber.ended {
                    return None;
                }
                subscriber.wake.listen()
            };
            listener.await;
        }
    }

    /// The next event, if there is one already: what comes at once can be sent at once.
    pub fn try_next(&mut self) -> Option<Event> {
        if let Some(object) = self.initial.pop_front() {
            return Some(Event {
                number: None,
                kind: Kind::Initial,
                time: rfc3339(SystemTime::now()),
                instance: Some(Arc::new(object)),
                logs: Arc::default(),
            });
        }
        let mut inner = self.hub.lock();
        inner.subscribers.get_mut(&self.key)?.queue.pop()
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let gone = self.hub.lock().subscribers.remove(&self.key);
        drop(gone);
    }
}

#[cfg(test)]
mod tests {
    use async_io::block_on;

    use super::super::queue::VITAL;
    use super::super::testing::object;
    use super::*;

    fn kinds(subscription: &mut Subscription) -> Vec<Kind> {
        std::iter::from_fn(|| block_on(subscription.next()))
            .map(|event| event.kind)
            .collect()
    }

    #[test]
    fn who_falls_too_far_behind_is_sent_away_and_others_are_not() {
        let hub = Arc::new(Hub::new());
        let mut slow = hub.subscribe(None, Vec::new);
        let mut quick = hub.subscribe(None, Vec::new);
        for _ in 0..=VITAL {
            hub.commit(|draft| draft.create(object("a")));
            assert_eq!(quick.try_next().unwrap().kind, Kind::Create);
        }
        assert!(block_on(slow.next()).is_none());
        assert_eq!(hub.losses(), (0, 1));
        hub.dismiss();
        assert_eq!(kinds(&mut quick), [Kind::Shutdown]);
    }

    #[test]
    fn what_is_queued_is_told_before_the_end() {
        let hub = Arc::new(Hub::new());
        let mut one = hub.subscribe(None, || vec![object("a"), object("b")]);
        hub.commit(|draft| draft.update(object("a")));
        hub.close();
        hub.commit(|draft| draft.update(object("late")));
        let expected = [Kind::Initial, Kind::Initial, Kind::Update, Kind::Shutdown];
        assert_eq!(kinds(&mut one), expected);
        let mut late = hub.subscribe(None, Vec::new);
        assert_eq!(kinds(&mut late), [Kind::Shutdown]);
        assert_eq!(hub.subscribers(), 2);
        drop((one, late));
        assert_eq!(hub.subscribers(), 0);
    }

    #[test]
    fn who_waits_is_woken() {
        let hub = Arc::new(Hub::new());
        let mut one = hub.subscribe(None, Vec::new);
        let publish = async {
            smol::future::yield_now().await;
            hub.commit(|draft| draft.delete(object("a")));
        };
        let (event, ()) = block_on(smol::future::zip(one.next(), publish));
        assert_eq!(event.unwrap().kind, Kind::Delete);
    }
}
