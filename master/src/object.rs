//! An instance as clients see it (`rest.md` §2). The order of members is part of the interface.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize};

/// The id of the instance that stands for the API key.
pub const KEY_INSTANCE: &str = "********";

/// One instance at one moment. Cloning it is cheap.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Object {
    /// 8 lower-case hex digits, or [`KEY_INSTANCE`].
    pub id: Arc<str>,
    /// Display name.
    pub alias: Arc<str>,
    /// `client`, `server`; empty for the key instance.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// What it does.
    pub status: Status,
    /// What the caller gave, with inherited parameters.
    pub url: Arc<str>,
    /// `url` with every default spelled out.
    pub config: Arc<str>,
    /// Start it when the master starts.
    pub restart: bool,
    /// What front ends attach.
    pub meta: Arc<Meta>,
    /// Run mode in force: 0 unknown, 1, 2.
    pub mode: u8,
    /// Milliseconds.
    pub ping: u64,
    /// Idle data connections.
    pub pool: u64,
    /// TCP relays now.
    pub tcps: u64,
    /// UDP sessions now.
    pub udps: u64,
    /// Bytes, as all of the following; at most 2⁶³−1.
    pub tcprx: u64,
    /// See `rest.md` §2.
    pub tcptx: u64,
    /// See `rest.md` §2.
    pub udprx: u64,
    /// See `rest.md` §2.
    pub udptx: u64,
}

/// Bytes since creation or reset, over all runs; each at most [`Counters::MAX`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Counters {
    pub(crate) tcprx: u64,
    pub(crate) tcptx: u64,
    pub(crate) udprx: u64,
    pub(crate) udptx: u64,
}

impl Counters {
    /// What every client can read as a signed number.
    pub(crate) const MAX: u64 = (1 << 63) - 1;
}

/// `status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Its task is alive.
    Running,
    /// Nothing runs.
    Stopped,
    /// It ended by itself, or set-up fails and is being retried.
    Error,
    /// The key instance has none.
    #[serde(rename = "")]
    None,
}

/// `meta`: all members are always there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Meta {
    /// The other end, as a front end knows it.
    pub peer: Peer,
    /// Free key-value pairs.
    pub tags: BTreeMap<String, String>,
}

/// `meta.peer`. Missing members are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Peer {
    /// Service id.
    #[serde(deserialize_with = "given")]
    pub sid: String,
    /// Its type.
    #[serde(rename = "type", deserialize_with = "given")]
    pub kind: String,
    /// Its alias.
    #[serde(deserialize_with = "given")]
    pub alias: String,
}

/// `null` is as if absent.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}
