//! Who there is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::Instance;
use crate::control::MAX_INSTANCES;
use crate::error::Error;

/// All instances by id and by creation.
#[derive(Debug, Default)]
pub(crate) struct Registry(RwLock<Inner>);

#[derive(Debug, Default)]
struct Inner {
    by_id: BTreeMap<Arc<str>, Arc<Instance>>,
    by_order: BTreeMap<u64, Arc<Instance>>,
    /// Ids that are being created.
    reserved: BTreeSet<Arc<str>>,
    next: u64,
}

/// A new instance's id and place.
#[derive(Clone, Debug)]
pub(crate) struct Reserved {
    pub(crate) id: Arc<str>,
    pub(crate) order: u64,
}

impl Registry {
    pub(crate) fn get(&self, id: &str) -> Option<Arc<Instance>> {
        self.read().by_id.get(id).cloned()
    }

    /// Looks at all of them, in the order of their creation.
    pub(crate) fn each(&self, look: impl FnMut(&Arc<Instance>)) {
        self.read().by_order.values().for_each(look);
    }

    /// What is seen of all of them, in the order of their creation.
    pub(crate) fn map<T>(&self, look: impl FnMut(&Arc<Instance>) -> T) -> Vec<T> {
        self.read().by_order.values().map(look).collect()
    }

    /// Sets an id aside, of those that `random` offers one that is free.
    ///
    /// # Errors
    /// [`Error::TooMany`].
    pub(crate) fn reserve(&self, mut random: impl FnMut() -> String) -> Result<Reserved, Error> {
        let mut inner = self.write();
        if inner.by_id.len() + inner.reserved.len() >= MAX_INSTANCES {
            return Err(Error::TooMany);
        }
        let id: Arc<str> = loop {
            let id = random();
            if !inner.by_id.contains_key(&*id) && !inner.reserved.contains(&*id) {
                break id.into();
            }
        };
        inner.reserved.insert(Arc::clone(&id));
        let order = inner.next;
        inner.next += 1;
        Ok(Reserved { id, order })
    }

    /// Gives a reserved id up.
    pub(crate) fn release(&self, reserved: &Reserved) {
        self.write().reserved.remove(&reserved.id);
    }

    pub(crate) fn insert(&self, instance: Arc<Instance>) {
        let mut inner = self.write();
        inner.reserved.remove(&instance.id);
        inner.next = inner.next.max(instance.order + 1);
        inner.by_order.insert(instance.order, Arc::clone(&instance));
        inner.by_id.insert(Arc::clone(&instance.id), instance);
    }

    pub(crate) fn remove(&self, instance: &Instance) {
        let mut inner = self.write();
        inner.by_order.remove(&instance.order);
        inner.by_id.remove(&instance.id);
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}
