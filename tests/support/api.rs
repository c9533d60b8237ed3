//! A client of the master's API that sends raw bytes and sees every byte of an answer. It knows
//! `rest.md`, not the code.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

use super::attacker;
use super::until::{secs, until};
use super::users;

/// How long an answer may take on a loaded machine.
pub(crate) const PATIENCE: Duration = secs(20);

/// The headers that every answer carries, whatever it is.
pub(crate) const CORS: [(&str, &str); 4] = [
    ("Access-Control-Allow-Origin", "*"),
    (
        "Access-Control-Allow-Methods",
        "GET, PATCH, POST, PUT, DELETE, OPTIONS",
    ),
    (
        "Access-Control-Allow-Headers",
        "Content-Type, Authorization, X-API-Key, Cache-Control",
    ),
    ("Access-Control-Max-Age", "600"),
];

/// One answer, as it came.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    /// The status code.
    pub(crate) status: u16,
    /// Status line and headers, without the blank line.
    pub(crate) head: String,
    /// The body, no longer chunked.
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// The value of a header, whose name may be spelled in any case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.split("\r\n").skip(1).find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// The body as text.
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("a body in UTF-8")
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}\n{}", self.head, self.text()))
    }

    /// Fails unless the status is this one.
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(
            self.status,
            status,
            "{}\n\n{}",
            self.head,
            String::from_utf8_lossy(&self.body)
        );
        self
    }

    /// Fails unless it is an error of this status with exactly this text in both members.
    pub(crate) fn expect_error(self, status: u16, text: &str) -> Self {
        let answer = self.expect(status);
        let text = Value::from(text);
        assert_eq!(
            answer.text(),
            format!("{{\"error\":{text},\"message\":{text}}}\n")
        );
        answer
    }

    /// Fails unless it has what every answer has.
    pub(crate) fn expect_manners(&self, what: &str) {
        for (name, value) in CORS {
            assert_eq!(self.header(name), Some(value), "{what}: {}", self.head);
        }
        let json = self
            .header("Content-Type")
            .is_some_and(|kind| kind == "application/json");
        if self.status >= 400 {
            assert!(json, "{what}: {}", self.head);
            if !self.body.is_empty() {
                let error = self.json();
                assert!(error["error"].is_string(), "{what}: {}", self.text());
                assert_eq!(error["error"], error["message"], "{what}: {}", self.text());
                let members = error.as_object().unwrap().len();
                assert_eq!(members, 2, "{what}: {}", self.text());
            }
        }
        // The document alone may be laid out for people.
        if json && !self.body.is_empty() && !self.text().contains("\"openapi\"") {
            let text = self.text();
            assert!(text.ends_with('\n'), "{what}: no LF ends {text:?}");
            assert_eq!(text.matches('\n').count(), 1, "{what}: not compact: {text}");
            assert!(
                !text.contains("\": ") && !text.contains("\", \""),
                "{what}: not compact: {text}"
            );
        }
    }
}

/// A connection to the master.
pub(crate) struct Conn {
    socket: TcpStream,
    stream: Box<dyn Stream>,
    /// What was read and belongs to the next answer.
    rest: Vec<u8>,
}

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

impl Conn {
    /// A connection in the clear.
    pub(crate) fn plain(addr: SocketAddr) -> Self {
        Self::of(users::connect(addr))
    }

    /// A connection in the clear that comes from `source`.
    pub(crate) fn from(source: IpAddr, addr: SocketAddr) -> Self {
        Self::of(users::connect_from(source, addr))
    }

    fn of(socket: TcpStream) -> Self {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self {
            stream: Box::new(socket.try_clone().unwrap()),
            socket,
            rest: Vec::new(),
        }
    }

    /// A connection in TLS that accepts any certificate.
    pub(crate) fn tls(addr: SocketAddr) -> Self {
        let stream = attacker::tls_without_alpn(addr).expect("a TLS handshake");
        stream.sock.set_read_timeout(Some(PATIENCE)).unwrap();
        Self {
            socket: stream.sock.try_clone().unwrap(),
            stream: Box::new(stream),
            rest: Vec::new(),
        }
    }

    /// The socket beneath.
    pub(crate) const fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// How long a read may take from now on.
    pub(crate) fn patience(&self, limit: Duration) {
        self.socket.set_read_timeout(Some(limit)).unwrap();
    }

