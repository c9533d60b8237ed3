//! The lines that open a session, and the server's answers.

use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::{
    BadLine, Head, VERSION, clip, fingerprints_in, fingerprints_out, read_line, words, write_line,
};
use crate::limits;
use crate::proof::Proof;
use crate::terms::{DataTls, Fingerprint, Flow, InstanceId, SessionId};
use crate::wire::hex;

/// The client's first line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// That the client has the key.
    pub proof: Proof,
    /// Which client instance this is.
    pub instance: InstanceId,
    /// Name and version for the server's log, at most [`limits::AGENT`] bytes without control
    /// characters.
    pub agent: String,
    /// What the client can do beyond version 1: at most [`limits::FEATURES`] words.
    pub features: Vec<String>,
}

/// The server's answer to a good [`Hello`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// That the server has the key.
    pub proof: Proof,
    /// The new session.
    pub session: SessionId,
    /// Which end is ingress.
    pub flow: Flow,
    /// Most idle data connections.
    pub max: u32,
    /// How data connections are protected.
    pub tls: DataTls,
    /// The leaf certificates in force, at most [`limits::FINGERPRINTS`].
    pub fingerprints: Vec<Fingerprint>,
    /// What the server can do beyond version 1: at most [`limits::FEATURES`] words.
    pub features: Vec<String>,
}

/// The server's answer to any other [`Hello`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refuse {
    /// Why.
    pub reason: RefuseReason,
}

/// Why a server refuses a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RefuseReason {
    /// The proof is wrong.
    #[error("it has another key")]
    Auth,
    /// The version is not spoken.
    #[error("it does not speak this version")]
    Version,
    /// A limit is reached.
    #[error("it is busy")]
    Busy,
    /// `proto` does not allow this.
    #[error("it does not allow this generation")]
    Proto,
}

impl RefuseReason {
    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auth => "auth",
            Self::Version => "version",
            Self::Busy => "busy",
            Self::Proto => "proto",
        }
    }

    /// Reads the word on the wire.
    #[must_use]
    pub fn from_wire(text: &str) -> Option<Self> {
        match text {
            "auth" => Some(Self::Auth),
            "version" => Some(Self::Version),
            "busy" => Some(Self::Busy),
            "proto" => Some(Self::Proto),
            _ => None,
        }
    }
}

/// What a server answers a [`Hello`] with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The session exists.
    Welcome(Welcome),
    /// It does not, and the server closes the connection.
    Refuse(Refuse),
}

impl Hello {
    /// Appends the line, `\n` included.
    pub fn encode_line(&self, out: &mut Vec<u8>) {
        let wire = HelloLine {
            action: "hello".into(),
            v: VERSION,
            proof: self.proof.to_hex(),
            instance: hex::encode(&self.instance.0),
            agent: clip(&self.agent, limits::AGENT),
            features: words(&self.features),
        };
        write_line(&wire, out);
    }

    /// Reads a line, with or without its `\n`.
    ///
    /// # Errors
    /// [`BadLine`], if it is not a `hello` of this version.
    pub fn decode_line(line: &[u8]) -> Result<Self, BadLine> {
        if Head::read(line)?.action != "hello" {
            return Err(BadLine::Malformed);
        }
        Head::check_version(line)?;
        let wire: HelloLine = read_line(line)?;
        Ok(Self {
            proof: Proof::from_hex(&wire.proof).ok_or(BadLine::Malformed)?,
            instance: InstanceId::from_hex(&wire.instance).ok_or(BadLine::Malformed)?,
            agent: clip(&wire.agent, limits::AGENT),
            features: words(&wire.features),
        })
    }
}

impl Welcome {
    /// Appends the line, `\n` included.
    pub fn encode_line(&self, out: &mut Vec<u8>) {
        let wire = WelcomeLine {
            action: "welcome".into(),
            v: VERSION,
            proof: self.proof.to_hex(),
            session: hex::encode(&self.session.0),
            flow: self.flow.as_str().into(),
            max: self.max,
            tls: self.tls.as_str().into(),
            pool: POOL_TYPE.into(),
            fp: fingerprints_out(&self.fingerprints),
            features: words(&self.features),
        };
        write_line(&wire, out);
    }

