//! A TCP connection, plain or in TLS 1.3, that one thread reads while others write.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rustls::server::Acceptor;
use rustls::{ClientConnection, Connection};

use super::identity::{Identity, client_config};
use crate::support::peers::PATIENCE;

/// One connection.
#[derive(Debug)]
pub(crate) struct Conn {
    socket: TcpStream,
    tls: Option<Tls>,
}

#[derive(Debug)]
struct Tls {
    state: Mutex<Connection>,
    /// Held from encrypting to sending, so that records leave in order. Taken before `state`,
    /// which is never held while a write blocks: the reader needs it.
    sending: Mutex<()>,
    /// Read from the socket and not yet decrypted; the reader's alone.
    sealed: Mutex<Vec<u8>>,
}

/// What an idle connection shows.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Stir {
    /// Nothing, as it should.
    Nothing,
    /// Bytes.
    Bytes(Vec<u8>),
    /// Its end.
    End,
}

impl Conn {
    /// Without TLS.
    pub(crate) fn plain(socket: TcpStream) -> Self {
        drop(socket.set_nodelay(true));
        Self { socket, tls: None }
    }

    /// The client's side of a TLS handshake that accepts any certificate.
    pub(crate) fn tls_client(mut socket: TcpStream, alpn: &[&str]) -> io::Result<Self> {
        drop(socket.set_nodelay(true));
        let name = socket.peer_addr()?.ip().into();
        let mut conn =
            ClientConnection::new(client_config(alpn), name).map_err(io::Error::other)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        while conn.is_handshaking() {
            conn.complete_io(&mut socket)?;
        }
        Self::secure(socket, conn.into())
    }

    /// The server's side, and whether the client offered application protocols.
    pub(crate) fn tls_server(
        mut socket: TcpStream,
        identity: &Identity,
    ) -> io::Result<(Self, bool)> {
        socket.set_read_timeout(Some(PATIENCE))?;
        let mut acceptor = Acceptor::default();
        let accepted = loop {
            if acceptor.read_tls(&mut socket)? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            match acceptor.accept() {
                Ok(Some(accepted)) => break accepted,
                Ok(None) => {}
                Err((error, mut alert)) => {
                    drop(alert.write_all(&mut socket));
                    return Err(io::Error::other(error));
                }
            }
        };
        let offered = accepted.client_hello().alpn().is_some();
        let conn = accepted.into_connection(identity.config());
        let mut conn = conn.map_err(|(error, _)| io::Error::other(error))?;
        while conn.is_handshaking() {
            conn.complete_io(&mut socket)?;
        }
        // The tickets that follow a handshake.
        while conn.wants_write() {
            conn.write_tls(&mut socket)?;
        }
        Ok((Self::secure(socket, conn.into())?, offered))
    }

    fn secure(socket: TcpStream, conn: Connection) -> io::Result<Self> {
        socket.set_read_timeout(None)?;
        let tls = Tls {
            state: Mutex::new(conn),
            sending: Mutex::default(),
            sealed: Mutex::default(),
        };
        Ok(Self {
            socket,
            tls: Some(tls),
        })
    }

    /// How long a read waits; for ever with `None`.
    pub(crate) fn patience(&self, limit: Option<Duration>) {
        drop(self.socket.set_read_timeout(limit));
    }

    /// The certificate that the server showed, in DER; none on its own side and without TLS.
    pub(crate) fn leaf(&self) -> Option<Vec<u8>> {
        let state = self.tls.as_ref()?.state.lock().unwrap();
        Some(state.peer_certificates()?.first()?.to_vec())
    }

