//! The last stage of a data connection: its user and its target have met (`wire.md` §2.4, §3).

use std::io;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use protocol::id::ConnId;
use protocol::wire::datagram::Form;
use protocol::wire::launch::Launch;
use smol::channel::Sender;
use smol::future::{FutureExt as _, pending};
use smol::io::AsyncWriteExt as _;

use super::Shared;
use super::hub::Msg;
use super::leash::{Order, Orders};
use super::slots::Slot;
use crate::net::Stream;
use crate::relay::tcp::Initial;
use crate::relay::udp::Side;
use crate::relay::{self, End, Ended, Fate, Settings};
use crate::timer::Timer;

/// How long a connection may take to say that it ends.
const CLOSING: Duration = Duration::from_secs(2);

/// A user that is served, as one end of the tunnel has it.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) near: Near,
    pub(super) data: Stream,
    pub(super) launch: Launch,
    /// How datagrams go on `data`.
    pub(super) form: Form,
    pub(super) fate: Arc<Fate>,
    pub(super) _slot: Slot,
}

/// A numbered connection of an egress: the hub knows what is served on it.
#[derive(Debug)]
pub(super) struct InUse {
    pub(super) conn: ConnId,
    pub(super) orders: Orders,
    pub(super) hub: Sender<Msg>,
}

impl InUse {
    /// Waits until the peer wants the connection for another user.
    async fn reused(&self) -> Ended {
        loop {
            match self.orders.next().await {
                Some(Order::End) => {
                    let why = io::Error::other("used for another user");
                    return Ended::Failed(End::Peer, why);
                }
                Some(Order::Launch(_) | Order::Serve(_) | Order::Judge) => {}
                // The session has ended, the relay goes on.
                None => return pending().await,
            }
        }
    }

    /// Nothing is served on the connection any more.
    pub(super) async fn over(self) {
        // The hub is gone only when the tunnel is.
        drop(self.hub.send(Msg::Lost(self.conn, false)).await);
    }
}

/// The user, at ingress, or its target, at egress.
#[derive(Debug)]
pub(super) enum Near {
    /// A TCP connection, and what was read of both before.
    Tcp(Stream, Initial),
    /// A UDP session, and what came on the data connection before.
    Udp(Side<'static>, Vec<u8>),
}

impl Served {
    /// Relays until the end, in a task of its own: what came before is not carried along.
    pub(super) fn spawn(mut self, shared: &Arc<Shared>) {
        let own = Arc::clone(shared);
        shared.spawn_relay(async move {
            let ended = self.relay(&own.settings).await;
            self.end(&ended);
        });
    }

    /// The same for a numbered connection.
    pub(super) fn spawn_in_use(mut self, shared: &Arc<Shared>, in_use: InUse) {
        let own = Arc::clone(shared);
        shared.spawn_relay(async move {
            let reused = in_use.reused();
            let ended = self.relay(&own.settings).or(reused).await;
            self.end(&ended);
            in_use.over().await;
        });
    }

    async fn relay(&mut self, settings: &Settings) -> Ended {
        let fate = Some(Arc::clone(&self.fate));
        match &mut self.near {
            Near::Tcp(near, initial) => {
                let initial = mem::take(initial);
                relay::tcp::relay(near, &mut self.data, settings, fate, initial).await
            }
            Near::Udp(near, rest) => {
                let peer = Side::stream(&mut self.data, mem::take(rest), self.form);
                let ended = relay::udp::relay(near, peer, settings, fate).await;
                if ended.is_orderly() {
                    // A TCP relay closes both ends itself. If this fails or a peer that does not read
                    // keeps it up, it is closed all the same.
                    let too_late = async {
                        Timer::after(CLOSING).await;
                        Ok(())
                    };
                    drop(self.data.close().or(too_late).await);
                }
                ended
            }
        }
    }

    /// Ends both connections as their relay ended.
    fn end(self, ended: &Ended) {
        let Launch {
            source, transport, ..
        } = self.launch;
        tracing::debug!(user = %source, %transport, %ended, "relay ended");
        if !ended.is_orderly() {
            self.data.reset();
            if let Near::Tcp(near, _) = self.near {
                near.reset();
            }
        }
    }
}
