//! Idle data connections, one task each. Another task takes over when they are launched, so that
//! neither carries the room that the other needs.

pub(super) mod numbered;

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use protocol::id::ConnId;
use protocol::wire::launch::{BadLaunch, Launch, Status, WhileIdle};
use smol::channel::Sender;
use smol::future::{FutureExt as _, yield_now};
use smol::io::{AsyncRead as _, AsyncWriteExt as _};
use socket2::SockRef;

use super::Shared;
use super::hub::Msg;
use super::leash::{Order, Orders};
use super::slots::Slot;
use super::user::User;
use super::{egress, launch};
use crate::net::{Stream, allow_pauses};
use crate::relay::Fate;
use crate::timer::Timer;

/// How long a withdrawn connection waits for the peer to close, so that no RST overtakes the
/// withdrawal.
const LINGER: Duration = Duration::from_secs(2);

/// Room for one read.
const READ: usize = 2048;

/// One data connection and whom to tell.
#[derive(Debug)]
pub(super) struct DataConn {
    pub(super) conn: ConnId,
    pub(super) stream: Stream,
    pub(super) orders: Orders,
    pub(super) fate: Arc<Fate>,
    pub(super) shared: Arc<Shared>,
    pub(super) hub: Sender<Msg>,
    /// A stop waits until it is cut or launched.
    pub(super) _parting: Option<Slot>,
}

/// What an idle connection of an ingress may see.
enum Seen {
    User(Box<User>),
    Cut,
    /// It ended; `true`: it was withdrawn.
    Ended(bool),
}

impl DataConn {
    /// At ingress: waits for a user and has it served.
    pub(super) async fn at_ingress(mut self) {
        let seen = self.watch().await;
        let user = match seen {
            Seen::User(user) => user,
            Seen::Cut => return self.tell(Msg::Lost(self.conn, false)).await,
            Seen::Ended(withdrawn) => return self.lost(withdrawn).await,
        };
        let Self {
            stream,
            fate,
            shared,
            hub,
            ..
        } = self;
        allow_pauses(&SockRef::from(stream.socket().get_ref()));
        let serve = launch::serve(Arc::clone(&shared), stream, user, fate, hub);
        shared.spawn_relay(serve);
    }

    /// At egress: waits for a launch and has it served.
    pub(super) async fn at_egress(mut self) {
        let launched = {
            let cut = async {
                self.orders.cut().await;
                Ok(None)
            };
            let timeout = self.shared.config.env.handshake_timeout;
            read_launch(&mut self.stream, timeout).or(cut).await
        };
        match launched {
            Ok(Some((launch, rest))) => {
                self.tell(Msg::Taken(self.conn)).await;
                let Self {
                    stream,
                    fate,
                    shared,
                    ..
                } = self;
                allow_pauses(&SockRef::from(stream.socket().get_ref()));
                let serve = egress::serve(Arc::clone(&shared), stream, launch, rest, fate);
                shared.spawn_relay(serve);
            }
            Ok(None) => self.withdraw().await,
            Err(why) => {
                tracing::debug!(%why, "idle data connection ended");
                self.tell(Msg::Lost(self.conn, false)).await;
            }
        }
    }

    /// Sees to the connection while it is idle, so that a dead one is noticed before a user is.
    async fn watch(&mut self) -> Seen {
        let Self { stream, orders, .. } = self;
        let order = async {
            match orders.next().await {
                Some(Order::Launch(user)) => Seen::User(user),
                // The others are for numbered connections.
                Some(Order::Serve(_) | Order::Judge | Order::End) | None => Seen::Cut,
            }
        };
        let bytes = poll_fn(|cx| {
            let mut byte = [0];
            if ready!(stream.poll_read_ready(cx)).is_err() {
                return Poll::Ready(Seen::Ended(false));
            }
            let read = ready!(Pin::new(&mut *stream).poll_read(cx, &mut byte));
            Poll::Ready(Seen::Ended(match read {
                Ok(1..) => WhileIdle::from_byte(byte[0]) == WhileIdle::Withdrawn,
                Ok(0) | Err(_) => false,
            }))
        });
        order.or(bytes).await
    }

    /// Closes an idle connection so that no launch is lost (`wire.md` §2.4).
    async fn withdraw(mut self) {
        last_byte(&mut self.stream, Status::Withdrawn).await;
        self.tell(Msg::Lost(self.conn, false)).await;
    }

    /// The connection ended while it was idle.
    async fn lost(&self, withdrawn: bool) {
        self.tell(Msg::Lost(self.conn, withdrawn)).await;
        // A launch that crossed the end was never written: it goes to another connection.
        for order in self.orders.end() {
            if let Order::Launch(user) = order {
                self.tell(Msg::Again(user)).await;
            }
        }
    }

    async fn tell(&self, msg: Msg) {
        // The hub is gone only when the tunnel is.
        drop(self.hub.send(msg).await);
    }
}

/// Writes a status after which the connection is of no use.
pub(super) async fn last_byte(stream: &mut Stream, status: Status) {
    last_words(stream, &[status.as_byte()]).await;
}

