//! Users: who they are until they are launched.

use std::io::ErrorKind;
use std::net::SocketAddr;

use protocol::config::Block;
use protocol::terms::Transport;
use protocol::wire::launch::Launch;

use super::slots::Slot;
use crate::net::Stream;
use crate::relay::tcp::FirstBytes;
use crate::relay::udp::UdpUser;

/// A user that waits for a data connection or is being launched.
#[derive(Debug)]
pub(super) struct User {
    pub(super) source: SocketAddr,
    pub(super) side: UserSide,
    /// What it sent on a launch that was withdrawn.
    pub(super) kept: Vec<u8>,
    /// Whether it has ended its stream since.
    pub(super) kept_eof: bool,
    /// Until its first bytes have shown that it may speak what it speaks.
    pub(super) first: Option<FirstBytes>,
    /// Its share of `slot`.
    pub(super) slot: Slot,
}

/// How to reach the user.
#[derive(Debug)]
pub(super) enum UserSide {
    /// A TCP connection.
    Tcp(Stream),
    /// A UDP session.
    Udp(UdpUser),
}

impl UserSide {
    pub(super) const fn transport(&self) -> Transport {
        match self {
            Self::Tcp(_) => Transport::Tcp,
            Self::Udp(_) => Transport::Udp,
        }
    }

    /// Lets the user see a failure: a TCP connection is reset, a UDP session just ends.
    pub(super) fn reset(self) {
        if let Self::Tcp(stream) = self {
            stream.reset();
        }
    }
}

impl User {
    /// A TCP user that may not speak what `block` names.
    pub(super) fn tcp(stream: Stream, source: SocketAddr, block: Block, slot: Slot) -> Self {
        Self {
            source,
            side: UserSide::Tcp(stream),
            kept: Vec::new(),
            kept_eof: false,
            first: FirstBytes::new(block),
            slot,
        }
    }

    pub(super) fn udp(user: UdpUser, slot: Slot) -> Self {
        let source = user.address();
        Self {
            source,
            side: UserSide::Udp(user),
            kept: Vec::new(),
            kept_eof: false,
            first: None,
            slot,
        }
    }

    /// How the peer is told of it.
    pub(super) fn launch(&self) -> Launch {
        Launch::new(self.side.transport(), self.source)
    }

    /// Whether the user has given up: its connection was reset. An end of its stream is no such
    /// thing, it may wait for an answer.
    pub(super) fn is_gone(&self) -> bool {
        match &self.side {
            UserSide::Tcp(stream) => {
                let seen = stream.socket().get_ref().peek(&mut [0]);
                seen.is_err_and(|error| error.kind() != ErrorKind::WouldBlock)
            }
            UserSide::Udp(_) => false,
        }
    }

    /// Lets the user see a failure.
    pub(super) fn reset(self) {
        self.side.reset();
    }
}
