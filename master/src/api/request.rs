//! What a caller wants, without the protocol that carried it.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use smol::channel::{Receiver, Sender, bounded};

use super::target::Target;

/// The largest request body, in bytes.
pub(crate) const BODY: usize = 1024 * 1024;

/// What is to be done with what the path names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    Get,
    Head,
    Post,
    Put,
    Patch,
    Delete,
    Options,
    /// Anything else, which nothing here allows.
    Other,
}

impl Method {
    /// Method names are case-sensitive.
    pub(crate) fn of(name: &str) -> Self {
        match name {
            "GET" => Self::Get,
            "HEAD" => Self::Head,
            "POST" => Self::Post,
            "PUT" => Self::Put,
            "PATCH" => Self::Patch,
            "DELETE" => Self::Delete,
            "OPTIONS" => Self::Options,
            _ => Self::Other,
        }
    }
}

/// The header fields that the API looks at, as sent. Of one that is given twice the first counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fields {
    pub(crate) api_key: Option<Vec<u8>>,
    pub(crate) authorization: Option<Vec<u8>>,
    pub(crate) last_event_id: Option<u64>,
}

/// Who asks, and whether it has shown that it may.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    address: IpAddr,
    trusted: Arc<AtomicBool>,
}

impl Caller {
    /// A caller whose connection looks at `trusted` to see whether the key was right.
    pub(crate) const fn new(address: IpAddr, trusted: Arc<AtomicBool>) -> Self {
        Self { address, trusted }
    }

    pub(crate) const fn address(&self) -> IpAddr {
        self.address
    }

    /// The key was right: the connection is not closed to make room for another one.
    pub(crate) fn trust(&self) {
        self.trusted.store(true, Ordering::Relaxed);
    }
}

/// One request. The body is read only when it is asked for, after all other checks.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) method: Method,
    pub(crate) target: Target,
    pub(crate) fields: Fields,
    pub(crate) caller: Caller,
    pub(crate) body: Body,
}

/// Why there is no body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyError {
    /// Above [`BODY`].
    TooLarge,
    /// Its framing makes no sense.
    Malformed,
    /// It took too long.
    Slow,
    /// The caller is gone.
    Gone,
}

/// What the transport says to a request for the body.
pub(crate) type BodyResult = Result<Vec<u8>, BodyError>;

/// The body, still with the transport.
#[derive(Debug)]
pub(crate) struct Body(Option<(Sender<()>, Receiver<BodyResult>)>);

/// The transport's end of a [`Body`].
#[derive(Debug)]
pub(crate) struct Feeder {
    pub(crate) wanted: Receiver<()>,
    pub(crate) answer: Sender<BodyResult>,
}

impl Body {
    /// No body.
    pub(crate) const fn empty() -> Self {
        Self(None)
    }

    /// A body that the transport reads when it is wanted.
    pub(crate) fn waiting() -> (Self, Feeder) {
        let (want, wanted) = bounded(1);
        let (answer, read) = bounded(1);
        (Self(Some((want, read))), Feeder { wanted, answer })
    }

    /// Reads all of it, at most [`BODY`] bytes.
    ///
    /// # Errors
    /// It is too large, malformed or too slow, or the caller is gone.
    pub(crate) async fn read(&mut self) -> BodyResult {
        let Some((want, read)) = self.0.take() else {
            return Ok(Vec::new());
        };
        want.send(()).await.map_err(|_| BodyError::Gone)?;
        read.recv().await.unwrap_or(Err(BodyError::Gone))
    }
}
