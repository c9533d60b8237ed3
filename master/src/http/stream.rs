//! One event stream, until either side ends it.

use std::future::Future;
use std::io;
use std::time::Duration;

use smol::future;
use socket2::SockRef;

use super::limits::{GATHER, Limits};
use super::response::{self, Ending, Then};
use super::sse::{self, LAST_CHUNK, RETRY};
use super::wire::Wire;
use crate::api::{Content, Reply};
use crate::events::{Event, Subscription};
use runtime_smol::timer::Timer;

/// Writes the head of `reply` and its events. The connection never goes on afterwards: false.
pub(super) async fn run(wire: &mut Wire, reply: Reply, old: bool) -> io::Result<bool> {
    let reply = reply
        .field("Cache-Control", "no-cache")
        // A proxy that gathers events would delay them.
        .field("X-Accel-Buffering", "no");
    let ending = if old { Ending::Close } else { Ending::Chunks };
    let then = if old { Then::Closes } else { Then::GoesOn };
    let head = response::head(&reply, ending, then);
    let Content::Events(mut stream) = reply.content else {
        return Ok(false);
    };
    let mut writer = Writer {
        wire,
        chunked: !old,
        blocks: RETRY.to_vec(),
    };
    let events = &mut stream.subscription;
    // The snapshot goes along with the head.
    let mut open = writer.gather(events).await;
    writer.send(head.into_bytes()).await?;
    while open {
        open = writer.next(events).await?;
    }
    if !old {
        writer.wire.write_watching(LAST_CHUNK).await?;
    }
    writer.wire.close().await;
    Ok(false)
}

struct Writer<'a> {
    wire: &'a mut Wire,
    chunked: bool,
    /// Blocks that wait to be written together.
    blocks: Vec<u8>,
}

/// What a stream waits for.
enum Next {
    Event(Event),
    End,
    Silence,
    Gone(io::Error),
}

impl Writer<'_> {
    /// Waits for the next event and writes it with those that are ready; false at the end.
    async fn next(&mut self, events: &mut Subscription) -> io::Result<bool> {
        let Limits { silence, write, .. } = self.wire.limits();
        let quiet = async {
            Timer::after(silence).await;
            Next::Silence
        };
        let event = async { events.next().await.map_or(Next::End, Next::Event) };
        let gone = async { Next::Gone(self.wire.gone().await) };
        match future::or(event, future::or(gone, quiet)).await {
            Next::Event(event) => {
                sse::encode(&event, &mut self.blocks);
                let open = self.gather(events).await;
                self.expect(write);
                self.send(Vec::new()).await?;
                Ok(open)
            }
            Next::Silence => {
                self.blocks.extend_from_slice(RETRY);
                // Nothing else is under way: one who does not even acknowledge this is gone.
                self.expect(silence);
                self.send(Vec::new()).await?;
                Ok(true)
            }
            Next::End => Ok(false),
            Next::Gone(error) => Err(error),
        }
    }

    /// Adds the events that are ready, up to about [`GATHER`] bytes; false at the end.
    async fn gather(&mut self, events: &mut Subscription) -> bool {
        while self.blocks.len() < GATHER {
            match future::poll_once(events.next()).await {
                Some(Some(event)) => sse::encode(&event, &mut self.blocks),
                Some(None) => return false,
                None => break,
            }
        }
        true
    }

    /// Writes the blocks after `bytes`.
    fn send(&mut self, mut bytes: Vec<u8>) -> impl Future<Output = io::Result<()>> {
        let blocks = std::mem::take(&mut self.blocks);
        if self.chunked {
            sse::chunk(&blocks, &mut bytes);
        } else {
            bytes.extend_from_slice(&blocks);
        }
        async move { self.wire.write_watching(&bytes).await }
    }

    /// Bytes that are not acknowledged for `time` end the connection.
    fn expect(&self, time: Duration) {
        let socket = SockRef::from(self.wire.stream().socket().get_ref());
        // Without it a caller that vanished is noticed later.
        drop(socket.set_tcp_user_timeout(Some(time)));
    }
}

#[cfg(test)]
mod tests;
