//! Keys, tokens and the lines of the control channel.

use serde_json::{Map, Value};

use super::script::Generation;
use crate::support::attacker::mac;
use crate::support::hex;

/// The id of the control channel in `http` and `https`.
pub(crate) const CONTROL: &str = "00000000";

/// What is said on a control channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    /// Are you there?
    Ping,
    /// I am.
    Pong,
    /// Close what is idle.
    Flush,
    /// This is what I saw on that connection.
    Verify {
        /// The data connection, 8 digits.
        id: String,
        /// The certificate; empty where the sender has none to show.
        fp: String,
    },
    /// A TCP user is on that connection.
    Tcp {
        /// The data connection.
        id: String,
        /// The user, which `classic` does not tell.
        remote: String,
    },
    /// A UDP user is on that connection.
    Udp {
        /// The data connection.
        id: String,
        /// The user.
        remote: String,
    },
}

/// The key of a tunnel that was given none.
pub(crate) fn default_key(generation: Generation, port: u16) -> String {
    if generation == Generation::Classic {
        return format!("{port:x}");
    }
    let hash = port
        .to_string()
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| {
            (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
        });
    format!("{hash:08x}")
}

/// What `Authorization` must carry.
pub(crate) fn token(key: &str) -> String {
    hex(&mac(key.as_bytes(), &[]))
}

/// The XOR of a generation, its own inverse.
pub(crate) fn xor(generation: Generation, key: &str, bytes: &[u8]) -> Vec<u8> {
    let key = key.as_bytes();
    if generation == Generation::Classic {
        let one = u8::try_from(key.len() % 256).unwrap();
        return bytes.iter().map(|byte| byte ^ one).collect();
    }
    bytes
        .iter()
        .zip(key.iter().cycle())
        .map(|(byte, key)| byte ^ key)
        .collect()
}

/// A signal as a line with its end.
pub(crate) fn encode(generation: Generation, key: &str, signal: &Signal) -> Vec<u8> {
    let mut line = if generation == Generation::Classic {
        xor(generation, key, as_url(signal).as_bytes())
    } else {
        base64(&xor(generation, key, as_json(signal).as_bytes())).into_bytes()
    };
    line.push(b'\n');
    line
}

/// A line without its end. The error is the rule that it breaks.
pub(crate) fn decode(generation: Generation, key: &str, line: &[u8]) -> Result<Signal, String> {
    let limit = if generation == Generation::Classic {
        512
    } else {
        4096
    };
    if line.len() + 1 > limit {
        return Err(format!("a control line of {} bytes", line.len() + 1));
    }
    if generation == Generation::Classic {
        let text = String::from_utf8(xor(generation, key, line));
        from_url(&text.map_err(|_| "a control line that is no text".to_owned())?)
    } else {
        let bytes =
            unbase64(line).ok_or_else(|| format!("wrong base64: {}", line.escape_ascii()))?;
        from_json(&xor(generation, key, &bytes), generation)
    }
}

fn as_json(signal: &Signal) -> String {
    let fields: &[(&str, &str)] = match signal {
        Signal::Ping => &[("action", "ping")],
        Signal::Pong => &[("action", "pong")],
        Signal::Flush => &[("action", "flush")],
        Signal::Verify { id, fp } => &[("action", "verify"), ("id", id), ("fp", fp)],
        Signal::Tcp { id, remote } => &[("action", "tcp"), ("remote", remote), ("id", id)],
        Signal::Udp { id, remote } => &[("action", "udp"), ("remote", remote), ("id", id)],
    };
    let present = fields.iter().filter(|(_, value)| !value.is_empty());
    let written: Vec<String> = present
        .map(|(name, value)| format!("{name:?}:{value:?}"))
        .collect();
    format!("{{{}}}", written.join(","))
}

