use alloc::vec::Vec;

use crate::handshake::{
    AwaitWelcome, ClientHandshake, ClientHandshakeConfig, Established, HandshakeError, Step,
};
use crate::limits;
use crate::proof::{PreKey, Side};
use crate::terms::{DataTls, Fingerprint, Flow, InstanceId, SessionId};
use crate::testing::script::Script;
use crate::time::{Duration, Instant};
use crate::wire::native::{Hello, Welcome};

const EXPORTER: [u8; 32] = [9; 32];

/// Bytes: the least `tls`; whether the stream begins with a proven `welcome`, and what is in it; 16
/// lengths of pieces; the stream.
///
/// # Panics
/// If the outcome depends on how the bytes arrive, if bytes get lost, or if a session begins without
/// the server's proof or below the least `tls`.
pub fn run(data: &[u8]) {
    let mut script = Script::new(data);
    let key = PreKey::from_bytes([7; 32]);
    let least_tls = tls(&mut script);
    let mut stream = Vec::new();
    if script.bool() {
        welcome(&key, &mut script).encode_line(&mut stream);
    }
    let mut cuts = Script::new(script.bytes(16));
    stream.extend_from_slice(script.rest());

    let whole = outcome(start(&key, least_tls), &[&stream]);
    let pieces = cuts.pieces(&stream);
    assert_eq!(outcome(start(&key, least_tls), &pieces), whole);
    let Ok(Some(established)) = whole else { return };
    assert!(established.tls >= least_tls);
    assert!(stream.ends_with(&established.rest));
    let line = stream.len() - established.rest.len();
    assert!(line <= limits::CONTROL_LINE);
    let line = stream.get(..line).unwrap_or_default();
    let proof = key.proof(Side::Server, &EXPORTER).to_hex();
    let mut windows = line.windows(proof.len());
    assert!(windows.any(|window| window == proof.as_bytes()));
}

fn start(key: &PreKey, least_tls: DataTls) -> AwaitWelcome {
    let config = ClientHandshakeConfig {
        instance: InstanceId([1; 16]),
        agent: "fuzz".into(),
        least_tls,
    };
    let (now, timeout) = (Instant::default(), Duration::from_secs(5));
    let mut out = Vec::new();
    let wait = ClientHandshake::start(&config, key, &EXPORTER, now, timeout, &mut out);
    assert!(Hello::decode_line(&out).is_ok());
    wait
}

/// `None`: more bytes are needed.
fn outcome(
    mut wait: AwaitWelcome,
    pieces: &[&[u8]],
) -> Result<Option<Established>, HandshakeError> {
    let mut pieces = pieces.iter();
    while let Some(piece) = pieces.next() {
        match wait.handle_bytes(piece)? {
            Step::NeedsInput(next) => wait = next,
            Step::Done(mut established) => {
                // What was not read yet is the session's input, too.
                pieces.for_each(|piece| established.rest.extend_from_slice(piece));
                return Ok(Some(established));
            }
        }
    }
    Ok(None)
}

fn welcome(key: &PreKey, script: &mut Script<'_>) -> Welcome {
    Welcome {
        proof: key.proof(Side::Server, &EXPORTER),
        session: SessionId(script.array()),
        flow: if script.bool() {
            Flow::Forward
        } else {
            Flow::Reverse
        },
        max: script.u32(),
        tls: tls(script),
        fingerprints: (0..script.u32_below(20))
            .map(|_| Fingerprint([script.u8(); 32]))
            .collect(),
        features: Vec::new(),
    }
}

fn tls(script: &mut Script<'_>) -> DataTls {
    match script.u32_below(3) {
        0 => DataTls::Plain,
        1 => DataTls::Pinned,
        _ => DataTls::Verified,
    }
}
