//! Sockets: streams, listeners, dials and names.

pub mod accept;
pub(crate) mod datagram;
pub mod dial;
pub mod facts;
pub mod listen;
mod lookup;
mod polled;
pub mod race;
mod reason;
pub mod resolve;
mod shortage;
pub mod socket;
mod stream;

pub use accept::Acceptor;
pub use dial::{DialError, DialFailure, Dialer};
pub use facts::{is_local, place};
pub use listen::{ListenError, address, listen_both, listen_tcp, listen_udp};
pub use polled::{Polled, Room};
pub use reason::reason;
pub use resolve::Resolver;
pub use socket::{allow_pauses, tune_datagrams, tune_edge, tune_tunnel};
pub use stream::Stream;
