//! A byte stream to a user, a target or the peer: TCP, with TLS on it or not.

use std::fmt;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_rustls::TlsStream;
use rustls::CommonState;
use rustls::pki_types::CertificateDer;
use smol::io::{AsyncRead, AsyncWrite};
use socket2::SockRef;

use super::polled::Polled;

/// A TCP connection, plain or under TLS.
///
/// One type for both, so that relays and sessions are compiled once. `poll_close` is a half-close:
/// `close_notify` and FIN under TLS, FIN alone otherwise; reading goes on.
pub enum Stream {
    /// TCP.
    Plain(Polled<TcpStream>),
    /// TLS over TCP.
    Tls(Box<TlsStream<Polled<TcpStream>>>),
}

impl Stream {
    /// The socket underneath.
    #[must_use]
    pub fn socket(&self) -> &Polled<TcpStream> {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(tls) => tls.get_ref().0,
        }
    }

    /// Whether there is no TLS on it.
    #[must_use]
    pub const fn is_plain(&self) -> bool {
        matches!(self, Self::Plain(_))
    }

    /// The peer's address.
    ///
    /// # Errors
    /// Those of `getpeername`, for example when the peer has reset the connection.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.socket().get_ref().peer_addr()
    }

    /// Waits until a plain socket has something to read (bytes, end of stream or an error), without
    /// trying to read first. TLS may hold decrypted bytes, so it is always ready to be tried.
    ///
    /// # Errors
    /// Those of the reactor.
    pub fn poll_read_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(socket) => {
                socket.follow();
                socket.poll_readable(cx)
            }
            Self::Tls(_) => Poll::Ready(Ok(())),
        }
    }

    /// Waits until a plain socket has room to write, without trying to write first. TLS has a buffer
    /// of its own, so it is always ready to be tried.
    ///
    /// # Errors
    /// Those of the reactor.
    pub fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(socket) => socket.poll_writable(cx),
            Self::Tls(_) => Poll::Ready(Ok(())),
        }
    }

    /// 32 bytes that only the two ends of this TLS connection can compute, for `label` and no
    /// context (`wire.md` §2.2).
    ///
    /// # Errors
    /// There is no TLS on this connection.
    pub fn exporter(&self, label: &[u8]) -> io::Result<[u8; 32]> {
        let Self::Tls(tls) = self else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        let exported = match &**tls {
            TlsStream::Client(tls) => tls.get_ref().1.export_keying_material([0; 32], label, None),
            TlsStream::Server(tls) => tls.get_ref().1.export_keying_material([0; 32], label, None),
        };
        exported.map_err(io::Error::other)
    }

    /// The application protocol that the TLS handshake agreed on, if any.
    #[must_use]
    pub fn alpn(&self) -> Option<&[u8]> {
        self.tls().and_then(|tls| tls.alpn_protocol())
    }

    /// The certificates that the TLS peer showed, leaf first; empty without TLS or if it showed
    /// none. A resumed connection has those of the one it resumes.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        let chain = self.tls().and_then(|tls| tls.peer_certificates());
        chain.unwrap_or_default()
    }

    /// The state of TLS, if there is any.
    #[must_use]
    pub fn tls(&self) -> Option<&CommonState> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(tls) => Some(tls.get_ref().1),
        }
    }

    /// Closes the connection with a RST, so that the other side sees a failure and not an end.
    pub fn reset(self) {
        self.reset_when_dropped();
    }

    /// Has the connection closed with a RST when it is dropped.
    pub fn reset_when_dropped(&self) {
        // Failing to set the option leaves an ordinary close, which is the best that can be done.
        drop(SockRef::from(self.socket().get_ref()).set_linger(Some(std::time::Duration::ZERO)));
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Self::Plain(_) => "Plain",
            Self::Tls(_) => "Tls",
        };
        f.debug_tuple(kind).field(self.socket().get_ref()).finish()
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_read(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Self::Tls(tls) = this {
            ready!(Pin::new(tls).poll_close(cx))?;
        }
        // Closing a socket here does nothing, so the FIN is ours to send.
        match this.socket().get_ref().shutdown(Shutdown::Write) {
            Err(error) if error.kind() != io::ErrorKind::NotConnected => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(())),
        }
    }
}
