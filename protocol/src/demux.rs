//! Which generation a fresh connection at the tunnel port speaks (`wire.md` §1).
//!
//! The decision is made twice, from as few bytes as possible: on the raw connection
//! ([`Demux::handle_bytes`]), and for TLS once more inside ([`after_tls`]). Nothing is consumed: the
//! driver keeps what it read and hands it to whoever the verdict names.
//!
//! All four generations are told apart. [`supported`] is the one place that knows which of them are
//! implemented; the others end here, with an error that says so.

use crate::config::Generations;
use crate::proof::ALPN;
use crate::terms::Generation;
use crate::time::{Duration, Instant};

/// The first bytes of a native data preface.
pub const PREFACE_MAGIC: &[u8; 4] = b"NPD1";

const REQUEST: &[u8; 4] = b"GET ";
const TLS_HANDSHAKE: u8 = 0x16;

/// Whether `generation` is implemented.
#[must_use]
pub const fn supported(generation: Generation) -> bool {
    matches!(generation, Generation::Native)
}

/// A generation that is known but not implemented.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the `{0}` generation is not yet supported")]
pub struct NotYet(pub Generation);

/// Checks `proto` at start: something in it must be implemented.
///
/// # Errors
/// [`NotYet`] with the strongest generation allowed, if none is.
pub fn check_supported(allowed: Generations) -> Result<(), NotYet> {
    let mut strongest_first = Generation::ALL.into_iter().rev();
    let any = strongest_first
        .clone()
        .any(|generation| allowed.allows(generation) && supported(generation));
    match strongest_first.find(|&generation| allowed.allows(generation)) {
        Some(generation) if !any => Err(NotYet(generation)),
        Some(_) | None => Ok(()),
    }
}

/// Why a connection is closed before anybody took it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// `proto` excludes what it speaks.
    #[error("the `{0}` generation is not allowed by `proto`")]
    NotAllowed(Generation),
    /// It speaks a generation that is not implemented.
    #[error(transparent)]
    NotYet(#[from] NotYet),
    /// The first bytes are those of no generation.
    #[error("the first bytes belong to no generation")]
    Unknown,
    /// Nothing decisive came in time.
    #[error("no handshake in time")]
    TimedOut,
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
    /// A handshake of this legacy generation.
    Legacy(Generation),
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
    /// A handshake of this legacy generation.
    Legacy(Generation),
    /// Close the connection.
    Close(Why),
}

/// Decides about one raw connection, within a deadline and four bytes.
#[derive(Clone, Debug)]
pub struct Demux {
    allowed: Generations,
    deadline: Instant,
    prefix: [u8; 4],
    len: usize,
}

impl Demux {
    /// A connection accepted at `now`, with `timeout` for the whole handshake.
    #[must_use]
    pub const fn new(allowed: Generations, now: Instant, timeout: Duration) -> Self {
        Self {
            allowed,
            deadline: now.after(timeout),
            prefix: [0; 4],
            len: 0,
        }
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

    /// The time is `now`: late is [`Why::TimedOut`].
    pub fn handle_timeout(&self, now: Instant) -> Verdict {
        if now < self.deadline {
            Verdict::NeedMore
        } else {
            Verdict::Close(Why::TimedOut)
        }
    }

    /// When the whole handshake must be over, that inside TLS included.
    #[must_use]
    pub const fn deadline(&self) -> Instant {
        self.deadline
    }

    fn decide(&self, prefix: &[u8]) -> Verdict {
        // A data connection of every generation may be TLS.
        if prefix.first() == Some(&TLS_HANDSHAKE) {
            return Verdict::Tls;
        }
        if prefix == PREFACE_MAGIC {
            return match admit(self.allowed, Generation::Native) {
                Ok(()) => Verdict::NativePreface,
                Err(why) => Verdict::Close(why),
            };
        }
        if prefix == REQUEST {
            return self.legacy(Generation::Http);
        }
        if REQUEST.starts_with(prefix) || PREFACE_MAGIC.starts_with(prefix) {
            return Verdict::NeedMore;
        }
        // Only a key can tell a `classic` line from noise.
        if self.allowed.allows(Generation::Classic) {
            self.legacy(Generation::Classic)
        } else {
            Verdict::Close(Why::Unknown)
        }
    }

    fn legacy(&self, generation: Generation) -> Verdict {
        match admit(self.allowed, generation) {
            Ok(()) => Verdict::Legacy(generation),
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
        plain if plain.starts_with(REQUEST) => {
            (Generation::Https, Inside::Legacy(Generation::Https))
        }
        plain if REQUEST.starts_with(plain) => return Inside::NeedMore,
        _ => return Inside::Close(Why::Unknown),
    };
    match admit(allowed, generation) {
        Ok(()) => inside,
        Err(why) => Inside::Close(why),
    }
}

fn admit(allowed: Generations, generation: Generation) -> Result<(), Why> {
    if !allowed.allows(generation) {
        return Err(Why::NotAllowed(generation));
    }
    if !supported(generation) {
        return Err(NotYet(generation).into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString as _;
    use alloc::vec::Vec;

    use proptest::prelude::*;

    const NATIVE: Generations = Generations::only(Generation::Native);

    fn verdict(allowed: Generations, bytes: &[u8]) -> Verdict {
        Demux::new(allowed, Instant::default(), Duration::from_secs(5)).handle_bytes(bytes)
    }

    const fn not_yet(generation: Generation) -> Why {
        Why::NotYet(NotYet(generation))
    }

    #[test]
    fn the_first_bytes_tell_the_generations_apart() {
        for (bytes, expected) in [
            (&b""[..], Verdict::NeedMore),
            (b"\x16", Verdict::Tls),
            (b"\x16\x03\x01\x02\x00", Verdict::Tls),
            (b"N", Verdict::NeedMore),
            (b"NPD", Verdict::NeedMore),
            (b"NPD1", Verdict::NativePreface),
            (b"NPD1abc", Verdict::NativePreface),
            (b"GE", Verdict::NeedMore),
            (b"GET / HTTP", Verdict::Close(not_yet(Generation::Http))),
            (b"GET\t", Verdict::Close(not_yet(Generation::Classic))),
            (b"NPD2", Verdict::Close(not_yet(Generation::Classic))),
            (b"HFZ\n", Verdict::Close(not_yet(Generation::Classic))),
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
        assert_eq!(verdict(NATIVE, b"SSH-2.0"), Verdict::Close(Why::Unknown));
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
            (None, b"GET ", Inside::Close(not_yet(Generation::Https))),
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
    fn a_proto_that_cannot_work_is_said_at_start() {
        assert_eq!(check_supported(Generations::AUTO), Ok(()));
        assert_eq!(check_supported(NATIVE.with(Generation::Http)), Ok(()));
        let legacy = Generations::only(Generation::Classic).with(Generation::Http);
        let error = check_supported(legacy).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the `http` generation is not yet supported"
        );
    }

    #[test]
    fn undecided_connections_end_at_the_deadline() {
        let demux = Demux::new(NATIVE, Instant::default(), Duration::from_secs(5));
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
            let mut demux =
                Demux::new(Generations::AUTO, Instant::default(), Duration::from_secs(5));
            let early = demux.handle_bytes(first);
            prop_assert!(early == Verdict::NeedMore || early == whole);
            prop_assert_eq!(demux.handle_bytes(second), whole);
            prop_assert!(bytes.len() < 4 || whole != Verdict::NeedMore);
        }
    }
}
