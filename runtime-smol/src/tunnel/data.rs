//! The client's side of opening a session's data connections (`wire.md` §2.3, §3).

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use protocol::dialect::Dialect;
use protocol::id::LinkId;
use protocol::limits;
use protocol::proof::{self, DataSecret};
use protocol::terms::{DataId, DataTls, Fingerprint, SessionId};
use protocol::wire::data_id::IdForm;
use protocol::wire::preface::Preface;
use smol::future::FutureExt as _;
use smol::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::Shared;
use super::connect::verify;
use crate::executor;
use crate::net::{DialError, Polled, Stream};
use crate::relay::Fate;
use crate::timer::Timer;
use crate::tls::{ClientTls, leaf_fingerprint, server_name};

/// Why a data connection could not be opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum DataError {
    #[error("{0}")]
    Dial(#[from] DialError),
    #[error("not open within the handshake timeout")]
    TooLate,
    #[error("no id from the server in time")]
    NoId,
    #[error("closed by the server instead of an id: {error}")]
    NotNumbered { error: io::Error, open: Duration },
    #[error("what the server sent is no id")]
    NotAnId,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("a certificate that the session did not announce")]
    Certificate,
    #[error("a certificate that is not trusted")]
    Untrusted,
}

/// What data connections of a session need.
#[derive(Debug)]
pub(super) struct ClientSession {
    pub(super) link: LinkId,
    pub(super) fate: Arc<Fate>,
    pub(super) dialect: Dialect,
    pub(super) server: SocketAddr,
    pub(super) tls: DataTls,
    pub(super) entry: Entry,
}

/// How a data connection becomes one of the session.
#[derive(Debug)]
pub(super) enum Entry {
    Signed(Signed),
    Numbered(Numbered),
}

/// The client writes a signed preface.
#[derive(Debug)]
pub(super) struct Signed {
    pub(super) name: SessionId,
    pub(super) secret: DataSecret,
    pub(super) seq: AtomicU64,
    pub(super) trust: Mutex<Trust>,
}

/// Which certificates data connections may show, and what is remembered of them.
#[derive(Debug)]
pub(super) struct Trust {
    pub(super) fingerprints: Vec<Fingerprint>,
    pub(super) client: Arc<ClientTls>,
}

/// The server writes an id.
#[derive(Debug)]
pub(super) struct Numbered {
    form: IdForm,
    client: ClientTls,
    /// The leaf whose chain was judged last, and whether it is trusted: reading all roots for each
    /// connection of a session would take far longer than the connection.
    judged: smol::lock::Mutex<Option<(Fingerprint, bool)>>,
}

/// A data connection that is open.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) stream: Stream,
    /// Where connections are numbered.
    pub(super) number: Option<Number>,
}

/// What a numbered connection is known by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Number {
    pub(super) id: DataId,
    /// The certificate that the server showed on it.
    pub(super) leaf: Option<Fingerprint>,
}

impl ClientSession {
    /// Opens one data connection, up to and with its preface or its id.
    pub(super) async fn data(&self, shared: &Shared) -> Result<Opened, DataError> {
        let timeout = shared.config.env.handshake_timeout;
        let open = self.open(shared, Instant::now() + timeout);
        // Boxed: a TLS handshake's state is large, and what waits for an id need not carry it.
        let stream = in_time(timeout, DataError::TooLate, Box::pin(open)).await?;
        match &self.entry {
            Entry::Signed(_) => Ok(Opened {
                stream,
                number: None,
            }),
            Entry::Numbered(numbered) => {
                let read = numbered.read_id(stream);
                in_time(limits::ID_WAIT, DataError::NoId, read).await
            }
        }
    }

