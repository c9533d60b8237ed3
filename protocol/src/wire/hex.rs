//! Lower-case hexadecimal, the only spelling the wire knows.

use alloc::string::String;
use core::fmt;

/// Writes `bytes` as lower-case hex digits.
///
/// # Errors
/// Only those of the formatter.
pub fn write(bytes: &[u8], out: &mut impl fmt::Write) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
}

/// `bytes` as lower-case hex digits.
#[must_use]
pub fn encode(bytes: &[u8]) -> String {
    let nibbles = bytes.iter().flat_map(|byte| [byte >> 4, byte & 0x0f]);
    nibbles
        .filter_map(|nibble| char::from_digit(nibble.into(), 16))
        .collect()
}

/// Reads exactly `2 * N` lower-case hex digits; anything else is `None`.
#[must_use]
pub fn decode<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let &[high, low] = pair else { return None };
        *byte = nibble(high)? << 4 | nibble(low)?;
    }
    Some(bytes)
}

const fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_strictness() {
        assert_eq!(encode(&[0, 0x9f, 0xff]), "009fff");
        assert_eq!(decode::<3>("009fff"), Some([0, 0x9f, 0xff]));
        for bad in ["", "00", "009FFF", "009ff", "009fff0", "00 9ff", "é09ff"] {
            assert_eq!(decode::<3>(bad), None, "{bad:?}");
        }
    }
}
