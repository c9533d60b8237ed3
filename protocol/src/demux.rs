//! Which generation a fresh connection at the tunnel port speaks (`wire.md` §1).
//!
//! The decision is made twice, from as few bytes as possible: on the raw connection
//! ([`Demux::handle_bytes`]), and for TLS once more inside ([`after_tls`]). Nothing is consumed: the
//! driver keeps what it read and hands it to whoever the verdict names.
//!
//! A legacy client waits in silence on its data connections until the server writes their id. So a
//! connection that says nothing for [`limits::QUIET`](crate::limits::QUIET) is one, if its address
//! has a session that expects such: [`Expected`], asked of the endpoint when the connection is
//! accepted. (The session exists before its client dials them.)

use crate::config::Generations;
use crate::handshake::legacy::Spoken;
use crate::limits::{QUIET, QUIET_AGAIN};
use crate::proof::ALPN;
use crate::terms::Generation;
use crate::time::{Duration, Instant};

/// The first bytes of a native data preface.
pub const PREFACE_MAGIC: &[u8; 4] = b"NPD1";

/// How a handshake of `http` or `https` begins.
pub(crate) const REQUEST: &[u8; 4] = b"GET ";
/// How a record with a ClientHello begins: its type, and the major version that never changes. A
/// `classic` line may well begin with the first of them: a key of 32 bytes does that begins with a `6`.
pub const CLIENT_HELLO: &[u8] = &[0x16, 0x03];

/// Why a connection is closed before anybody took it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// `proto` excludes what it speaks.
    #[error("the `{0}` generation is not allowed by `proto`")]
    NotAllowed(Generation),
    /// The first bytes may be a `classic` line, which only a key can tell from noise, and `proto`
    /// excludes that generation.
    #[error("not allowed by `proto`, if it is the `classic` generation at all")]
    NotClassic,
    /// The first bytes are those of no generation.
    #[error("the first bytes belong to no generation")]
    Unknown,
    /// Nothing decisive came in time.
    #[error("no handshake in time")]
    TimedOut,
}

impl Why {
    /// What `proto` excludes, if that is why.
    #[must_use]
    pub const fn excluded(self) -> Option<Generation> {
        match self {
            Self::NotAllowed(generation) => Some(generation),
            Self::NotClassic => Some(Generation::Classic),
            Self::Unknown | Self::TimedOut => None,
        }
    }
}

/// Which silent connections are data connections of a live session of their address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// None.
    Nothing,
    /// Those without TLS.
    Plain,
    /// Those that are silent inside TLS.
    Tls,
}

/// What the first bytes of a raw connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// Not decided.
    NeedMore,
    /// A ClientHello: accept TLS, then ask [`after_tls`].
    Tls,
    /// A native data preface without TLS.
    NativePreface,
    /// A handshake of a legacy generation.
    Legacy(Spoken),
    /// A data connection that waits for its id.
    Silent,
    /// Close the connection.
    Close(Why),
}

/// What the first bytes inside TLS are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Inside {
    /// Not decided.
    NeedMore,
    /// A native control connection.
    Control,
    /// A native data preface.
    Preface,
    /// A handshake of a legacy generation.
    Legacy(Spoken),
    /// A data connection that waits for its id.
    Silent,
    /// Close the connection.
    Close(Why),
}

/// Decides about one raw connection, within a deadline and four bytes.
#[derive(Clone, Debug)]
pub struct Demux {
    allowed: Generations,
    deadline: Instant,
    /// When silence would mean something.
    quiet: Option<Instant>,
    prefix: [u8; 4],
    len: usize,
}

impl Demux {
    /// A connection accepted at `now`, with `timeout` for the whole handshake.
    #[must_use]
    pub fn new(allowed: Generations, expected: Expected, now: Instant, timeout: Duration) -> Self {
        let plain = expected == Expected::Plain;
        Self {
            allowed,
            deadline: now.after(timeout),
            quiet: plain.then(|| now.after(QUIET)),
            prefix: [0; 4],
            len: 0,
        }
    }

    /// The same connection, for which its session had no room
    /// ([`endpoint::Output::Wait`](crate::endpoint::Output::Wait)): silence means something again
    /// after [`QUIET_AGAIN`].
    #[must_use]
    pub fn again(
        allowed: Generations,
        expected: Expected,
        now: Instant,
        deadline: Instant,
    ) -> Self {
        let left = deadline.saturating_since(now);
        let mut demux = Self::new(allowed, expected, now, left);
        demux.quiet = demux.quiet.map(|_| now.after(QUIET_AGAIN));
        demux
    }

    /// The bytes that follow those given before. Once decided, the verdict does not change.
    pub fn handle_bytes(&mut self, bytes: &[u8]) -> Verdict {
        let room = self.prefix.iter_mut().skip(self.len);
        for (kept, byte) in room.zip(bytes) {
            *kept = *byte;
            self.len += 1;
        }
        self.decide(self.prefix.get(..self.len).unwrap_or_default())
    }

