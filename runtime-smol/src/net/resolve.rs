//! Names to addresses: cached, one lookup per name at a time (`config.md` §3, `dns`).

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use event_listener::Event;
use smol::future::FutureExt as _;

use super::{lookup, reason};
use crate::timer::Timer;

/// Names remembered by one resolver.
pub const NAMES: usize = 1024;
/// Addresses kept per name.
pub const ADDRESSES: usize = 32;
/// How long a failure is remembered.
pub const FAILURE_TTL: Duration = Duration::from_secs(1);
/// How long a lookup may take before an old answer, if there is one, is good enough.
pub const STALE_AFTER: Duration = Duration::from_secs(1);

/// Why a name has no addresses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot resolve {host}: {reason}")]
pub struct ResolveError {
    /// The name.
    pub host: String,
    /// What the system said.
    pub reason: String,
}

impl ResolveError {
    fn new(host: &str, reason: impl Into<String>) -> Self {
        let (host, reason) = (host.to_owned(), reason.into());
        Self { host, reason }
    }

    /// The name exists and has no address.
    pub(super) fn empty(host: &str) -> Self {
        Self::new(host, "no address")
    }

    fn from_io(host: &str, error: &io::Error) -> Self {
        let text = reason(error);
        let words = text.strip_prefix("failed to lookup address information: ");
        Self::new(host, words.unwrap_or(&text))
    }
}

type Addresses = Arc<[SocketAddr]>;
type Answer = Result<Addresses, ResolveError>;
type Lookup = dyn Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync;
type Clock = dyn Fn() -> Instant + Send + Sync;

/// Resolves names with a cache of its own; lookups run on threads that the process shares.
///
/// A clone is the same resolver.
#[derive(Clone)]
pub struct Resolver(Arc<Inner>);

struct Inner {
    ttl: Duration,
    lookup: Box<Lookup>,
    clock: Box<Clock>,
    names: Mutex<BTreeMap<String, Name>>,
}

/// What is known of a name.
#[derive(Default)]
struct Name {
    /// The last good answer and how long it counts; afterwards it is better than nothing.
    known: Option<(Addresses, Instant)>,
    /// The failure since then, and how long it counts.
    failed: Option<(ResolveError, Instant)>,
    /// The lookup under way.
    flight: Option<Arc<Flight>>,
}

/// A lookup that any number of callers wait for.
#[derive(Default)]
struct Flight {
    answer: OnceLock<Answer>,
    landed: Event,
}

/// What [`Resolver::look`] found.
enum Found {
    Now(Answer),
    Later(Arc<Flight>, Option<Addresses>),
}

impl Resolver {
    /// A resolver that uses an answer for `ttl`; zero: it asks every time.
    #[must_use]
    pub fn new(ttl: Duration) -> Self {
        Self::with(ttl, lookup::system, Instant::now)
    }

