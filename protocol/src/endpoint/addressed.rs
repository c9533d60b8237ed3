//! Sessions whose data connections belong to them by address (`wire.md` §3, §5).

use alloc::collections::BTreeMap;
use core::net::IpAddr;

use crate::dialect::ControlOn;
use crate::id::{ConnId, LinkId};
use crate::limits;
use crate::rng::Rng;
use crate::terms::DataId;
use crate::time::Instant;

/// Which session each address has; IPv4 addresses in their own form.
#[derive(Debug, Default)]
pub(super) struct ByAddress(BTreeMap<IpAddr, LinkId>);

impl ByAddress {
    pub(super) fn get(&self, from: IpAddr) -> Option<LinkId> {
        self.0.get(&from.to_canonical()).copied()
    }

    pub(super) fn insert(&mut self, from: IpAddr, link: LinkId) {
        self.0.insert(from.to_canonical(), link);
    }

    /// Forgets `link`, unless another session has its address already.
    pub(super) fn remove(&mut self, from: IpAddr, link: LinkId) {
        if self.get(from) == Some(link) {
            self.0.remove(&from.to_canonical());
        }
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

/// What the endpoint knows of one such session.
#[derive(Debug)]
pub(super) struct Numbering {
    next: u32,
    stride: u32,
    /// The connection of the handshake. A silent one that was accepted before it belongs to an earlier
    /// session of the address, or to nobody.
    handshake: ConnId,
    /// Until when the control channel must come, where it is the first data connection.
    pub(super) control_due: Option<Instant>,
}

impl Numbering {
    pub(super) fn new(rng: &mut Rng, handshake: ConnId, control: ControlOn, now: Instant) -> Self {
        let control_due = match control {
            ControlOn::Handshake => None,
            ControlOn::DataConnection => Some(now.after(limits::CONTROL_WAIT)),
        };
        Self {
            next: u32::from_be_bytes(rng.bytes()),
            // Odd: then all numbers come up before one comes again.
            stride: u32::from_be_bytes(rng.bytes()) | 1,
            handshake,
            control_due,
        }
    }

    /// Whether this silent connection can be one of the session.
    pub(super) fn is_later(&self, conn: ConnId) -> bool {
        conn > self.handshake
    }

    /// An id that this session never had, and never zero.
    pub(super) fn mint(&mut self) -> DataId {
        let id = DataId(self.next);
        self.next = self.next.wrapping_add(self.stride);
        if id == DataId::CONTROL {
            return self.mint();
        }
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeSet;

    use crate::rng::Seed;

    const HANDSHAKE: ConnId = ConnId::from_number(0);

    #[test]
    fn ids_do_not_repeat_and_are_never_zero() {
        let mut rng = Rng::new(Seed([3; 32]));
        let mut numbering = Numbering::new(
            &mut rng,
            HANDSHAKE,
            ControlOn::Handshake,
            Instant::default(),
        );
        let ids: BTreeSet<DataId> = (0..100_000).map(|_| numbering.mint()).collect();
        assert_eq!(ids.len(), 100_000);
        assert!(!ids.contains(&DataId::CONTROL));

        let (next, stride, control_due) = (0, 7, None);
        let mut at_zero = Numbering {
            next,
            stride,
            handshake: HANDSHAKE,
            control_due,
        };
        assert_eq!(at_zero.mint(), DataId(7));
    }
}
