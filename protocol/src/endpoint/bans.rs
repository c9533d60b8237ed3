//! Addresses that gave wrong keys (`wire.md` §2.2, "Bans").

use alloc::vec::Vec;
use core::net::IpAddr;

use super::expiring::Expiring;
use crate::limits;
use crate::time::Instant;

/// When addresses failed, IPv4 by /32 and IPv6 by /64; bounded, the oldest goes first.
#[derive(Debug)]
pub(super) struct Bans {
    /// At most [`limits::BAN_FAILURES`] each: an address with that many is banned.
    failures: Expiring<Vec<Instant>>,
}

/// What one more failure means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    First,
    Counted,
    NowBanned,
    AlreadyBanned,
}

impl Bans {
    pub(super) const fn new() -> Self {
        Self {
            failures: Expiring::new(limits::BAN_TABLE),
        }
    }

    pub(super) fn is_banned(&self, address: IpAddr) -> bool {
        let known = self.failures.get(address);
        known.is_some_and(|times| make_a_ban(times))
    }

    /// Counts a failure. Each is remembered for [`limits::BAN_TIME`], and a ban lasts that long
    /// after the failure that made it; those during a ban do not count. An exempt address stays one
    /// failure short of a ban: none begins unannounced when the exemption ends.
    pub(super) fn failed(&mut self, now: Instant, address: IpAddr, exempt: bool) -> Verdict {
        self.expire(now);
        if self.is_banned(address) {
            return Verdict::AlreadyBanned;
        }
        let mut times = self.failures.take(address).unwrap_or_default();
        times.retain(|time| time.after(limits::BAN_TIME) > now);
        let first = times.is_empty();
        times.push(now);
        if exempt && make_a_ban(&times) {
            times.remove(0);
        }
        let verdict = match make_a_ban(&times) {
            true => Verdict::NowBanned,
            false if first => Verdict::First,
            false => Verdict::Counted,
        };
        self.failures
            .put(address, now.after(limits::BAN_TIME), times);
        verdict
    }

    pub(super) fn expire(&mut self, now: Instant) {
        self.failures.expire(now);
    }

    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.failures.next_expiry()
    }
}

fn make_a_ban(failures: &[Instant]) -> bool {
    u32::try_from(failures.len()).is_ok_and(|n| n >= limits::BAN_FAILURES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::time::Duration;

    fn at(seconds: u64) -> Instant {
        Instant::from_origin(Duration::from_secs(seconds))
    }

    #[test]
    fn five_within_a_minute_ban_for_a_minute() {
        let mut bans = Bans::new();
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        for (second, verdict) in [
            Verdict::First,
            Verdict::Counted,
            Verdict::Counted,
            Verdict::Counted,
        ]
        .into_iter()
        .enumerate()
        {
            assert_eq!(
                bans.failed(at(u64::try_from(second).unwrap()), address, false),
                verdict
            );
        }
        assert!(!bans.is_banned(address));
        assert_eq!(bans.failed(at(50), address, false), Verdict::NowBanned);
        assert_eq!(bans.failed(at(51), address, false), Verdict::AlreadyBanned);
        bans.expire(at(109));
        assert!(bans.is_banned(address));
        bans.expire(at(110));
        assert!(!bans.is_banned(address));
    }

    #[test]
    fn slow_failures_are_forgotten() {
        let mut bans = Bans::new();
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        for round in 0..20 {
            assert_ne!(
                bans.failed(at(round * 20), address, false),
                Verdict::NowBanned
            );
        }
    }

    #[test]
    fn an_ipv6_neighbour_shares_the_ban_an_ipv4_one_does_not() {
        let mut bans = Bans::new();
        for _ in 0..limits::BAN_FAILURES {
            bans.failed(at(0), "2001:db8::1".parse().unwrap(), false);
            bans.failed(at(0), "::ffff:192.0.2.1".parse().unwrap(), false);
        }
        for (address, banned) in [
            ("2001:db8::ffff:1", true),
            ("2001:db8:0:1::1", false),
            ("192.0.2.1", true),
            ("192.0.2.2", false),
        ] {
            assert_eq!(
                bans.is_banned(address.parse().unwrap()),
                banned,
                "{address}"
            );
        }
    }

    #[test]
    fn the_minute_slides() {
        let mut bans = Bans::new();
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        for second in [0, 50, 55, 58, 61] {
            assert_ne!(bans.failed(at(second), address, false), Verdict::NowBanned);
        }
        assert_eq!(
            bans.failed(at(62), address, false),
            Verdict::NowBanned,
            "five in 12 seconds"
        );
        bans.expire(at(121));
        assert!(
            bans.is_banned(address),
            "60 s after the failure that made it"
        );
        bans.expire(at(122));
        assert!(!bans.is_banned(address));
    }

    #[test]
    fn one_address_is_remembered_by_few_failures() {
        let mut bans = Bans::new();
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        for _ in 0..1000 {
            bans.failed(at(0), address, false);
        }
        let times = bans.failures.get(address).unwrap();
        assert_eq!(u32::try_from(times.len()), Ok(limits::BAN_FAILURES));
    }

    #[test]
    fn an_exempt_address_stays_one_failure_short() {
        let mut bans = Bans::new();
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        for _ in 0..20 {
            assert_ne!(bans.failed(at(0), address, true), Verdict::NowBanned);
            assert!(!bans.is_banned(address));
        }
        assert_eq!(bans.failed(at(1), address, false), Verdict::NowBanned);
    }

    #[test]
    fn the_table_is_bounded() {
        let mut bans = Bans::new();
        let most = u32::try_from(limits::BAN_TABLE).unwrap();
        for n in 0..=most {
            bans.failed(at(u64::from(n) / 1000), IpAddr::V4(n.into()), false);
        }
        let kept = |n: u32| bans.failures.get(IpAddr::V4(n.into())).is_some();
        assert!(!kept(0), "the oldest made room");
        assert!((1..=most).all(kept));
    }
}
