//! The JSON lines of the native control connection (`wire.md` §2.2).
//!
//! Unknown fields are ignored. What one side writes never exceeds [`limits::CONTROL_LINE`], because
//! every list and text has a limit of its own and texts carry no characters that JSON must spell
//! with six bytes: encoding leaves out what is too much instead of failing.

mod handshake;
mod signal;

use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

pub use self::handshake::{Answer, Hello, Refuse, RefuseReason, Welcome};
use crate::limits;
use crate::terms::Fingerprint;
use crate::wire::hex;

/// The version of the native generation that is spoken here.
pub const VERSION: u64 = 1;

/// A handshake line that is not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadLine {
    /// Longer than [`limits::CONTROL_LINE`].
    #[error("handshake line longer than {} bytes", limits::CONTROL_LINE)]
    TooLong,
    /// Not the JSON object expected here.
    #[error("not a line of the native handshake")]
    Malformed,
    /// The line's `v` is not [`VERSION`]; its other fields were not looked at.
    #[error("native version {theirs}, not {VERSION}")]
    Version {
        /// The version that the other end speaks.
        theirs: u64,
    },
}

/// The field that says what the others are.
#[derive(Deserialize)]
struct Head {
    action: String,
}

/// Read by itself, so that a line of another version is told apart from a broken one.
#[derive(Deserialize)]
struct Version {
    v: u64,
}

impl Head {
    fn read(line: &[u8]) -> Result<Self, BadLine> {
        read_line(line)
    }

    fn check_version(line: &[u8]) -> Result<(), BadLine> {
        match read_line::<Version>(line)?.v {
            VERSION => Ok(()),
            theirs => Err(BadLine::Version { theirs }),
        }
    }
}

fn write_line(wire: &impl Serialize, out: &mut Vec<u8>) {
    let start = out.len();
    // Structs of texts, numbers and lists of them always serialize.
    if let Ok(line) = serde_json::to_vec(wire) {
        out.extend_from_slice(&line);
        out.push(b'\n');
    }
    debug_assert!(out.len() > start, "a line was written");
    debug_assert!(
        out.len() - start <= limits::CONTROL_LINE,
        "the peer reads it"
    );
}

fn read_line<'a, T: Deserialize<'a>>(line: &'a [u8]) -> Result<T, BadLine> {
    if line.len() > limits::CONTROL_LINE {
        return Err(BadLine::TooLong);
    }
    // A derived `Deserialize` takes a JSON list for a struct, too.
    if line.first() != Some(&b'{') {
        return Err(BadLine::Malformed);
    }
    serde_json::from_slice(line).map_err(|_| BadLine::Malformed)
}

/// `text` without control characters, cut at a character's border to at most `most` bytes.
fn clip(text: &str, most: usize) -> String {
    let mut clipped = String::new();
    for shown in text.chars().filter(|c| !c.is_control()) {
        if clipped.len() + shown.len_utf8() > most {
            break;
        }
        clipped.push(shown);
    }
    clipped
}

/// The features that are words of printable ASCII within the limits.
fn words(features: &[String]) -> Vec<String> {
    let is_word = |word: &&String| {
        let plain = |b: u8| b.is_ascii_graphic() && b != b'"' && b != b'\\';
        !word.is_empty() && word.len() <= limits::FEATURE && word.bytes().all(plain)
    };
    let words = features.iter().filter(is_word);
    words.take(limits::FEATURES).cloned().collect()
}

fn fingerprints_out(list: &[Fingerprint]) -> Vec<String> {
    let known = list.iter().take(limits::FINGERPRINTS);
    known.map(|print| hex::encode(&print.0)).collect()
}

/// `None` if one is malformed or there are too many: leaving some out would refuse good
/// connections later.
fn fingerprints_in(list: &[String]) -> Option<Vec<Fingerprint>> {
    if list.len() > limits::FINGERPRINTS {
        return None;
    }
    list.iter()
        .map(|text| Fingerprint::from_hex(text))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn texts_for_the_log_carry_no_control_characters() {
        assert_eq!(clip("a\nb\u{1b}[31mc\u{85}", 100), "ab[31mc");
        assert_eq!(clip("ééé", 5), "éé");
        assert_eq!(clip("abc", 3), "abc");
        let list = ["ok", "", "two words", "quo\"te", "é"].map(ToString::to_string);
        assert_eq!(words(&list), ["ok"]);
    }
}
