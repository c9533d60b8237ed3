//! The client's half: `hello` out, `welcome` in.

use alloc::string::String;
use alloc::vec::Vec;

use super::{FirstLine, HandshakeError, Split, Step};
use crate::dialect::Dialect;
use crate::proof::{PreKey, Proof, Side};
use crate::terms::{DataTls, Fingerprint, Flow, InstanceId, SessionId};
use crate::time::{Duration, Instant};
use crate::wire::native::{Answer, Hello, Welcome};

/// What a client tells about itself and insists on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientHandshakeConfig {
    /// The same for every session of one client instance.
    pub instance: InstanceId,
    /// Name and version for the server's log.
    pub agent: String,
    /// `tls` of the client's URL: the least accepted.
    pub least_tls: DataTls,
}

/// Where a client begins.
#[derive(Debug)]
pub struct ClientHandshake;

impl ClientHandshake {
    /// Appends the `hello` to `out`, for a channel whose exporter `A` is `exporter`.
    pub fn start(
        config: &ClientHandshakeConfig,
        key: &PreKey,
        exporter: &[u8; 32],
        now: Instant,
        timeout: Duration,
        out: &mut Vec<u8>,
    ) -> AwaitWelcome {
        let hello = Hello {
            proof: key.proof(Side::Client, exporter),
            instance: config.instance,
            agent: config.agent.clone(),
            features: Vec::new(),
        };
        hello.encode_line(out);
        AwaitWelcome {
            line: FirstLine::default(),
            expected: key.proof(Side::Server, exporter),
            least_tls: config.least_tls,
            deadline: now.after(timeout),
        }
    }
}

/// The `hello` is on its way.
#[derive(Debug)]
#[must_use]
pub struct AwaitWelcome {
    line: FirstLine,
    expected: Proof,
    least_tls: DataTls,
    deadline: Instant,
}

/// What the server said, and proved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Established {
    /// The session's name; `None` where sessions have none.
    pub session: Option<SessionId>,
    /// Which end is ingress.
    pub flow: Flow,
    /// Most idle data connections.
    pub max: u32,
    /// How data connections are protected.
    pub tls: DataTls,
    /// The leaf certificates in force, where the handshake tells them.
    pub fingerprints: Vec<Fingerprint>,
    /// How the session speaks.
    pub dialect: Dialect,
    /// Bytes behind the `welcome`: the session's first input.
    pub rest: Vec<u8>,
}

impl AwaitWelcome {
    /// The next bytes from the server.
    ///
    /// # Errors
    /// [`HandshakeError`]: close the connection.
    pub fn handle_bytes(mut self, bytes: &[u8]) -> Result<Step<Self, Established>, HandshakeError> {
        match self.line.feed(bytes)? {
            None => Ok(Step::NeedsInput(self)),
            Some(split) => self.conclude(split).map(Step::Done),
        }
    }

    /// The server closed the connection.
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

    /// When the server's answer is due.
    #[must_use]
    pub const fn deadline(&self) -> Instant {
        self.deadline
    }

