//! A connection at the tunnel port, from its first byte to what it wants to be (`wire.md` §1).
//!
//! Runs in a task of its own, never in the accept loop, under one deadline.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::io;
use std::mem;
use std::net::{SocketAddr, TcpStream};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use protocol::demux::{self, Demux, Expected, Inside, Verdict, Why};
use protocol::handshake::legacy::{AwaitLegacy, LegacyStep, Spoken};
use protocol::handshake::{AwaitHello, HandshakeError, ServerStep};
use protocol::id::ConnId;
use protocol::limits;
use protocol::proof::{self, DataSecret};
use protocol::terms::{Fingerprint, Generation};
use protocol::time::Instant;
use protocol::wire::preface::{self, Preface};
use smol::channel::Sender;
use smol::future::{FutureExt as _, pending};
use smol::io::{AsyncRead, AsyncReadExt as _};

use super::Shared;
use super::hub::{DoorEvent, Msg};
use super::keys::Keys;
use super::leash::Orders;
use crate::clock::{Clock, until};
use crate::executor;
use crate::net::{Polled, Stream};
use crate::timer::Timer;
use crate::tls::ServerTls;

/// What every connection at one tunnel port needs.
#[derive(Debug)]
pub(super) struct Door {
    pub(super) shared: Arc<Shared>,
    pub(super) tls: ServerTls,
    pub(super) keys: Keys,
    pub(super) hub: Sender<Msg>,
    /// Generations that `proto` excludes and somebody spoke: worth a warning once.
    pub(super) excluded: Mutex<BTreeSet<Generation>>,
}

