//! One datagram for each system call.

use std::io::{self, IoSlice};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;

use super::{Received, Route};

pub(super) const fn take_trains(_: &impl AsFd) {}

pub(super) const fn note_destinations(_: &impl AsFd, _: SocketAddr) {}

pub(super) fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<Received> {
    let (len, from) = socket.recv_from(buffer)?;
    Ok(Received {
        from,
        to: None,
        len,
        each: len,
    })
}

pub(super) const fn has_trains(_: &UdpSocket) -> bool {
    false
}

pub(super) fn send_train(_: &UdpSocket, _: Route, _: &[IoSlice<'_>], _: usize) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Sends the first of `datagrams`.
pub(super) fn send_each(
    socket: &UdpSocket,
    route: Route,
    datagrams: &[IoSlice<'_>],
) -> io::Result<usize> {
    let first = datagrams.first().map_or(&[][..], |first| first);
    match route.to {
        Some(to) => socket.send_to(first, to)?,
        None => socket.send(first)?,
    };
    Ok(1)
}
