//! The first bytes of a `native` data connection: which session it belongs to, and the proof that
//! the client of that session opened it (`wire.md` §2.3).

use hmac::Mac as _;
use subtle::ConstantTimeEq as _;

use crate::proof::DataSecret;
use crate::terms::SessionId;

/// What a preface starts with.
pub const MAGIC: [u8; 4] = *b"NPD1";
/// The length of a preface.
pub const LEN: usize = MAGIC.len() + 16 + 8 + TAG;
/// The length of its tag.
pub const TAG: usize = 16;

/// The preface of one data connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preface {
    /// The session as named in its `welcome`.
    pub session: SessionId,
    /// Starts at 1 and never repeats within the session.
    pub seq: u64,
    /// Compare it with [`verify`](Self::verify) only.
    pub tag: [u8; TAG],
}

impl Preface {
    /// The preface of the session's `seq`th data connection; the secrets are those of [`tag`].
    #[must_use]
    pub fn new(
        data_secret: &DataSecret,
        session: SessionId,
        seq: u64,
        exporter: Option<&[u8; 32]>,
    ) -> Self {
        Self {
            session,
            seq,
            tag: tag(data_secret, session, seq, exporter),
        }
    }

    /// Whether the tag proves knowledge of the secrets, in constant time.
    #[must_use]
    pub fn verify(&self, data_secret: &DataSecret, exporter: Option<&[u8; 32]>) -> bool {
        let expected = tag(data_secret, self.session, self.seq, exporter);
        self.tag.ct_eq(&expected).into()
    }

    /// The bytes on the wire.
    #[must_use]
    pub fn encode(&self) -> [u8; LEN] {
        let fields = MAGIC
            .into_iter()
            .chain(self.session.0)
            .chain(self.seq.to_be_bytes())
            .chain(self.tag);
        let mut bytes = [0; LEN];
        for (byte, field) in bytes.iter_mut().zip(fields) {
            *byte = field;
        }
        bytes
    }

    /// Reads the bytes on the wire.
    ///
    /// # Errors
    /// When they do not start with [`MAGIC`].
    pub fn decode(bytes: &[u8; LEN]) -> Result<Self, NotAPreface> {
        Self::parse(bytes).ok_or(NotAPreface)
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let (session, rest) = bytes.strip_prefix(&MAGIC)?.split_first_chunk()?;
        let (seq, rest) = rest.split_first_chunk()?;
        let (tag, _) = rest.split_first_chunk()?;
        Some(Self {
            session: SessionId(*session),
            seq: u64::from_be_bytes(*seq),
            tag: *tag,
        })
    }
}

/// The tag of a data connection.
///
/// `data_secret` is `D`, exported from the control connection's TLS; `exporter` is `X`, exported
/// from this connection's, `None` when it has no TLS.
#[must_use]
pub fn tag(
    data_secret: &DataSecret,
    session: SessionId,
    seq: u64,
    exporter: Option<&[u8; 32]>,
) -> [u8; TAG] {
    let exporter = exporter.map_or(&[][..], |exporter| &exporter[..]);
    let mac = data_secret
        .mac()
        .chain_update(b"data")
        .chain_update(session.0)
        .chain_update(seq.to_be_bytes())
        .chain_update(exporter)
        .finalize()
        .into_bytes();
    let mut tag = [0; TAG];
    for (byte, mac) in tag.iter_mut().zip(mac) {
        *byte = mac;
    }
    tag
}

/// The bytes do not start with [`MAGIC`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a data preface")]
pub struct NotAPreface;

#[cfg(test)]
mod tests {
    use core::array;

    use proptest::prelude::*;

    use super::*;
    use crate::wire::hex;

    const SESSION: SessionId = SessionId([0x11; 16]);

    fn secret() -> DataSecret {
        let mut counter = 0..;
        DataSecret::from_bytes(array::from_fn(|_| counter.next().unwrap()))
    }

    #[test]
    fn golden_tags_and_bytes() {
        // Computed with another implementation of HMAC-SHA256.
        let plain = Preface::new(&secret(), SESSION, 1, None);
        assert_eq!(hex::encode(&plain.tag), "0c9028f47efa6d0de3d90d2005036a8a");
        let tls = Preface::new(&secret(), SESSION, 1, Some(&[0xee; 32]));
        assert_eq!(hex::encode(&tls.tag), "1f8ca7859c7daf09b61cf74efca13b48");
        assert_eq!(
            hex::encode(&tls.encode()),
            "4e504431111111111111111111111111111111110000000000000001\
             1f8ca7859c7daf09b61cf74efca13b48"
        );
    }

    #[test]
    fn every_input_counts() {
        let right = Preface::new(&secret(), SESSION, 7, Some(&[3; 32]));
        assert!(right.verify(&secret(), Some(&[3; 32])));
        assert!(!right.verify(&DataSecret::from_bytes([0; 32]), Some(&[3; 32])));
        assert!(!right.verify(&secret(), Some(&[4; 32])));
        assert!(!right.verify(&secret(), None));
        let other_seq = Preface { seq: 8, ..right };
        let other_session = Preface {
            session: SessionId([0x12; 16]),
            ..right
        };
        for wrong in [other_seq, other_session] {
            assert!(!wrong.verify(&secret(), Some(&[3; 32])));
        }
    }

    #[test]
    fn other_bytes_are_not_a_preface() {
        let mut bytes = Preface::new(&secret(), SESSION, 1, None).encode();
        bytes[3] = b'2';
        assert_eq!(Preface::decode(&bytes), Err(NotAPreface));
    }

    proptest! {
        #[test]
        fn round_trip(session: [u8; 16], seq: u64, tag: [u8; TAG]) {
            let preface = Preface { session: SessionId(session), seq, tag };
            prop_assert_eq!(Preface::decode(&preface.encode()), Ok(preface));
        }
    }
}
