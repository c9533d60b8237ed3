use alloc::string::String;
use alloc::vec::Vec;

use crate::handshake::{AwaitHello, HandshakeError, ServerStep, VerifiedHello, WelcomeParams};
use crate::limits;
use crate::proof::{PreKey, Side};
use crate::terms::{DataTls, Fingerprint, Flow, InstanceId, SessionId};
use crate::testing::script::Script;
use crate::time::{Duration, Instant};
use crate::wire::native::{Answer, Hello};

const EXPORTER: [u8; 32] = [9; 32];

/// Bytes: whether the stream begins with a proven `hello`, and what is in it; 16 lengths of pieces;
/// the stream.
///
/// # Panics
/// If the outcome depends on how the bytes arrive, if bytes get lost, or if a client without the key
/// is accepted.
pub fn run(data: &[u8]) {
    let mut script = Script::new(data);
    let key = PreKey::from_bytes([7; 32]);
    let mut stream = Vec::new();
    if script.bool() {
        hello(&key, &mut script).encode_line(&mut stream);
    }
    let mut cuts = Script::new(script.bytes(16));
    stream.extend_from_slice(script.rest());

    let whole = outcome(&key, &[&stream]);
    let pieces = cuts.pieces(&stream);
    assert_eq!(outcome(&key, &pieces), whole);
    let Outcome::Verified { rest, answer, .. } = whole else {
        return;
    };
    assert!(stream.ends_with(&rest));
    let line = stream.len() - rest.len();
    assert!(line <= limits::CONTROL_LINE);
    let line = stream.get(..line).unwrap_or_default();
    let proof = key.proof(Side::Client, &EXPORTER).to_hex();
    let mut windows = line.windows(proof.len());
    assert!(windows.any(|window| window == proof.as_bytes()));
    assert!(matches!(
        Answer::decode_line(&answer),
        Ok(Answer::Welcome(_))
    ));
}

#[derive(Debug, PartialEq)]
enum Outcome {
    NeedsInput,
    Failed(HandshakeError),
    Refused(Vec<u8>, HandshakeError),
    Verified {
        instance: InstanceId,
        agent: String,
        rest: Vec<u8>,
        answer: Vec<u8>,
    },
}

fn outcome(key: &PreKey, pieces: &[&[u8]]) -> Outcome {
    let mut wait = AwaitHello::new(key, &EXPORTER, Instant::default(), Duration::from_secs(5));
    let mut pieces = pieces.iter();
    while let Some(piece) = pieces.next() {
        match wait.handle_bytes(piece) {
            Err(why) => {
                assert!(!why.counts_for_ban());
                return Outcome::Failed(why);
            }
            Ok(ServerStep::NeedsInput(next)) => wait = next,
            Ok(ServerStep::Refused { line, why }) => {
                assert!(matches!(Answer::decode_line(&line), Ok(Answer::Refuse(_))));
                return Outcome::Refused(line, why);
            }
            Ok(ServerStep::Verified(mut hello)) => {
                // What was not read yet is the session's input, too.
                pieces.for_each(|piece| hello.rest.extend_from_slice(piece));
                return verified(hello);
            }
        }
    }
    Outcome::NeedsInput
}

fn verified(hello: VerifiedHello) -> Outcome {
    let params = WelcomeParams {
        session: SessionId([2; 16]),
        flow: Flow::Reverse,
        max: u32::MAX,
        tls: DataTls::Pinned,
        fingerprints: [Fingerprint([3; 32]); 20].into(),
    };
    let mut answer = Vec::new();
    hello.welcome(&params, &mut answer);
    Outcome::Verified {
        instance: hello.instance,
        agent: hello.agent,
        rest: hello.rest,
        answer,
    }
}

fn hello(key: &PreKey, script: &mut Script<'_>) -> Hello {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let len = usize::from(script.u8());
    let agent = text(script.bytes(len));
    Hello {
        proof: key.proof(Side::Client, &EXPORTER),
        instance: InstanceId(script.array()),
        agent,
        features: (0..script.u32_below(40))
            .map(|_| {
                let len = script.u32_below(80);
                text(script.bytes(usize::try_from(len).unwrap_or(0)))
            })
            .collect(),
    }
}
