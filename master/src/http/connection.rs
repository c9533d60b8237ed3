//! One connection: requests one after the other, each answered before the next is read.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use runtime_smol::net::Stream;
use runtime_smol::timer::Timer;
use smol::future;

use super::body::Decoder;
use super::head::{self, Framing, Head, Progress};
use super::limits::TOGETHER;
use super::response::{self, CONTINUE, Ending, Then};
use super::seats::Held;
use super::wire::{Wire, within};
use super::{Http, stream};
use crate::api::{
    Body, BodyError, BodyResult, Caller, Content, Feeder, Method, Reply, Request, Target,
};

/// Serves the connection until either side ends it.
pub(super) async fn serve(stream: Stream, peer: IpAddr, seat: &Held, http: &Arc<Http>) {
    let wire = Wire::new(stream, http.limits);
    let mut connection = Connection {
        wire,
        peer,
        seat,
        http,
    };
    // A caller that is gone has nothing to be told.
    drop(connection.run().await);
}

struct Connection<'a> {
    wire: Wire,
    peer: IpAddr,
    seat: &'a Held,
    http: &'a Arc<Http>,
}

/// What comes in next.
enum Next {
    Request(Head),
    /// Something that is answered with this, the last answer.
    Refused(Reply),
    /// Nothing.
    End,
}

impl Connection<'_> {
    async fn run(&mut self) -> io::Result<()> {
        let mut first = true;
        loop {
            match self.next(first).await? {
                Next::Request(head) => {
                    if !self.exchange(head).await? {
                        return Ok(());
                    }
                }
                Next::Refused(reply) => {
                    self.write(&reply, true, Then::Closes).await?;
                    self.wire.linger().await;
                    return Ok(());
                }
                Next::End => {
                    self.wire.close().await;
                    return Ok(());
                }
            }
            first = false;
            self.seat.idle();
            if !self.wire.buffer().is_empty() {
                // Requests sent ahead are always at hand; others want their turn too.
                future::yield_now().await;
            }
        }
    }

    async fn next(&mut self, first: bool) -> io::Result<Next> {
        if !self.has_bytes(first).await? {
            return Ok(Next::End);
        }
        self.seat.busy();
        let deadline = Timer::after(self.http.limits.head);
        let late = async {
            deadline.await;
            Ok(Next::Refused(Reply::from(BodyError::Slow)))
        };
        future::or(head(&mut self.wire), late).await
    }

    /// Waits for the first byte of a request; false if none comes.
    async fn has_bytes(&mut self, first: bool) -> io::Result<bool> {
        if !self.wire.buffer().is_empty() {
            return Ok(true);
        }
        let limits = &self.http.limits;
        let time = if first { limits.head } else { limits.idle };
        let fill = async { Ok(self.wire.fill().await? > 0) };
        let idle = async {
            Timer::after(time).await;
            Ok(false)
        };
        let stop = async {
            self.http.stopping().await;
            Ok(false)
        };
        future::or(fill, future::or(idle, stop)).await
    }

    /// Answers one request; whether the connection goes on.
    async fn exchange(&mut self, head: Head) -> io::Result<bool> {
        let mut incoming = Incoming {
            decoder: Decoder::new(head.framing),
            expects: head.expects,
        };
        let (body, feeder) = match head.framing {
            Framing::None => (Body::empty(), None),
            Framing::Length(_) | Framing::Chunked => {
                let (body, feeder) = Body::waiting();
                (body, Some(feeder))
            }
        };
        let request = Request {
            method: head.method,
            target: Target::parse(&head.target, &self.http.prefix),
            fields: head.fields,
            caller: Caller::new(self.peer, self.seat.trusted()),
            body,
        };
        let reply = self.http.adapter.respond(request);
        let reply = match feeder {
            Some(feeder) => feed(&mut self.wire, &mut incoming, feeder, reply).await,
            None => reply.await,
        };
        let whole = incoming.skip(&mut self.wire);
        match reply.content {
            Content::HangUp => return Ok(false),
            Content::Events(_) => return stream::run(&mut self.wire, reply, head.old).await,
            Content::None | Content::Text { .. } | Content::File { .. } => {}
        }
        let then = match head.persistent && whole && !self.http.is_stopping() {
            true if head.old => Then::GoesOnAsAsked,
            true => Then::GoesOn,
            false => Then::Closes,
        };
        let with_content = head.method != Method::Head;
        self.write(&reply, with_content, then).await?;
        if then != Then::Closes {
            return Ok(true);
        }
        if whole {
            self.wire.close().await;
        } else {
            self.wire.linger().await;
        }
        Ok(false)
    }

    async fn write(&mut self, reply: &Reply, with_content: bool, then: Then) -> io::Result<()> {
        let body = response::body(&reply.content);
        let ending = match reply.status {
            204 => Ending::None,
            _ => Ending::Length(body.len()),
        };
        let mut bytes = response::head(reply, ending, then).into_bytes();
        let body = if with_content { body } else { &[] };
        if body.len() > TOGETHER {
            self.wire.write(&bytes).await?;
            return self.wire.write(body).await;
        }
        bytes.extend_from_slice(body);
        self.wire.write(&bytes).await
    }
}

