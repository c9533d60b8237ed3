//! A tunnel key as the generations need it. The derived keys of the process are made once per tunnel
//! key, off the executors (`wire.md` §2.1).

use std::sync::{Arc, Mutex, PoisonError};

use protocol::config::Generations;
use protocol::handshake::legacy::LegacyKeys;
use protocol::key::TunnelKey;
use protocol::proof::PreKey;
use protocol::wire::classic::BadKey;
use smol::lock::{OnceCell, Semaphore};

/// Keys remembered at most; beyond, the oldest is forgotten.
const REMEMBERED: usize = 256;

/// Keys that are derived at once. Each takes a processor for some 20 ms or more: a master that starts
/// a thousand instances must have some left to answer requests with.
const AT_ONCE: usize = 2;

static TURNS: Semaphore = Semaphore::new(AT_ONCE);

type Entry = (TunnelKey, Arc<OnceCell<PreKey>>);

static CACHE: Mutex<Vec<Entry>> = Mutex::new(Vec::new());

/// What a tunnel key means in each generation.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    pub(super) native: Derived,
    pub(super) legacy: Arc<LegacyKeys>,
}

impl Keys {
    /// The keys of a tunnel. `default_port` is the tunnel's port if its URL has no key.
    ///
    /// # Errors
    /// `proto` names `classic`, which this key does not work with. Where it merely allows that
    /// generation, this is a line in the log.
    pub(super) fn of(
        key: &TunnelKey,
        default_port: Option<u16>,
        proto: Generations,
    ) -> Result<Self, BadKey> {
        let legacy = LegacyKeys::new(key, default_port);
        if let Some(bad) = legacy.check(proto)? {
            tracing::info!("the generation classic is left out: {bad}");
        }
        Ok(Self {
            native: Derived::of(key),
            legacy: Arc::new(legacy),
        })
    }
}

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
            in_turn(move || PreKey::derive(&key)).await
        };
        self.cell.get_or_init(|| make).await.clone()
    }
}

/// Does `work` on a thread for blocking work, not more than [`AT_ONCE`] together.
async fn in_turn<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let turn = TURNS.acquire().await;
    smol::unblock(move || {
        // The work goes on if nobody waits for it any more, and so does its turn.
        let _turn = turn;
        work()
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use protocol::terms::Generation;

    use super::*;

    #[test]
    fn the_same_key_is_derived_once() {
        let key = TunnelKey::new("a key of this test");
        let (first, second) = (Derived::of(&key), Derived::of(&key));
        assert!(Arc::ptr_eq(&first.cell, &second.cell));
        let other = Derived::of(&TunnelKey::new("another key of this test"));
        assert!(!Arc::ptr_eq(&first.cell, &other.cell));
    }

    #[test]
    fn many_keys_leave_a_processor_for_other_work() {
        static RUNNING: AtomicUsize = AtomicUsize::new(0);
        let work = || {
            let running = RUNNING.fetch_add(1, Ordering::SeqCst) + 1;
            // Long enough that others would be seen.
            drop(PreKey::derive(&TunnelKey::new("a key")));
            RUNNING.fetch_sub(1, Ordering::SeqCst);
            running
        };
        let all = smol::LocalExecutor::new();
        let tasks: Vec<_> = (0..20).map(|_| all.spawn(in_turn(work))).collect();
        for task in tasks {
            let running = smol::block_on(all.run(task));
            assert!(running <= AT_ONCE, "{running} at once");
        }
    }

    #[test]
    fn a_key_that_classic_cannot_use_matters_where_classic_is_named() {
        let bad = TunnelKey::new("x".repeat(37));
        let of = |key: &TunnelKey, proto| Keys::of(key, None, proto).map(drop);
        let classic = Generations::only(Generation::Classic);
        of(&bad, Generations::AUTO).unwrap();
        of(&bad, Generations::only(Generation::Native)).unwrap();
        of(&TunnelKey::new("good"), classic).unwrap();
        of(&bad, classic).unwrap_err();
    }
}
