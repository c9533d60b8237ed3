//! The control plane behind `master://` URLs: a REST and event-stream API that creates, watches,
//! controls and persists many tunnel instances in one process (`rest.md`).
//!
//! ```text
//!            http (sockets, TLS, HTTP/1.1 framing, limits; tide in one file)
//!              │ Request ▼ ▲ Reply
//!            api (routes, key, errors; openapi, docs, metrics)
//!              │
//!            control ──▶ instances (one actor each) ──▶ runner (tunnels of the runtime)
//!              │              │  every change
//!              ├─▶ state ◀────┤ one writer, one JSON file
//!              └─▶ events ◀───┘ numbered, bounded queues
//! ```
//!
//! Everything below `api` knows nothing of HTTP and is tested without it.

mod address;
mod api;
pub mod control;
mod domain;
#[cfg(feature = "testing")]
pub mod entry;
pub mod error;
pub mod events;
mod http;
pub mod info;
mod instances;
mod key;
mod master;
pub mod metrics;
pub mod object;
mod openapi;
pub mod runner;
pub mod state;
mod tasks;
mod tcping;
#[cfg(test)]
mod testing;
mod time;

pub use crate::master::{Master, MasterError, StartError, Surroundings};