    fn with(
        ttl: Duration,
        lookup: impl Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static,
        clock: impl Fn() -> Instant + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(Inner {
            ttl,
            lookup: Box::new(lookup),
            clock: Box::new(clock),
            names: Mutex::default(),
        }))
    }

    /// The addresses of `host`, at least one, in the system's order. An IP address stands for
    /// itself and an empty host for loopback. Dropping the future leaves the lookup to others.
    ///
    /// # Errors
    /// The name has no address, or the system cannot tell and there is no older answer.
    pub async fn resolve(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, ResolveError> {
        self.find(host, port, false).await
    }

    /// As [`resolve`](Self::resolve), but asks the system whatever is cached: for the tunnel host at
    /// every reconnect.
    ///
    /// # Errors
    /// As for [`resolve`](Self::resolve).
    pub async fn resolve_fresh(
        &self,
        host: &str,
        port: u16,
    ) -> Result<Vec<SocketAddr>, ResolveError> {
        self.find(host, port, true).await
    }

    async fn find(
        &self,
        host: &str,
        port: u16,
        fresh: bool,
    ) -> Result<Vec<SocketAddr>, ResolveError> {
        if let Some(own) = literal(host) {
            return Ok(own
                .into_iter()
                .map(|ip| SocketAddr::new(ip, port))
                .collect());
        }
        let answer = match self.look(host, fresh) {
            Found::Now(answer) => answer,
            Found::Later(flight, None) => flight.wait().await,
            Found::Later(flight, Some(stale)) => {
                let late = async {
                    Timer::after(STALE_AFTER).await;
                    Ok(stale.clone())
                };
                let answer = flight.wait().or(late).await;
                answer.or_else(|error| {
                    tracing::debug!("{error}; using the older answer");
                    Ok(stale)
                })
            }
        };
        let with_port = |address: &SocketAddr| {
            let mut address = *address;
            address.set_port(port);
            address
        };
        answer.map(|addresses| addresses.iter().map(with_port).collect())
    }

    /// Finds `host` in the cache, or joins or starts a lookup.
    fn look(&self, host: &str, fresh: bool) -> Found {
        let now = (self.0.clock)();
        let mut names = self.0.lock();
        if !names.contains_key(host) && names.len() >= NAMES && !evict(&mut names) {
            return Found::Now(Err(ResolveError::new(host, "too many lookups")));
        }
        let name = names.entry(host.to_owned()).or_default();
        let stale = name.known.as_ref().map(|(addresses, _)| addresses.clone());
        if !fresh {
            match &name.known {
                Some((addresses, until)) if now < *until => {
                    return Found::Now(Ok(addresses.clone()));
                }
                _ => {}
            }
            match &name.failed {
                Some((error, until)) if now < *until => {
                    return Found::Now(stale.ok_or_else(|| error.clone()));
                }
                _ => {}
            }
        }
        if let Some(flight) = &name.flight {
            return Found::Later(flight.clone(), stale);
        }
        let flight = Arc::new(Flight::default());
        name.flight = Some(flight.clone());
        drop(names);
        let landing = Landing {
            inner: self.0.clone(),
            host: host.to_owned(),
            flight: flight.clone(),
        };
        lookup::spawn(move || landing.land());
        Found::Later(flight, stale)
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver")
            .field("ttl", &self.0.ttl)
            .finish_non_exhaustive()
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Name>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask(&self, host: &str) -> Answer {
        let found = (self.lookup)(host).map_err(|error| ResolveError::from_io(host, &error))?;
        let mut addresses = Vec::new();
        for address in found {
            if addresses.len() < ADDRESSES && !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        if addresses.is_empty() {
            return Err(ResolveError::empty(host));
        }
        Ok(addresses.into())
    }

    fn remember(&self, host: &str, answer: &Answer) {
        let now = (self.clock)();
        let mut names = self.lock();
        // A name in flight is never evicted.
        let Some(name) = names.get_mut(host) else {
            return;
        };
        name.flight = None;
        match answer {
            Ok(addresses) => {
                name.known = Some((addresses.clone(), now + self.ttl));
                name.failed = None;
            }
            Err(error) => name.failed = Some((error.clone(), now + FAILURE_TTL)),
        }
    }
}

impl Flight {
    async fn wait(&self) -> Answer {
        loop {
            let landed = self.landed.listen();
            if let Some(answer) = self.answer.get() {
                return answer.clone();
            }
            landed.await;
        }
    }
}

/// The duty to end a flight, whatever happens to the lookup.
struct Landing {
    inner: Arc<Inner>,
    host: String,
    flight: Arc<Flight>,
}

impl Landing {
    fn land(self) {
        let answer = self.inner.ask(&self.host);
        self.end(answer);
    }

    fn end(&self, answer: Answer) {
        if self.flight.answer.get().is_none() {
            self.inner.remember(&self.host, &answer);
            drop(self.flight.answer.set(answer));
            self.flight.landed.notify(usize::MAX);
        }
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        self.end(Err(ResolveError::new(&self.host, "no lookup possible")));
    }
}

/// Drops the name whose answer ended first; false if all are in flight.
fn evict(names: &mut BTreeMap<String, Name>) -> bool {
    let ended = |name: &Name| {
        let known = name.known.as_ref().map(|(_, until)| *until);
        known.max(name.failed.as_ref().map(|(_, until)| *until))
    };
    let idle = names.iter().filter(|(_, name)| name.flight.is_none());
    let oldest = idle.min_by_key(|(_, name)| ended(name));
    let oldest = oldest.map(|(host, _)| host.clone());
    oldest.is_some_and(|host| names.remove(&host).is_some())
}

/// The addresses of a host that is no name.
fn literal(host: &str) -> Option<Vec<IpAddr>> {
    if host.is_empty() {
        return Some(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
    }
    host.parse().ok().map(|ip| vec![ip])
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
    use std::sync::mpsc::{Sender, channel};

    use smol::block_on;
    use smol::future::zip;

    use super::*;

    /// A resolver whose lookups count, and whose clock is set by hand.
    struct Bench {
        resolver: Resolver,
        asked: Arc<AtomicUsize>,
        seconds: Arc<AtomicU64>,
        answers: Sender<io::Result<Vec<SocketAddr>>>,
    }

    fn bench(ttl: u64) -> Bench {
        let (answers, queue) = channel::<io::Result<Vec<SocketAddr>>>();
        let queue = Mutex::new(queue);
        let asked = Arc::new(AtomicUsize::new(0));
        let seconds = Arc::new(AtomicU64::new(0));
        let start = Instant::now();
        let (count, time) = (asked.clone(), seconds.clone());
        let resolver = Resolver::with(
            Duration::from_secs(ttl),
            move |_| {
                count.fetch_add(1, Ordering::SeqCst);
                queue.lock().unwrap().recv().unwrap()
            },
            move || start + Duration::from_secs(time.load(Ordering::SeqCst)),
        );
        Bench {
            resolver,
            asked,
            seconds,
            answers,
        }
    }

    impl Bench {
        fn answer(&self, last: u8) {
            let address = SocketAddr::from(([192, 0, 2, last], 0));
            self.answers.send(Ok(vec![address, address])).unwrap();
        }

        fn fail(&self) {
            let error = io::Error::other("failed to lookup address information: no such name");
            self.answers.send(Err(error)).unwrap();
        }

        fn at(&self, seconds: u64) {
            self.seconds.store(seconds, Ordering::SeqCst);
        }

        fn get(&self) -> Result<String, String> {
            text(block_on(self.resolver.resolve("example.org", 80)))
        }

        fn asked(&self) -> usize {
            self.asked.load(Ordering::SeqCst)
        }
    }

    fn text(found: Result<Vec<SocketAddr>, ResolveError>) -> Result<String, String> {
        let join = |list: Vec<SocketAddr>| {
            let list: Vec<_> = list.iter().map(ToString::to_string).collect();
            list.join(" ")
        };
        found.map(join).map_err(|error| error.to_string())
    }

    #[test]
    fn addresses_and_the_empty_host_are_not_looked_up() {
        let bench = bench(300);
        let get = |host| text(block_on(bench.resolver.resolve(host, 5))).unwrap();
        assert_eq!(get("192.0.2.7"), "192.0.2.7:5");
        assert_eq!(get("2001:db8::1"), "[2001:db8::1]:5");
        assert_eq!(get(""), "127.0.0.1:5 [::1]:5");
        assert_eq!(bench.asked(), 0);
    }

    #[test]
    fn an_answer_counts_for_its_time() {
        let bench = bench(300);
        bench.answer(1);
        assert_eq!(bench.get().unwrap(), "192.0.2.1:80");
        bench.at(299);
        assert_eq!(bench.get().unwrap(), "192.0.2.1:80");
        assert_eq!(bench.asked(), 1);
        bench.at(300);
        bench.answer(2);
        assert_eq!(bench.get().unwrap(), "192.0.2.2:80");
    }

    #[test]
    fn zero_asks_every_time() {
        let bench = bench(0);
        bench.answer(1);
        bench.answer(2);
        assert_eq!(bench.get().unwrap(), "192.0.2.1:80");
        assert_eq!(bench.get().unwrap(), "192.0.2.2:80");
    }

    #[test]
    fn a_failure_counts_for_a_second() {
        let bench = bench(300);
        bench.fail();
        let error = "cannot resolve example.org: no such name";
        assert_eq!(bench.get().unwrap_err(), error);
        assert_eq!(bench.get().unwrap_err(), error);
        assert_eq!(bench.asked(), 1);
        bench.at(1);
        bench.answer(1);
        assert_eq!(bench.get().unwrap(), "192.0.2.1:80");
    }

    #[test]
    fn an_old_answer_is_better_than_none() {
        let bench = bench(10);
        bench.answer(1);
        bench.get().unwrap();
        bench.at(10);
        bench.fail();
        assert_eq!(bench.get().unwrap(), "192.0.2.1:80");
        assert_eq!(bench.get().unwrap(), "192.0.2.1:80");
        assert_eq!(bench.asked(), 2);
    }

    #[test]
    fn a_lookup_that_hangs_gives_way_to_an_old_answer() {
        let bench = bench(0);
        bench.answer(1);
        bench.get().unwrap();
        assert_eq!(bench.get().unwrap(), "192.0.2.1:80");
        assert_eq!(bench.asked(), 2);
        bench.answer(2);
    }

    #[test]
    fn callers_share_a_lookup() {
        let bench = bench(300);
        let one = bench.resolver.resolve("example.org", 1);
        let two = bench.resolver.resolve("example.org", 2);
        let fresh = bench.resolver.resolve_fresh("example.org", 3);
        let answer = async { bench.answer(1) };
        let ((one, two), (fresh, ())) = block_on(zip(zip(one, two), zip(fresh, answer)));
        assert_eq!(text(one).unwrap(), "192.0.2.1:1");
        assert_eq!(text(two).unwrap(), "192.0.2.1:2");
        assert_eq!(text(fresh).unwrap(), "192.0.2.1:3");
        assert_eq!(bench.asked(), 1);
    }

    #[test]
    fn fresh_passes_the_cache_by_and_fills_it() {
        let bench = bench(300);
        bench.answer(1);
        bench.get().unwrap();
        bench.answer(2);
        let fresh = block_on(bench.resolver.resolve_fresh("example.org", 80));
        assert_eq!(text(fresh).unwrap(), "192.0.2.2:80");
        assert_eq!(bench.get().unwrap(), "192.0.2.2:80");
        assert_eq!(bench.asked(), 2);
    }

    #[test]
    fn the_cache_is_bounded() {
        let resolver = Resolver::with(
            Duration::from_secs(300),
            |_| Ok(vec![SocketAddr::from(([192, 0, 2, 1], 0))]),
            Instant::now,
        );
        for name in 0..NAMES + 10 {
            block_on(resolver.resolve(&format!("n{name:05}"), 1)).unwrap();
        }
        let names = resolver.0.lock();
        assert_eq!(names.len(), NAMES);
        assert!(!names.contains_key("n00000"), "the oldest goes first");
    }

    #[test]
    fn so_many_addresses_and_no_more() {
        let many = |_: &str| Ok((0..=255).map(|n| ([192, 0, 2, n], 0).into()).collect());
        let resolver = Resolver::with(Duration::ZERO, many, Instant::now);
        let found = block_on(resolver.resolve("example.org", 1)).unwrap();
        assert_eq!(found.len(), ADDRESSES);
    }

    #[test]
    fn a_lookup_that_panics_is_a_failure() {
        let resolver = Resolver::with(Duration::ZERO, |_| panic!("broken"), Instant::now);
        block_on(resolver.resolve("example.org", 1)).unwrap_err();
    }

    #[test]
    fn the_system_knows_localhost() {
        let resolver = Resolver::new(Duration::ZERO);
        let found = block_on(resolver.resolve("localhost", 9)).unwrap();
        assert!(found.iter().all(|a| a.ip().is_loopback() && a.port() == 9));
    }
}