    fn decode_line(line: &[u8]) -> Result<Self, BadLine> {
        Head::check_version(line)?;
        let wire: WelcomeLine = read_line(line)?;
        if wire.pool != POOL_TYPE {
            return Err(BadLine::Malformed);
        }
        Ok(Self {
            proof: Proof::from_hex(&wire.proof).ok_or(BadLine::Malformed)?,
            session: SessionId::from_hex(&wire.session).ok_or(BadLine::Malformed)?,
            flow: Flow::from_wire(&wire.flow).ok_or(BadLine::Malformed)?,
            max: wire.max,
            tls: DataTls::from_wire(&wire.tls).ok_or(BadLine::Malformed)?,
            fingerprints: fingerprints_in(&wire.fp).ok_or(BadLine::Malformed)?,
            features: words(&wire.features),
        })
    }
}

impl Refuse {
    /// Appends the line, `\n` included.
    pub fn encode_line(&self, out: &mut Vec<u8>) {
        let wire = RefuseLine {
            action: "refuse".into(),
            reason: self.reason.as_str().into(),
        };
        write_line(&wire, out);
    }

    fn decode_line(line: &[u8]) -> Result<Self, BadLine> {
        let wire: RefuseLine = read_line(line)?;
        let reason = RefuseReason::from_wire(&wire.reason).ok_or(BadLine::Malformed)?;
        Ok(Self { reason })
    }
}

impl Answer {
    /// Reads a line, with or without its `\n`.
    ///
    /// # Errors
    /// [`BadLine`], if it is neither a `welcome` of this version nor a `refuse`.
    pub fn decode_line(line: &[u8]) -> Result<Self, BadLine> {
        match Head::read(line)?.action.as_str() {
            "welcome" => Welcome::decode_line(line).map(Self::Welcome),
            "refuse" => Refuse::decode_line(line).map(Self::Refuse),
            _ => Err(BadLine::Malformed),
        }
    }
}

/// `type` of a `welcome`: data connections are TCP.
const POOL_TYPE: &str = "0";

