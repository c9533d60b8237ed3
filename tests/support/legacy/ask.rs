//! Handshakes of strangers: what comes back for whatever they say.

use std::net::{IpAddr, SocketAddr};

use super::conn::Conn;
use super::{Journal, head};
use crate::support::until::secs;
use crate::support::users::connect_from;

/// All that comes back from `source` for `words`, inside TLS or not.
pub(crate) fn answer(addr: SocketAddr, source: IpAddr, words: &[u8], tls: bool) -> Vec<u8> {
    let socket = connect_from(source, addr);
    let conn = if tls {
        let Ok(conn) = Conn::tls_client(socket, &["h2", "http/1.1"]) else {
            return Vec::new();
        };
        conn
    } else {
        Conn::plain(socket)
    };
    conn.patience(Some(secs(10)));
    drop(conn.write_all(words));
    let mut all = Vec::new();
    let mut buffer = [0; 1024];
    while let Ok(count) = conn.read(&mut buffer) {
        if count == 0 {
            break;
        }
        all.extend_from_slice(&buffer[..count]);
    }
    all
}

/// The status of an answer that keeps the rules of the wire.
pub(crate) fn status(bytes: &[u8]) -> String {
    let journal = Journal::new();
    let judged = head::judge_answer(bytes, &journal);
    assert_eq!(journal.fouls(), [""; 0], "{}", bytes.escape_ascii());
    match judged {
        Ok(_) => "200".to_owned(),
        Err(status) => status.split(' ').nth(1).unwrap_or(&status).to_owned(),
    }
}
