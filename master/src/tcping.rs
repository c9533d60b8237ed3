//! `tcping`: whether something answers at an address (`rest.md` §3).

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use runtime_smol::net::Dialer;

use crate::control::Tcping;
use crate::error::Error;

/// The most at once.
const AT_ONCE: u8 = 10;
/// The longest that one takes, lookup included.
const LIMIT: Duration = Duration::from_secs(5);

/// Connects to `target` and closes. `running` counts those under way.
///
/// # Errors
/// [`Error::TargetRequired`].
pub(crate) async fn tcping(
    dialer: &Dialer,
    running: &AtomicU8,
    target: &str,
) -> Result<Tcping, Error> {
    if target.is_empty() {
        return Err(Error::TargetRequired);
    }
    let result = match (Turn::take(running), split(target)) {
        (None, _) => Err("too many requests".to_owned()),
        (Some(_), None) => Err("not an address: host:port".to_owned()),
        (Some(_turn), Some((host, port))) => {
            let begun = Instant::now();
            let dialled = dialer.tcp(host, port, begun + LIMIT).await;
            dialled
                .map(|_| begun.elapsed())
                .map_err(|error| error.to_string())
        }
    };
    let latency = result.as_ref().map_or(0, Duration::as_millis);
    Ok(Tcping {
        target: target.to_owned(),
        connected: result.is_ok(),
        latency: u64::try_from(latency).unwrap_or(u64::MAX),
        error: result.err(),
    })
}

/// One of the [`AT_ONCE`], given back when dropped.
struct Turn<'a>(&'a AtomicU8);

impl<'a> Turn<'a> {
    fn take(running: &'a AtomicU8) -> Option<Self> {
        let one_more = |now| (now < AT_ONCE).then_some(now + 1);
        let taken = running.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more);
        taken.is_ok().then(|| Self(running))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

fn split(target: &str) -> Option<(&str, u16)> {
    let (host, port) = target.rsplit_once(':')?;
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    if bare.is_none() && host.contains(':') {
        return None;
    }
    let port = port.parse().ok().filter(|&port| port != 0)?;
    Some((bare.unwrap_or(host), port))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use runtime_smol::net::Resolver;

    use super::*;

    fn ping(target: &str, running: &AtomicU8) -> Tcping {
        let dialer = Dialer::new(Resolver::new(Duration::ZERO), None);
        async_io::block_on(tcping(&dialer, running, target)).unwrap()
    }

    #[test]
    fn an_open_port_answers_and_a_closed_one_does_not() {
        let none = AtomicU8::new(0);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        for target in [address.to_string(), format!("localhost:{}", address.port())] {
            let found = ping(&target, &none);
            assert!(found.connected && found.error.is_none(), "{found:?}");
            assert_eq!(found.target, target);
        }
        drop(listener);
        let found = ping(&address.to_string(), &none);
        assert!(!found.connected && found.error.unwrap().contains("refused"));
        assert_eq!(none.into_inner(), 0);
    }

    #[test]
    fn what_is_no_address_is_an_error_in_the_answer() {
        for target in ["x", "a:b", "a:0", "a:65536", "::1:80", "[::1]"] {
            let found = ping(target, &AtomicU8::new(0));
            assert_eq!(
                found.error.as_deref(),
                Some("not an address: host:port"),
                "{target}"
            );
        }
        assert_eq!(split("[::1]:80"), Some(("::1", 80)));
    }

    #[test]
    fn only_so_many_go_at_once() {
        let busy = AtomicU8::new(AT_ONCE);
        let found = ping("127.0.0.1:1", &busy);
        assert_eq!(found.error.as_deref(), Some("too many requests"));
        assert_eq!(busy.into_inner(), AT_ONCE);
    }
}
