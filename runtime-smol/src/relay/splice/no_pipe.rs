//! Where there is no `splice(2)`.

use std::convert::Infallible;
use std::io;
use std::net::TcpStream;
use std::task::{Context, Poll};

use crate::net::Polled;

/// A pipe, of which there are none.
#[derive(Debug)]
pub(crate) struct Pipe(Infallible);

impl Pipe {
    pub(crate) const fn borrow() -> Option<Self> {
        None
    }

    pub(crate) const fn len(&self) -> usize {
        match self.0 {}
    }

    pub(crate) fn poll_fill(
        &mut self,
        _: &mut Context<'_>,
        _: &Polled<TcpStream>,
    ) -> Poll<io::Result<usize>> {
        match self.0 {}
    }

    pub(crate) fn poll_drain(
        &mut self,
        _: &mut Context<'_>,
        _: &Polled<TcpStream>,
    ) -> Poll<io::Result<usize>> {
        match self.0 {}
    }
}
