//! Bytes that were read and not yet written: in a buffer, or in a pipe.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use smol::io::{AsyncRead as _, AsyncWrite as _};

use super::buffer::Buffer;
use super::splice::Pipe;
use crate::net::Stream;

/// What was read, and by how much of it the direction is behind.
#[derive(Debug)]
pub(crate) struct Hand {
    held: Held,
    /// Whether the limiter was asked about it.
    pub(crate) paid: bool,
}

#[derive(Debug)]
enum Held {
    Buffer {
        buffer: Buffer,
        start: usize,
        end: usize,
    },
    Pipe(Pipe),
}

/// How a [`Hand`] was filled.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Filled {
    /// The stream has ended.
    End,
    /// Bytes were copied, as many as the buffer holds or fewer.
    Copied { bytes: usize, full: bool },
    /// Bytes are in a pipe.
    Spliced(usize),
    /// This socket cannot be spliced.
    Refused,
}

impl Hand {
    /// What was read before the relay began, if anything.
    pub(crate) fn of(bytes: Vec<u8>) -> Option<Self> {
        let end = bytes.len();
        let buffer = Buffer::from(bytes);
        let held = Held::Buffer {
            buffer,
            start: 0,
            end,
        };
        (end > 0).then_some(Self { held, paid: false })
    }

    /// An empty one with a buffer of `size` bytes.
    pub(crate) fn buffer(size: usize) -> Self {
        let held = Held::Buffer {
            buffer: Buffer::borrow(size),
            start: 0,
            end: 0,
        };
        Self { held, paid: false }
    }

    /// An empty one with a pipe between plain sockets, if there is one to be had.
    pub(crate) fn pipe() -> Option<Self> {
        let held = Held::Pipe(Pipe::borrow()?);
        Some(Self { held, paid: false })
    }

    /// How many bytes are to be written.
    pub(crate) const fn len(&self) -> usize {
        match &self.held {
            Held::Buffer { start, end, .. } => *end - *start,
            Held::Pipe(pipe) => pipe.len(),
        }
    }

    /// The bytes, if they can be looked at.
    pub(crate) fn bytes(&self) -> &[u8] {
        match &self.held {
            Held::Buffer { buffer, start, end } => buffer.get(*start..*end).unwrap_or_default(),
            Held::Pipe(_) => &[],
        }
    }

    /// Reads once. A pipe wants a plain stream.
    pub(crate) fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Stream,
    ) -> Poll<io::Result<Filled>> {
        match &mut self.held {
            Held::Buffer { buffer, end, .. } => {
                let read = Pin::new(from).poll_read(cx, buffer);
                read.map_ok(|bytes| {
                    *end = bytes;
                    let full = bytes == buffer.len();
                    match bytes {
                        0 => Filled::End,
                        _ => Filled::Copied { bytes, full },
                    }
                })
            }
            Held::Pipe(pipe) => pipe.poll_fill(cx, from.socket()).map(|read| match read {
                Ok(0) => Ok(Filled::End),
                Ok(bytes) => Ok(Filled::Spliced(bytes)),
                Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(Filled::Refused),
                Err(error) => Err(error),
            }),
        }
    }

    /// Writes once: how many bytes were taken.
    pub(crate) fn poll_drain(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut Stream,
    ) -> Poll<io::Result<usize>> {
        match &mut self.held {
            Held::Buffer { buffer, start, end } => {
                let bytes = buffer.get(*start..*end).unwrap_or_default();
                let written = Pin::new(to).poll_write(cx, bytes);
                written.map_ok(|bytes| {
                    *start += bytes;
                    bytes
                })
            }
            Held::Pipe(pipe) => pipe.poll_drain(cx, to.socket()),
        }
    }
}
