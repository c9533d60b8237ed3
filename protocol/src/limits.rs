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
/// A request or answer head of the `http` and `https` handshakes.
pub const HTTP_HEAD: usize = 8 * 1024;
/// Header lines in such a head.
pub const HTTP_HEADERS: usize = 64;
/// The body of the answer to such a handshake.
pub const HTTP_BODY: usize = 4096;
/// The longest `classic` handshake line that a wrong key is charged for.
pub const CLASSIC_GUESS: usize = 256;
/// Idle data connections where the server does not say how many: the `classic` generation.
pub const CLASSIC_MAX: u32 = 1024;
/// A connection without a byte for this long may be a data connection that waits for its id.
pub const QUIET: Duration = Duration::from_millis(100);
/// The same for one that its session had no room for when it was silent first.
pub const QUIET_AGAIN: Duration = Duration::from_millis(500);
/// How long a client waits for the id of a data connection.
pub const ID_WAIT: Duration = Duration::from_secs(60);
/// A data connection that the server closed without an id was not known to it as one if it was open for
/// this long: that is about the deadline of its handshakes.
pub const NOT_KNOWN: Duration = Duration::from_secs(4);
/// So many of them in a row, before there is a control channel, end a session.
pub const NOT_KNOWN_DIALS: u32 = 2;
/// How long after the handshake a server waits for the first data connection where that is the
/// control channel.
pub const CONTROL_WAIT: Duration = Duration::from_secs(10);
/// How long a launch by id, its connection or its users' bytes wait for each other.
pub const ANNOUNCE_WAIT: Duration = Duration::from_secs(5);
/// Bytes of a data connection that are kept until its launch comes.
pub const EARLY_BYTES: usize = 8 * 1024;
/// Launches by id that wait for their connection, per session.
pub const PARKED: usize = 1024;
/// When the first certificate check of a session is sent, and how long between attempts.
pub const CHECK_TICK: Duration = Duration::from_secs(5);
/// How often each end of a legacy session pings, at least.
pub const LEGACY_PING: Duration = Duration::from_secs(5);
/// Silence after which an `http` or `https` session is dead.
pub const HTTP_SILENCE: Duration = Duration::from_secs(15);
/// Silence after which a `classic` session is dead.
pub const CLASSIC_SILENCE: Duration = Duration::from_secs(20);
/// A `classic` peer ends a relay that carried no data for this long, and says so to nobody.
pub const CLASSIC_RELAY_IDLE: Duration = Duration::from_secs(20);
/// The largest datagram that an `http` or `https` peer takes.
pub const HTTP_DATAGRAM: usize = 16_384;
/// The largest datagram that a `classic` peer takes.
pub const CLASSIC_DATAGRAM: usize = 8192;
/// Failed attempts in a row after which a client looks for other generations.
pub const PROBE_AGAIN: u32 = 3;
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
/// The same from an address whose silent connections are those of its session: each is in handshake
/// for [`QUIET`] at least, and such a client dials as many at once as it wants idle.
pub const HALF_OPEN_SILENT: usize = 192;
/// Those of them that their session has no room for. Where there are too many connections of any kind in
/// handshake, they go first.
pub const HALF_OPEN_SPARE: usize = 32;
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
