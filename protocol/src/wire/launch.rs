//! What turns an idle data connection of the `native` generation into a user's (`wire.md` §2.4).
//!
//! Ingress sends one [`Launch`] and the user's bytes right behind it; egress answers one
//! [`Status`] byte before any byte of the target. On an idle connection egress may send one byte
//! too: see [`WhileIdle`].

use alloc::borrow::ToOwned as _;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::net::SocketAddr;

use crate::limits::LAUNCH_SOURCE;
use crate::terms::Transport;

/// Ingress' announcement of one user on a data connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// What the user speaks.
    pub transport: Transport,
    /// The user's address as `ip:port`, at most [`LAUNCH_SOURCE`] bytes without control
    /// characters; empty if unknown. Text of the peer: for logs, and see [`Launch::address`].
    pub source: String,
}

impl Launch {
    /// The launch of the user at `source`.
    #[must_use]
    pub fn new(transport: Transport, source: SocketAddr) -> Self {
        let source = alloc::format!("{source}");
        Self { transport, source }
    }

    /// The launch of the user at `source` as a peer spelled it; what is not fit for a launch counts
    /// as unknown.
    #[must_use]
    pub fn from_text(transport: Transport, source: &str) -> Self {
        let source = if is_legal(source) { source } else { "" };
        Self {
            transport,
            source: source.to_owned(),
        }
    }

    /// The user's address, if [`source`](Self::source) is one.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.source.parse().ok()
    }

    /// Appends the launch to `out`. A source that the peer would reject is sent as an unknown one.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let source = if is_legal(&self.source) {
            self.source.as_str()
        } else {
            ""
        };
        out.push(match self.transport {
            Transport::Tcp => KIND_TCP,
            Transport::Udp => KIND_UDP,
        });
        out.push(u8::try_from(source.len()).unwrap_or(0));
        out.extend_from_slice(source.as_bytes());
    }

    /// Reads the launch at the start of `bytes`, for egress: the launch and its length, or `None`
    /// when more bytes are needed (never more than 2 + [`LAUNCH_SOURCE`]).
    ///
    /// # Errors
    /// When no further byte can make this a launch. The connection is then closed.
    pub fn decode(bytes: &[u8]) -> Result<Option<(Self, usize)>, BadLaunch> {
        let Some((&kind, rest)) = bytes.split_first() else {
            return Ok(None);
        };
        let transport = match kind {
            KIND_TCP => Transport::Tcp,
            KIND_UDP => Transport::Udp,
            _ => return Err(BadLaunch::Kind(kind)),
        };
        let Some((&len, rest)) = rest.split_first() else {
            return Ok(None);
        };
        if usize::from(len) > LAUNCH_SOURCE {
            return Err(BadLaunch::TooLong(len));
        }
        let Some(source) = rest.get(..usize::from(len)) else {
            return Ok(None);
        };
        let source = core::str::from_utf8(source).map_err(|_| BadLaunch::NotText)?;
        if !is_legal(source) {
            return Err(BadLaunch::NotText);
        }
        let source = source.to_owned();
        Ok(Some((Self { transport, source }, 2 + usize::from(len))))
    }
}

fn is_legal(source: &str) -> bool {
    source.len() <= LAUNCH_SOURCE && !source.contains(char::is_control)
}

const KIND_TCP: u8 = 0x01;
const KIND_UDP: u8 = 0x02;

/// Why bytes are not a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadLaunch {
    /// The first byte names no transport.
    #[error("launch of unknown kind {0:#04x}")]
    Kind(u8),
    /// The source address is longer than [`LAUNCH_SOURCE`].
    #[error("launch with a source address of {0} bytes; at most {LAUNCH_SOURCE} are allowed")]
    TooLong(u8),
    /// The source address is not UTF-8, or has control characters.
    #[error("launch with a source address that is not text")]
    NotText,
}

/// Egress' answer to a launch, one byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Status {
    /// The target answered; its bytes follow.
    Connected = 0,
    /// The target refused the connection.
    Refused = 1,
    /// The target did not answer in time.
    TimedOut = 2,
    /// There is no way to the target, or its name does not resolve.
    Unreachable = 3,
    /// Egress carries as many relays as it may.
    Limit = 4,
    /// Egress does not allow this user.
    Blocked = 5,
    /// Egress does not carry this transport.
    Disabled = 6,
    /// Egress was closing the connection: nothing was dialled, try another one.
    Withdrawn = 7,
}

impl Status {
    /// All of them, in the order of their bytes.
    pub const ALL: [Self; 8] = [
        Self::Connected,
        Self::Refused,
        Self::TimedOut,
        Self::Unreachable,
        Self::Limit,
        Self::Blocked,
        Self::Disabled,
        Self::Withdrawn,
    ];