/// Reads a head, the first byte of which is there.
async fn head(wire: &mut Wire) -> io::Result<Next> {
    let mut new = wire.buffer().len();
    loop {
        let progress = if head::is_due(wire.buffer(), new) {
            head::parse(wire.buffer())
        } else {
            Progress::Partial
        };
        match progress {
            Progress::Complete(head) => {
                wire.consume(head.length);
                return Ok(Next::Request(head));
            }
            Progress::Refused(refusal) => return Ok(Next::Refused(refusal.into())),
            Progress::Partial => {}
        }
        new = wire.fill().await?;
        if new == 0 {
            return Ok(Next::End);
        }
    }
}

/// A body that is on its way.
struct Incoming {
    /// Fails from the beginning for one that says it is too large.
    decoder: Result<Decoder, BodyError>,
    /// The caller waits for a word before it sends it.
    expects: bool,
}

impl Incoming {
    async fn read(&mut self, wire: &mut Wire) -> BodyResult {
        let time = wire.limits().body;
        let late = async {
            Timer::after(time).await;
            Err(BodyError::Slow)
        };
        let read = future::or(self.read_patiently(wire), late).await;
        if let Err(error) = read {
            self.decoder = Err(error);
        }
        read
    }

    async fn read_patiently(&mut self, wire: &mut Wire) -> BodyResult {
        let decoder = self.decoder.as_mut().map_err(|error| *error)?;
        if self.expects && wire.buffer().is_empty() && !decoder.is_done() {
            wire.write(CONTINUE).await.map_err(|_| BodyError::Gone)?;
        }
        loop {
            let count = decoder.decode(wire.buffer())?;
            wire.consume(count);
            if decoder.is_done() {
                return Ok(decoder.take());
            }
            match wire.fill().await {
                Ok(1..) => {}
                Ok(0) | Err(_) => return Err(BodyError::Gone),
            }
        }
    }

    /// Passes over what has arrived; whether the body has arrived whole.
    fn skip(&mut self, wire: &mut Wire) -> bool {
        let Ok(decoder) = &mut self.decoder else {
            return false;
        };
        let Ok(count) = decoder.decode(wire.buffer()) else {
            return false;
        };
        wire.consume(count);
        decoder.is_done()
    }
}

/// Waits for the reply, and reads the body when that asks for it.
async fn feed(
    wire: &mut Wire,
    incoming: &mut Incoming,
    feeder: Feeder,
    reply: impl Future<Output = Reply>,
) -> Reply {
    let asked = async {
        if feeder.wanted.recv().await.is_ok() {
            let body = incoming.read(wire).await;
            // Nobody takes it if the reply was ready without.
            drop(feeder.answer.send(body).await);
        }
        future::pending().await
    };
    future::or(reply, asked).await
}

/// Does the TLS handshake, if there is to be one.
pub(super) async fn open(
    tcp: runtime_smol::net::Polled<std::net::TcpStream>,
    http: &Http,
) -> io::Result<Stream> {
    match &http.tls {
        Some(tls) => within(http.limits.head, tls.accept(tcp)).await,
        None => Ok(Stream::Plain(tcp)),
    }
}
