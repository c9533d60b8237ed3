//! The words of the specification as types: what crosses module borders and the wire.

use core::fmt;

use crate::wire::hex;

/// What a user speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// A TCP connection.
    Tcp,
    /// A UDP session: the datagrams of one user address.
    Udp,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        })
    }
}

/// Which end accepts users. The server decides it (`wire.md`, terms).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// `-`: the server is ingress (reverse tunnel).
    Reverse,
    /// `+`: the client is ingress (forward tunnel).
    Forward,
}

impl Flow {
    /// The character on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reverse => "-",
            Self::Forward => "+",
        }
    }

    /// Reads the character on the wire.
    #[must_use]
    pub fn from_wire(text: &str) -> Option<Self> {
        match text {
            "-" => Some(Self::Reverse),
            "+" => Some(Self::Forward),
            _ => None,
        }
    }
}

/// How data connections are protected, in rising order (`config.md` §3, `tls`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum DataTls {
    /// `0`: plain TCP.
    #[default]
    Plain,
    /// `1`: TLS 1.3 with a certificate made in memory, pinned through the control connection.
    Pinned,
    /// `2`: TLS 1.3 with the operator's certificate, whose chain the client verifies.
    Verified,
}

impl DataTls {
    /// The digit in URLs and on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "0",
            Self::Pinned => "1",
            Self::Verified => "2",
        }
    }

    /// Reads the digit of a URL or of the wire.
    #[must_use]
    pub fn from_wire(text: &str) -> Option<Self> {
        match text {
            "0" => Some(Self::Plain),
            "1" => Some(Self::Pinned),
            "2" => Some(Self::Verified),
            _ => None,
        }
    }
}

/// The four generations of the protocol, from the weakest to the strongest (`wire.md`, §1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Generation {
    /// NodePass 1.5.
    Classic,
    /// NodePass 1.10 to 1.14.
    Http,
    /// NodePass 2.0 (beta).
    Https,
    /// Two ends of this project.
    Native,
}

impl Generation {
    /// All of them, weakest first.
    pub const ALL: [Self; 4] = [Self::Classic, Self::Http, Self::Https, Self::Native];

    /// The name in URLs and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Classic => "classic",
            Self::Http => "http",
            Self::Https => "https",
            Self::Native => "native",
        }
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A data connection's name in the generations that number them (`wire.md` §3, §5): unique within
/// the session, and never zero, which marks the control channel where that is a data connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DataId(pub u32);

impl DataId {
    /// The control channel among the data connections.
    pub const CONTROL: Self = Self(0);

    /// Reads the 8 lower-case hex digits of signals.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        hex::decode(text).map(|bytes| Self(u32::from_be_bytes(bytes)))
    }
}

impl fmt::Display for DataId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

macro_rules! hex_bytes {
    ($($(#[$doc:meta])* $name:ident($len:literal)),+ $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// Reads lower-case hex of exactly the right length.
            #[must_use]
            pub fn from_hex(text: &str) -> Option<Self> {
                hex::decode(text).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                hex::write(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    )+};
}

hex_bytes! {
    /// A session's name on the wire: 16 random bytes minted by the server (`wire.md` §2.2).
    SessionId(16),
    /// A client instance's name: 16 random bytes, the same for every session of one process.
    InstanceId(16),
    /// SHA-256 of a leaf certificate's DER bytes.
    Fingerprint(32),
}