#[derive(Serialize, Deserialize)]
struct HelloLine {
    action: String,
    v: u64,
    proof: String,
    instance: String,
    #[serde(default)]
    agent: String,
    #[serde(default)]
    features: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct WelcomeLine {
    action: String,
    v: u64,
    proof: String,
    session: String,
    flow: String,
    max: u32,
    tls: String,
    #[serde(rename = "type")]
    pool: String,
    fp: Vec<String>,
    #[serde(default)]
    features: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct RefuseLine {
    action: String,
    reason: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use alloc::vec;

    use proptest::prelude::*;

    const PROOF: &str = "5e043a1620b57ae38d772e744033bcfc85514cf2cf513e489bcf573546e836fd";

    fn line(encode: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        encode(&mut out);
        String::from_utf8(out).unwrap()
    }

    fn welcome() -> Welcome {
        Welcome {
            proof: Proof::from_hex(PROOF).unwrap(),
            session: SessionId([0xab; 16]),
            flow: Flow::Reverse,
            max: 1024,
            tls: DataTls::Pinned,
            fingerprints: vec![Fingerprint([0xcd; 32])],
            features: vec![],
        }
    }

    #[test]
    fn every_reason_to_refuse_has_a_word() {
        for (reason, word) in [
            (RefuseReason::Auth, "auth"),
            (RefuseReason::Version, "version"),
            (RefuseReason::Busy, "busy"),
            (RefuseReason::Proto, "proto"),
        ] {
            assert_eq!(reason.as_str(), word);
            assert_eq!(RefuseReason::from_wire(word), Some(reason));
        }
        assert_eq!(RefuseReason::from_wire("tired"), None);
    }

    #[test]
    fn golden_lines() {
        let hello = Hello {
            proof: Proof::from_hex(PROOF).unwrap(),
            instance: InstanceId([1; 16]),
            agent: "nodepass/1.15.0".into(),
            features: vec!["a".into(), "b".into()],
        };
        assert_eq!(
            line(|out| hello.encode_line(out)),
            format!(
                "{{\"action\":\"hello\",\"v\":1,\"proof\":\"{PROOF}\",\"instance\":\"{}\",\
                 \"agent\":\"nodepass/1.15.0\",\"features\":[\"a\",\"b\"]}}\n",
                "01".repeat(16)
            )
        );
        assert_eq!(
            line(|out| welcome().encode_line(out)),
            format!(
                "{{\"action\":\"welcome\",\"v\":1,\"proof\":\"{PROOF}\",\"session\":\"{}\",\
                 \"flow\":\"-\",\"max\":1024,\"tls\":\"1\",\"type\":\"0\",\"fp\":[\"{}\"],\
                 \"features\":[]}}\n",
                "ab".repeat(16),
                "cd".repeat(32)
            )
        );
        let refuse = Refuse {
            reason: RefuseReason::Busy,
        };
        assert_eq!(
            line(|out| refuse.encode_line(out)),
            "{\"action\":\"refuse\",\"reason\":\"busy\"}\n"
        );
    }

    #[test]
    fn another_version_is_told_apart_from_a_broken_line() {
        let newer = br#"{"action":"hello","v":2,"secret":"of another shape"}"#;
        assert_eq!(
            Hello::decode_line(newer),
            Err(BadLine::Version { theirs: 2 })
        );
        let newer = br#"{"action":"welcome","v":9}"#;
        assert_eq!(
            Answer::decode_line(newer),
            Err(BadLine::Version { theirs: 9 })
        );
        for broken in [
            &br#"{"action":"hello","v":1}"#[..],
            br#"{"action":"hello"}"#,
            br#"{"action":"hello","v":"1"}"#,
            br#"{"action":"welcome","v":1}"#,
            br#"["hello"]"#,
            b"",
            b"\xff",
        ] {
            assert_eq!(Hello::decode_line(broken), Err(BadLine::Malformed));
        }
    }

    #[test]
    fn unknown_fields_are_ignored_and_known_ones_are_strict() {
        let good = line(|out| welcome().encode_line(out));
        let extended = good.replacen('{', "{\"later\":{\"x\":[1]},", 1);
        assert_eq!(
            Answer::decode_line(extended.as_bytes()),
            Ok(Answer::Welcome(welcome()))
        );
        for (from, to) in [
            ("\"-\"", "\"x\""),
            ("1024", "-1"),
            ("1024", "4294967296"),
            ("\"type\":\"0\"", "\"type\":\"1\""),
            ("cdcd", "cd"),
            ("5e04", "5E04"),
        ] {
            let bad = good.replacen(from, to, 1);
            assert_eq!(
                Answer::decode_line(bad.as_bytes()),
                Err(BadLine::Malformed),
                "{bad}"
            );
        }
    }

    #[test]
    fn the_fullest_lines_fit() {
        let full = Welcome {
            max: u32::MAX,
            fingerprints: vec![Fingerprint([0xee; 32]); 100],
            features: vec!["f".repeat(limits::FEATURE); 100],
            ..welcome()
        };
        let text = line(|out| full.encode_line(out));
        assert!(text.len() <= limits::CONTROL_LINE, "{}", text.len());
        let Ok(Answer::Welcome(read)) = Answer::decode_line(text.as_bytes()) else {
            panic!("{text}");
        };
        assert_eq!(read.fingerprints.len(), limits::FINGERPRINTS);
        assert_eq!(read.features.len(), limits::FEATURES);

        let hello = Hello {
            proof: full.proof,
            instance: InstanceId([0xff; 16]),
            agent: "\"\\".repeat(1000),
            features: vec!["f".repeat(limits::FEATURE); 100],
        };
        let text = line(|out| hello.encode_line(out));
        assert!(text.len() <= limits::CONTROL_LINE, "{}", text.len());
    }

    #[test]
    fn too_many_fingerprints_and_too_long_lines_are_refused() {
        let one = format!("\"{}\"", "cd".repeat(32));
        let many = vec![one.clone(); limits::FINGERPRINTS + 1].join(",");
        let text = line(|out| welcome().encode_line(out)).replace(&one, &many);
        assert_eq!(
            Answer::decode_line(text.as_bytes()),
            Err(BadLine::Malformed)
        );
        let mut padded = line(|out| welcome().encode_line(out)).into_bytes();
        padded.resize(limits::CONTROL_LINE + 1, b' ');
        assert_eq!(Answer::decode_line(&padded), Err(BadLine::TooLong));
        padded.pop();
        assert!(Answer::decode_line(&padded).is_ok());
    }

    proptest! {
        #[test]
        fn a_hello_survives_the_wire(
            proof: [u8; 32],
            instance: [u8; 16],
            agent in "\\PC{0,40}",
            features in prop::collection::vec("[!#-\\[\\]-~]{1,64}", 0..40),
        ) {
            let hello = Hello {
                proof: Proof::from_hex(&hex::encode(&proof)).unwrap(),
                instance: InstanceId(instance),
                agent,
                features,
            };
            let text = line(|out| hello.encode_line(out));
            prop_assert!(text.len() <= limits::CONTROL_LINE);
            let read = Hello::decode_line(text.as_bytes()).unwrap();
            prop_assert_eq!(&read.proof, &hello.proof);
            prop_assert_eq!(read.instance, hello.instance);
            prop_assert!(hello.agent.starts_with(&read.agent));
            prop_assert_eq!(&read.features[..], &hello.features[..hello.features.len().min(32)]);
            prop_assert_eq!(line(|out| read.encode_line(out)), text);
        }
    }
}
