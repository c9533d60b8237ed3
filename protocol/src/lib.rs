//! The tunnel protocol as pure state machines.
//!
//! Nothing here opens a socket, reads a clock, draws randomness or spawns a task: bytes, time and a
//! seed come in, actions and deadlines go out. The crate is `no_std` + `alloc`, so the compiler
//! proves it.
//!
//! # The contract of every machine
//!
//! `handle_input(now, input)` and `handle_timeout(now)` are infallible and only queue;
//! `poll_output()` is drained to `None` after every mutation; `poll_timeout()` is the next deadline.
//!
//! 1. **Monotone time.** `now` never goes backwards; if it does, the machine uses the last one.
//! 2. **One mutation, one drain.** A driver that drains late gets late effects, never wrong ones.
//! 3. **Queued means due.** While `poll_output` holds something, `poll_timeout` is not in the future.
//! 4. **Strict advance.** After `handle_timeout(now)` and a drain, the deadline is `None` or `> now`.
//! 5. **No early effect.** `handle_timeout` before the deadline changes nothing observable.
//! 6. **The end is final.** A machine that can end says so with its last output; afterwards every
//!    mutation is a no-op and there is no deadline.
//! 7. **Bounded.** Every queue and table has a cap (see [`limits`] and the configurations).
//! 8. **Total.** Any bytes and any inputs in any order yield no panic.
//!
//! `testing::contract` asserts points 3 to 6 for every machine.
#![no_std]
#![cfg_attr(
    test,
    allow(clippy::wildcard_enum_match_arm, reason = "tests pick one case")
)]

extern crate alloc;
#[cfg(any(test, feature = "testing"))]
extern crate std;

pub mod backoff;
pub mod balance;
pub mod config;
pub mod demux;
pub mod dialect;
pub mod endpoint;
mod guesses;
pub mod handshake;
pub mod id;
pub mod ingress;
pub mod key;
pub mod launching;
pub mod limits;
pub mod pool;
pub mod proof;
pub mod proxy_header;
pub mod rate;
pub mod reconnect;
pub mod replay;
pub mod rng;
pub mod roster;
pub mod session;
pub mod sniff;
pub mod terms;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod time;
pub mod udp;
pub mod wire;
