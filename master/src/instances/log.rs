//! The log of one instance: to standard output, and to those who watch (`rest.md` §4 and §6).

use std::sync::{Arc, Weak};

use runtime_smol::log::{Level, Line, Sink, echo};

use super::Instance;
use crate::events::Hub;

/// Takes the lines of one instance, each bounded by [`runtime_smol::log::LINE`].
#[derive(Debug)]
pub(super) struct InstanceLog {
    id: Arc<str>,
    instance: Weak<Instance>,
    hub: Arc<Hub>,
}

impl InstanceLog {
    pub(super) fn new(instance: &Arc<Instance>, hub: Arc<Hub>) -> Self {
        Self {
            id: Arc::clone(&instance.id),
            instance: Arc::downgrade(instance),
            hub,
        }
    }
}

impl Sink for InstanceLog {
    fn line(&self, line: &Line) {
        echo(line, &self.id);
        if line.level == Level::Event {
            return;
        }
        let Some(instance) = self.instance.upgrade() else {
            return;
        };
        let text = line.render(true);
        self.hub.commit(|draft| {
            let shown = instance.lock();
            if !shown.gone {
                draft.log(shown.object(), text.into());
            }
        });
    }
}
