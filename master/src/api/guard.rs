//! The API key, and callers who guess it (`rest.md` §1).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::reply::{Content, Reply};
use super::streams::Quota;
use runtime_smol::timer::Timer;

/// Wrong keys from one address that are answered at once.
const WRONG: u32 = 10;
/// The time that [`WRONG`] counts for.
const WINDOW: Duration = Duration::from_secs(60);
/// How late further wrong keys are answered.
const DELAY: Duration = Duration::from_secs(1);
/// Answers that are held back at once; beyond, connections are closed.
const DELAYED: usize = 32;
/// Addresses that are remembered.
const ADDRESSES: usize = 4096;

/// Counts wrong keys and slows down whoever sends many.
#[derive(Debug)]
pub(crate) struct Guard {
    delayed: Quota,
    wrong: Mutex<BTreeMap<IpAddr, Wrong>>,
}

#[derive(Clone, Copy, Debug)]
struct Wrong {
    since: Instant,
    count: u32,
}

impl Guard {
    pub(crate) fn new() -> Self {
        Self {
            delayed: Quota::new(DELAYED),
            wrong: Mutex::default(),
        }
    }

    /// The answer to a request without the right key, given in time or not. `given` is what it
    /// brought.
    pub(crate) async fn refuse(&self, given: Option<&[u8]>, address: IpAddr) -> Reply {
        if given.is_none_or(<[u8]>::is_empty) {
            return Reply::error(401, "Unauthorized: API key required");
        }
        if self.count(neighbourhood(address), Instant::now()) > WRONG {
            let Some(_permit) = self.delayed.take() else {
                return Reply::with(401, Content::HangUp);
            };
            Timer::after(DELAY).await;
        }
        Reply::error(401, "Unauthorized: Invalid API key")
    }

    /// Notes a wrong key: how many there were within the window.
    fn count(&self, address: IpAddr, now: Instant) -> u32 {
        let mut wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = |entry: &Wrong| now.saturating_duration_since(entry.since) < WINDOW;
        if wrong.len() >= ADDRESSES && !wrong.contains_key(&address) {
            wrong.retain(|_, entry| fresh(entry));
            // Still full: as many addresses guess at once. The one that began first is forgotten.
            if wrong.len() >= ADDRESSES {
                let oldest = wrong.iter().min_by_key(|(_, entry)| entry.since);
                if let Some(oldest) = oldest.map(|(address, _)| *address) {
                    wrong.remove(&oldest);
                }
            }
        }
        let start = Wrong {
            since: now,
            count: 0,
        };
        let entry = wrong.entry(address).or_insert(start);
        if !fresh(entry) {
            *entry = start;
        }
        let first = entry.count == WRONG;
        entry.count = entry.count.saturating_add(1);
        if first {
            tracing::warn!("{address} has sent {WRONG} wrong API keys, its next ones wait");
        }
        entry.count
    }
}

/// One who guesses has a whole IPv6 network, so that counts as one address.
fn neighbourhood(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[test]
    fn wrong_keys_are_counted_within_a_window() {
        let (guard, start) = (Guard::new(), Instant::now());
        for expected in 1..=12 {
            assert_eq!(guard.count(HERE, start), expected);
        }
        assert_eq!(guard.count(HERE, start + WINDOW), 1);
    }

    #[test]
    fn addresses_count_by_themselves_and_are_forgotten() {
        let (guard, start) = (Guard::new(), Instant::now());
        let address = |n: u32| IpAddr::V4(std::net::Ipv4Addr::from_bits(n));
        for n in 0..10_000 {
            assert_eq!(
                guard.count(address(n), start + Duration::from_millis(n.into())),
                1
            );
        }
        assert_eq!(guard.wrong.lock().unwrap().len(), ADDRESSES);
    }

    #[test]
    fn an_ipv6_network_is_one_address() {
        let (guard, now) = (Guard::new(), Instant::now());
        let of = |text: &str| neighbourhood(text.parse().unwrap());
        assert_eq!(guard.count(of("2001:db8::1"), now), 1);
        assert_eq!(guard.count(of("2001:db8::2:1"), now), 2);
        assert_eq!(guard.count(of("2001:db8:0:1::1"), now), 1);
    }

    #[test]
    fn ten_are_answered_at_once_and_then_one_after_a_second() {
        smol::block_on(async {
            let guard = Guard::new();
            for _ in 0..WRONG {
                let refusal = std::pin::pin!(guard.refuse(Some(b"x"), HERE));
                assert!(smol::future::poll_once(refusal).await.is_some());
            }
            let mut held: Vec<_> = (0..DELAYED)
                .map(|_| Box::pin(guard.refuse(Some(b"x"), HERE)))
                .collect();
            for refusal in &mut held {
                assert!(smol::future::poll_once(refusal).await.is_none());
            }
            let beyond = guard.refuse(Some(b"x"), HERE).await;
            assert!(matches!(beyond.content, Content::HangUp));
            let missing = guard.refuse(None, HERE).await;
            assert!(matches!(missing.content, Content::Text { .. }));
            for refusal in held {
                assert_eq!(refusal.await.status, 401);
            }
        });
    }
}
