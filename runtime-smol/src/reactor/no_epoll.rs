//! Where there is no `epoll`: async-io does it all.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::os::fd::BorrowedFd;
use std::task::Context;
use std::time::Instant;

use super::{Ready, Sure, Tick, Way};

/// A registered socket, of which there are none.
#[derive(Debug)]
pub(crate) struct Registration(Infallible);

impl Registration {
    pub(crate) const fn here(_: BorrowedFd<'_>, _: bool) -> io::Result<Option<Self>> {
        Ok(None)
    }

    pub(crate) fn tell_of_room(&self, _: BorrowedFd<'_>) -> io::Result<()> {
        match self.0 {}
    }

    pub(crate) fn forget(self, _: BorrowedFd<'_>) {
        match self.0 {}
    }

    pub(crate) fn had_urgent_data(&self) -> bool {
        match self.0 {}
    }

    #[expect(clippy::needless_pass_by_ref_mut, reason = "as where there is one")]
    pub(crate) fn follow(&mut self, _: BorrowedFd<'_>) {
        match self.0 {}
    }

    pub(crate) fn poll(&self, _: Way, _: Sure, _: &Context<'_>) -> Ready {
        match self.0 {}
    }

    pub(crate) fn poll_crowded(&self, _: &Context<'_>) -> Ready {
        match self.0 {}
    }

    pub(crate) fn tick(&self, _: Way) -> Tick {
        match self.0 {}
    }

    pub(crate) fn used_up(&self, _: Way, _: Tick, _: Sure) {
        match self.0 {}
    }
}

/// A timer, of which there are none.
#[derive(Debug)]
pub(crate) struct Alarm(Infallible);

impl Alarm {
    pub(crate) fn here(_: Instant, _: &Context<'_>) -> Option<Self> {
        None
    }

    pub(crate) fn wake(&self, _: &Context<'_>) -> bool {
        match self.0 {}
    }
}

/// What drives a thread's tasks.
#[derive(Debug)]
pub(crate) struct Driver;

impl Driver {
    pub(crate) const fn new() -> Self {
        Self
    }

    /// Drives `future` on this thread until it is done.
    pub(crate) fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        async_io::block_on(future)
    }
}
