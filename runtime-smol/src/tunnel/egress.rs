//! Egress: a launch is answered with the target, or with the reason why not (`wire.md` §2.4, §3).

use std::net::SocketAddr;
use std::sync::Arc;

use protocol::config::ProxyVersion;
use protocol::proxy_header;
use protocol::terms::Transport;
use protocol::wire::datagram::Form;
use protocol::wire::launch::{Launch, Status};
use smol::io::AsyncWriteExt as _;

use super::Shared;
use super::idle::DataConn;
use super::served::{InUse, Near, Served};
use super::slots::Slot;
use crate::net::{Polled, Stream};
use crate::relay::Fate;
use crate::relay::tcp::Initial;
use crate::relay::udp::Side;

/// Connects the user of `launch` to a target and begins to relay; `rest` is what came on `data` behind
/// the launch.
pub(super) async fn serve(
    shared: Arc<Shared>,
    mut data: Stream,
    launch: Launch,
    rest: Vec<u8>,
    fate: Arc<Fate>,
) {
    match open(&shared, &mut data, &launch, rest).await {
        Ok((near, slot)) => Served {
            near,
            data,
            launch,
            form: Form::NATIVE,
            fate,
            _slot: slot,
        }
        .spawn(&shared),
        Err(status) => {
            tracing::debug!(user = %launch.source, %status, "launch refused");
            super::idle::last_byte(&mut data, status).await;
        }
    }
}

/// The same for a launch that came as a signal: there is no answer, and a failure closes the
/// connection. `early` is what came on `data` before.
pub(super) async fn by_signal(data: DataConn, form: Form, launch: Launch, early: Vec<u8>) {
    let DataConn {
        conn,
        stream: data,
        orders,
        fate,
        shared,
        hub,
        ..
    } = data;
    let in_use = InUse { conn, orders, hub };
    match meet(&shared, &launch, early).await {
        Ok((near, slot)) => Served {
            near,
            data,
            launch,
            form,
            fate,
            _slot: slot,
        }
        .spawn_in_use(&shared, in_use),
        Err(status) => {
            tracing::debug!(user = %launch.source, %status, "launch refused");
            drop(data);
            in_use.over().await;
        }
    }
}

/// Dials the target and says so.
async fn open(
    shared: &Shared,
    data: &mut Stream,
    launch: &Launch,
    rest: Vec<u8>,
) -> Result<(Near, Slot), Status> {
    let (near, slot) = meet(shared, launch, rest).await?;
    if let Err(status) = connected(data).await {
        // An end in order would tell the target that its user had nothing to say.
        if let Near::Tcp(target, _) = near {
            target.reset();
        }
        return Err(status);
    }
    Ok((near, slot))
}

/// Dials the target.
async fn meet(shared: &Shared, launch: &Launch, rest: Vec<u8>) -> Result<(Near, Slot), Status> {
    let slot = admit(shared, launch.transport)?;
    let near = match launch.transport {
        Transport::Tcp => {
            let target = shared.targets.tcp(&shared.stats).await?;
            let mut to_near = header(shared, launch.address(), &target);
            to_near.extend(rest);
            let initial = Initial {
                to_near,
                near_quiet: true,
                peer_quiet: true,
                ..Initial::default()
            };
            Near::Tcp(Stream::Plain(target), initial)
        }
        Transport::Udp => {
            let target = shared.targets.udp(&shared.stats).await?;
            Near::Udp(Side::target(target), rest)
        }
    };
    Ok((near, slot))
}

fn admit(shared: &Shared, transport: Transport) -> Result<Slot, Status> {
    let carried = match transport {
        Transport::Tcp => shared.config.tcp,
        Transport::Udp => shared.config.udp,
    };
    if !carried {
        return Err(Status::Disabled);
    }
    shared.slots.take().ok_or(Status::Limit)
}

/// The PROXY header for the target, if one is wanted.
pub(super) fn header(
    shared: &Shared,
    user: Option<SocketAddr>,
    target: &Polled<std::net::TcpStream>,
) -> Vec<u8> {
    let mut header = Vec::new();
    if let Some(version @ (ProxyVersion::V1 | ProxyVersion::V2)) = shared.config.proxy {
        proxy_header::encode(
            version,
            user,
            target.get_ref().peer_addr().ok(),
            &mut header,
        );
    }
    header
}

/// Says that the target answered. If that cannot be said, there is nobody to say anything to.
async fn connected(data: &mut Stream) -> Result<(), Status> {
    let say = async {
        data.write_all(&[Status::Connected.as_byte()]).await?;
        data.flush().await
    };
    say.await.map_err(|_: std::io::Error| Status::Unreachable)
}
