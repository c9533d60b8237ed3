//! The server's half: `hello` in, `welcome` or `refuse` out.

use alloc::string::String;
use alloc::vec::Vec;

use super::{FirstLine, HandshakeError, Split};
use crate::proof::{PreKey, Proof, Side};
use crate::terms::{DataTls, Fingerprint, Flow, InstanceId, SessionId};
use crate::time::{Duration, Instant};
use crate::wire::native::{BadLine, Hello, Refuse, RefuseReason, Welcome};

/// A native control connection whose client has not spoken yet.
#[derive(Debug)]
#[must_use]
pub struct AwaitHello {
    line: FirstLine,
    expected: Proof,
    answer: Proof,
    deadline: Instant,
}

/// What some bytes led to.
#[derive(Debug)]
#[must_use]
pub enum ServerStep {
    /// The line is not complete.
    NeedsInput(AwaitHello),
    /// The client has the key. Answer with [`VerifiedHello::welcome`] or
    /// [`VerifiedHello::refuse`].
    Verified(VerifiedHello),
    /// Send `line`, then close. When [`HandshakeError::counts_for_ban`] says so, the address is
    /// charged.
    Refused {
        /// The `refuse` line.
        line: Vec<u8>,
        /// For the log.
        why: HandshakeError,
    },
}

/// A client that has the key, not answered yet.
#[derive(Debug)]
pub struct VerifiedHello {
    /// Which client instance this is: an older session of it ends.
    pub instance: InstanceId,
    /// Name and version, fit for a log.
    pub agent: String,
    /// What the client can do beyond version 1.
    pub features: Vec<String>,
    /// Bytes behind the `hello`: the session's first input.
    pub rest: Vec<u8>,
    answer: Proof,
}

/// What a server decides about a new session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WelcomeParams {
    /// The session's name, unguessable.
    pub session: SessionId,
    /// Which end is ingress.
    pub flow: Flow,
    /// Most idle data connections.
    pub max: u32,
    /// How data connections are protected.
    pub tls: DataTls,
    /// The leaf certificates in force.
    pub fingerprints: Vec<Fingerprint>,
}

impl AwaitHello {
    /// Waits for the `hello`, on a channel whose exporter `A` is `exporter`.
    pub fn new(key: &PreKey, exporter: &[u8; 32], now: Instant, timeout: Duration) -> Self {
        Self {
            line: FirstLine::default(),
            expected: key.proof(Side::Client, exporter),
            answer: key.proof(Side::Server, exporter),
            deadline: now.after(timeout),
        }
    }

    /// The next bytes from the client.
    ///
    /// # Errors
    /// [`HandshakeError`]: close the connection without an answer.
    pub fn handle_bytes(mut self, bytes: &[u8]) -> Result<ServerStep, HandshakeError> {
        match self.line.feed(bytes)? {
            None => Ok(ServerStep::NeedsInput(self)),
            Some(split) => self.conclude(split),
        }
    }

    /// The client closed the connection.
    #[must_use]
    pub fn handle_eof(self) -> HandshakeError {
        HandshakeError::Eof
    }

    /// The time is `now`.
    ///
    /// # Errors
    /// [`HandshakeError::TimedOut`] from the deadline on.
    pub fn handle_timeout(self, now: Instant) -> Result<Self, HandshakeError> {
        if now < self.deadline {
            Ok(self)
        } else {
            Err(HandshakeError::TimedOut)
        }
    }

    /// When the client's line is due.
    #[must_use]
    pub const fn deadline(&self) -> Instant {
        self.deadline
    }

    fn conclude(self, Split { line, rest }: Split) -> Result<ServerStep, HandshakeError> {
        let hello = match Hello::decode_line(&line) {
            Ok(hello) if hello.proof == self.expected => hello,
            Ok(_) => return Ok(refused(RefuseReason::Auth, HandshakeError::WrongProof)),
            Err(bad @ BadLine::Version { .. }) => {
                return Ok(refused(RefuseReason::Version, bad.into()));
            }
            Err(bad) => return Err(bad.into()),
        };
        Ok(ServerStep::Verified(VerifiedHello {
            instance: hello.instance,
            agent: hello.agent,
            features: hello.features,
            rest,
            answer: self.answer,
        }))
    }
}

impl VerifiedHello {
    /// Appends the `welcome`, which proves the server's key in turn.
    pub fn welcome(&self, params: &WelcomeParams, out: &mut Vec<u8>) {
        let welcome = Welcome {
            proof: self.answer.clone(),
            session: params.session,
            flow: params.flow,
            max: params.max,
            tls: params.tls,
            fingerprints: params.fingerprints.clone(),
            features: Vec::new(),
        };
        welcome.encode_line(out);
    }

    /// Appends a `refuse`: the client has the key, but there is no session for it.
    pub fn refuse(self, reason: RefuseReason, out: &mut Vec<u8>) {
        Refuse { reason }.encode_line(out);
    }
}

