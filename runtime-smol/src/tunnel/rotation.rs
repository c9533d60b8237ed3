//! Changing a server's certificate under running sessions (`wire.md` §2.2, `cert`).
//!
//! A new certificate is first announced to the sessions, then used, and only then is the old one
//! forgotten: a data connection that is being opened meanwhile may show either.

use std::time::Duration;

use protocol::terms::Fingerprint;

use crate::tls::Identity;

/// The time between two steps: what was announced is known everywhere by then.
pub(super) const GRACE: Duration = Duration::from_secs(1);

/// The certificate in use, and how far the change to another one is.
#[derive(Debug)]
pub(super) struct Rotation {
    current: Identity,
    other: Option<Other>,
    /// Changes so far, so that a step of an earlier one does nothing.
    changes: u64,
}

/// The certificate that is valid besides the one in use.
#[derive(Debug)]
enum Other {
    Next(Identity),
    Old(Identity),
}

/// What a step asks for.
#[derive(Debug)]
pub(super) enum Step {
    /// Use this certificate from now on, and take the next step after [`GRACE`].
    Use(Identity),
    /// Announce the certificates that are valid now.
    Announce,
    /// Nothing: another change has taken over.
    Stale,
}

impl Rotation {
    pub(super) const fn new(current: Identity) -> Self {
        Self {
            current,
            other: None,
            changes: 0,
        }
    }

    /// Begins a change: announce, and take the step of the returned number after [`GRACE`]. `None`
    /// if the certificate is in use already.
    pub(super) fn begin(&mut self, next: Identity) -> Option<u64> {
        if next.fingerprint() == self.current.fingerprint() {
            return None;
        }
        self.other = Some(Other::Next(next));
        self.changes += 1;
        Some(self.changes)
    }

    /// Takes the step of that change.
    pub(super) fn step(&mut self, change: u64) -> Step {
        if change != self.changes {
            return Step::Stale;
        }
        match self.other.take() {
            Some(Other::Next(next)) => {
                let old = std::mem::replace(&mut self.current, next.clone());
                self.other = Some(Other::Old(old));
                Step::Use(next)
            }
            Some(Other::Old(_)) => Step::Announce,
            None => Step::Stale,
        }
    }

    /// The certificate of the last [`Step::Use`] cannot be used: the one before it stays.
    pub(super) fn revert(&mut self) {
        if let Some(Other::Old(old)) = self.other.take() {
            self.current = old;
        }
    }

    /// The certificates that are valid now.
    pub(super) fn fingerprints(&self) -> Vec<Fingerprint> {
        let other = match &self.other {
            Some(Other::Next(identity) | Other::Old(identity)) => Some(identity.fingerprint()),
            None => None,
        };
        let current = self.current.fingerprint();
        std::iter::once(current).chain(other).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity::self_signed().unwrap()
    }

    #[test]
    fn both_certificates_are_valid_during_a_change_and_one_afterwards() {
        let (old, new) = (identity(), identity());
        let (before, after) = (old.fingerprint(), new.fingerprint());
        let mut rotation = Rotation::new(old.clone());
        assert!(rotation.begin(old).is_none(), "the same one is no change");
        let change = rotation.begin(new).unwrap();
        assert_eq!(rotation.fingerprints(), [before, after]);
        assert!(matches!(rotation.step(change), Step::Use(next) if next.fingerprint() == after));
        assert_eq!(rotation.fingerprints(), [after, before]);
        assert!(matches!(rotation.step(change), Step::Announce));
        assert_eq!(rotation.fingerprints(), [after]);
        assert!(matches!(rotation.step(change), Step::Stale));
    }

    #[test]
    fn the_steps_of_an_overtaken_change_do_nothing() {
        let mut rotation = Rotation::new(identity());
        let first = rotation.begin(identity()).unwrap();
        let last = identity();
        let second = rotation.begin(last.clone()).unwrap();
        assert!(matches!(rotation.step(first), Step::Stale));
        let used = rotation.step(second);
        assert!(matches!(used, Step::Use(next) if next.fingerprint() == last.fingerprint()));
    }
}
