//! Idle data connections that have an id (`wire.md` §3, §5): launches come as orders of the hub, and
//! what comes on the connection before is kept for them.

use std::sync::Arc;

use protocol::handshake::legacy::{Held, Judged, LegacyKeys, Peer, Seen};
use protocol::id::LinkId;
use protocol::wire::datagram::Form;
use smol::future::{FutureExt as _, pending};
use smol::io::AsyncWriteExt as _;
use socket2::SockRef;

use super::super::hub::Msg;
use super::super::leash::Order;
use super::super::{egress, launch};
use super::{DataConn, last_words, read_some};
use crate::net::allow_pauses;

/// One numbered data connection.
#[derive(Debug)]
pub(in super::super) struct NumberedConn {
    pub(in super::super) data: DataConn,
    /// Its session.
    pub(in super::super) link: LinkId,
    /// What goes first: the id, at a server.
    pub(in super::super) preamble: Vec<u8>,
    /// How datagrams go on it.
    pub(in super::super) form: Form,
    /// Who is at the other end.
    pub(in super::super) peer: Peer,
    /// The server's keys: a client that restarted may dial into its old session.
    pub(in super::super) returning: Option<Arc<LegacyKeys>>,
}

enum Wake {
    Order(Order),
    Cut,
    /// Empty: the end of the stream, or a failure.
    Bytes(Vec<u8>),
}

impl NumberedConn {
    /// Waits for a launch and has it served; or ends when the leash is cut, with [`Msg::Lost`].
    pub(in super::super) async fn run(mut self) {
        let mut held = Held::of(self.peer);
        let order = match self.announce().await {
            Ok(()) => self.watch(&mut held).await,
            Err(_) => None,
        };
        let Some(order) = order else {
            return self.data.lost(false).await;
        };
        let (data, form) = (self.data, self.form);
        let shared = Arc::clone(&data.shared);
        allow_pauses(&SockRef::from(data.stream.socket().get_ref()));
        match order {
            Order::Launch(user) => shared.spawn_relay(launch::by_signal(data, form, user)),
            Order::Serve(launch) => {
                let early = held.into_bytes();
                shared.spawn_relay(egress::by_signal(data, form, launch, early));
            }
            Order::Judge | Order::End => {}
        }
    }

    async fn announce(&mut self) -> std::io::Result<()> {
        let preamble = std::mem::take(&mut self.preamble);
        self.data.stream.write_all(&preamble).await?;
        self.data.stream.flush().await
    }

    /// Keeps what comes until there is a launch; `None`: close the connection.
    async fn watch(&mut self, held: &mut Held) -> Option<Order> {
        let (mut early, mut ended) = (false, false);
        loop {
            let DataConn { stream, orders, .. } = &mut self.data;
            let order = async { orders.next().await.map_or(Wake::Cut, Wake::Order) };
            let room = if ended { 0 } else { held.room() };
            let bytes = async {
                match room {
                    0 => pending().await,
                    room => Wake::Bytes(read_some(stream, room).await.unwrap_or_default()),
                }
            };
            match bytes.or(order).await {
                Wake::Cut | Wake::Order(Order::End) => return None,
                // An ingress that did not know yet gave it to a user: that one needs another.
                Wake::Order(Order::Launch(user)) if early => {
                    self.data.tell(Msg::Again(user)).await;
                }
                Wake::Order(Order::Judge) => {
                    if self.judge(held).await {
                        return None;
                    }
                }
                Wake::Order(order) => return Some(order),
                Wake::Bytes(bytes) => {
                    ended = bytes.is_empty();
                    let seen = held.feed(&bytes);
                    let (link, conn) = (self.link, self.data.conn);
                    if seen == Seen::Foreign {
                        return None;
                    }
                    if !std::mem::replace(&mut early, true) {
                        self.data.tell(Msg::Early(link, conn)).await;
                    }
                    if seen == Seen::Shown {
                        self.data.tell(Msg::Shown(link, conn)).await;
                    }
                }
            }
        }
    }

    /// Whether what it showed ends the connection.
    async fn judge(&mut self, held: &Held) -> bool {
        let Some(keys) = &self.returning else {
            return false;
        };
        match held.judge(keys) {
            Judged::Users => false,
            Judged::Returned => {
                self.data.tell(Msg::Returned(self.link)).await;
                true
            }
            Judged::Refused { answer, why } => {
                tracing::debug!(%why, "handshake on a data connection refused");
                if why.counts_for_ban() {
                    self.data.tell(Msg::WrongKey(self.link)).await;
                }
                // It counts as idle until it is closed.
                last_words(&mut self.data.stream, &answer).await;
                true
            }
        }
    }
}
