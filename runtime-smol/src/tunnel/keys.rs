//! The derived keys of the process: made once per tunnel key, off the executors (`wire.md` §2.1).

use std::sync::{Arc, Mutex, PoisonError};

use protocol::key::TunnelKey;
use protocol::proof::PreKey;
use smol::lock::OnceCell;

/// Keys remembered at most; beyond, the oldest is forgotten.
const REMEMBERED: usize = 256;

type Entry = (TunnelKey, Arc<OnceCell<PreKey>>);

static CACHE: Mutex<Vec<Entry>> = Mutex::new(Vec::new());

/// A tunnel key's derived key, ready or being made.
#[derive(Clone)]
pub(super) struct Derived {
    key: TunnelKey,
    cell: Arc<OnceCell<PreKey>>,
}

impl std::fmt::Debug for Derived {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Derived(***)")
    }
}

impl Derived {
    pub(super) fn of(key: &TunnelKey) -> Self {
        let mut cache = CACHE.lock().unwrap_or_else(PoisonError::into_inner);
        let known = cache
            .iter()
            .find(|(known, _)| known == key)
            .map(|(_, cell)| Arc::clone(cell));
        let cell = known.unwrap_or_else(|| {
            if cache.len() >= REMEMBERED {
                cache.remove(0);
            }
            let cell = Arc::<OnceCell<PreKey>>::default();
            cache.push((key.clone(), Arc::clone(&cell)));
            cell
        });
        Self {
            key: key.clone(),
            cell,
        }
    }

    /// The key; whoever asks first makes it, on a thread for blocking work, and the others wait.
    pub(super) async fn get(&self) -> PreKey {
        let make = async {
            let key = self.key.clone();
            smol::unblock(move || PreKey::derive(&key)).await
        };
        self.cell.get_or_init(|| make).await.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_key_is_derived_once() {
        let key = TunnelKey::new("a key of this test");
        let (first, second) = (Derived::of(&key), Derived::of(&key));
        assert!(Arc::ptr_eq(&first.cell, &second.cell));
        let other = Derived::of(&TunnelKey::new("another key of this test"));
        assert!(!Arc::ptr_eq(&first.cell, &other.cell));
    }
}
