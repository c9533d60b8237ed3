//! Changes of instances, for those who watch (`rest.md` §4).
//!
//! The [`Hub`] numbers events and gives each subscriber its own bounded [`queue`]; what was
//! published lately is kept for those who reconnect. A subscriber that does not read stops neither
//! the others nor the instances.

mod hub;
mod queue;
mod ring;

use std::sync::Arc;

pub(crate) use self::hub::Hub;
pub use self::hub::Subscription;

use crate::object::Object;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The state at connect, one per instance.
    Initial,
    /// A new instance.
    Create,
    /// A change of configuration or status, or telemetry.
    Update,
    /// The last of an instance.
    Delete,
    /// One line of an instance's log.
    Log,
    /// The stream ends.
    Shutdown,
}

/// One event. The SSE encoding is the HTTP side's.
#[derive(Clone, Debug)]
pub struct Event {
    /// Its number; a reconnect names the last one it saw. `None` for what is not kept for replay
    /// (`initial` and `shutdown` events).
    pub number: Option<u64>,
    /// What happened.
    pub kind: Kind,
    /// When: RFC 3339, UTC, nanoseconds.
    pub time: Arc<str>,
    /// The state at the time of the event; none for `shutdown`.
    pub instance: Option<Arc<Object>>,
    /// The line of a `log` event, else empty.
    pub logs: Arc<str>,
}

impl Event {
    /// The instance that it is about.
    fn id(&self) -> Option<&Arc<str>> {
        self.instance.as_ref().map(|instance| &instance.id)
    }
}

/// What may happen to an event that waits for a slow subscriber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    /// Never lost.
    Vital,
    /// A later one of the same instance takes its place.
    Telemetry,
    /// Dropped when there are too many.
    Log,
}

#[cfg(test)]
mod testing {
    use std::sync::Arc;

    use super::{Event, Kind};
    use crate::object::{Object, Status};

    pub(super) fn object(id: &str) -> Object {
        Object {
            id: id.into(),
            alias: "".into(),
            kind: "client",
            status: Status::Stopped,
            url: "".into(),
            config: "".into(),
            restart: true,
            meta: Arc::default(),
            mode: 0,
            ping: 0,
            pool: 0,
            tcps: 0,
            udps: 0,
            tcprx: 0,
            tcptx: 0,
            udprx: 0,
            udptx: 0,
        }
    }

    pub(super) fn event(number: u64, kind: Kind, id: &str) -> Event {
        Event {
            number: Some(number),
            kind,
            time: "".into(),
            instance: Some(Arc::new(object(id))),
            logs: "".into(),
        }
    }

    pub(super) fn log(number: u64, id: &str, len: usize) -> Event {
        let mut line = "2006-01-02 15:04:05.000  INFO  ".to_owned();
        line.extend(std::iter::repeat_n('x', len.saturating_sub(line.len())));
        Event {
            logs: line.into(),
            ..event(number, Kind::Log, id)
        }
    }
}
