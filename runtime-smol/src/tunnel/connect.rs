//! The client's side of opening a session and its data connections (`wire.md` §2.2, §2.3).

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use async_io::Timer;
use protocol::config::Sni;
use protocol::handshake::{
    ClientHandshake, ClientHandshakeConfig, Established, HandshakeError, Step,
};
use protocol::id::LinkId;
use protocol::proof::{self, DataSecret};
use protocol::terms::{DataTls, Fingerprint, InstanceId, SessionId};
use protocol::wire::preface::Preface;
use smol::future::FutureExt as _;
use smol::io::AsyncWriteExt as _;

use super::Shared;
use super::door::read_some;
use super::keys::Derived;
use crate::clock::Clock;
use crate::net::{DialError, Stream};
use crate::relay::Fate;
use crate::tls::{ClientTls, VerifyError, leaf_fingerprint, server_name, verify_chain};

/// What this program calls itself in a `hello`.
const AGENT: &str = concat!("nodepass/", env!("CARGO_PKG_VERSION"));

/// Why a session could not be opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("{0}")]
    Dial(#[from] DialError),
    #[error("no session with the server within the handshake timeout")]
    TooLate,
    #[error("tls with the server: {0}")]
    Tls(io::Error),
    #[error(
        "the server closed the connection before it said anything: \
         it is no nodepass server, or has banned this address"
    )]
    Closed,
    #[error("the server does not speak the native generation, and others are not yet supported")]
    NotNative,
    #[error("connection to the server: {0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Handshake(#[from] HandshakeError),
    #[error("certificate of the server: {0}")]
    Certificate(#[from] VerifyError),
}

impl ConnectError {
    /// A server that closes at once is met as an end or as a reset, by chance.
    fn of_tls(error: io::Error) -> Self {
        let closed = [
            ErrorKind::UnexpectedEof,
            ErrorKind::ConnectionReset,
            ErrorKind::BrokenPipe,
        ];
        if closed.contains(&error.kind()) {
            Self::Closed
        } else {
            Self::Tls(error)
        }
    }
}

/// Why a data connection could not be opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum DataError {
    #[error("{0}")]
    Dial(#[from] DialError),
    #[error("not open within the handshake timeout")]
    TooLate,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("a certificate that the session did not announce")]
    Certificate,
}

/// A session that is up, before its task runs.
#[derive(Debug)]
pub(super) struct Connected {
    pub(super) stream: Stream,
    pub(super) established: Established,
    pub(super) session: Arc<ClientSession>,
}

/// What data connections of a session need.
#[derive(Debug)]
pub(super) struct ClientSession {
    pub(super) link: LinkId,
    pub(super) fate: Arc<Fate>,
    name: SessionId,
    data_secret: DataSecret,
    seq: AtomicU64,
    server: SocketAddr,
    tls: DataTls,
    trust: Mutex<Trust>,
}

/// Which certificates data connections may show, and what is remembered of them.
#[derive(Debug)]
struct Trust {
    fingerprints: Vec<Fingerprint>,
    client: Arc<ClientTls>,
}

/// What every attempt of a client needs.
#[derive(Debug)]
pub(super) struct Connector {
    pub(super) shared: Arc<Shared>,
    pub(super) key: Derived,
    pub(super) instance: InstanceId,
    tls: ClientTls,
}

impl Connector {
    pub(super) fn new(shared: Arc<Shared>, key: Derived, instance: InstanceId) -> Self {
        Self {
            shared,
            key,
            instance,
            tls: ClientTls::control(),
        }
    }

    /// Opens a control connection and a session on it.
    pub(super) async fn session(&self, link: LinkId) -> Result<Connected, ConnectError> {
        let timeout = self.shared.config.env.handshake_timeout;
        let too_late = async {
            // Dialling has a deadline of its own.
            Timer::after(timeout + self.shared.config.env.tcp_dial_timeout).await;
            Err(ConnectError::TooLate)
        };
        Box::pin(self.open(link)).or(too_late).await
    }

