//! Ids as the server writes them on fresh data connections (`wire.md` §3, §5).

use alloc::string::ToString as _;
use alloc::vec::Vec;

use crate::terms::DataId;

/// How an id looks on its data connection. In signals it is always 8 digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdForm {
    /// 4 bytes, big-endian.
    Raw,
    /// 8 lower-case hex digits.
    Digits,
}

impl IdForm {
    /// How many bytes an id takes.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "an id is never empty")]
    pub const fn len(self) -> usize {
        match self {
            Self::Raw => 4,
            Self::Digits => 8,
        }
    }

    /// Appends the id.
    pub fn encode(self, id: DataId, out: &mut Vec<u8>) {
        match self {
            Self::Raw => out.extend_from_slice(&id.0.to_be_bytes()),
            Self::Digits => out.extend_from_slice(id.to_string().as_bytes()),
        }
    }

    /// Reads the first [`len`](Self::len) bytes of a data connection; `None` if they are no id.
    #[must_use]
    pub fn decode(self, bytes: &[u8]) -> Option<DataId> {
        match self {
            Self::Raw => bytes.try_into().ok().map(u32::from_be_bytes).map(DataId),
            Self::Digits => DataId::from_hex(core::str::from_utf8(bytes).ok()?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes_and_back() {
        for (form, id, bytes) in [
            (IdForm::Raw, DataId(0x7cd5_82fb), &b"\x7c\xd5\x82\xfb"[..]),
            (IdForm::Raw, DataId::CONTROL, b"\0\0\0\0"),
            (IdForm::Digits, DataId(0x3329_b0a3), b"3329b0a3"),
        ] {
            let mut out = Vec::new();
            form.encode(id, &mut out);
            assert_eq!((out.as_slice(), out.len()), (bytes, form.len()));
            assert_eq!(form.decode(bytes), Some(id));
            assert_eq!(form.decode(&bytes[1..]), None);
        }
        assert_eq!(IdForm::Digits.decode(b"GET / HT"), None);
    }
}
