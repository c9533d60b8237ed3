//! The client's side of opening a session: one attempt, in the generation that is due (`wire.md` §1,
//! §2.2, §3, §4, §5).

use std::io::{self, ErrorKind};
use std::net::{IpAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use protocol::config::{Sni, Tunnel as Config};
use protocol::dialect::{ControlOn, DataBy};
use protocol::handshake::legacy::{AwaitAnswer, LegacyConfig, LegacyHandshake, Spoken};
use protocol::handshake::probe::{Attempt, Begin, Inside, Outcome, answers_http};
use protocol::handshake::{
    AwaitWelcome, ClientHandshake, ClientHandshakeConfig, Established, HandshakeError, Step,
};
use protocol::id::LinkId;
use protocol::proof::{self, DataSecret};
use protocol::terms::{DataTls, InstanceId};
use rustls::pki_types::ServerName;
use smol::future::FutureExt as _;
use smol::io::AsyncWriteExt as _;

use super::Shared;
use super::data::{ClientSession, Entry, Numbered, Signed, Trust};
use super::door::read_some;
use super::keys::Keys;
use crate::clock::Clock;
use crate::net::{DialError, Polled, Stream};
use crate::relay::Fate;
use crate::timer::Timer;
use crate::tls::{ClientTls, VerifyError, server_name, verify_chain};

/// What this program calls itself in a `hello`.
const AGENT: &str = concat!("nodepass/", env!("CARGO_PKG_VERSION"));

/// Why a session could not be opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("{0}")]
    Dial(#[from] DialError),
    #[error("no session with the server within the handshake timeout")]
    TooLate,
    #[error("tls with the server, to speak {0}: {1}")]
    Tls(Attempt, io::Error),
    #[error(
        "the server closed the connection before it said anything: \
         it does not speak {0}, or has banned this address"
    )]
    Closed(Attempt),
    #[error("the server speaks http in the clear, this client may only speak {0}")]
    AnswersHttp(Attempt),
    #[error("the server does not speak {0}")]
    OtherProtocol(Attempt),
    #[error("connection to the server: {0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Handshake(#[from] HandshakeError),
    #[error("certificate of the server: {0}")]
    Certificate(#[from] VerifyError),
    #[error("no token is shown at port 443: {0}; proto=https takes any certificate")]
    NoOrdinaryHttps(#[source] VerifyError),
}

impl ConnectError {
    /// A server at port 443 that may not see the token. Who did not choose `http` is told of the way out.
    const fn of_stranger(attempt: Attempt, error: VerifyError) -> Self {
        match attempt {
            Attempt::Tls { .. } => Self::NoOrdinaryHttps(error),
            Attempt::Http | Attempt::Classic => Self::Certificate(error),
        }
    }

    /// A server that closes at once is met as an end or as a reset, by chance.
    fn of_tls(attempt: Attempt, error: io::Error) -> Self {
        let closed = [
            ErrorKind::UnexpectedEof,
            ErrorKind::ConnectionReset,
            ErrorKind::BrokenPipe,
        ];
        if closed.contains(&error.kind()) {
            Self::Closed(attempt)
        } else {
            Self::Tls(attempt, error)
        }
    }

    /// What the attempt says about the server's generation.
    pub(super) const fn outcome(&self) -> Outcome {
        match self {
            Self::AnswersHttp(_) => Outcome::AnsweredHttp,
            Self::Dial(_)
            | Self::TooLate
            | Self::Tls(..)
            | Self::Closed(_)
            | Self::OtherProtocol(_)
            | Self::Io(_)
            | Self::Handshake(_)
            | Self::Certificate(_)
            | Self::NoOrdinaryHttps(_) => Outcome::Failed,
        }
    }
}

/// What an attempt led to: a session whose task does not run yet.
#[derive(Debug)]
pub(super) struct Connected {
    /// The control channel, where it is the connection of the handshake.
    pub(super) control: Option<Stream>,
    pub(super) established: Established,
    pub(super) session: Arc<ClientSession>,
    /// What a legacy session lacks.
    pub(super) lacks: Option<&'static str>,
}

/// What the handshake of an attempt led to.
struct Agreed {
    stream: Stream,
    established: Established,
    entry: Entry,
    lacks: Option<&'static str>,
}

/// What every attempt of a client needs.
#[derive(Debug)]
pub(super) struct Connector {
    pub(super) shared: Arc<Shared>,
    pub(super) keys: Keys,
    pub(super) instance: InstanceId,
}

impl Connector {
    /// Makes one attempt: dialling and the handshake have each a deadline of their own.
    pub(super) async fn session(
        &self,
        link: LinkId,
        attempt: Attempt,
    ) -> Result<Connected, ConnectError> {
        let env = &self.shared.config.env;
        if matches!(attempt, Attempt::Tls { native: true, .. }) {
            // It may still be in the making, and the server waits only so long.
            self.keys.native.get().await;
        }
        let socket = self.dial().await?;
        // Asked now: later the server may have gone.
        let server = socket.get_ref().peer_addr()?;
        let too_late = async {
            Timer::after(env.handshake_timeout).await;
            Err(ConnectError::TooLate)
        };
        let agree = Box::pin(self.agree(socket, server.ip(), attempt));
        let Agreed {
            stream,
            established,
            entry,
            lacks,
        } = agree.or(too_late).await?;
        let session = ClientSession {
            link,
            fate: Fate::new(established.dialect.capabilities.relay_idle),
            dialect: established.dialect.clone(),
            server,
            tls: established.tls,
            entry,
        };
        let on_handshake = established.dialect.capabilities.control == ControlOn::Handshake;
        Ok(Connected {
            control: on_handshake.then_some(stream),
            established,
            session: Arc::new(session),
            lacks,
        })
    }

    async fn dial(&self) -> Result<Polled<TcpStream>, DialError> {
        let config = &self.shared.config;
        let deadline = Instant::now() + config.env.tcp_dial_timeout;
        let (host, port) = (&config.tunnel.host, config.tunnel.port);
        self.shared.dialer.tunnel(host, port, deadline).await
    }

    /// The handshake of whichever generation the attempt is for.
    async fn agree(
        &self,
        socket: Polled<TcpStream>,
        server: IpAddr,
        attempt: Attempt,
    ) -> Result<Agreed, ConnectError> {
        let config = &self.shared.config;
        let port = config.tunnel.port;
        if let Begin::Clear(spoken) = attempt.begin(port) {
            return self.legacy(Stream::Plain(socket), spoken).await;
        }
        let name = server_name(&config.sni, &config.tunnel.host, server);
        let stream = secured(socket, name, attempt).await?;
        match attempt.inside_tls(stream.alpn(), port, config.proto) {
            None => Err(ConnectError::OtherProtocol(attempt)),
            Some(Inside::Native) => self.native(stream).await,
            Some(Inside::Legacy { spoken, verified }) => {
                if verified {
                    // No token is shown to a stranger.
                    let trusted = verify(config, &stream).await;
                    trusted.map_err(|error| ConnectError::of_stranger(attempt, error))?;
                }
                self.legacy(stream, spoken).await
            }
        }
    }

    async fn native(&self, mut stream: Stream) -> Result<Agreed, ConnectError> {
        let exporter = stream.exporter(proof::LABEL_AUTH)?;
        let config = ClientHandshakeConfig {
            instance: self.instance,
            agent: AGENT.to_owned(),
            least_tls: self.shared.config.tls,
        };
        let timeout = self.shared.config.env.handshake_timeout;
        let (key, now, mut hello) = (self.keys.native.get().await, Clock::new().now(), Vec::new());
        let state = ClientHandshake::start(&config, &key, &exporter, now, timeout, &mut hello);
        let established = exchange(&mut stream, &hello, state).await?;
        if established.tls == DataTls::Verified {
            verify(&self.shared.config, &stream).await?;
        }
        let signed = Signed {
            name: established.session.ok_or(HandshakeError::Malformed)?,
            secret: DataSecret::from_bytes(stream.exporter(proof::LABEL_DATA)?),
            seq: AtomicU64::new(1),
            trust: Mutex::new(Trust {
                fingerprints: established.fingerprints.clone(),
                client: Arc::new(ClientTls::data()),
            }),
        };
        Ok(Agreed {
            stream,
            established,
            entry: Entry::Signed(signed),
            lacks: None,
        })
    }

    async fn legacy(&self, mut stream: Stream, spoken: Spoken) -> Result<Agreed, ConnectError> {
        let config = &self.shared.config;
        let legacy = LegacyConfig::new(&config.sni, &config.tunnel.host, config.tls);
        let (now, timeout) = (Clock::new().now(), config.env.handshake_timeout);
        let (keys, mut request) = (&self.keys.legacy, Vec::new());
        let state = LegacyHandshake::start(spoken, &legacy, keys, now, timeout, &mut request)?;
        let established = exchange(&mut stream, &request, state).await?;
        let DataBy::Address(form) = established.dialect.capabilities.data else {
            return Err(HandshakeError::Malformed.into());
        };
        Ok(Agreed {
            stream,
            established,
            entry: Entry::Numbered(Numbered::new(form)),
            lacks: Some(spoken.lacks()),
        })
    }
}

/// TLS with whatever certificate: trust comes later, or not at all.
async fn secured(
    socket: Polled<TcpStream>,
    name: ServerName<'static>,
    attempt: Attempt,
) -> Result<Stream, ConnectError> {
    let mut heard = Vec::new();
    let tls = ClientTls::control(attempt.alpn());
    let connected = tls.connect_listening(socket, name, &mut heard).await;
    connected.map_err(|error| {
        if answers_http(&heard) {
            ConnectError::AnswersHttp(attempt)
        } else {
            ConnectError::of_tls(attempt, error)
        }
    })
}

/// A client's handshake that waits for the server.
trait Awaiting: Sized {
    fn handle_bytes(self, bytes: &[u8]) -> Result<Step<Self, Established>, HandshakeError>;
    fn handle_eof(self) -> Result<Established, HandshakeError>;
}

impl Awaiting for AwaitWelcome {
    fn handle_bytes(self, bytes: &[u8]) -> Result<Step<Self, Established>, HandshakeError> {
        self.handle_bytes(bytes)
    }

    fn handle_eof(self) -> Result<Established, HandshakeError> {
        Err(self.handle_eof())
    }
}

impl Awaiting for AwaitAnswer {
    fn handle_bytes(self, bytes: &[u8]) -> Result<Step<Self, Established>, HandshakeError> {
        self.handle_bytes(bytes)
    }

    fn handle_eof(self) -> Result<Established, HandshakeError> {
        self.handle_eof()
    }
}

/// Says the first words and reads until the handshake is over.
async fn exchange(
    stream: &mut Stream,
    words: &[u8],
    mut state: impl Awaiting,
) -> Result<Established, ConnectError> {
    stream.write_all(words).await?;
    stream.flush().await?;
    loop {
        let bytes = read_some(stream).await?;
        if bytes.is_empty() {
            return Ok(state.handle_eof()?);
        }
        match state.handle_bytes(&bytes)? {
            Step::NeedsInput(next) => state = next,
            Step::Done(established) => return Ok(established),
        }
    }
}

/// `tls=2`: the chain that the server showed must be good for its name.
pub(super) async fn verify(config: &Config, stream: &Stream) -> Result<(), VerifyError> {
    let chain = stream.chain().to_vec();
    let name = match &config.sni {
        Sni::Name(name) => name.clone(),
        Sni::Host | Sni::None => config.tunnel.host.clone(),
    };
    let ca = config.ca.clone();
    // Roots come from files.
    smol::unblock(move || verify_chain(&chain, &name, ca.as_deref().map(Path::new))).await
}
