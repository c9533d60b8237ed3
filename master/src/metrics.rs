//! What there is to measure (`/metrics`); the text format is the HTTP side's.

use std::sync::Arc;

use runtime_smol::stats::Snapshot;

use crate::object::Status;

/// The master at one moment.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// All instances but the key instance, by creation.
    pub instances: Vec<InstanceMetrics>,
    /// Event streams now.
    pub subscribers: usize,
    /// Log lines that slow event streams did not get.
    pub lines_lost: u64,
    /// Event streams that were ended for being too slow.
    pub subscriptions_ended: u64,
    /// Resident memory of the process, in bytes; 0 if unknown.
    pub memory: u64,
    /// Seconds since the master started.
    pub uptime: u64,
}

/// One instance at one moment.
#[derive(Clone, Debug)]
pub struct InstanceMetrics {
    /// Its id.
    pub id: Arc<str>,
    /// Its display name.
    pub alias: Arc<str>,
    /// `client` or `server`.
    pub kind: &'static str,
    /// What it does.
    pub status: Status,
    /// Bytes by direction and transport, relays, idle connections, round-trip time, and what
    /// failed, over all runs.
    pub counted: Snapshot,
    /// Starts that succeeded, after the first.
    pub restarts: u64,
}
