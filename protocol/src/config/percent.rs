//! Percent-encoding of keys and parameter values.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write as _;

/// The text that `encoded` stands for; `None` if an escape is cut short or is not hexadecimal, or
/// if the result is not UTF-8. `+` stands for itself.
pub(super) fn decode(encoded: &str) -> Option<String> {
    let mut bytes = encoded.bytes();
    let mut decoded = Vec::with_capacity(encoded.len());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => digit(bytes.next()?)? << 4 | digit(bytes.next()?)?,
            plain => plain,
        });
    }
    String::from_utf8(decoded).ok()
}

/// `text` with everything escaped but letters, digits and `-._~`, and the characters of `also`.
pub(super) fn encode(text: &str, also: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        let plain = char::from(byte);
        if plain.is_ascii_alphanumeric() || "-._~".contains(plain) || also.contains(plain) {
            encoded.push(plain);
        } else {
            // Writing to a string cannot fail.
            write!(encoded, "%{byte:02X}").ok();
        }
    }
    encoded
}

fn digit(character: u8) -> Option<u8> {
    let value = char::from(character).to_digit(16)?;
    u8::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_read_strictly() {
        assert_eq!(decode("a%2Fb%2fc%25+").as_deref(), Some("a/b/c%+"));
        assert_eq!(decode("%E2%82%AC€").as_deref(), Some("€€"));
        for bad in ["%", "%4", "%zz", "a%2", "%+1", "%ff", "%€"] {
            assert_eq!(decode(bad), None, "{bad}");
        }
    }

    #[test]
    fn encoding_is_undone_by_decoding() {
        let text = "p@ss/wörd?#%& +\n";
        let encoded = encode(text, "/");
        assert_eq!(encoded, "p%40ss/w%C3%B6rd%3F%23%25%26%20%2B%0A");
        assert_eq!(decode(&encoded).as_deref(), Some(text));
    }
}