    /// The time is `now`: late is [`Why::TimedOut`], silent may be [`Verdict::Silent`].
    pub fn handle_timeout(&mut self, now: Instant) -> Verdict {
        let quiet = self.quiet.take_if(|quiet| *quiet <= now);
        if quiet.is_some() && self.len == 0 {
            Verdict::Silent
        } else if now < self.deadline {
            Verdict::NeedMore
        } else {
            Verdict::Close(Why::TimedOut)
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Instant {
        let quiet = self.quiet.filter(|_| self.len == 0);
        quiet.map_or(self.deadline, |quiet| quiet.min(self.deadline))
    }

    /// When the whole handshake must be over, that inside TLS included.
    #[must_use]
    pub const fn deadline(&self) -> Instant {
        self.deadline
    }

    fn decide(&self, prefix: &[u8]) -> Verdict {
        // A data connection of every generation may be TLS.
        if prefix.starts_with(CLIENT_HELLO) {
            return Verdict::Tls;
        }
        if prefix == PREFACE_MAGIC {
            return match admit(self.allowed, Generation::Native) {
                Ok(()) => Verdict::NativePreface,
                Err(why) => Verdict::Close(why),
            };
        }
        if prefix == REQUEST {
            return self.legacy(Spoken::Http);
        }
        let known: [&[u8]; 3] = [CLIENT_HELLO, PREFACE_MAGIC, REQUEST];
        if known.iter().any(|known| known.starts_with(prefix)) {
            return Verdict::NeedMore;
        }
        // Only a key can tell a `classic` line from noise.
        if self.allowed.allows(Generation::Classic) {
            self.legacy(Spoken::Classic)
        } else {
            Verdict::Close(Why::NotClassic)
        }
    }

    fn legacy(&self, spoken: Spoken) -> Verdict {
        match admit(self.allowed, spoken.generation()) {
            Ok(()) => Verdict::Legacy(spoken),
            Err(why) => Verdict::Close(why),
        }
    }
}

/// Decides about a connection after its TLS handshake, from the protocol that was negotiated and all
/// plaintext so far.
pub fn after_tls(allowed: Generations, alpn: Option<&[u8]>, plain: &[u8]) -> Inside {
    let (generation, inside) = match plain {
        [] => return Inside::NeedMore,
        [first, ..] if alpn == Some(ALPN) => match first {
            b'{' => (Generation::Native, Inside::Control),
            b'N' => (Generation::Native, Inside::Preface),
            _ => return Inside::Close(Why::Unknown),
        },
        plain if plain.starts_with(REQUEST) => (Generation::Https, Inside::Legacy(Spoken::Https)),
        plain if REQUEST.starts_with(plain) => return Inside::NeedMore,
        _ => return Inside::Close(Why::Unknown),
    };
    match admit(allowed, generation) {
        Ok(()) => inside,
        Err(why) => Inside::Close(why),
    }
}

/// Decides about a connection that said nothing for [`QUIET`] after its TLS handshake.
pub fn silent_in_tls(expected: Expected, alpn: Option<&[u8]>) -> Inside {
    if expected == Expected::Tls && alpn != Some(ALPN) {
        Inside::Silent
    } else {
        Inside::NeedMore
    }
}

fn admit(allowed: Generations, generation: Generation) -> Result<(), Why> {
    if !allowed.allows(generation) {
        return Err(Why::NotAllowed(generation));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    use proptest::prelude::*;

    const NATIVE: Generations = Generations::only(Generation::Native);

    fn verdict(allowed: Generations, bytes: &[u8]) -> Verdict {
        new(allowed, Expected::Nothing).handle_bytes(bytes)
    }

    fn new(allowed: Generations, expected: Expected) -> Demux {
        let timeout = Duration::from_secs(5);
        Demux::new(allowed, expected, Instant::default(), timeout)
    }

    #[test]
    fn the_first_bytes_tell_the_generations_apart() {
        for (bytes, expected) in [
            (&b""[..], Verdict::NeedMore),
            (b"\x16", Verdict::NeedMore),
            (b"\x16\x03\x01\x02\x00", Verdict::Tls),
            // A key of 32 bytes that begins with `6f`.
            (b"\x16\x46", Verdict::Legacy(Spoken::Classic)),
            (b"N", Verdict::NeedMore),
            (b"NPD", Verdict::NeedMore),
            (b"NPD1", Verdict::NativePreface),
            (b"NPD1abc", Verdict::NativePreface),
            (b"GE", Verdict::NeedMore),
            (b"GET / HTTP", Verdict::Legacy(Spoken::Http)),
            (b"GET\t", Verdict::Legacy(Spoken::Classic)),
            (b"NPD2", Verdict::Legacy(Spoken::Classic)),
            (b"HFZ\n", Verdict::Legacy(Spoken::Classic)),
        ] {
            assert_eq!(verdict(Generations::AUTO, bytes), expected, "{bytes:?}");
        }
    }

    #[test]
    fn proto_restricts() {
        let http = Generation::Http;
        assert_eq!(
            verdict(NATIVE, b"GET / "),
            Verdict::Close(Why::NotAllowed(http))
        );
        assert_eq!(verdict(NATIVE, b"SSH-2.0"), Verdict::Close(Why::NotClassic));
        assert_eq!(
            verdict(Generations::only(http), b"NPD1"),
            Verdict::Close(Why::NotAllowed(Generation::Native))
        );
    }

    #[test]
    fn inside_tls_the_negotiated_protocol_decides() {
        let native = Some(ALPN);
        let http = Some(&b"http/1.1"[..]);
        for (alpn, plain, expected) in [
            (native, &b""[..], Inside::NeedMore),
            (native, b"{", Inside::Control),
            (native, b"NPD1", Inside::Preface),
            (native, b"GET /", Inside::Close(Why::Unknown)),
            (http, b"", Inside::NeedMore),
            (http, b"GE", Inside::NeedMore),
            (None, b"GET ", Inside::Legacy(Spoken::Https)),
            (http, b"{", Inside::Close(Why::Unknown)),
            (None, b"NPD1", Inside::Close(Why::Unknown)),
        ] {
            assert_eq!(after_tls(Generations::AUTO, alpn, plain), expected);
        }
        assert_eq!(
            after_tls(NATIVE, None, b"GET "),
            Inside::Close(Why::NotAllowed(Generation::Https))
        );
    }

    #[test]
    fn a_silent_connection_is_a_data_connection_where_one_is_expected() {
        let quiet = Instant::from_origin(QUIET);
        let mut plain = new(Generations::AUTO, Expected::Plain);
        assert_eq!(plain.poll_timeout(), quiet);
        assert_eq!(plain.handle_timeout(Instant::default()), Verdict::NeedMore);
        assert_eq!(plain.handle_timeout(quiet), Verdict::Silent);

        let mut spoke = new(Generations::AUTO, Expected::Plain);
        assert_eq!(spoke.handle_bytes(b"G"), Verdict::NeedMore);
        assert_eq!(spoke.poll_timeout(), spoke.deadline());
        assert_eq!(spoke.handle_timeout(quiet), Verdict::NeedMore);

        for expected in [Expected::Nothing, Expected::Tls] {
            let mut demux = new(Generations::AUTO, expected);
            assert_eq!(demux.poll_timeout(), demux.deadline());
            assert_eq!(demux.handle_timeout(quiet), Verdict::NeedMore);
        }
    }

    #[test]
    fn silence_inside_tls_means_the_same_unless_it_is_native() {
        for (expected, alpn, verdict) in [
            (Expected::Tls, None, Inside::Silent),
            (Expected::Tls, Some(&b"http/1.1"[..]), Inside::Silent),
            (Expected::Tls, Some(ALPN), Inside::NeedMore),
            (Expected::Plain, None, Inside::NeedMore),
            (Expected::Nothing, None, Inside::NeedMore),
        ] {
            assert_eq!(silent_in_tls(expected, alpn), verdict);
        }
    }

    #[test]
    fn undecided_connections_end_at_the_deadline() {
        let mut demux = new(NATIVE, Expected::Nothing);
        let deadline = demux.deadline();
        assert_eq!(deadline, Instant::from_origin(Duration::from_secs(5)));
        assert_eq!(demux.handle_timeout(Instant::default()), Verdict::NeedMore);
        assert_eq!(
            demux.handle_timeout(deadline),
            Verdict::Close(Why::TimedOut)
        );
    }

    proptest! {
        #[test]
        fn chunks_do_not_matter_and_four_bytes_decide(
            head in prop_oneof![
                Just(b"GET ".to_vec()),
                Just(b"NPD1".to_vec()),
                Just(b"\x16\x03\x01".to_vec()),
                prop::collection::vec(any::<u8>(), 0..6),
            ],
            tail: Vec<u8>,
            cut: prop::sample::Index,
        ) {
            let bytes = [head, tail].concat();
            let whole = verdict(Generations::AUTO, &bytes);
            let (first, second) = bytes.split_at(cut.index(bytes.len() + 1));
            let mut demux = new(Generations::AUTO, Expected::Nothing);
            let early = demux.handle_bytes(first);
            prop_assert!(early == Verdict::NeedMore || early == whole);
            prop_assert_eq!(demux.handle_bytes(second), whole);
            prop_assert!(bytes.len() < 4 || whole != Verdict::NeedMore);
        }
    }
}
