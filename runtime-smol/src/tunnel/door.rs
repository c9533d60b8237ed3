//! A connection at the tunnel port, from its first byte to what it wants to be (`wire.md` §1).
//!
//! Runs in a task of its own, never in the accept loop, under one deadline.

use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::pin::Pin;
use std::sync::Arc;

use async_io::{Async, Timer};
use protocol::demux::{self, Demux, Inside, Verdict, Why};
use protocol::handshake::{AwaitHello, HandshakeError, ServerStep};
use protocol::id::ConnId;
use protocol::proof::{self, DataSecret};
use protocol::wire::preface::{self, Preface};
use smol::channel::{Receiver, Sender};
use smol::future::FutureExt as _;
use smol::io::{AsyncRead, AsyncReadExt as _};

use super::Shared;
use super::hub::{DoorEvent, Msg, Order, cut};
use super::keys::Derived;
use crate::clock::Clock;
use crate::net::Stream;
use crate::tls::ServerTls;

/// What every connection at one tunnel port needs.
#[derive(Debug)]
pub(super) struct Door {
    pub(super) shared: Arc<Shared>,
    pub(super) tls: ServerTls,
    pub(super) key: Derived,
    pub(super) hub: Sender<Msg>,
}

/// Why a connection in handshake was closed.
#[derive(Debug, thiserror::Error)]
enum Unwelcome {
    #[error("no complete handshake in time")]
    TooLate,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Demux(#[from] Why),
    #[error("{0}")]
    Handshake(#[from] HandshakeError),
    #[error("{0}")]
    Preface(#[from] preface::NotAPreface),
}

impl Door {
    /// Finds out what the connection wants and tells the hub, unless the hub cuts the leash first.
    pub(super) async fn meet(
        self: Arc<Self>,
        conn: ConnId,
        socket: Async<TcpStream>,
        from: SocketAddr,
        orders: Receiver<Order>,
    ) {
        let too_late = async {
            Timer::after(self.shared.config.env.handshake_timeout).await;
            Err(Unwelcome::TooLate)
        };
        let dropped = async {
            cut(&orders).await;
            Ok(None)
        };
        // Boxed: a TLS handshake's state is large, and the task outlives it.
        let met = Box::pin(async { self.handshake(socket).await.map(Some) });
        let event = match met.or(too_late).or(dropped).await {
            Ok(Some(event)) => event,
            Ok(None) => return,
            Err(why) => {
                tracing::debug!(%from, %why, "connection at the tunnel port closed");
                DoorEvent::Ended
            }
        };
        // The hub is gone only when the tunnel is.
        drop(self.hub.send(Msg::Door(conn, event)).await);
    }

    async fn handshake(&self, mut socket: Async<TcpStream>) -> Result<DoorEvent, Unwelcome> {
        let config = &self.shared.config;
        let now = Clock::new().now();
        let mut demux = Demux::new(config.proto, now, config.env.handshake_timeout);
        let mut first = [0; 1];
        // Looked at, not read: TLS wants it, too.
        if socket.peek(&mut first).await? == 0 {
            return Ok(DoorEvent::Ended);
        }
        let mut verdict = demux.handle_bytes(&first);
        if verdict == Verdict::Tls {
            return self.under_tls(self.tls.accept(socket).await?).await;
        }
        let mut head = Vec::with_capacity(preface::LEN);
        loop {
            socket.read_exact(&mut first).await?;
            if !head.is_empty() {
                verdict = demux.handle_bytes(&first);
            }
            head.extend_from_slice(&first);
            match verdict {
                Verdict::NeedMore => {}
                Verdict::NativePreface => return data(Stream::Plain(socket), &head, None).await,
                Verdict::Close(why) => return Err(why.into()),
                Verdict::Tls | Verdict::Legacy(_) => return Err(Why::Unknown.into()),
            }
        }
    }

    async fn under_tls(&self, mut stream: Stream) -> Result<DoorEvent, Unwelcome> {
        let alpn = stream.alpn().map(<[u8]>::to_vec);
        let mut head = Vec::new();
        loop {
            let mut next = [0; 1];
            stream.read_exact(&mut next).await?;
            head.extend_from_slice(&next);
            match demux::after_tls(self.shared.config.proto, alpn.as_deref(), &head) {
                Inside::NeedMore => {}
                Inside::Control => return self.control(stream, head).await,
                Inside::Preface => {
                    let exporter = stream.exporter(proof::LABEL_CONN)?;
                    return data(stream, &head, Some(exporter)).await;
                }
                Inside::Close(why) => return Err(why.into()),
                Inside::Legacy(_) => return Err(Why::Unknown.into()),
            }
        }
    }

    async fn control(&self, mut stream: Stream, head: Vec<u8>) -> Result<DoorEvent, Unwelcome> {
        let auth = stream.exporter(proof::LABEL_AUTH)?;
        let data_secret = DataSecret::from_bytes(stream.exporter(proof::LABEL_DATA)?);
        let timeout = self.shared.config.env.handshake_timeout;
        let now = Clock::new().now();
        let mut state = AwaitHello::new(&self.key.get().await, &auth, now, timeout);
        let mut bytes = head;
        loop {
            match state.handle_bytes(&bytes)? {
                ServerStep::NeedsInput(next) => state = next,
                ServerStep::Verified(hello) => {
                    return Ok(DoorEvent::Hello {
                        stream,
                        hello: Box::new(hello),
                        data_secret,
                    });
                }
                ServerStep::Refused {
                    line,
                    why: HandshakeError::WrongProof,
                } => {
                    return Ok(DoorEvent::WrongProof { stream, line });
                }
                ServerStep::Refused { line, why } => {
                    send_refusal(&mut stream, &line).await?;
                    return Err(why.into());
                }
            }
            bytes = read_some(&mut stream).await?;
            if bytes.is_empty() {
                return Err(state.handle_eof().into());
            }
        }
    }
}

/// Writes a `refuse` line and ends the stream, so that the peer can read it.
pub(super) async fn send_refusal(stream: &mut Stream, line: &[u8]) -> io::Result<()> {
    use smol::io::AsyncWriteExt as _;
    stream.write_all(line).await?;
    stream.close().await
}

/// Reads whatever comes next, at most one control line's worth; empty at the end.
pub(super) async fn read_some(stream: &mut Stream) -> io::Result<Vec<u8>> {
    poll_fn(|cx| {
        let mut buffer = [0; 1024];
        let read = Pin::new(&mut *stream).poll_read(cx, &mut buffer);
        read.map_ok(|n| buffer.get(..n).unwrap_or_default().to_vec())
    })
    .await
}

/// Reads the rest of a data preface that began with `head`.
async fn data(
    mut stream: Stream,
    head: &[u8],
    exporter: Option<[u8; 32]>,
) -> Result<DoorEvent, Unwelcome> {
    let mut bytes = [0; preface::LEN];
    let (known, unknown) = bytes.split_at_mut(head.len().min(preface::LEN));
    known.copy_from_slice(head.get(..known.len()).unwrap_or_default());
    stream.read_exact(unknown).await?;
    let preface = Preface::decode(&bytes)?;
    Ok(DoorEvent::Preface {
        stream,
        preface,
        exporter,
    })
}