/// Writes the last that is to be said on a connection and lets the peer close it: a RST must not
/// overtake it.
pub(super) async fn last_words(stream: &mut Stream, words: &[u8]) {
    let goodbye = async {
        stream.write_all(words).await?;
        stream.close().await?;
        // Under TLS a peer that goes on talking is always ready to be read: neither the deadline nor
        // other tasks would have a turn.
        while !read_some(stream, READ).await?.is_empty() {
            yield_now().await;
        }
        Ok::<(), io::Error>(())
    };
    let too_late = async {
        Timer::after(LINGER).await;
        Ok(())
    };
    // Whatever goes wrong, the connection is closed next.
    drop(goodbye.or(too_late).await);
}

/// Why an idle connection of an egress ended.
#[derive(Debug, thiserror::Error)]
enum NoLaunch {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Bad(#[from] BadLaunch),
    #[error("end of stream")]
    Eof,
    #[error("an incomplete launch")]
    Incomplete,
}

/// Waits for a launch, for ever; once it has begun, for `timeout`. No buffer is held before it
/// begins. Returns what came behind it, too.
async fn read_launch(
    stream: &mut Stream,
    timeout: Duration,
) -> Result<Option<(Launch, Vec<u8>)>, NoLaunch> {
    let mut bytes = read_some(stream, READ).await?;
    loop {
        if bytes.is_empty() {
            return Err(NoLaunch::Eof);
        }
        if let Some((launch, len)) = Launch::decode(&bytes)? {
            bytes.drain(..len);
            return Ok(Some((launch, bytes)));
        }
        let late = async {
            Timer::after(timeout).await;
            Err(NoLaunch::Incomplete)
        };
        let more = async { read_some(stream, READ).await.map_err(NoLaunch::from) }
            .or(late)
            .await?;
        if more.is_empty() {
            return Err(NoLaunch::Eof);
        }
        bytes.extend_from_slice(&more);
    }
}

/// Reads what comes next, all of it up to `most` bytes: where there are no frames, a datagram is what
/// came at once. Empty at the end. No buffer is held before it comes.
async fn read_some(stream: &mut Stream, most: usize) -> io::Result<Vec<u8>> {
    poll_fn(|cx| {
        ready!(stream.poll_read_ready(cx))?;
        let (mut buffer, mut bytes) = ([0; READ], Vec::new());
        loop {
            let room = READ.min(most - bytes.len());
            let room = buffer.get_mut(..room).unwrap_or_default();
            let wanted = room.len();
            let read = match Pin::new(&mut *stream).poll_read(cx, room) {
                Poll::Ready(Ok(n)) => buffer.get(..n).unwrap_or_default(),
                // What failed after some bytes fails again.
                Poll::Ready(Err(_)) | Poll::Pending if !bytes.is_empty() => &[],
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            };
            bytes.extend_from_slice(read);
            if read.len() < wanted || bytes.len() == most {
                return Poll::Ready(Ok(bytes));
            }
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::{Ipv4Addr, TcpListener, TcpStream};
    use std::pin::pin;

    use crate::net::Polled;
    use protocol::limits::EARLY_BYTES;
    use smol::future::poll_once;

    use super::*;
    use crate::relay::testing::tls;

    /// A write of `len` bytes that has arrived, seen from the other end.
    async fn arrived(len: usize) -> (Stream, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let socket = Polled::new(listener.accept().unwrap().0).unwrap();
        peer.write_all(&vec![7; len]).unwrap();
        let mut all = vec![0; len];
        while socket.peek(&mut all).await.unwrap() < len {}
        (Stream::Plain(socket), peer)
    }

    #[test]
    fn a_datagram_that_overtook_its_launch_is_read_whole() {
        smol::block_on(async {
            let (mut stream, _peer) = arrived(2 * READ + 1).await;
            let read = read_some(&mut stream, EARLY_BYTES).await.unwrap();
            assert_eq!(read.len(), 2 * READ + 1);
        });
    }

    #[test]
    fn no_more_is_read_than_there_is_room_for() {
        smol::block_on(async {
            let (mut stream, _peer) = arrived(2 * READ).await;
            for most in [READ + 1, READ - 1] {
                assert_eq!(read_some(&mut stream, most).await.unwrap().len(), most);
            }
        });
    }

    #[test]
    fn the_end_is_empty() {
        smol::block_on(async {
            let (mut stream, peer) = arrived(READ).await;
            drop(peer);
            assert_eq!(
                read_some(&mut stream, EARLY_BYTES).await.unwrap().len(),
                READ
            );
            let end = read_some(&mut stream, EARLY_BYTES).await.unwrap();
            assert!(end.is_empty());
        });
    }

    #[test]
    fn whoever_goes_on_talking_keeps_nobody_from_having_a_turn() {
        smol::block_on(async {
            let (mut talks, mut leaves) = tls().await;
            talks.write_all(&[7; 4 * READ]).await.unwrap();
            talks.flush().await.unwrap();
            let mut all = [0; 4 * READ];
            while leaves.socket().peek(&mut all).await.unwrap() < all.len() {}
            {
                let leaving = pin!(last_words(&mut leaves, b"farewell"));
                assert!(poll_once(leaving).await.is_none());
            }
            let rest = pin!(read_some(&mut leaves, EARLY_BYTES));
            let rest = poll_once(rest).await.map(|rest| rest.unwrap().len());
            assert_eq!(rest, Some(3 * READ));
        });
    }
}
