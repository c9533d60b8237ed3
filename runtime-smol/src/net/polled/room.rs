//! Room in sockets that many tasks write to.

use std::fmt;
use std::future::Future;
use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_io::WritableOwned;

use super::{Polled, Teller};

/// Waits until there is room to write in a socket that many tasks write to.
pub struct Room<T>(Door<T>);

enum Door<T> {
    Thread(Arc<Polled<T>>),
    AsyncIo(Pin<Box<WritableOwned<T>>>),
}

impl<T: AsFd> Room<T> {
    /// Waits after [`write_with`](Polled::write_with) said `WouldBlock`.
    #[must_use]
    pub fn new(socket: &Arc<Polled<T>>) -> Self {
        Self(match &socket.0 {
            Teller::Thread { .. } => Door::Thread(Arc::clone(socket)),
            Teller::AsyncIo(socket) => Door::AsyncIo(Box::pin(Arc::clone(socket).writable_owned())),
        })
    }
}

impl<T> Future for Room<T> {
    type Output = io::Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Door::Thread(socket) => match &socket.0 {
                Teller::Thread { registration, .. } => {
                    registration.poll_crowded(cx).map(|_| Ok(()))
                }
                Teller::AsyncIo(_) => Poll::Ready(Ok(())),
            },
            Door::AsyncIo(writable) => writable.as_mut().poll(cx),
        }
    }
}

impl<T> fmt::Debug for Room<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Room").finish()
    }
}
