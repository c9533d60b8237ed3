//! What a driver and the endpoint say to each other.

use core::net::IpAddr;

use crate::dialect::ControlOn;
use crate::id::{ConnId, LinkId};
use crate::proof::DataSecret;
use crate::terms::{DataId, InstanceId, SessionId};
use crate::wire::preface::Preface;

/// What happens at the tunnel port.
#[derive(Clone, Debug)]
pub enum Input {
    /// A connection was accepted; its id comes from [`Endpoint::next_conn`](super::Endpoint::next_conn).
    Accepted {
        /// The new connection.
        conn: ConnId,
        /// The peer's address.
        from: IpAddr,
    },
    /// A half-open connection ended, ran into its deadline or sent garbage.
    Ended(ConnId),
    /// A half-open connection sent a well-formed but wrong proof or token.
    WrongProof(ConnId),
    /// A half-open connection sent a `hello` whose proof is right.
    Hello {
        /// The control connection.
        conn: ConnId,
        /// The client's name for itself.
        instance: InstanceId,
        /// `D`, the secret of this session's data connections.
        data_secret: DataSecret,
    },
    /// A half-open connection sent a data preface.
    Preface {
        /// The data connection.
        conn: ConnId,
        /// What it sent.
        preface: Preface,
        /// `X` of its own TLS, `None` without TLS. Good for nothing without `D`, so no secret.
        exporter: Option<[u8; 32]>,
    },
    /// A half-open connection showed the right key, for a session whose data connections belong to it
    /// by address. A session that this address has already is dropped: its client restarted.
    Addressed {
        /// The connection of the handshake.
        conn: ConnId,
        /// Whether that is the control channel, too.
        control: ControlOn,
    },
    /// A half-open connection was silent for [`limits::QUIET`](crate::limits::QUIET), as
    /// [`Endpoint::expected`](super::Endpoint::expected) said it might; or once more for
    /// [`limits::QUIET_AGAIN`](crate::limits::QUIET_AGAIN), after [`Output::Wait`].
    Silent {
        /// The connection.
        conn: ConnId,
        /// Whether it is silent inside TLS.
        tls: bool,
    },
    /// A data connection of that session, without a launch, brought the handshake of a client that
    /// restarted ([`Judged::Returned`](crate::handshake::legacy::Judged::Returned)). The driver closes
    /// it.
    Returned(LinkId),
    /// One brought a wrong key, for which it is closed
    /// ([`Judged::Refused`](crate::handshake::legacy::Judged::Refused)).
    WrongKey(LinkId),
    /// A data connection is no longer idle: a user took it, or it ended.
    NotIdle(ConnId),
    /// A session sent a line.
    Heard(LinkId),
    /// A session ended.
    SessionEnded(LinkId),
}

/// What the endpoint wants done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Close this half-open connection, without a word; see [`Refusal::TooManyIdle`].
    Close(ConnId, Refusal),
    /// The connection, which was silent, stays half-open: its session has no room for it. What it says
    /// until the deadline counts as if it came at once; if it stays silent, say so again.
    Wait(ConnId),
    /// Say no as the handshake does (`refuse`, 401, nothing), then close.
    Refuse(ConnId),
    /// Give the good answer. The session is up, unless its control channel is yet to come
    /// ([`ControlOn::DataConnection`]): then the connection ends with the answer.
    Welcome {
        /// The connection of the handshake.
        conn: ConnId,
        /// The new session.
        link: LinkId,
        /// Its name on the wire, or for the log.
        session: SessionId,
    },
    /// The data connection belongs to this session and is idle.
    Data(ConnId, LinkId),
    /// The same, for one that was silent: write this id on it.
    Numbered(ConnId, LinkId, DataId),
    /// The connection, which was silent, is this session's control channel: write the id zero on it.
    /// The session is up now.
    Control(ConnId, LinkId),
    /// End this session.
    EndSession(LinkId, Ending),
    /// Worth a line in the log.
    Notice(Notice),
}

/// Why a half-open connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Its address is banned.
    #[error("address banned after wrong keys")]
    Banned,
    /// Newer connections need its place.
    #[error("too many connections in handshake")]
    HalfOpen,
    /// No session of that name.
    #[error("data connection of an unknown session")]
    UnknownSession,
    /// The tag does not match.
    #[error("data connection with a wrong tag")]
    WrongTag,
    /// Its sequence number was seen before.
    #[error("data connection replayed")]
    Replayed,
    /// It came plain where TLS is required, or the other way round.
    #[error("data connection with the wrong tls mode")]
    WrongTls,
    /// Its session has `max` idle ones already, or all sessions have `max_total`, as far as this
    /// end knows: a launch on another one may still be on its way, and a launch on this one, too.
    /// If this end is egress, it withdraws the connection (`0x07`) instead of closing it without a
    /// word, so that no user is lost.
    #[error("too many idle data connections")]
    TooManyIdle,
}

/// Why the endpoint ends a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ending {
    /// The same client instance opened another.
    #[error("replaced by a new session of the same client")]
    SameInstance,
    /// A new session came from the same address.
    #[error("replaced by a new session from the same address")]
    SameAddress,
    /// Its client restarted, and will try again.
    #[error("its client restarted")]
    Returned,
    /// Its control channel did not come.
    #[error("no data connection came after the handshake")]
    NoControl,
    /// [`limits::SESSIONS`](crate::limits::SESSIONS) exist, and this one was silent longest.
    #[error("dropped for a new session, 64 exist")]
    Longest,
}

/// What an operator wants to know, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The first wrong key from this address for a while.
    WrongKey(IpAddr),
    /// This address is banned for [`limits::BAN_TIME`](crate::limits::BAN_TIME).
    Banned(IpAddr),
    /// Connections in handshake are at their limit. Said once until they were below half of it.
    HalfOpenLimit,
    /// This session has `max` idle data connections, or all have `max_total`, and its client opens
    /// more. Said once a session.
    IdleLimit(LinkId),
}