    /// The byte on the wire.
    #[must_use]
    pub const fn as_byte(self) -> u8 {
        self as u8
    }

    /// Reads the byte on the wire; `None` if it is no status.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.get(usize::from(byte)).copied()
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connected => "connected",
            Self::Refused => "connection refused by the target",
            Self::TimedOut => "target did not answer in time",
            Self::Unreachable => "target unreachable or not resolved",
            Self::Limit => "limit reached at the other end",
            Self::Blocked => "blocked at the other end",
            Self::Disabled => "transport disabled at the other end",
            Self::Withdrawn => "withdrawn by the other end",
        })
    }
}

/// What a byte from egress means to an ingress that has not launched on the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhileIdle {
    /// Egress is closing the connection: take it out of the pool.
    Withdrawn,
    /// Nothing that egress may send here: close the connection.
    Bad(u8),
}

impl WhileIdle {
    /// Reads the first byte that came on the idle connection.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Self {
        if byte == Status::Withdrawn.as_byte() {
            Self::Withdrawn
        } else {
            Self::Bad(byte)
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString as _;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn launch(transport: Transport, source: &str) -> Launch {
        let source = source.to_owned();
        Launch { transport, source }
    }

    fn encoded(launch: &Launch) -> Vec<u8> {
        let mut out = Vec::new();
        launch.encode(&mut out);
        out
    }

    #[test]
    fn golden_bytes() {
        let tcp = Launch::new(Transport::Tcp, ([192, 0, 2, 1], 5000).into());
        assert_eq!(encoded(&tcp), b"\x01\x0e192.0.2.1:5000");
        let udp = Launch::new(Transport::Udp, ([0, 0, 0, 0, 0, 0, 0, 1], 53).into());
        assert_eq!(encoded(&udp), b"\x02\x08[::1]:53");
        assert_eq!(encoded(&launch(Transport::Tcp, "")), b"\x01\x00");
    }

    #[test]
    fn the_longest_address_fits() {
        let ip = core::net::Ipv6Addr::from([0xff; 16]);
        let longest = core::net::SocketAddrV6::new(ip, 65535, 0, u32::MAX).into();
        let launch = Launch::new(Transport::Tcp, longest);
        assert!(launch.source.len() <= LAUNCH_SOURCE);
        assert_eq!(launch.address(), Some(longest));
    }

    #[test]
    fn what_the_peer_would_reject_is_sent_as_unknown() {
        for source in ["x".repeat(LAUNCH_SOURCE + 1), "1.2.3.4:5\n".to_owned()] {
            assert_eq!(encoded(&launch(Transport::Udp, &source)), b"\x02\x00");
        }
    }

    #[test]
    fn bad_launches_are_told_from_short_ones() {
        let table: [(&[u8], Result<(), BadLaunch>); 8] = [
            (b"", Ok(())),
            (b"\x01", Ok(())),
            (b"\x01\x40abc", Ok(())),
            (b"\x00", Err(BadLaunch::Kind(0))),
            (b"\x07", Err(BadLaunch::Kind(7))),
            (b"\x02\x41", Err(BadLaunch::TooLong(65))),
            (b"\x01\x01\xff", Err(BadLaunch::NotText)),
            (b"\x01\x02a\n", Err(BadLaunch::NotText)),
        ];
        for (bytes, expected) in table {
            assert_eq!(Launch::decode(bytes), expected.map(|()| None), "{bytes:x?}");
        }
    }

    #[test]
    fn statuses_are_the_bytes_of_the_specification() {
        for byte in 0..=u8::MAX {
            match Status::from_byte(byte) {
                Some(status) => assert_eq!((status.as_byte(), byte <= 7), (byte, true)),
                None => assert!(byte > 7),
            }
        }
        assert_eq!(Status::from_byte(4), Some(Status::Limit));
        assert_eq!(
            Status::Refused.to_string(),
            "connection refused by the target"
        );
    }

    #[test]
    fn only_withdrawal_is_legal_on_an_idle_connection() {
        assert_eq!(WhileIdle::from_byte(7), WhileIdle::Withdrawn);
        assert_eq!(WhileIdle::from_byte(0), WhileIdle::Bad(0));
    }

    proptest! {
        #[test]
        fn round_trip_at_any_cut(
            udp: bool,
            source in "[0-9a-f:.\\[\\]%é]{0,32}",
            trailing in vec(any::<u8>(), 0..8),
        ) {
            let sent = launch(if udp { Transport::Udp } else { Transport::Tcp }, &source);
            let mut bytes = encoded(&sent);
            let len = bytes.len();
            for cut in 0..len {
                prop_assert_eq!(Launch::decode(&bytes[..cut]), Ok(None));
            }
            bytes.extend(trailing);
            prop_assert_eq!(Launch::decode(&bytes), Ok(Some((sent, len))));
        }
    }
}
