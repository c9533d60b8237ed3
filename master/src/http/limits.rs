//! What one caller may take of the master (`rest.md` §1).

use std::time::Duration;

/// A request line and its header fields, in bytes.
pub(crate) const HEAD: usize = 16 * 1024;
/// Header fields.
pub(crate) const FIELDS: usize = 100;
/// Bytes of chunk extensions and trailers, which nobody reads.
pub(crate) const TRIFLES: usize = 16 * 1024;
/// Events are gathered up to about this many bytes before they are written.
pub(crate) const GATHER: usize = 64 * 1024;
/// Answers up to this size are written along with their head.
pub(crate) const TOGETHER: usize = 256 * 1024;

/// The limits that a test may want to be others.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Connections at once.
    pub(crate) connections: usize,
    /// From the first byte of a head, or from the beginning of a connection, to the head's end. Also
    /// the time for a TLS handshake.
    pub(crate) head: Duration,
    /// For a body, once it is wanted.
    pub(crate) body: Duration,
    /// Between an answer and the next request.
    pub(crate) idle: Duration,
    /// Without any progress in writing.
    pub(crate) write: Duration,
    /// After the last answer.
    pub(crate) linger: Duration,
    /// Silence on an event stream before it is told that it lives.
    pub(crate) silence: Duration,
}

impl Limits {
    /// Those of the program.
    pub(crate) const REST: Self = Self {
        connections: 512,
        head: Duration::from_secs(10),
        body: Duration::from_secs(30),
        idle: Duration::from_secs(60),
        write: Duration::from_secs(30),
        linger: Duration::from_secs(2),
        silence: Duration::from_secs(15),
    };
}
