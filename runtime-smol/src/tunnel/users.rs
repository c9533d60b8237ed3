//! Where users arrive: the listeners at an ingress.

use std::io;
use std::net::UdpSocket;
use std::sync::Arc;

use smol::channel::Sender;

use super::Shared;
use super::hub::{Msg, Turns};
use super::shared::Held;
use super::slots::Slot;
use super::user::User;
use crate::net::Polled;
use crate::net::{Acceptor, Stream};
use crate::relay::{self, udp::UdpUser};

/// The sockets on which an ingress accepts users; either may be off.
#[derive(Debug)]
pub(super) struct Listeners {
    pub(super) tcp: Option<Acceptor>,
    pub(super) udp: Option<Polled<UdpSocket>>,
}

/// Users are taken in while this is held.
#[derive(Debug, Default)]
pub(super) struct Entrances {
    tcp: Option<Held>,
    /// Dropping it ends the UDP sessions, too.
    _udp: Option<Held>,
}

impl Entrances {
    pub(super) fn open(shared: &Arc<Shared>, listeners: Listeners, hub: &Sender<Msg>) -> Self {
        let Listeners { tcp, udp } = listeners;
        let tcp =
            tcp.map(|acceptor| shared.hold(accept_tcp(Arc::clone(shared), acceptor, hub.clone())));
        let udp =
            udp.map(|socket| shared.hold(accept_udp(Arc::clone(shared), socket, hub.clone())));
        Self { tcp, _udp: udp }
    }

    /// Takes no more users in; UDP sessions that run go on.
    pub(super) fn close(&mut self) {
        self.tcp = None;
    }
}

async fn accept_tcp(shared: Arc<Shared>, mut acceptor: Acceptor, hub: Sender<Msg>) {
    let mut turns = Turns::default();
    let block = shared.config.block;
    loop {
        turns.take().await;
        let (socket, source) = match acceptor.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::error!(%error, "no more users are accepted");
                return;
            }
        };
        let stream = Stream::Plain(socket);
        let Some(slot) = shared.slots.take() else {
            shared.stats.refused.add(1);
            stream.reset();
            continue;
        };
        if hub
            .send(Msg::User(Box::new(User::tcp(stream, source, block, slot))))
            .await
            .is_err()
        {
            return;
        }
    }
}

async fn accept_udp(shared: Arc<Shared>, socket: Polled<UdpSocket>, hub: Sender<Msg>) {
    let error = serve_udp(&shared, socket, |user, slot| {
        // When the hub is behind, the session is dropped: the user will send again.
        let user = Box::new(User::udp(user, slot));
        if hub.try_send(Msg::User(user)).is_err() {
            shared.stats.refused.add(1);
        }
    });
    let error = error.await;
    tracing::error!(%error, "no more datagrams are received");
}

/// Receives datagrams and begins a session for each new user that gets a slot.
pub(super) async fn serve_udp(
    shared: &Shared,
    socket: Polled<UdpSocket>,
    mut begin: impl FnMut(UdpUser, Slot),
) -> io::Error {
    let cap = shared.config.slot.map_or(usize::MAX, |slot| {
        usize::try_from(slot).unwrap_or(usize::MAX)
    });
    let stats = Arc::clone(&shared.stats);
    let idle = shared.config.env.udp_read_timeout;
    relay::udp::serve(socket, idle, cap, stats, |user| match shared.slots.take() {
        // During a stop the socket stays open for the sessions that run.
        _ if shared.is_stopping() => {}
        Some(slot) => begin(user, slot),
        None => shared.stats.refused.add(1),
    })
    .await
}
