//! Drives the protocol with smol: sockets, TLS, timers, tasks and relays. It turns a machine's
//! outputs into I/O and I/O into inputs, and decides nothing that the protocol decides.

pub mod clock;
pub mod executor;
pub mod group;
pub mod limiter;
pub mod log;
pub mod net;
pub mod random;
mod reactor;
pub mod relay;
pub mod stats;
pub mod timer;
pub mod tls;
pub mod tunnel;

pub use executor::Runtime;
pub use tunnel::{StartError, Tunnel, TunnelError};