/// A connection that has said nothing so far.
#[derive(Debug)]
pub(super) struct Caller {
    pub(super) stream: Stream,
    /// The certificate that it was shown, if it is inside TLS.
    pub(super) leaf: Option<Fingerprint>,
    pub(super) from: SocketAddr,
    /// Until when it has to be done with its handshake.
    pub(super) deadline: Instant,
    /// It was silent before, and its session had no room for it.
    pub(super) again: bool,
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
        caller: Caller,
        expected: Expected,
        orders: Orders,
    ) {
        let (from, deadline) = (caller.from, caller.deadline);
        let too_late = async {
            until(deadline).await;
            Err(Unwelcome::TooLate)
        };
        let dropped = async {
            orders.cut().await;
            Ok(None)
        };
        // Boxed: a TLS handshake's state is large, and the task outlives it.
        let met = Box::pin(async { self.handshake(caller, expected).await.map(Some) });
        let event = match met.or(too_late).or(dropped).await {
            Ok(Some(event)) => event,
            Ok(None) => return,
            Err(why) => {
                self.log(from, &why);
                DoorEvent::Ended
            }
        };
        // The hub is gone only when the tunnel is.
        drop(self.hub.send(Msg::Door(conn, event)).await);
    }

    fn log(&self, from: SocketAddr, why: &Unwelcome) {
        let excluded = match why {
            Unwelcome::Demux(why) => why.excluded(),
            Unwelcome::TooLate
            | Unwelcome::Io(_)
            | Unwelcome::Handshake(_)
            | Unwelcome::Preface(_) => None,
        };
        let mut known = self.excluded.lock().unwrap_or_else(PoisonError::into_inner);
        if excluded.is_some_and(|generation| known.insert(generation)) {
            tracing::warn!(%from, %why, "connection at the tunnel port closed");
        } else {
            tracing::debug!(%from, %why, "connection at the tunnel port closed");
        }
    }

    async fn handshake(&self, caller: Caller, expected: Expected) -> Result<DoorEvent, Unwelcome> {
        let mut socket = match caller.stream {
            Stream::Plain(socket) => socket,
            Stream::Tls(_) => return self.under_tls(caller, expected).await,
        };
        let (allowed, now) = (self.shared.config.proto, Clock::new().now());
        let mut demux = match caller.again {
            true => Demux::again(allowed, expected, now, caller.deadline),
            false => {
                let left = caller.deadline.saturating_since(now);
                Demux::new(allowed, expected, now, left)
            }
        };
        let Some(seen) = look(&socket, &mut demux).await? else {
            return Ok(DoorEvent::Ended);
        };
        match seen {
            Verdict::Tls => {
                executor::stepped_aside().await;
                let (stream, leaf) = self.tls.accept_showing(socket).await?;
                let caller = Caller {
                    stream,
                    leaf: Some(leaf),
                    again: false,
                    ..caller
                };
                return self.under_tls(caller, expected).await;
            }
            Verdict::NativePreface => return data(Stream::Plain(socket), &[], None).await,
            Verdict::Silent => {
                let stream = Stream::Plain(socket);
                return Ok(DoorEvent::Silent(Caller { stream, ..caller }));
            }
            Verdict::Legacy(spoken) => {
                return self.legacy(Stream::Plain(socket), spoken, Vec::new()).await;
            }
            Verdict::Close(why) => return Err(why.into()),
            Verdict::NeedMore => {}
        }
        // Byte by byte, so that nothing is read beyond what decides.
        let mut head = Vec::with_capacity(preface::LEN);
        loop {
            let mut next = [0; 1];
            socket.read_exact(&mut next).await?;
            head.extend_from_slice(&next);
            match demux.handle_bytes(&next) {
                Verdict::NeedMore => {}
                Verdict::NativePreface => return data(Stream::Plain(socket), &head, None).await,
                Verdict::Legacy(spoken) => {
                    return self.legacy(Stream::Plain(socket), spoken, head).await;
                }
                Verdict::Close(why) => return Err(why.into()),
                // The one is looked for before anything is read, the other says nothing.
                Verdict::Tls | Verdict::Silent => return Err(Why::Unknown.into()),
            }
        }
    }

    async fn under_tls(
        &self,
        mut caller: Caller,
        expected: Expected,
    ) -> Result<DoorEvent, Unwelcome> {
        let stream = &mut caller.stream;
        let alpn = stream.alpn().map(<[u8]>::to_vec);
        let quiet = match caller.again {
            true => limits::QUIET_AGAIN,
            false => limits::QUIET,
        };
        let may_be_silent = demux::silent_in_tls(expected, alpn.as_deref()) == Inside::Silent;
        let mut head = Vec::new();
        loop {
            let mut next = [0; 1];
            let read = async { stream.read_exact(&mut next).await.map(|()| true) };
            let silence = async {
                if !may_be_silent || !head.is_empty() {
                    return pending().await;
                }
                Timer::after(quiet).await;
                Ok(false)
            };
            if !read.or(silence).await? {
                return Ok(DoorEvent::Silent(caller));
            }
            head.extend_from_slice(&next);
            match demux::after_tls(self.shared.config.proto, alpn.as_deref(), &head) {
                Inside::NeedMore | Inside::Silent => {}
                Inside::Control => return self.control(caller.stream, head).await,
                Inside::Preface => {
                    let exporter = stream.exporter(proof::LABEL_CONN)?;
                    return data(caller.stream, &head, Some(exporter)).await;
                }
                Inside::Legacy(spoken) => {
                    return self.legacy(caller.stream, spoken, head).await;
                }
                Inside::Close(why) => return Err(why.into()),
            }
        }
    }

    async fn legacy(
        &self,
        mut stream: Stream,
        spoken: Spoken,
        head: Vec<u8>,
    ) -> Result<DoorEvent, Unwelcome> {
        let timeout = self.shared.config.env.handshake_timeout;
        let now = Clock::new().now();
        let mut state = AwaitLegacy::new(spoken, &self.keys.legacy, now, timeout)?;
        let mut bytes = head;
        loop {
            match state.handle_bytes(&bytes)? {
                LegacyStep::NeedsInput(next) => state = next,
                LegacyStep::Verified(verified) => {
                    let verified = Box::new(verified);
                    return Ok(DoorEvent::Legacy { stream, verified });
                }
                LegacyStep::Refused { answer: line, why } if why.counts_for_ban() => {
                    return Ok(DoorEvent::WrongProof { stream, line });
                }
                LegacyStep::Refused { answer, why } => {
                    send_refusal(&mut stream, &answer).await?;
                    return Err(why.into());
                }
            }
            bytes = read_some(&mut stream).await?;
            if bytes.is_empty() {
                return Err(state.handle_eof().into());
            }
        }
    }

    async fn control(&self, mut stream: Stream, head: Vec<u8>) -> Result<DoorEvent, Unwelcome> {
        let auth = stream.exporter(proof::LABEL_AUTH)?;
        let data_secret = DataSecret::from_bytes(stream.exporter(proof::LABEL_DATA)?);
        let timeout = self.shared.config.env.handshake_timeout;
        let now = Clock::new().now();
        let mut state = AwaitHello::new(&self.keys.native.get().await, &auth, now, timeout);
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

/// What the first bytes say, or that none come; `None` at the end of the stream. They are looked at,
/// not read: TLS wants them, too, and a preface is read in one piece.
async fn look(socket: &Polled<TcpStream>, demux: &mut Demux) -> io::Result<Option<Verdict>> {
    let mut fresh = true;
    loop {
        let mut start = [0; demux::PREFACE_MAGIC.len()];
        let look = async {
            // Who has just connected has hardly said anything yet.
            if mem::take(&mut fresh) {
                socket.readable().await?;
            }
            socket.peek(&mut start).await.map(Some)
        };
        let due = demux.poll_timeout();
        let quiet = async {
            until(due).await;
            Ok(None)
        };
        match look.or(quiet).await? {
            Some(0) => return Ok(None),
            Some(seen) => {
                let start = start.get(..seen).unwrap_or_default();
                let verdict = demux.clone().handle_bytes(start);
                let may_be_tls = demux::CLIENT_HELLO.starts_with(start);
                if verdict != Verdict::NeedMore || !may_be_tls {
                    return Ok(Some(verdict));
                }
                // Half of what tells TLS, which nobody sends by itself: look again later, as a socket
                // with an unread byte wakes at once.
                Timer::after(limits::QUIET).await;
            }
            None => {
                let verdict = demux.handle_timeout(Clock::new().now());
                if verdict != Verdict::NeedMore {
                    return Ok(Some(verdict));
                }
            }
        }
    }
}

/// Says no as the handshake does and ends the stream, so that the peer can read it.
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

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::{Ipv4Addr, TcpListener};
    use std::time::Duration;

    use protocol::config::Generations;

    use super::*;

    #[test]
    fn who_has_said_one_byte_is_not_silent() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut caller = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let socket = Polled::new(listener.accept().unwrap().0).unwrap();
        let now = Clock::new().now();
        let mut demux = Demux::new(
            Generations::AUTO,
            Expected::Plain,
            now,
            Duration::from_secs(20),
        );
        let (first, rest) = demux::CLIENT_HELLO.split_at(1);
        caller.write_all(first).unwrap();
        let saying = async {
            Timer::after(limits::QUIET + limits::QUIET / 2).await;
            caller.write_all(rest).unwrap();
            pending().await
        };
        let seen = smol::block_on(look(&socket, &mut demux).or(saying)).unwrap();
        assert_eq!(seen, Some(Verdict::Tls));
    }
}
