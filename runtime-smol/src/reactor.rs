//! Which sockets are ready and which timers are due, learnt from an `epoll` of each thread's own.
//!
//! async-io registers a socket for one event at a time, has one reactor for all threads, which wake each
//! other over it, and needs five system calls for each wait: more than a small message through a relay
//! needs besides. Here a socket, a [`Polled`], is registered once, edge-triggered, with the thread that it
//! is on; a [`Timer`] is its thread's as well; and a wait is one system call.
//!
//! Where there is no `epoll`, or no thread of ours, both are async-io's, as signals always are.
//!
//! [`Polled`]: crate::net::Polled
//! [`Timer`]: crate::timer::Timer

use std::task::Poll;

#[cfg(target_os = "linux")]
mod epoll;
#[cfg(not(target_os = "linux"))]
#[path = "reactor/no_epoll.rs"]
mod epoll;
#[cfg(target_os = "linux")]
mod slots;
#[cfg(target_os = "linux")]
mod timers;

pub(crate) use epoll::{Alarm, Driver, Registration};

/// What a task waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Bytes, or the end of the stream.
    Read,
    /// Room for bytes.
    Write,
}

/// How sure one is of a socket, or has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sure {
    /// It is to be tried unless that is known to be in vain; or less came, or went, than was asked for, so
    /// that there is probably no more.
    Perhaps,
    /// The system said so, by an event or by `WouldBlock`.
    Certain,
}

/// A moment between two events of a socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tick(u32);

/// Whether a socket is ready, as of an event.
pub(crate) type Ready = Poll<Tick>;
