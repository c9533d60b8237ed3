//! A whole API on a port of its own, over a domain whose runner opens no socket, and a caller that
//! writes bytes.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use async_net::TcpStream;
use runtime_smol::group::Group;
use runtime_smol::net::listen_tcp;
use serde_json::Value;
use smol::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tracing::Dispatch;

use super::Http;
use super::limits::Limits;
use crate::api::Api;
use crate::object::KEY_INSTANCE;
use crate::testing::{Directory, Master, master, run};

/// The API, and the domain behind it.
pub(crate) struct Site {
    pub(crate) master: Master,
    pub(crate) address: SocketAddr,
    pub(super) http: Arc<Http>,
    pub(super) group: Arc<Group>,
}

/// Runs `test` with an API below `/api`.
pub(crate) fn with_site<F: Future<Output = ()>>(test: impl FnOnce(Arc<Site>) -> F) {
    with_limits(Limits::REST, test);
}

pub(super) fn with_limits<F: Future<Output = ()>>(
    limits: Limits,
    test: impl FnOnce(Arc<Site>) -> F,
) {
    run(|executor| {
        let master = master(&executor, &Directory::new(), &[]);
        let listener = listen_tcp("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.get_ref().local_addr().unwrap();
        let api = Api::new(master.control.clone(), "/api");
        let http = Arc::new(Http::with(api, "/api", None, limits).unwrap());
        let group = Arc::new(Group::new(Dispatch::none()));
        let serve =
            Arc::clone(&http).serve(listener, Arc::clone(&executor), Arc::downgrade(&group));
        group.spawn(&executor, serve);
        test(Arc::new(Site {
            master,
            address,
            http,
            group,
        }))
    });
}

impl Site {
    /// The API key.
    pub(crate) fn key(&self) -> String {
        let key = self.master.control.get(KEY_INSTANCE);
        key.unwrap().url.to_string()
    }

    pub(crate) async fn connect(&self) -> Line {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let read = Vec::new();
        Line { stream, read }
    }

    /// A connection on which `text` is there before it can be accepted, so that no limit of time
    /// can end it earlier.
    pub(crate) fn open(&self, text: &str) -> Line {
        use std::io::Write as _;
        let mut stream = std::net::TcpStream::connect(self.address).unwrap();
        stream.write_all(text.as_bytes()).unwrap();
        let stream = TcpStream::try_from(stream).unwrap();
        let read = Vec::new();
        Line { stream, read }
    }

    /// What a request without the key is answered.
    pub(crate) async fn ask(&self, text: &str) -> Answer {
        let mut line = self.connect().await;
        line.send(text).await;
        if text.starts_with("HEAD ") {
            let head = line.head().await;
            return Answer::new(head);
        }
        line.answer().await
    }

    /// What a request with the key is answered.
    pub(crate) async fn with_key(&self, method: &str, path: &str, body: &str) -> Answer {
        self.ask(&self.text(method, path, body)).await
    }

    /// A request with the key.
    pub(crate) fn text(&self, method: &str, path: &str, body: &str) -> String {
        let key = format!("X-API-Key: {}\r\n", self.key());
        text(method, path, &key, body)
    }
}

/// A request for what is below `/api/v1`.
pub(crate) fn text(method: &str, path: &str, fields: &str, body: &str) -> String {
    let length = match body.len() {
        0 => String::new(),
        length => format!("Content-Length: {length}\r\n"),
    };
    format!("{method} /api/v1{path} HTTP/1.1\r\nHost: x\r\n{fields}{length}\r\n{body}")
}

/// A caller's connection.
pub(crate) struct Line {
    pub(crate) stream: TcpStream,
    read: Vec<u8>,
}

/// An answer with its content.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    fn new(head: String) -> Self {
        Self {
            status: head.split(' ').nth(1).unwrap().parse().unwrap(),
            head,
            body: String::new(),
        }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    /// The text of an error, which both members have.
    pub(crate) fn problem(&self) -> String {
        let json = self.json();
        assert_eq!(json["error"], json["message"]);
        json["error"].as_str().unwrap().to_owned()
    }

    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find_map(|(own, value)| own.eq_ignore_ascii_case(name).then_some(value))
    }
}

impl Line {
    pub(crate) async fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
    }

    /// The next answer, with as much content as it says.
    pub(crate) async fn answer(&mut self) -> Answer {
        let mut answer = Answer::new(self.head().await);
        let length: usize = answer
            .field("content-length")
            .map_or(0, |n| n.parse().unwrap());
        while self.read.len() < length {
            assert!(self.fill().await, "the content is cut");
        }
        answer.body = String::from_utf8(self.read.drain(..length).collect()).unwrap();
        answer
    }

    /// The head of the next answer; its content is not looked at.
    pub(crate) async fn head(&mut self) -> String {
        self.until("\r\n\r\n").await
    }

    /// What comes up to and with `end`.
    pub(crate) async fn until(&mut self, end: &str) -> String {
        loop {
            let found = self
                .read
                .windows(end.len())
                .position(|w| w == end.as_bytes());
            if let Some(at) = found {
                let text = self.read.drain(..at + end.len()).collect();
                return String::from_utf8(text).unwrap();
            }
            let seen = String::from_utf8_lossy(&self.read).into_owned();
            assert!(
                self.fill().await,
                "the end instead of {end:?}, after {seen:?}"
            );
        }
    }

    /// Waits for the end; what came before.
    pub(crate) async fn end(&mut self) -> String {
        while self.fill().await {}
        String::from_utf8(std::mem::take(&mut self.read)).unwrap()
    }

    async fn fill(&mut self) -> bool {
        let mut piece = [0; 4096];
        // A reset is an end too.
        let count = self.stream.read(&mut piece).await.unwrap_or(0);
        self.read.extend_from_slice(&piece[..count]);
        count > 0
    }
}

/// An event stream whose snapshot was read.
pub(super) async fn events(site: &Site, fields: &str) -> Line {
    let mut line = site.connect().await;
    let fields = format!("{fields}X-API-Key: {}\r\n", site.key());
    line.send(&text("GET", "/events", &fields, "")).await;
    let head = line.head().await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(
        head.contains("Content-Type: text/event-stream\r\n"),
        "{head}"
    );
    assert!(line.until("retry: 3000\n\n").await.contains("\r\n"));
    assert!(line.until("\n\n").await.contains(KEY_INSTANCE));
    line
}
