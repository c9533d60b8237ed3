//! Every cap and fixed time of the protocol in one place (`wire.md` §6 and where each is named).

use core::time::Duration;

/// A control line of the `native` generation, its `\n` included.
pub const CONTROL_LINE: usize = 4096;
/// Leaf fingerprints in one `welcome` or `cert`.
pub const FINGERPRINTS: usize = 16;
/// The name and version that a client tells about itself, in bytes.
pub const AGENT: usize = 128;
/// Features named in one `hello` or `welcome`.
pub const FEATURES: usize = 32;
/// The name of one feature, in bytes.
pub const FEATURE: usize = 64;
/// The reason of a `bye`, in bytes.
pub const BYE_REASON: usize = 256;
/// A control line of the `classic` generation.
pub const CLASSIC_LINE: usize = 512;
/// The longest source address text of a launch.
pub const LAUNCH_SOURCE: usize = 64;
/// The largest datagram: what IPv4 UDP can carry.
pub const DATAGRAM: usize = 65_507;
/// Users' bytes that ingress keeps until the status byte arrives.
pub const LAUNCH_KEPT: usize = 16 * 1024;
/// The first bytes of a user that tell what it speaks, at most.
pub const SNIFFED: usize = 24;
/// How long ingress waits for the status byte.
pub const LAUNCH_WAIT: Duration = Duration::from_secs(15);
/// Connections in handshake at once, per server.
pub const HALF_OPEN: usize = 256;
/// Connections in handshake at once from one address.
pub const HALF_OPEN_PER_ADDRESS: usize = 64;
/// Users waiting for an idle data connection.
pub const QUEUED_USERS: usize = 1024;
/// Sessions per server.
pub const SESSIONS: usize = 64;
/// Data connections being opened at once, per session.
pub const DIALS_IN_FLIGHT: usize = 32;
/// Failed dials in a row that end a session.
pub const DIAL_FAILURES: u32 = 16;
/// A data connection that ends unused this soon after its preface counts as a failed dial.
pub const EARLY_END: Duration = Duration::from_secs(5);
/// Wrong proofs or tokens within [`BAN_TIME`] that ban an address.
pub const BAN_FAILURES: u32 = 5;
/// How long failures are remembered, and how long a ban lasts.
pub const BAN_TIME: Duration = Duration::from_secs(60);
/// Addresses whose failures are remembered.
pub const BAN_TABLE: usize = 4096;
/// How long a wrong proof from a neighbour of a live session waits for its answer.
pub const REFUSAL_DELAY: Duration = Duration::from_secs(1);
/// Delayed refusals at once.
pub const REFUSALS_DELAYED: usize = 4;
/// The replay window of data prefaces, in sequence numbers.
pub const REPLAY_WINDOW: u64 = 4096;
/// First delay of every back-off, doubling up to [`BACKOFF_MAX`].
pub const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// Longest delay of every back-off.
pub const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// Jitter of every back-off, in per cent either way.
pub const BACKOFF_JITTER: u32 = 20;
/// What an idle rate limit lets through at once, as time at its rate; but at least
/// [`RATE_BURST_BYTES`].
pub const RATE_BURST: Duration = Duration::from_millis(100);
/// The least burst of a rate limit.
pub const RATE_BURST_BYTES: u64 = 64 * 1024;
/// A session that lived this long after its `welcome` resets the reconnect back-off.
pub const SESSION_PROVEN: Duration = Duration::from_secs(2);
/// A relay whose session died unclean is reset after this long without a byte from the peer.
pub const ORPHAN_SILENCE: Duration = Duration::from_secs(60);
/// Silence, in report intervals, after which a session is dead.
pub const SILENT_INTERVALS: u32 = 3;
/// Control bytes waiting for a peer that does not read; beyond, its session ends.
pub const CONTROL_BACKLOG: usize = 64 * 1024;
