//! The three generations of the field spoken by hand: scripted servers and clients of 1.14
//! (`http`), 2.0 beta (`https`) and 1.5 (`classic`), after the specification and the recorded
//! transcripts, and without the project's code.
//!
//! A peer carries real traffic: where users come in it listens for them, where they go out it
//! dials a target. It plays what is odd about the program it stands for ([`Quirks`]), and it fails
//! the test when the other side breaks a rule of the wire ([`Journal::foul`]).

pub(crate) mod ask;
mod client;
pub(crate) mod codec;
pub(crate) mod conn;
mod egress;
pub(crate) mod head;
pub(crate) mod identity;
mod ingress;
mod journal;
mod life;
mod peer;
mod pool;
mod relay;
mod script;
mod server;
mod session;
mod udp;

pub(crate) use journal::Journal;
pub(crate) use peer::Peer;
pub(crate) use script::{Generation, Script};

use std::sync::Arc;
use std::time::Duration;

use super::until::{millis, secs};

/// `NODEPASS_TEST_FIELD=1`: the intervals of the field, 5 s, not those of every day.
pub(crate) fn field() -> bool {
    std::env::var("NODEPASS_TEST_FIELD").is_ok_and(|value| value == "1")
}

/// The interval of pings at both ends, `NP_REPORT_INTERVAL` of ours.
pub(crate) fn interval() -> Duration {
    if field() { secs(5) } else { millis(250) }
}

/// Carries bytes between two connections until both directions have ended.
pub(crate) fn relay(one: conn::Conn, other: conn::Conn) {
    relay::relay(&Arc::new(one), &Arc::new(other), relay::Ending::HalfClose);
}
