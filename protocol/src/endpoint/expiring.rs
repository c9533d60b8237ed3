//! What is remembered of addresses for a while; bounded, what expires first goes first.

use alloc::collections::{BTreeMap, BTreeSet};
use core::net::{IpAddr, Ipv6Addr};

use crate::time::Instant;

/// A value per [`subject`], each with an end.
#[derive(Debug)]
pub(super) struct Expiring<V> {
    most: usize,
    entries: BTreeMap<IpAddr, (Instant, V)>,
    expiries: BTreeSet<(Instant, IpAddr)>,
}

impl<V> Expiring<V> {
    /// A table of at most `most` addresses.
    pub(super) const fn new(most: usize) -> Self {
        Self {
            most,
            entries: BTreeMap::new(),
            expiries: BTreeSet::new(),
        }
    }

    pub(super) fn get(&self, address: IpAddr) -> Option<&V> {
        self.entries.get(&subject(address)).map(|(_, value)| value)
    }

    pub(super) fn take(&mut self, address: IpAddr) -> Option<V> {
        let address = subject(address);
        let (expires, value) = self.entries.remove(&address)?;
        self.expiries.remove(&(expires, address));
        Some(value)
    }

    /// Remembers `value` until `expires`, in place of what was known of the address.
    pub(super) fn put(&mut self, address: IpAddr, expires: Instant, value: V) {
        self.take(address);
        if self.entries.len() >= self.most {
            self.drop_first();
        }
        let address = subject(address);
        self.entries.insert(address, (expires, value));
        self.expiries.insert((expires, address));
    }

    pub(super) fn expire(&mut self, now: Instant) {
        while self.next_expiry().is_some_and(|expires| expires <= now) {
            self.drop_first();
        }
    }

    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.expiries.first().map(|&(expires, _)| expires)
    }

    fn drop_first(&mut self) {
        if let Some((_, address)) = self.expiries.pop_first() {
            self.entries.remove(&address);
        }
    }
}

/// Whom a ban, an exemption or a limit is about: one IPv4 address, or the /64 of an IPv6 one.
pub(super) fn subject(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::time::Duration;

    fn at(seconds: u64) -> Instant {
        Instant::from_origin(Duration::from_secs(seconds))
    }

    fn v4(n: u32) -> IpAddr {
        IpAddr::V4(n.into())
    }

    #[test]
    fn the_table_is_bounded_and_what_expires_first_goes_first() {
        let mut table = Expiring::new(3);
        table.put(v4(1), at(9), 'a');
        table.put(v4(2), at(5), 'b');
        table.put(v4(3), at(7), 'c');
        table.put(v4(1), at(10), 'd');
        assert_eq!(table.get(v4(2)), Some(&'b'), "an address counts once");
        table.put(v4(4), at(8), 'e');
        assert_eq!(table.get(v4(2)), None);
        assert_eq!((table.entries.len(), table.expiries.len()), (3, 3));
    }

    #[test]
    fn what_has_expired_is_gone() {
        let mut table = Expiring::new(3);
        table.put(v4(1), at(5), ());
        table.put(v4(2), at(6), ());
        assert_eq!(table.next_expiry(), Some(at(5)));
        table.expire(at(5));
        assert_eq!(table.get(v4(1)), None);
        assert_eq!(table.next_expiry(), Some(at(6)));
        assert_eq!(table.take(v4(2)), Some(()));
        assert_eq!(table.next_expiry(), None);
    }
}
