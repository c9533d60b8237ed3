//! What reaches the task that owns a tunnel's machines, and how it waits for it.

use std::future::poll_fn;
use std::net::{SocketAddr, TcpStream};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use protocol::handshake::VerifiedHello;
use protocol::handshake::legacy::VerifiedLegacy;
use protocol::id::{ConnId, LinkId};
use protocol::proof::DataSecret;
use protocol::session;
use protocol::time::Instant;
use protocol::wire::preface::Preface;
use smol::channel::Receiver;
use smol::future::yield_now;
use smol::stream::Stream as _;

use super::TunnelError;
use super::connect::{ConnectError, Connected};
use super::data::Number;
use super::door::Caller;
use super::gate::Pass;
use super::user::User;
use super::users::Listeners;
use crate::clock::{Clock, Deadline};
use crate::net::{Polled, Stream};
use crate::tls::Identity;

/// Messages waiting for a hub; senders wait when it is full, the hub itself never sends. The room
/// is allocated at once.
pub(super) const INBOX: usize = 256;

/// Rounds that a loop may do before others get a turn.
const ROUNDS: u32 = 16;

/// Everything that a hub is told.
#[derive(Debug)]
pub(super) enum Msg {
    /// A connection was accepted at the tunnel port.
    Accepted(Polled<TcpStream>, SocketAddr, Pass),
    /// A connection at the tunnel port said what it wants, or ended.
    Door(ConnId, DoorEvent),
    /// A session has something to report.
    Session(LinkId, session::Output),
    /// The client's attempt to open a session ended.
    Connected(Box<Result<Connected, ConnectError>>),
    /// A data connection of the client is open.
    Opened(ConnId, Option<Number>),
    /// One that the client opened is to be its session's control channel.
    Control(ConnId, Stream),
    /// The client listens for users, or cannot.
    Listening(Result<Listeners, TunnelError>),
    /// A data connection of the client could not be opened.
    DialFailed(ConnId),
    /// The server closed one that was open for this long, instead of giving it an id.
    NotNumbered(ConnId, Duration),
    /// An idle data connection was launched by the peer.
    Taken(ConnId),
    /// An idle data connection ended; `true`: the peer withdrew it. Or what was served on one that
    /// has an id has ended.
    Lost(ConnId, bool),
    /// A user arrived.
    User(Box<User>),
    /// A numbered data connection of that session showed bytes or its end before a launch.
    Early(LinkId, ConnId),
    /// What that one showed is a complete request head or line.
    Shown(LinkId, ConnId),
    /// One brought the handshake of a client that restarted.
    Returned(LinkId),
    /// One brought a wrong key.
    WrongKey(LinkId),
    /// A launch was withdrawn: the user needs another connection.
    Again(Box<User>),
    /// New certificate files were read.
    Certificate(Identity),
    /// A step of a certificate change is due.
    CertificateStep(u64),
    /// Stop gracefully.
    Stop,
}

/// What came of a connection in handshake.
#[derive(Debug)]
pub(super) enum DoorEvent {
    /// Its `hello` carries the right proof.
    Hello {
        stream: Stream,
        hello: Box<VerifiedHello>,
        data_secret: DataSecret,
    },
    /// Its `hello` carries a wrong proof; `line` is the answer.
    WrongProof { stream: Stream, line: Vec<u8> },
    /// It is a data connection, its preface not yet checked.
    Preface {
        stream: Stream,
        preface: Preface,
        exporter: Option<[u8; 32]>,
    },
    /// It has the key, and speaks a legacy generation.
    Legacy {
        stream: Stream,
        verified: Box<VerifiedLegacy>,
    },
    /// It says nothing: a data connection that waits for its id.
    Silent(Caller),
    /// It ended, ran into the deadline or sent garbage.
    Ended,
}

/// Lets other tasks run now and then: a task is never made to yield.
#[derive(Debug, Default)]
pub(super) struct Turns(u32);

impl Turns {
    /// Call it once a round.
    pub(super) async fn take(&mut self) {
        self.0 = self.0.wrapping_add(1);
        if self.0.is_multiple_of(ROUNDS) {
            yield_now().await;
        }
    }
}

/// The next message, or `None` when the deadline has come. The hub itself holds a sender, so the
/// inbox never ends.
pub(super) async fn next(
    mut inbox: Pin<&mut Receiver<Msg>>,
    timer: &mut Deadline,
    due: Option<Instant>,
) -> Option<Msg> {
    timer.set(due);
    if due.is_some_and(|due| due <= Clock::new().now()) {
        return None;
    }
    poll_fn(|cx| match inbox.as_mut().poll_next(cx) {
        Poll::Ready(msg) => Poll::Ready(Some(msg.unwrap_or(Msg::Stop))),
        Poll::Pending => timer.poll(cx).map(|()| None),
    })
    .await
}

/// During a stop: turns users away and ignores the rest, for ever.
pub(super) async fn discard(mut inbox: Pin<&mut Receiver<Msg>>) {
    loop {
        if let Msg::User(user) | Msg::Again(user) = next_of(inbox.as_mut()).await {
            user.reset();
        }
    }
}

async fn next_of(mut inbox: Pin<&mut Receiver<Msg>>) -> Msg {
    poll_fn(|cx| inbox.as_mut().poll_next(cx))
        .await
        .unwrap_or(Msg::Stop)
}
