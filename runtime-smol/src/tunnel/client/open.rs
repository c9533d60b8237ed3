//! One data connection of a client, until it is idle.

use std::sync::Arc;

use protocol::dialect::ControlOn;
use protocol::handshake::legacy::Peer;
use protocol::id::ConnId;
use protocol::terms::{DataId, Flow};
use smol::channel::Sender;

use super::super::Shared;
use super::super::data::{ClientSession, DataError, Number, Opened};
use super::super::hub::Msg;
use super::super::idle::DataConn;
use super::super::idle::numbered::NumberedConn;
use super::super::leash::Orders;

/// A data connection to be opened, and whom to tell.
#[derive(Debug)]
pub(super) struct Opening {
    pub(super) conn: ConnId,
    pub(super) session: Arc<ClientSession>,
    pub(super) flow: Flow,
    pub(super) orders: Orders,
    pub(super) shared: Arc<Shared>,
    pub(super) hub: Sender<Msg>,
}

impl Opening {
    /// Opens the connection; from then on it is a task of its own.
    pub(super) async fn run(self) {
        let Opened { stream, number } = match self.open().await {
            Ok(opened) => opened,
            // The hub is gone only when the tunnel is.
            Err(failed) => return drop(self.hub.send(failed).await),
        };
        if number.is_some_and(|number| self.is_control(number)) {
            return drop(self.hub.send(Msg::Control(self.conn, stream)).await);
        }
        if self.hub.send(Msg::Opened(self.conn, number)).await.is_err() {
            return;
        }
        let Self {
            conn,
            session,
            flow,
            orders,
            shared,
            hub,
        } = self;
        let own = Arc::clone(&shared);
        let data = DataConn {
            conn,
            stream,
            orders,
            fate: Arc::clone(&session.fate),
            _parting: shared.parting.take(),
            shared,
            hub,
        };
        match (number, flow) {
            (Some(_), _) => {
                let numbered = NumberedConn {
                    data,
                    link: session.link,
                    preamble: Vec::new(),
                    form: session.dialect.capabilities.datagrams,
                    peer: Peer::Server,
                    returning: None,
                };
                own.spawn_relay(numbered.run());
            }
            (None, Flow::Reverse) => own.spawn_relay(data.at_egress()),
            (None, Flow::Forward) => own.spawn_relay(data.at_ingress()),
        }
    }

    /// The error is what to tell the hub: it failed, or is no longer wanted.
    async fn open(&self) -> Result<Opened, Msg> {
        let dial = async { Some(self.session.data(&self.shared).await) };
        let cut = async {
            self.orders.cut().await;
            None
        };
        let error = match smol::future::or(dial, cut).await {
            Some(Ok(opened)) => return Ok(opened),
            Some(Err(error)) => error,
            None => return Err(Msg::DialFailed(self.conn)),
        };
        tracing::debug!(%error, "data connection not opened");
        self.shared.stats.dial_failures.add(1);
        Err(match error {
            DataError::NotNumbered { open, .. } => Msg::NotNumbered(self.conn, open),
            DataError::Dial(_)
            | DataError::TooLate
            | DataError::NoId
            | DataError::NotAnId
            | DataError::Io(_)
            | DataError::Certificate
            | DataError::Untrusted => Msg::DialFailed(self.conn),
        })
    }

    fn is_control(&self, number: Number) -> bool {
        let control = self.session.dialect.capabilities.control;
        control == ControlOn::DataConnection && number.id == DataId::CONTROL
    }
}