    async fn open(&self, link: LinkId) -> Result<Connected, ConnectError> {
        let config = &self.shared.config;
        let deadline = Instant::now() + config.env.tcp_dial_timeout;
        let key = self.key.get().await;
        let dialer = &self.shared.dialer;
        let socket = dialer
            .tunnel(&config.tunnel.host, config.tunnel.port, deadline)
            .await?;
        let server = socket.get_ref().peer_addr()?;
        let name = server_name(&config.sni, &config.tunnel.host, server.ip());
        let mut stream = self
            .tls
            .connect(socket, name)
            .await
            .map_err(ConnectError::of_tls)?;
        if stream.alpn() != Some(proof::ALPN) {
            return Err(ConnectError::NotNative);
        }
        let established = self.handshake(&mut stream, &key).await?;
        if established.tls == DataTls::Verified {
            self.verify(&stream).await?;
        }
        let data_secret = DataSecret::from_bytes(stream.exporter(proof::LABEL_DATA)?);
        let trust = Trust {
            fingerprints: established.fingerprints.clone(),
            client: Arc::new(ClientTls::data()),
        };
        let session = ClientSession {
            link,
            fate: Fate::new(),
            name: established.session,
            data_secret,
            seq: AtomicU64::new(1),
            server,
            tls: established.tls,
            trust: Mutex::new(trust),
        };
        Ok(Connected {
            stream,
            established,
            session: Arc::new(session),
        })
    }

    async fn handshake(
        &self,
        stream: &mut Stream,
        key: &proof::PreKey,
    ) -> Result<Established, ConnectError> {
        let exporter = stream.exporter(proof::LABEL_AUTH)?;
        let config = ClientHandshakeConfig {
            instance: self.instance,
            agent: AGENT.to_owned(),
            least_tls: self.shared.config.tls,
        };
        let timeout = self.shared.config.env.handshake_timeout;
        let mut hello = Vec::new();
        let now = Clock::new().now();
        let mut state = ClientHandshake::start(&config, key, &exporter, now, timeout, &mut hello);
        stream.write_all(&hello).await?;
        stream.flush().await?;
        loop {
            let bytes = read_some(stream).await?;
            if bytes.is_empty() {
                return Err(state.handle_eof().into());
            }
            match state.handle_bytes(&bytes)? {
                Step::NeedsInput(next) => state = next,
                Step::Done(established) => return Ok(established),
            }
        }
    }

    /// `tls=2`: the chain of the control connection must be good for the server's name.
    async fn verify(&self, stream: &Stream) -> Result<(), VerifyError> {
        let chain = stream.chain().to_vec();
        let config = &self.shared.config;
        let name = match &config.sni {
            Sni::Name(name) => name.clone(),
            Sni::Host | Sni::None => config.tunnel.host.clone(),
        };
        let ca = config.ca.clone();
        // Roots come from files.
        smol::unblock(move || verify_chain(&chain, &name, ca.as_deref().map(Path::new))).await
    }
}

impl ClientSession {
    /// Opens one data connection, up to and with its preface.
    pub(super) async fn data(&self, shared: &Shared) -> Result<Stream, DataError> {
        let timeout = shared.config.env.handshake_timeout;
        let too_late = async {
            Timer::after(timeout).await;
            Err(DataError::TooLate)
        };
        Box::pin(self.open(shared, Instant::now() + timeout))
            .or(too_late)
            .await
    }

    async fn open(&self, shared: &Shared, deadline: Instant) -> Result<Stream, DataError> {
        let socket = shared.dialer.tunnel_to(self.server, deadline).await?;
        let (mut stream, exporter) = if self.tls == DataTls::Plain {
            (Stream::Plain(socket), None)
        } else {
            let client = Arc::clone(&self.trust().client);
            let config = &shared.config;
            let name = server_name(&config.sni, &config.tunnel.host, self.server.ip());
            let stream = client.connect(socket, name).await?;
            let leaf = leaf_fingerprint(&stream);
            if !leaf.is_some_and(|leaf| self.trust().fingerprints.contains(&leaf)) {
                return Err(DataError::Certificate);
            }
            let exporter = stream.exporter(proof::LABEL_CONN)?;
            (stream, Some(exporter))
        };
        let seq = self.seq.fetch_add(1, Ordering::Relaxed);
        let preface = Preface::new(&self.data_secret, self.name, seq, exporter.as_ref());
        stream.write_all(&preface.encode()).await?;
        stream.flush().await?;
        Ok(stream)
    }

    /// The server's certificates valid from now on. Tickets of the old ones are forgotten: a
    /// resumed connection shows the certificate it was made with.
    pub(super) fn trust_now(&self, fingerprints: Vec<Fingerprint>) {
        let mut trust = self.trust();
        trust.client.fresh();
        trust.fingerprints = fingerprints;
    }

    fn trust(&self) -> std::sync::MutexGuard<'_, Trust> {
        self.trust.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
