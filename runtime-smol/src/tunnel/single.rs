//! A client alone: a plain port forwarder, from its tunnel address to its target.

use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;

use smol::channel::Receiver;
use smol::future::FutureExt as _;

use super::hub::{Msg, Turns};
use super::slots::Slot;
use super::users::Listeners;
use super::{Shared, TunnelError, egress, users};
use crate::executor;
use crate::net::{Acceptor, Polled, Stream};
use crate::relay;
use crate::relay::tcp::{FirstBytes, Initial};
use crate::relay::udp::{Side, UdpUser};
use crate::timer::Timer;
use crate::tls::ServerTls;

/// Forwards until a stop has been drained.
pub(super) async fn run(
    shared: Arc<Shared>,
    listeners: Listeners,
    tls: Option<Arc<ServerTls>>,
    inbox: Receiver<Msg>,
) -> Result<(), TunnelError> {
    let Listeners { tcp, udp } = listeners;
    let tcp = tcp.map(|acceptor| {
        let tls = tls.clone();
        shared.hold(accept_tcp(Arc::clone(&shared), acceptor, tls))
    });
    let udp = udp.map(|socket| shared.hold(accept_udp(Arc::clone(&shared), socket)));
    while let Ok(msg) = inbox.recv().await {
        match msg {
            Msg::Stop => break,
            Msg::Certificate(identity) => {
                tracing::info!("certificate files changed, new connections will use them");
                if let Some(Err(error)) = tls.as_ref().map(|tls| tls.swap(&identity)) {
                    tracing::warn!(%error, "the certificate in use stays");
                }
            }
            // Nobody else has this hub's address.
            Msg::Accepted(..)
            | Msg::Door(..)
            | Msg::Session(..)
            | Msg::Connected(_)
            | Msg::Opened(..)
            | Msg::Control(..)
            | Msg::Listening(_)
            | Msg::DialFailed(_)
            | Msg::Taken(_)
            | Msg::Lost(..)
            | Msg::User(_)
            | Msg::Again(_)
            | Msg::CertificateStep(_)
            | Msg::Early(..)
            | Msg::Shown(..)
            | Msg::Returned(_)
            | Msg::WrongKey(_)
            | Msg::NotNumbered(..) => {}
        }
    }
    // UDP sessions that run go on.
    drop(tcp);
    shared.drain().await;
    drop(udp);
    Ok(())
}

async fn accept_tcp(shared: Arc<Shared>, mut acceptor: Acceptor, tls: Option<Arc<ServerTls>>) {
    let mut turns = Turns::default();
    loop {
        turns.take().await;
        let (socket, source) = match acceptor.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::error!(%error, "no more users are accepted");
                return;
            }
        };
        match shared.slots.take() {
            Some(slot) => {
                let serve = serve_tcp(Arc::clone(&shared), socket, source, tls.clone(), slot);
                shared.spawn_relay(serve);
            }
            None => {
                shared.stats.refused.add(1);
                Stream::Plain(socket).reset();
            }
        }
    }
}

async fn serve_tcp(
    shared: Arc<Shared>,
    socket: Polled<TcpStream>,
    source: SocketAddr,
    tls: Option<Arc<ServerTls>>,
    _slot: Slot,
) {
    // Boxed: what setting up needs is not carried through the relay.
    let Some((mut user, mut target)) = Box::pin(connect(&shared, socket, source, tls)).await else {
        return;
    };
    let to_peer = egress::header(&shared, Some(source), target.socket());
    let initial = Initial {
        to_peer,
        first: FirstBytes::new(shared.config.block),
        peer_quiet: true,
        ..Initial::default()
    };
    let ended = relay::tcp::relay(&mut user, &mut target, &shared.settings, None, initial).await;
    tracing::debug!(user = %source, %ended, "relay ended");
    if !ended.is_orderly() {
        user.reset();
        target.reset();
    }
}

async fn connect(
    shared: &Shared,
    socket: Polled<TcpStream>,
    source: SocketAddr,
    tls: Option<Arc<ServerTls>>,
) -> Option<(Stream, Stream)> {
    let user = match tls {
        None => Stream::Plain(socket),
        Some(tls) => {
            executor::stepped_aside().await;
            let too_late = async {
                Timer::after(shared.config.env.handshake_timeout).await;
                Err(std::io::ErrorKind::TimedOut.into())
            };
            match tls.accept(socket).or(too_late).await {
                Ok(stream) => stream,
                Err(error) => {
                    tracing::debug!(user = %source, %error, "TLS with a user failed");
                    return None;
                }
            }
        }
    };
    match shared.targets.tcp(&shared.stats).await {
        Ok(target) => Some((user, Stream::Plain(target))),
        Err(status) => {
            shared.stats.refused.add(1);
            tracing::debug!(user = %source, %status, "target not reached");
            user.reset();
            None
        }
    }
}

async fn accept_udp(shared: Arc<Shared>, socket: Polled<UdpSocket>) {
    let begin = |user, slot| shared.spawn_relay(serve_udp(Arc::clone(&shared), user, slot));
    let error = users::serve_udp(&shared, socket, begin).await;
    tracing::error!(%error, "no more datagrams are received");
}

async fn serve_udp(shared: Arc<Shared>, user: UdpUser, _slot: Slot) {
    let source = user.address();
    match shared.targets.udp(&shared.stats).await {
        Ok(target) => {
            let (mut near, peer) = (Side::user(user), Side::target(target));
            let ended = relay::udp::relay(&mut near, peer, &shared.settings, None).await;
            tracing::debug!(user = %source, %ended, "relay ended");
        }
        Err(status) => {
            shared.stats.refused.add(1);
            tracing::debug!(user = %source, %status, "target not reached");
        }
    }
}
