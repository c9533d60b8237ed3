//! A server's certificate changes under its sessions.

use protocol::endpoint::Input;
use protocol::id::LinkId;
use protocol::wire::signal::Signal;

use super::super::hub::Msg;
use super::super::rotation::{self, Step};
use super::Server;
use crate::clock::Clock;
use crate::timer::Timer;
use crate::tls::Identity;

impl Server {
    pub(super) fn on_certificate(&mut self, next: Identity) {
        if let Some(change) = self.rotation.begin(next) {
            tracing::info!("certificate files changed, new data connections will use them");
            self.announce();
            self.step_later(change);
        }
    }

    pub(super) fn on_certificate_step(&mut self, change: u64) {
        match self.rotation.step(change) {
            Step::Use(identity) => {
                if let Err(error) = self.door.tls.swap(&identity) {
                    tracing::warn!(%error, "the certificate in use stays");
                    self.rotation.revert();
                    return self.announce();
                }
                self.step_later(change);
            }
            Step::Announce => self.announce(),
            Step::Stale => {}
        }
    }

    /// Tells every session which certificates are valid. One that does not take the news would fail
    /// later, connection by connection: it ends, and its client comes back.
    fn announce(&mut self) {
        let fp = self.rotation.fingerprints();
        let deaf: Vec<LinkId> = self
            .links
            .iter()
            .filter(|(_, link)| {
                link.inbox
                    .try_send(Signal::Cert { fp: fp.clone() })
                    .is_err()
            })
            .map(|(id, _)| *id)
            .collect();
        for link in deaf {
            self.endpoint
                .handle_input(Clock::new().now(), Input::SessionEnded(link));
            self.end(link);
        }
    }

    fn step_later(&self, change: u64) {
        let hub = self.hub.clone();
        self.shared.spawn_control(async move {
            Timer::after(rotation::GRACE).await;
            drop(hub.send(Msg::CertificateStep(change)).await);
        });
    }
}
