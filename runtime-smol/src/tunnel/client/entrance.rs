//! Where a client accepts users, once its server has made it ingress.

use std::sync::Arc;

use protocol::backoff::Backoff;
use protocol::rng::Seed;
use smol::channel::Sender;

use super::super::TunnelError;
use super::super::hub::Msg;
use super::super::shared::{Held, Shared};
use super::super::users::{Entrances, Listeners};
use crate::net::ListenError;
use crate::timer::Timer;

/// A client's entrance.
#[derive(Debug, Default)]
pub(super) enum Entrance {
    /// No users are wanted.
    #[default]
    Shut,
    /// Its address is being looked up.
    Opening { _task: Held },
    /// Users come in.
    Open(Entrances),
}

impl Entrance {
    /// Has users taken in. What comes of it is told to `hub` as [`Msg::Listening`].
    pub(super) fn open(&mut self, shared: &Arc<Shared>, hub: &Sender<Msg>, seed: Seed) {
        if matches!(self, Self::Shut) {
            let task = listen(Arc::clone(shared), hub.clone(), Backoff::new(seed));
            let _task = shared.hold(task);
            *self = Self::Opening { _task };
        }
    }

    /// The address is listened on.
    pub(super) fn opened(&mut self, shared: &Arc<Shared>, hub: &Sender<Msg>, by: Listeners) {
        if matches!(self, Self::Opening { .. }) {
            *self = Self::Open(Entrances::open(shared, by, hub));
        }
    }

    /// Takes no more users in; UDP sessions that run go on.
    pub(super) fn close(&mut self) {
        match self {
            Self::Open(entrances) => entrances.close(),
            Self::Shut | Self::Opening { .. } => *self = Self::Shut,
        }
    }
}

/// Listens, as soon as the address's name can be resolved.
async fn listen(shared: Arc<Shared>, hub: Sender<Msg>, mut backoff: Backoff) {
    let mut complaint = None;
    let outcome = loop {
        match shared.listen_for_users().await {
            Err(TunnelError::Listen(ListenError::Name(error))) => {
                if complaint.as_ref() == Some(&error) {
                    tracing::debug!(%error, "users still cannot be listened for");
                } else {
                    tracing::warn!(%error, "users cannot be listened for yet, trying again");
                    complaint = Some(error);
                }
                Timer::after(backoff.next_delay()).await;
            }
            outcome => break outcome,
        }
    };
    // The hub is gone only when the tunnel is.
    drop(hub.send(Msg::Listening(outcome)).await);
}
