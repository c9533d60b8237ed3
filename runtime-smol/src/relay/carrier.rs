//! A stream that carries datagrams.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use protocol::wire::datagram::{Form, TooLong, encode, split};
use smol::io::{AsyncRead as _, AsyncWrite as _};

use super::buffer::{Buffer, STANDARD};
use super::side::{Over, Tally};
use super::{Budget, Ended};
use crate::net::Stream;

/// A stream that carries datagrams, in frames or one per read and write.
#[derive(Debug)]
pub(crate) struct Carrier<'a> {
    stream: &'a mut Stream,
    pub(crate) form: Form,
    /// Bytes read that are not a whole frame yet; at first those read before the relay began.
    partial: Vec<u8>,
    /// How much of the first datagram was written, where there are no frames.
    written: usize,
    quiet: bool,
    blocked: bool,
    unflushed: bool,
}

impl<'a> Carrier<'a> {
    pub(crate) const fn new(stream: &'a mut Stream, partial: Vec<u8>, form: Form) -> Self {
        Self {
            stream,
            form,
            partial,
            written: 0,
            quiet: false,
            blocked: false,
            unflushed: false,
        }
    }

    /// Receives some whole frames into `frames`, which is empty.
    pub(crate) fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        frames: &mut Vec<u8>,
        budget: &mut Budget,
    ) -> Poll<Result<(), Over>> {
        match self.form {
            Form::Framed { .. } => self.poll_frames(cx, frames, budget),
            Form::Bare { max } => self.poll_bare(cx, frames, max, budget),
        }
    }

    /// Sends some of `frames`: how many bytes are done with.
    pub(crate) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        frames: &[u8],
        tally: &mut Tally,
        budget: &mut Budget,
    ) -> Poll<Result<usize, Over>> {
        match self.form {
            Form::Framed { .. } => self.poll_write(cx, frames, budget),
            Form::Bare { .. } => self.poll_write_bare(cx, frames, tally, budget),
        }
    }

    fn poll_frames(
        &mut self,
        cx: &mut Context<'_>,
        frames: &mut Vec<u8>,
        budget: &mut Budget,
    ) -> Poll<Result<(), Over>> {
        loop {
            frames.append(&mut self.partial);
            let whole = whole_frames(frames)?;
            self.partial = frames.split_off(whole);
            if whole > 0 {
                return Poll::Ready(Ok(()));
            }
            let (buffer, len) = ready!(self.poll_read(cx, STANDARD, budget))?;
            frames.append(&mut self.partial);
            frames.extend_from_slice(buffer.get(..len).unwrap_or_default());
        }
    }

    /// Receives what one read gives, as one datagram.
    fn poll_bare(
        &mut self,
        cx: &mut Context<'_>,
        frames: &mut Vec<u8>,
        max: usize,
        budget: &mut Budget,
    ) -> Poll<Result<(), Over>> {
        let partial = std::mem::take(&mut self.partial);
        if partial.is_empty() {
            let (buffer, len) = ready!(self.poll_read(cx, max, budget))?;
            encode(buffer.get(..len).unwrap_or_default(), frames)?;
        } else {
            encode(&partial, frames)?;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        most: usize,
        budget: &mut Budget,
    ) -> Poll<Result<(Buffer, usize), Over>> {
        if self.quiet {
            ready!(self.stream.poll_read_ready(cx))?;
            self.quiet = false;
        }
        let mut buffer = Buffer::borrow(STANDARD);
        let most = most.min(STANDARD);
        let room = buffer.get_mut(..most).unwrap_or_default();
        let Poll::Ready(read) = Pin::new(&mut *self.stream).poll_read(cx, room) else {
            self.quiet = true;
            return Poll::Pending;
        };
        let len = read?;
        if len == 0 {
            return Poll::Ready(Err(Over::Ended(Ended::Finished)));
        }
        budget.spend(len);
        self.quiet = len < most;
        Poll::Ready(Ok((buffer, len)))
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
        budget: &mut Budget,
    ) -> Poll<Result<usize, Over>> {
        let bytes = bytes.get(..STANDARD).unwrap_or(bytes);
        if self.blocked {
            ready!(self.stream.poll_write_ready(cx))?;
            self.blocked = false;
        }
        let Poll::Ready(written) = Pin::new(&mut *self.stream).poll_write(cx, bytes) else {
            self.blocked = true;
            return Poll::Pending;
        };
        let written = written?;
        if written == 0 {
            return Poll::Ready(Err(Over::Failed(io::ErrorKind::WriteZero.into())));
        }
        budget.spend(written);
        self.blocked = written < bytes.len();
        self.unflushed = true;
        Poll::Ready(Ok(written))
    }

    /// Writes the first datagram of `frames`, by itself.
    fn poll_write_bare(
        &mut self,
        cx: &mut Context<'_>,
        frames: &[u8],
        tally: &mut Tally,
        budget: &mut Budget,
    ) -> Poll<Result<usize, Over>> {
        let Some(frame) = split(frames)? else {
            return Poll::Ready(Ok(frames.len()));
        };
        let done = frames.len() - frame.rest.len();
        if frame.datagram.is_empty() {
            tally.dropped += 1;
            return Poll::Ready(Ok(done));
        }
        while let Some(rest) = frame.datagram.get(self.written..)
            && !rest.is_empty()
        {
            self.written += ready!(self.poll_write(cx, rest, budget))?;
        }
        self.written = 0;
        Poll::Ready(Ok(done))
    }

    pub(crate) fn flush(&mut self, cx: &mut Context<'_>) -> Result<(), Over> {
        if self.unflushed
            && let Poll::Ready(flushed) = Pin::new(&mut *self.stream).poll_flush(cx)
        {
            flushed?;
            self.unflushed = false;
        }
        Ok(())
    }
}

/// The length of the whole frames at the start of `bytes`.
fn whole_frames(bytes: &[u8]) -> Result<usize, TooLong> {
    let mut rest = bytes;
    while let Some(frame) = split(rest)? {
        rest = frame.rest;
    }
    Ok(bytes.len() - rest.len())
}