fn refused(reason: RefuseReason, why: HandshakeError) -> ServerStep {
    let mut line = Vec::new();
    Refuse { reason }.encode_line(&mut line);
    ServerStep::Refused { line, why }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    use crate::handshake::{ClientHandshake, ClientHandshakeConfig, Step};
    use crate::limits;

    const EXPORTER: [u8; 32] = [9; 32];

    fn key() -> PreKey {
        PreKey::from_bytes([7; 32])
    }

    fn wait() -> AwaitHello {
        AwaitHello::new(
            &key(),
            &EXPORTER,
            Instant::default(),
            Duration::from_secs(5),
        )
    }

    fn client(key: &PreKey, exporter: &[u8; 32]) -> (crate::handshake::AwaitWelcome, Vec<u8>) {
        let config = ClientHandshakeConfig {
            instance: InstanceId([1; 16]),
            agent: "nodepass/1.15.0".into(),
            least_tls: DataTls::Plain,
        };
        let mut out = Vec::new();
        let (now, timeout) = (Instant::default(), Duration::from_secs(5));
        let wait = ClientHandshake::start(&config, key, exporter, now, timeout, &mut out);
        (wait, out)
    }

    fn params() -> WelcomeParams {
        WelcomeParams {
            session: SessionId([2; 16]),
            flow: Flow::Reverse,
            max: 1024,
            tls: DataTls::Verified,
            fingerprints: vec![Fingerprint([3; 32])],
        }
    }

    #[test]
    fn two_ends_with_one_key_and_one_channel_agree() {
        let (client, mut bytes) = client(&key(), &EXPORTER);
        bytes.extend_from_slice(b"early");
        let mut server = wait();
        let mut verified = None;
        for (index, &byte) in bytes.iter().enumerate() {
            match server.handle_bytes(&[byte]).unwrap() {
                ServerStep::NeedsInput(next) => server = next,
                ServerStep::Verified(hello) => {
                    assert_eq!(bytes[index + 1..], *b"early");
                    verified = Some(hello);
                    break;
                }
                ServerStep::Refused { why, .. } => panic!("{why}"),
            }
        }
        let hello = verified.unwrap();
        assert_eq!(hello.instance, InstanceId([1; 16]));
        assert_eq!(hello.agent, "nodepass/1.15.0");

        let mut answer = Vec::new();
        hello.welcome(&params(), &mut answer);
        let Step::Done(established) = client.handle_bytes(&answer).unwrap() else {
            panic!("a welcome is one line");
        };
        assert_eq!(established.session, Some(params().session));
        assert_eq!(established.fingerprints, params().fingerprints);
        assert_eq!(established.tls, params().tls);
    }

    #[test]
    fn a_wrong_proof_is_refused_and_counts_but_noise_does_not() {
        for (theirs, exporter) in [([8; 32], EXPORTER), ([7; 32], [8; 32])] {
            let (client, bytes) = client(&PreKey::from_bytes(theirs), &exporter);
            let ServerStep::Refused { line, why } = wait().handle_bytes(&bytes).unwrap() else {
                panic!("accepted");
            };
            assert_eq!(why, HandshakeError::WrongProof);
            assert!(why.counts_for_ban());
            let told = client.handle_bytes(&line).unwrap_err();
            assert_eq!(told, HandshakeError::Refused(RefuseReason::Auth));
        }
        for noise in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"\n",
            b"{}\n",
            b"{\"action\":\"hello\",\"v\":1,\"proof\":\"00\",\"instance\":\"00\"}\n",
            &[b'{'; limits::CONTROL_LINE],
        ] {
            let error = wait().handle_bytes(noise).unwrap_err();
            assert!(!error.counts_for_ban(), "{error}");
        }
    }

    #[test]
    fn another_version_is_told_so() {
        let newer = b"{\"action\":\"hello\",\"v\":2}\n";
        let ServerStep::Refused { line, why } = wait().handle_bytes(newer).unwrap() else {
            panic!("accepted");
        };
        assert_eq!(why, HandshakeError::Version { theirs: 2 });
        assert!(!why.counts_for_ban());
        assert_eq!(line, b"{\"action\":\"refuse\",\"reason\":\"version\"}\n");
    }

    #[test]
    fn a_verified_client_can_still_be_turned_away() {
        let (client, bytes) = client(&key(), &EXPORTER);
        let ServerStep::Verified(hello) = wait().handle_bytes(&bytes).unwrap() else {
            panic!("not verified");
        };
        let mut line = Vec::new();
        hello.refuse(RefuseReason::Busy, &mut line);
        assert_eq!(
            client.handle_bytes(&line).unwrap_err(),
            HandshakeError::Refused(RefuseReason::Busy)
        );
    }

    #[test]
    fn silence_ends_at_the_deadline() {
        let deadline = wait().deadline();
        assert!(wait().handle_timeout(Instant::default()).is_ok());
        assert_eq!(
            wait().handle_timeout(deadline).unwrap_err(),
            HandshakeError::TimedOut
        );
        assert_eq!(wait().handle_eof(), HandshakeError::Eof);
    }
}