    async fn open(&self, shared: &Shared, deadline: Instant) -> Result<Stream, DataError> {
        let socket = shared.dialer.tunnel_to(self.server, deadline).await?;
        match &self.entry {
            Entry::Signed(signed) => {
                let mut stream = match self.tls {
                    DataTls::Plain => Stream::Plain(socket),
                    DataTls::Pinned | DataTls::Verified => {
                        let client = Arc::clone(&signed.trust().client);
                        self.secured(shared, &client, socket).await?
                    }
                };
                signed.write_preface(&mut stream).await?;
                Ok(stream)
            }
            Entry::Numbered(numbered) => {
                if self.tls == DataTls::Plain {
                    return Ok(Stream::Plain(socket));
                }
                let stream = self.secured(shared, &numbered.client, socket).await?;
                if self.tls == DataTls::Verified {
                    numbered.verify(shared, &stream).await?;
                }
                Ok(stream)
            }
        }
    }

    async fn secured(
        &self,
        shared: &Shared,
        client: &ClientTls,
        socket: Polled<std::net::TcpStream>,
    ) -> io::Result<Stream> {
        executor::stepped_aside().await;
        let config = &shared.config;
        let name = server_name(&config.sni, &config.tunnel.host, self.server.ip());
        client.connect(socket, name).await
    }

    /// The server's certificates valid from now on. Tickets of the old ones are forgotten: a
    /// resumed connection shows the certificate it was made with.
    pub(super) fn trust_now(&self, fingerprints: Vec<Fingerprint>) {
        if let Entry::Signed(signed) = &self.entry {
            let mut trust = signed.trust();
            trust.client.fresh();
            trust.fingerprints = fingerprints;
        }
    }
}

impl Signed {
    async fn write_preface(&self, stream: &mut Stream) -> Result<(), DataError> {
        let exporter = match stream {
            Stream::Plain(_) => None,
            Stream::Tls(_) => {
                let leaf = leaf_fingerprint(stream);
                if !leaf.is_some_and(|leaf| self.trust().fingerprints.contains(&leaf)) {
                    return Err(DataError::Certificate);
                }
                Some(stream.exporter(proof::LABEL_CONN)?)
            }
        };
        let seq = self.seq.fetch_add(1, Ordering::Relaxed);
        let preface = Preface::new(&self.secret, self.name, seq, exporter.as_ref());
        stream.write_all(&preface.encode()).await?;
        stream.flush().await?;
        Ok(())
    }

    fn trust(&self) -> MutexGuard<'_, Trust> {
        self.trust.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Numbered {
    pub(super) fn new(form: IdForm) -> Self {
        Self {
            form,
            client: ClientTls::legacy(),
            judged: smol::lock::Mutex::new(None),
        }
    }

    /// `tls=2`: the chain must be good for the server's name. A bad one is logged once.
    async fn verify(&self, shared: &Shared, stream: &Stream) -> Result<(), DataError> {
        let leaf = leaf_fingerprint(stream).ok_or(DataError::Untrusted)?;
        // Held meanwhile, so that connections opened together wait for one verdict.
        let mut judged = self.judged.lock().await;
        let trusted = match *judged {
            Some((known, trusted)) if known == leaf => trusted,
            Some(_) | None => {
                let verdict = verify(&shared.config, stream).await;
                if let Err(error) = &verdict {
                    tracing::warn!(%error, "the server's data connections cannot be trusted");
                }
                verdict.is_ok()
            }
        };
        *judged = Some((leaf, trusted));
        trusted.then_some(()).ok_or(DataError::Untrusted)
    }

    async fn read_id(&self, mut stream: Stream) -> Result<Opened, DataError> {
        let mut bytes = vec![0; self.form.len()];
        let since = Instant::now();
        if let Err(error) = stream.read_exact(&mut bytes).await {
            let open = since.elapsed();
            return Err(DataError::NotNumbered { error, open });
        }
        let id = self.form.decode(&bytes).ok_or(DataError::NotAnId)?;
        let leaf = leaf_fingerprint(&stream);
        Ok(Opened {
            stream,
            number: Some(Number { id, leaf }),
        })
    }
}

async fn in_time<T>(
    limit: Duration,
    late: DataError,
    work: impl Future<Output = Result<T, DataError>>,
) -> Result<T, DataError> {
    let too_late = async {
        Timer::after(limit).await;
        Err(late)
    };
    work.or(too_late).await
}