fn from_json(text: &[u8], generation: Generation) -> Result<Signal, String> {
    let broken = || format!("a control line that is no JSON: {}", text.escape_ascii());
    let fields: Map<String, Value> = serde_json::from_slice(text).map_err(|_| broken())?;
    for (name, value) in &fields {
        if !["action", "remote", "id", "fp"].contains(&name.as_str()) {
            return Err(format!("an unknown field {name}"));
        }
        match value.as_str() {
            Some("") => return Err(format!("an empty {name} is to be absent")),
            Some(_) => {}
            None => return Err(format!("{name} is {value}, not text")),
        }
    }
    let field = |name: &str| {
        fields
            .get(name)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let (id, remote, fp) = (field("id"), field("remote"), field("fp"));
    let signal = match field("action").as_str() {
        "ping" => Signal::Ping,
        "pong" => Signal::Pong,
        "flush" => Signal::Flush,
        "verify" => {
            fingerprint(&fp, generation)?;
            Signal::Verify { id: an_id(id)?, fp }
        }
        "tcp" => Signal::Tcp {
            id: an_id(id)?,
            remote: an_address(remote)?,
        },
        "udp" => Signal::Udp {
            id: an_id(id)?,
            remote: an_address(remote)?,
        },
        other => return Err(format!("an unknown action {other:?}")),
    };
    // Whatever it is, it carries no more than it needs.
    if serde_json::from_str::<Map<String, Value>>(&as_json(&signal))
        .ok()
        .as_ref()
        == Some(&fields)
    {
        Ok(signal)
    } else {
        Err(format!(
            "fields that do not belong there: {}",
            text.escape_ascii()
        ))
    }
}

fn as_url(signal: &Signal) -> String {
    match signal {
        Signal::Ping => "#i".to_owned(),
        Signal::Pong => "#o".to_owned(),
        Signal::Flush => "#0".to_owned(),
        Signal::Tcp { id, .. } => format!("//{id}#1"),
        Signal::Udp { id, remote } => format!("//{remote}/{id}#2"),
        Signal::Verify { .. } => panic!("this generation has no verify"),
    }
}

fn from_url(text: &str) -> Result<Signal, String> {
    let unknown = || format!("an unknown signal {text:?}");
    match text {
        "#i" => return Ok(Signal::Ping),
        "#o" => return Ok(Signal::Pong),
        "#0" => return Ok(Signal::Flush),
        _ => {}
    }
    let rest = text.strip_prefix("//").ok_or_else(unknown)?;
    if let Some(id) = rest.strip_suffix("#1") {
        return Ok(Signal::Tcp {
            id: an_id(id.to_owned())?,
            remote: String::new(),
        });
    }
    let (remote, id) = rest
        .strip_suffix("#2")
        .and_then(|rest| rest.split_once('/'))
        .ok_or_else(unknown)?;
    Ok(Signal::Udp {
        id: an_id(id.to_owned())?,
        remote: an_address(remote.to_owned())?,
    })
}

fn an_id(id: String) -> Result<String, String> {
    let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if id.len() == 8 && id.bytes().all(digit) && id != CONTROL {
        Ok(id)
    } else {
        Err(format!("{id:?} is not the id of a data connection"))
    }
}

fn an_address(text: String) -> Result<String, String> {
    if text.parse::<std::net::SocketAddr>().is_ok() {
        Ok(text)
    } else {
        Err(format!("{text:?} is not an address of a user"))
    }
}

fn fingerprint(fp: &str, generation: Generation) -> Result<(), String> {
    let digits = fp.strip_prefix("sha256:").unwrap_or_default();
    let fine = if generation == Generation::Http {
        let pair = |pair: &str| {
            pair.len() == 2 && pair.bytes().all(|byte| b"0123456789ABCDEF".contains(&byte))
        };
        digits.len() == 95 && digits.split(':').all(pair)
    } else {
        digits.len() == 64
            && digits
                .bytes()
                .all(|byte| b"0123456789abcdef".contains(&byte))
    };
    if fine {
        Ok(())
    } else {
        Err(format!(
            "{fp:?} is not how this generation writes a fingerprint"
        ))
    }
}

/// The SHA-256 of a certificate as a generation writes it.
pub(crate) fn write_fingerprint(leaf: &[u8], generation: Generation) -> String {
    let digits = crate::support::sha256(leaf);
    if generation != Generation::Http {
        return format!("sha256:{digits}");
    }
    let digits = digits.to_ascii_uppercase();
    let pairs: Vec<&str> = (0..32).map(|at| &digits[2 * at..2 * at + 2]).collect();
    format!("sha256:{}", pairs.join(":"))
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Standard alphabet, with padding.
pub(crate) fn base64(bytes: &[u8]) -> String {
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let bits = (0..3).fold(0_usize, |bits, at| {
            bits << 8 | usize::from(*three.get(at).unwrap_or(&0))
        });
        for at in 0..4 {
            let digit = ALPHABET[bits >> (18 - 6 * at) & 63];
            text.push(if at <= three.len() {
                char::from(digit)
            } else {
                '='
            });
        }
    }
    text
}

/// Standard alphabet, padded, and nothing that [`base64`] would write in another way.
fn unbase64(text: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    for four in text.chunks(4) {
        let digits = four.iter().take_while(|byte| **byte != b'=');
        let mut bits = 0_u32;
        let mut count = 0;
        for byte in digits {
            let value = ALPHABET.iter().position(|digit| digit == byte)?;
            bits |= u32::try_from(value).ok()? << (18 - 6 * count);
            count += 1;
        }
        bytes.extend_from_slice(&bits.to_be_bytes()[1..count.max(1)]);
    }
    (base64(&bytes).as_bytes() == text).then_some(bytes)
}

#[test]
fn the_examples_of_the_specification() {
    use Generation::{Classic, Http};
    let tcp = Signal::Tcp {
        id: "0a1b2c3d".to_owned(),
        remote: "127.0.0.1:50000".to_owned(),
    };
    let line = |generation, signal: &Signal| encode(generation, "KEY", signal);
    assert_eq!(
        token("KEY"),
        "9e599712811af9f7f000b9f1d0f4a4e4a463ecb5c4fae7bdaa13e33c4642c86e"
    );
    assert_eq!(line(Http, &Signal::Ping), b"MGc4KDEwJCt7cWcpIis+aTg=\n");
    assert_eq!(line(Http, &Signal::Flush), b"MGc4KDEwJCt7cWc/JzAqI2ck\n");
    assert_eq!(
        line(Http, &tcp),
        b"MGc4KDEwJCt7cWctKDV7Z2crLig2PyB7cWdoeXJ3e2tpZXRjfnVpe3V7Z2cwL2djaXU4eidrKHY9aTg=\n"
    );
    assert_eq!(hex(&line(Classic, &Signal::Ping)), "206a0a");
    assert_eq!(hex(&line(Classic, &tcp)), "2c2c336232613160306720320a");
    assert_eq!(default_key(Http, 10101), "e68be2b4");
    assert_eq!(default_key(Classic, 10101), "2775");
    for text in ["MGc4", "MGc=", "MA=="] {
        assert_eq!(base64(&unbase64(text.as_bytes()).unwrap()), text);
    }
    for text in ["MGc", "MGd=", "MGc-", "M===", "MGc4\r"] {
        assert_eq!(unbase64(text.as_bytes()), None, "{text:?}");
    }
}

#[test]
fn a_line_that_breaks_a_rule_says_which() {
    let http = |json: &str| {
        let line = base64(&xor(Generation::Http, "KEY", json.as_bytes()));
        decode(Generation::Http, "KEY", line.as_bytes()).unwrap_err()
    };
    for (json, what) in [
        (
            "{\"action\":\"tcp\",\"id\":\"0A1B2C3D\",\"remote\":\"1.2.3.4:5\"}",
            "not the id",
        ),
        (
            "{\"action\":\"tcp\",\"id\":\"00000000\",\"remote\":\"1.2.3.4:5\"}",
            "not the id",
        ),
        (
            "{\"action\":\"tcp\",\"id\":\"0a1b2c3d\",\"remote\":\"somewhere\"}",
            "not an address",
        ),
        ("{\"action\":\"ping\",\"id\":\"0a1b2c3d\"}", "do not belong"),
        ("{\"action\":\"ping\",\"fp\":\"\"}", "absent"),
        ("{\"action\":\"ping\",\"seq\":1}", "unknown field"),
        ("{\"action\":\"PING\"}", "unknown action"),
        (
            "{\"action\":\"verify\",\"id\":\"0a1b2c3d\",\"fp\":\"sha256:00\"}",
            "fingerprint",
        ),
        ("[]", "no JSON"),
    ] {
        assert!(http(json).contains(what), "{json}: {}", http(json));
    }
    assert!(
        decode(Generation::Http, "KEY", b"MGc")
            .unwrap_err()
            .contains("base64")
    );
    assert!(
        decode(Generation::Http, "KEY", &[b'A'; 4096])
            .unwrap_err()
            .contains("4097")
    );
    let classic = xor(Generation::Classic, "KEY", b"//0a1b2c3d#3");
    assert!(
        decode(Generation::Classic, "KEY", &classic)
            .unwrap_err()
            .contains("unknown signal")
    );
}