    /// What comes next; 0 at the end of the stream. One thread at a time.
    pub(crate) fn read(&self, out: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = &self.tls else {
            return (&self.socket).read(out);
        };
        let mut sealed = tls.sealed.lock().unwrap();
        loop {
            match tls.state.lock().unwrap().reader().read(out) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(0),
                read => return read,
            }
            if sealed.is_empty() {
                let mut buffer = vec![0; 16 * 1024];
                let count = (&self.socket).read(&mut buffer)?;
                sealed.extend_from_slice(&buffer[..count]);
            }
            // As much as it takes while nothing decrypted waits; the rest after that was read.
            let mut state = tls.state.lock().unwrap();
            let taken = state.read_tls(&mut sealed.as_slice())?;
            sealed.drain(..taken);
            state.process_new_packets().map_err(io::Error::other)?;
        }
    }

    /// Exactly as many bytes as fit into `out`.
    pub(crate) fn read_exact(&self, out: &mut [u8]) -> io::Result<()> {
        let mut filled = 0;
        while filled < out.len() {
            match self.read(&mut out[filled..])? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                count => filled += count,
            }
        }
        Ok(())
    }

    /// Everything up to the end of the stream.
    pub(crate) fn read_to_end(&self) -> io::Result<Vec<u8>> {
        let (mut all, mut buffer) = (Vec::new(), [0; 4096]);
        loop {
            match self.read(&mut buffer)? {
                0 => return Ok(all),
                count => all.extend_from_slice(&buffer[..count]),
            }
        }
    }

    /// In one write, in one record if it fits.
    pub(crate) fn write_all(&self, bytes: &[u8]) -> io::Result<()> {
        let Some(tls) = &self.tls else {
            return (&self.socket).write_all(bytes);
        };
        let _turn = tls.sending.lock().unwrap();
        for part in bytes.chunks(16 * 1024) {
            let mut state = tls.state.lock().unwrap();
            state.writer().write_all(part)?;
            let sealed = seal(&mut state)?;
            drop(state);
            (&self.socket).write_all(&sealed)?;
        }
        Ok(())
    }

    /// Passes an end of stream on.
    pub(crate) fn end_writing(&self) {
        if let Some(tls) = &self.tls {
            let _turn = tls.sending.lock().unwrap();
            let mut state = tls.state.lock().unwrap();
            state.send_close_notify();
            let sealed = seal(&mut state);
            drop(state);
            drop(sealed.and_then(|sealed| (&self.socket).write_all(&sealed)));
        }
        drop(self.socket.shutdown(Shutdown::Write));
    }

    /// Closes it, whoever still reads or writes.
    pub(crate) fn close(&self) {
        drop(self.socket.shutdown(Shutdown::Both));
    }

    /// Looks at an idle connection, which nobody else reads.
    pub(crate) fn stir(&self) -> Stir {
        let mut first = [0; 512];
        self.patience(Some(Duration::from_millis(1)));
        let read = self.read(&mut first);
        self.patience(None);
        match read {
            Ok(0) => Stir::End,
            Ok(count) => Stir::Bytes(first[..count].to_vec()),
            Err(error) if is_silence(&error) => Stir::Nothing,
            Err(_) => Stir::End,
        }
    }
}

/// Whether a read only ran out of patience.
pub(crate) fn is_silence(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
    )
}

fn seal(state: &mut Connection) -> io::Result<Vec<u8>> {
    let mut sealed = Vec::new();
    while state.wants_write() {
        state.write_tls(&mut sealed)?;
    }
    Ok(sealed)
}

/// Reads lines from a connection.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    unread: Vec<u8>,
}

impl Lines {
    /// The next line without its end. The error is why there is none.
    pub(crate) fn next(&mut self, conn: &Conn, limit: Duration) -> Result<Vec<u8>, String> {
        let end = Instant::now() + limit;
        loop {
            if let Some(at) = self.unread.iter().position(|byte| *byte == b'\n') {
                let rest = self.unread.split_off(at + 1);
                let mut line = std::mem::replace(&mut self.unread, rest);
                line.pop();
                return Ok(line);
            }
            if self.unread.len() > 8192 {
                return Err("a line that does not end".to_owned());
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(format!("silence for {limit:?}"));
            }
            conn.patience(Some(left.max(Duration::from_millis(1))));
            let mut buffer = [0; 4096];
            match conn.read(&mut buffer) {
                Ok(0) => return Err("the other side closed".to_owned()),
                Ok(count) => self.unread.extend_from_slice(&buffer[..count]),
                Err(error) if is_silence(&error) => {}
                Err(error) => return Err(format!("the connection broke: {error}")),
            }
        }
    }
}