    fn conclude(self, Split { line, rest }: Split) -> Result<Established, HandshakeError> {
        let welcome = match Answer::decode_line(&line)? {
            Answer::Refuse(refuse) => return Err(HandshakeError::Refused(refuse.reason)),
            Answer::Welcome(welcome) if welcome.proof == self.expected => welcome,
            Answer::Welcome(_) => return Err(HandshakeError::WrongProof),
        };
        let Welcome { tls, .. } = welcome;
        if tls < self.least_tls {
            return Err(HandshakeError::TlsTooLow {
                least: self.least_tls,
                offered: tls,
            });
        }
        Ok(Established {
            session: Some(welcome.session),
            flow: welcome.flow,
            max: welcome.max,
            tls,
            fingerprints: welcome.fingerprints,
            dialect: Dialect::native(),
            rest,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use alloc::string::ToString as _;
    use alloc::vec;

    use crate::limits;
    use crate::wire::native::RefuseReason;

    const EXPORTER: [u8; 32] = [9; 32];

    fn key() -> PreKey {
        PreKey::from_bytes([7; 32])
    }

    fn start(least_tls: DataTls) -> (AwaitWelcome, Vec<u8>) {
        let config = ClientHandshakeConfig {
            instance: InstanceId([1; 16]),
            agent: "test".into(),
            least_tls,
        };
        let mut out = Vec::new();
        let now = Instant::from_origin(Duration::from_secs(10));
        let timeout = Duration::from_secs(5);
        let wait = ClientHandshake::start(&config, &key(), &EXPORTER, now, timeout, &mut out);
        (wait, out)
    }

    fn welcome(key: &PreKey, exporter: &[u8; 32], tls: DataTls) -> Vec<u8> {
        let mut line = Vec::new();
        Welcome {
            proof: key.proof(Side::Server, exporter),
            session: SessionId([2; 16]),
            flow: Flow::Forward,
            max: 8,
            tls,
            fingerprints: vec![Fingerprint([3; 32])],
            features: vec![],
        }
        .encode_line(&mut line);
        line
    }

    fn outcome(wait: AwaitWelcome, bytes: &[u8]) -> Result<Established, HandshakeError> {
        match wait.handle_bytes(bytes)? {
            Step::Done(established) => Ok(established),
            Step::NeedsInput(wait) => Err(wait.handle_eof()),
        }
    }

    #[test]
    fn a_proven_welcome_establishes_whatever_the_chunks() {
        let mut bytes = welcome(&key(), &EXPORTER, DataTls::Pinned);
        let (mut wait, _) = start(DataTls::Plain);
        for &byte in &bytes[..bytes.len() - 1] {
            let Step::NeedsInput(next) = wait.handle_bytes(&[byte]).unwrap() else {
                panic!("done before the line ended");
            };
            wait = next;
        }
        let slow = outcome(wait, b"\n").unwrap();
        assert_eq!((slow.session, slow.max), (Some(SessionId([2; 16])), 8));
        assert_eq!(slow.fingerprints, [Fingerprint([3; 32])]);
        assert_eq!(slow.rest, b"");

        bytes.extend_from_slice(b"{\"action\":\"ping\"");
        let fast = outcome(start(DataTls::Plain).0, &bytes).unwrap();
        assert_eq!(fast.rest, b"{\"action\":\"ping\"");
        assert_eq!(
            Established {
                rest: vec![],
                ..fast
            },
            slow
        );
    }

    #[test]
    fn another_key_or_another_channel_is_not_trusted() {
        let other = PreKey::from_bytes([8; 32]);
        for line in [
            welcome(&other, &EXPORTER, DataTls::Pinned),
            welcome(&key(), &[8; 32], DataTls::Pinned),
        ] {
            assert_eq!(
                outcome(start(DataTls::Plain).0, &line),
                Err(HandshakeError::WrongProof)
            );
        }
        // What the client itself sent is no answer either.
        let (wait, hello) = start(DataTls::Plain);
        let echoed = core::str::from_utf8(&hello).unwrap();
        let proof = key().proof(Side::Client, &EXPORTER).to_hex();
        assert!(echoed.contains(&proof));
        let reflected = welcome(&key(), &EXPORTER, DataTls::Plain);
        let reflected = core::str::from_utf8(&reflected).unwrap();
        let server = key().proof(Side::Server, &EXPORTER).to_hex();
        let reflected = reflected.replace(&server, &proof);
        assert_eq!(
            outcome(wait, reflected.as_bytes()),
            Err(HandshakeError::WrongProof)
        );
    }

    #[test]
    fn the_least_tls_holds() {
        let low = welcome(&key(), &EXPORTER, DataTls::Pinned);
        let error = outcome(start(DataTls::Verified).0, &low).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the server offers tls=1, this client's url accepts tls=2 at the least"
        );
        assert!(outcome(start(DataTls::Pinned).0, &low).is_ok());
    }

    #[test]
    fn refusals_and_noise_are_told_apart() {
        for (bytes, error) in [
            (
                &b"{\"action\":\"refuse\",\"reason\":\"busy\"}\n"[..],
                HandshakeError::Refused(RefuseReason::Busy),
            ),
            (
                b"{\"action\":\"welcome\",\"v\":2}\n",
                HandshakeError::Version { theirs: 2 },
            ),
            (b"{\"action\":\"welcome\"}\n", HandshakeError::Malformed),
            (b"\0\0\0\0", HandshakeError::Malformed),
            (b"HTTP/1.1 400", HandshakeError::Malformed),
            (b"{\"action\":", HandshakeError::Eof),
            (b"", HandshakeError::Eof),
        ] {
            assert_eq!(outcome(start(DataTls::Plain).0, bytes), Err(error));
        }
        let refused = HandshakeError::Refused(RefuseReason::Auth);
        assert_eq!(
            format!("{refused}"),
            "the server refused the session: it has another key"
        );
    }

    #[test]
    fn a_line_without_an_end_is_cut_off_at_the_limit() {
        let endless = vec![b'{'; limits::CONTROL_LINE];
        assert_eq!(
            outcome(start(DataTls::Plain).0, &endless),
            Err(HandshakeError::TooLong)
        );
        assert_eq!(
            outcome(start(DataTls::Plain).0, &endless[1..]),
            Err(HandshakeError::Eof)
        );
        let mut longest = welcome(&key(), &EXPORTER, DataTls::Plain);
        longest.pop();
        longest.resize(limits::CONTROL_LINE - 1, b' ');
        longest.push(b'\n');
        assert!(outcome(start(DataTls::Plain).0, &longest).is_ok());
    }

    #[test]
    fn silence_ends_at_the_deadline() {
        let (wait, _) = start(DataTls::Plain);
        let deadline = wait.deadline();
        assert_eq!(deadline, Instant::from_origin(Duration::from_secs(15)));
        let early = Instant::from_origin(Duration::from_millis(14_999));
        let wait = wait.handle_timeout(early).unwrap();
        assert_eq!(
            wait.handle_timeout(deadline).unwrap_err(),
            HandshakeError::TimedOut
        );
    }
}
