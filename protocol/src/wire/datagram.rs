//! Datagrams on a byte stream: `len (2) ‖ datagram` (`wire.md` §2.4, §4).
//!
//! Nothing here allocates per datagram. A reader keeps one buffer, cuts whole frames off its
//! front with [`split`], and moves what is left to the front before the next read.

use alloc::vec::Vec;

use crate::limits::DATAGRAM;

/// Bytes before a datagram.
pub const HEADER: usize = 2;
/// The longest frame: a buffer of this size always makes progress.
pub const FRAME: usize = HEADER + DATAGRAM;

/// The bytes that go before a datagram of `len` bytes; zero is legal.
///
/// # Errors
/// When `len` is above [`DATAGRAM`].
pub fn header(len: usize) -> Result<[u8; HEADER], TooLong> {
    match u16::try_from(len) {
        Ok(short) if len <= DATAGRAM => Ok(short.to_be_bytes()),
        _ => Err(TooLong(len)),
    }
}

/// Appends the frame of `datagram` to `out`.
///
/// # Errors
/// When the datagram is above [`DATAGRAM`]; `out` is then unchanged.
pub fn encode(datagram: &[u8], out: &mut Vec<u8>) -> Result<(), TooLong> {
    out.extend_from_slice(&header(datagram.len())?);
    out.extend_from_slice(datagram);
    Ok(())
}

/// How a session's datagrams go on a data connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Frames. A datagram above `max` bytes would make the peer drop the UDP session: it is dropped
    /// and counted instead.
    Framed {
        /// The largest datagram that the peer takes.
        max: usize,
    },
    /// One datagram per write, one per read of at most `max` bytes: boundaries survive only by luck.
    Bare {
        /// The largest datagram that the peer takes, and the most to read at once.
        max: usize,
    },
}

impl Form {
    /// Between two of our own ends.
    pub const NATIVE: Self = Self::Framed { max: DATAGRAM };

    /// The largest datagram that the peer takes, in bytes.
    #[must_use]
    pub const fn max(self) -> usize {
        match self {
            Self::Framed { max } | Self::Bare { max } => max,
        }
    }

    /// Appends `datagram` as it goes to the peer. An empty one leaves no trace without a frame.
    ///
    /// # Errors
    /// When the peer does not take it; `out` is then unchanged.
    pub fn encode(self, datagram: &[u8], out: &mut Vec<u8>) -> Result<(), TooLong> {
        if datagram.len() > self.max() {
            return Err(TooLong(datagram.len()));
        }
        match self {
            Self::Framed { .. } => encode(datagram, out),
            Self::Bare { .. } => {
                out.extend_from_slice(datagram);
                Ok(())
            }
        }
    }
}

/// A whole frame, cut off the front of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What the frame carries.
    pub datagram: &'a [u8],
    /// The bytes after the frame.
    pub rest: &'a [u8],
}

/// The frame at the start of `bytes`, or `None` while it is incomplete.
///
/// # Errors
/// When the announced length is above [`DATAGRAM`]: the stream is out of step and has to end.
pub fn split(bytes: &[u8]) -> Result<Option<Frame<'_>>, TooLong> {
    let Some((header, rest)) = bytes.split_first_chunk() else {
        return Ok(None);
    };
    let len = usize::from(u16::from_be_bytes(*header));
    if len > DATAGRAM {
        return Err(TooLong(len));
    }
    let frame = rest.split_at_checked(len);
    Ok(frame.map(|(datagram, rest)| Frame { datagram, rest }))
}

/// A datagram longer than UDP over IPv4 can carry, or than the peer takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("datagram of {0} bytes is too long")]
pub struct TooLong(pub usize);

#[cfg(test)]
mod tests {
    use alloc::vec;

    use proptest::collection::vec as vec_of;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn golden_bytes() {
        let mut out = Vec::new();
        encode(b"hello", &mut out).unwrap();
        encode(b"", &mut out).unwrap();
        assert_eq!(out, b"\x00\x05hello\x00\x00");
    }

    #[test]
    fn whole_frames_are_cut_off_and_a_part_waits() {
        let first = split(b"\x00\x02hi\x00\x00\x00\x09part").unwrap().unwrap();
        assert_eq!(first.datagram, b"hi");
        let empty = split(first.rest).unwrap().unwrap();
        assert_eq!(empty.datagram, b"");
        assert_eq!(split(empty.rest), Ok(None));
        assert_eq!(split(b"\x00"), Ok(None));
        assert_eq!(split(b""), Ok(None));
    }

    #[test]
    fn the_limit_is_what_udp_can_carry() {
        let largest = vec![7; DATAGRAM];
        let mut out = Vec::new();
        encode(&largest, &mut out).unwrap();
        assert_eq!(out.len(), FRAME);
        let frame = split(&out).unwrap().unwrap();
        assert_eq!((frame.datagram, frame.rest), (&largest[..], &[][..]));

        assert_eq!(
            encode(&vec![7; DATAGRAM + 1], &mut out),
            Err(TooLong(65_508))
        );
        assert_eq!(out.len(), FRAME);
        assert_eq!(header(usize::MAX), Err(TooLong(usize::MAX)));
        assert_eq!(split(&65_508_u16.to_be_bytes()), Err(TooLong(65_508)));
    }

    #[test]
    fn what_a_peer_does_not_take_is_not_sent() {
        let (framed, bare) = (Form::Framed { max: 5 }, Form::Bare { max: 5 });
        for (form, bytes) in [(framed, &b"\x00\x05hello"[..]), (bare, b"hello")] {
            let mut out = Vec::new();
            form.encode(b"hello", &mut out).unwrap();
            assert_eq!(form.encode(b"longer", &mut out), Err(TooLong(6)));
            assert_eq!(out, bytes);
        }
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_same_datagrams(
            datagrams in vec_of(vec_of(any::<u8>(), 0..40), 0..20),
            chunk in 1_usize..50,
        ) {
            let mut stream = Vec::new();
            for datagram in &datagrams {
                encode(datagram, &mut stream).unwrap();
            }
            let (mut buffer, mut got) = (Vec::new(), Vec::new());
            for part in stream.chunks(chunk) {
                buffer.extend_from_slice(part);
                while let Some(frame) = split(&buffer).unwrap() {
                    got.push(frame.datagram.to_vec());
                    buffer = frame.rest.to_vec();
                }
            }
            prop_assert_eq!(got, datagrams);
            prop_assert!(buffer.is_empty());
        }
    }
}