    /// Sends these bytes.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())?;
        self.stream.flush()
    }

    /// Reads some more; `false` at the end of the stream.
    pub(crate) fn more(&mut self) -> io::Result<bool> {
        let mut chunk = [0; 16 * 1024];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(count) => {
                    self.rest.extend_from_slice(&chunk[..count]);
                    return Ok(count > 0);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Closed without a goodbye of TLS: closed nevertheless.
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }

    /// Everything up to and without `mark`, which is taken off too.
    pub(crate) fn take_until(&mut self, mark: &[u8]) -> io::Result<Vec<u8>> {
        loop {
            if let Some(at) = find(&self.rest, mark) {
                let taken = self.rest.drain(..at).collect();
                self.rest.drain(..mark.len());
                return Ok(taken);
            }
            if !self.more()? {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
    }

    fn take(&mut self, count: usize) -> io::Result<Vec<u8>> {
        while self.rest.len() < count {
            if !self.more()? {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.rest.drain(..count).collect())
    }

    /// The head of the next answer.
    pub(crate) fn head(&mut self) -> io::Result<Answer> {
        let head = String::from_utf8(self.take_until(b"\r\n\r\n")?).expect("a head in UTF-8");
        let status = head
            .strip_prefix("HTTP/1.1 ")
            .or_else(|| head.strip_prefix("HTTP/1.0 "))
            .and_then(|rest| rest.get(..3))
            .and_then(|code| code.parse().ok())
            .unwrap_or_else(|| panic!("no status line: {head}"));
        Ok(Answer {
            status,
            head,
            body: Vec::new(),
        })
    }

    /// The next chunk of a chunked body; empty for the last one.
    pub(crate) fn chunk(&mut self) -> io::Result<Vec<u8>> {
        let line = String::from_utf8(self.take_until(b"\r\n")?).expect("a chunk size");
        let size = usize::from_str_radix(&line, 16).unwrap_or_else(|_| panic!("chunk {line:?}"));
        let chunk = self.take(size)?;
        assert_eq!(self.take(2)?, b"\r\n", "the end of a chunk");
        Ok(chunk)
    }

    /// The next answer to a request that is no `HEAD`.
    pub(crate) fn answer(&mut self) -> io::Result<Answer> {
        self.answer_to("GET")
    }

    /// The next answer to a request with this method.
    pub(crate) fn answer_to(&mut self, method: &str) -> io::Result<Answer> {
        let mut answer = self.head()?;
        if method == "HEAD" || answer.status < 200 || matches!(answer.status, 204 | 304) {
            return Ok(answer);
        }
        if let Some(coding) = answer.header("Transfer-Encoding") {
            assert_eq!(coding, "chunked");
            assert_eq!(answer.header("Content-Length"), None, "{}", answer.head);
            loop {
                let chunk = self.chunk()?;
                if chunk.is_empty() {
                    return Ok(answer);
                }
                answer.body.extend(chunk);
            }
        }
        let length = answer.header("Content-Length").map(str::parse::<usize>);
        if let Some(length) = length {
            answer.body = self.take(length.expect("a length"))?;
        } else {
            while self.more()? {}
            answer.body = std::mem::take(&mut self.rest);
        }
        Ok(answer)
    }

    /// Whether the master has closed it, or does within `limit`, without saying anything more.
    pub(crate) fn is_closed_within(&mut self, limit: Duration) -> bool {
        self.patience(limit);
        match self.more() {
            Ok(more) => {
                let said = String::from_utf8_lossy(&self.rest);
                assert!(!more, "unexpected: {said}");
                true
            }
            Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        }
    }
}

fn find(bytes: &[u8], mark: &[u8]) -> Option<usize> {
    bytes.windows(mark.len()).position(|window| window == mark)
}

/// Where the API is and what opens it.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    /// Where the master listens.
    pub(crate) addr: SocketAddr,
    /// What stands before `/instances`.
    pub(crate) base: String,
    /// The API key.
    pub(crate) key: String,
    /// Whether it speaks TLS.
    pub(crate) tls: bool,
}

impl Api {
    /// A connection to it.
    pub(crate) fn connect(&self) -> Conn {
        if self.tls {
            Conn::tls(self.addr)
        } else {
            Conn::plain(self.addr)
        }
    }

    /// The bytes of a request with the key. The connection stays open after it.
    pub(crate) fn request(&self, method: &str, path: &str, body: &str) -> String {
        let Self { base, key, .. } = self;
        let length = match body.len() {
            0 => String::new(),
            length => format!("Content-Length: {length}\r\n"),
        };
        format!(
            "{method} {base}{path} HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {key}\r\n{length}\r\n{body}"
        )
    }

    /// Sends raw bytes on a fresh connection, and reads one answer.
    pub(crate) fn raw(&self, bytes: impl AsRef<[u8]>) -> Answer {
        let bytes = bytes.as_ref();
        let mut conn = self.connect();
        // It may be answered and closed before everything is out.
        drop(conn.send(bytes));
        let method = if bytes.starts_with(b"HEAD ") {
            "HEAD"
        } else {
            "GET"
        };
        conn.answer_to(method).unwrap_or_else(|error| {
            let asked = String::from_utf8_lossy(bytes.get(..200).unwrap_or(bytes));
            panic!("no answer ({error}) to {asked}")
        })
    }

    /// One call; the answer must have what every answer has.
    pub(crate) fn call(&self, method: &str, path: &str, body: &str) -> Answer {
        let answer = self.raw(self.request(method, path, body));
        answer.expect_manners(&format!("{method} {path}"));
        answer
    }

    /// The JSON of a `GET` that must succeed.
    pub(crate) fn get(&self, path: &str) -> Value {
        self.call("GET", path, "").expect(200).json()
    }

    /// One call that may find nobody: `None` if no answer came.
    pub(crate) fn try_call(&self, method: &str, path: &str, body: &str) -> Option<Answer> {
        let socket = users::try_connect(self.addr, PATIENCE).ok()?;
        let mut conn = Conn::of(socket);
        conn.send(self.request(method, path, body)).ok()?;
        conn.answer_to(method).ok()
    }

    /// Makes an instance.
    pub(crate) fn create(&self, url: &str) -> Value {
        let body = serde_json::json!({ "url": url }).to_string();
        self.call("POST", "/instances", &body).expect(201).json()
    }

    /// Makes an instance; its id.
    pub(crate) fn create_id(&self, url: &str) -> String {
        id(&self.create(url))
    }

    /// An instance as it is now.
    pub(crate) fn instance(&self, id: &str) -> Value {
        self.get(&format!("/instances/{id}"))
    }

    /// Changes an instance; the object of the answer.
    pub(crate) fn patch(&self, id: &str, body: &Value) -> Value {
        let path = format!("/instances/{id}");
        self.call("PATCH", &path, &body.to_string())
            .expect(200)
            .json()
    }

    /// `start`, `stop`, `restart`, `reset`.
    pub(crate) fn act(&self, id: &str, action: &str) -> Value {
        self.patch(id, &serde_json::json!({ "action": action }))
    }

    /// Replaces the URL of an instance.
    pub(crate) fn put(&self, id: &str, url: &str) -> Answer {
        let body = serde_json::json!({ "url": url }).to_string();
        self.call("PUT", &format!("/instances/{id}"), &body)
    }

    /// Removes an instance.
    pub(crate) fn delete(&self, id: &str) {
        let answer = self.call("DELETE", &format!("/instances/{id}"), "");
        assert!(answer.expect(204).body.is_empty());
    }

    /// All instances but the key instance, in their order.
    pub(crate) fn list(&self) -> Vec<Value> {
        let list = self.get("/instances");
        let mut list = list.as_array().expect("an array").clone();
        assert_eq!(list.remove(0)["id"], "********", "the first of the list");
        list
    }

    /// Waits until an instance has this status.
    pub(crate) fn until_status(&self, id: &str, status: &str) -> Value {
        self.until(id, &format!("it is {status}"), |found| {
            found["status"] == status
        })
    }

    /// Waits until an instance is as `wanted` has it.
    pub(crate) fn until(&self, id: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let found = super::until::poll(PATIENCE, || {
            last = self.instance(id);
            wanted(&last).then(|| last.clone())
        });
        found.unwrap_or_else(|| panic!("not within {PATIENCE:?}: {what}; the last was {last}"))
    }
}

/// The id of an instance object.
pub(crate) fn id(instance: &Value) -> String {
    instance["id"].as_str().expect("an id").to_owned()
}

/// Waits until somebody accepts at `addr`.
pub(crate) fn until_open(addr: SocketAddr, limit: Duration) {
    until(&format!("{addr} accepts"), limit, || {
        TcpStream::connect_timeout(&addr, secs(1)).ok()
    });
}

/// An address that is not the one that tests usually come from.
pub(crate) const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 77));
