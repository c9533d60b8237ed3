//! A server's sessions and their data connections.

use std::sync::Arc;

use protocol::dialect::{Capabilities, ControlOn, DataBy, Dialect, LaunchBy};
use protocol::endpoint::Input;
use protocol::handshake::legacy::{Peer, Spoken, VerifiedLegacy};
use protocol::handshake::{VerifiedHello, WelcomeParams};
use protocol::id::{ConnId, LinkId};
use protocol::terms::{DataId, Flow, SessionId};
use protocol::time::Instant;
use protocol::wire::http::Params;
use protocol::wire::launch::Launch;
use protocol::wire::signal::Signal;
use protocol::{ingress, roster, session};
use smol::channel::Sender;

use super::super::control::{self, Control};
use super::super::door::Caller;
use super::super::idle::numbered::NumberedConn;
use super::super::idle::{self, DataConn};
use super::super::leash::leash;
use super::super::numbered::Numbered;
use super::Server;
use super::door::HalfOpen;
use crate::clock::Clock;
use crate::net::Stream;
use crate::relay::Fate;

/// A session's task and what its relays share.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) inbox: Sender<Signal>,
    fate: Arc<Fate>,
    capabilities: Capabilities,
    /// Its data connections, where launches are signals.
    pub(super) numbered: Option<Numbered>,
}

/// How a session will speak whose control channel is yet to come.
#[derive(Debug)]
pub(super) struct Announced {
    dialect: Dialect,
    spoken: Spoken,
}

impl Link {
    /// Something happened to its numbered data connections, if it has any.
    pub(super) fn tell(&mut self, now: Instant, input: roster::Input) {
        if let Some(numbered) = &mut self.numbered {
            numbered.handle_input(now, input);
        }
    }

    /// A user takes this idle connection. `false`: the peer, which must know, cannot be told.
    pub(super) fn take(&mut self, now: Instant, conn: ConnId, launch: Launch) -> bool {
        let Self {
            numbered, inbox, ..
        } = self;
        numbered
            .as_mut()
            .is_none_or(|it| it.take(now, conn, launch, inbox))
    }
}

impl Server {
    pub(super) fn on_session(&mut self, now: Instant, link: LinkId, output: session::Output) {
        match output {
            session::Output::Heard => {
                self.endpoint.handle_input(now, Input::Heard(link));
                self.waiting.handle_input(now, ingress::Input::Heard(link));
            }
            session::Output::RoundTrip(time) => self.shared.stats.pinged(time),
            session::Output::Leaving { reason, .. } => {
                tracing::info!(%reason, "client is leaving");
                self.drop_idle(now, link);
            }
            session::Output::Flush => {
                self.waiting
                    .handle_input(now, ingress::Input::Flushed(link));
                self.leashes.retain(|_, (owner, _)| *owner != link);
                self.tell(now, link, roster::Input::Flushed);
            }
            session::Output::Launch { id, launch } => {
                self.tell(now, link, roster::Input::Launch { id, launch });
            }
            session::Output::Verify { id, fp } => {
                self.tell(now, link, roster::Input::Verify { id, fp });
            }
            session::Output::Skipped => tracing::debug!("unreadable line from a client"),
            // Only a server says these.
            session::Output::Demand(_) | session::Output::Certificates(_) => {}
            session::Output::Closed(end) => {
                if let Some(gone) = self.links.remove(&link)
                    && !end.is_clean()
                {
                    gone.fate.died_unclean();
                }
                tracing::info!(session = link.number(), %end, "session ended");
                self.endpoint.handle_input(now, Input::SessionEnded(link));
                self.drop_idle(now, link);
            }
        }
    }

    pub(super) fn welcome(&mut self, conn: ConnId, link: LinkId, session: SessionId) {
        match self.half_open.remove(&conn).map(|it| *it) {
            Some(HalfOpen::Hello { stream, hello }) => {
                self.welcome_native(link, session, stream, *hello);
            }
            Some(HalfOpen::Legacy {
                stream,
                verified,
                dialect,
            }) => self.welcome_legacy(link, stream, *verified, *dialect),
            Some(
                HalfOpen::Handshake { .. }
                | HalfOpen::WrongProof { .. }
                | HalfOpen::Preface { .. }
                | HalfOpen::Silent(_),
            )
            | None => {}
        }
    }

    fn welcome_native(
        &mut self,
        link: LinkId,
        session: SessionId,
        stream: Stream,
        hello: VerifiedHello,
    ) {
        let Params { flow, max, tls } = self.params();
        let params = WelcomeParams {
            session,
            flow,
            max,
            tls,
            fingerprints: self.rotation.fingerprints(),
        };
        let mut preamble = Vec::new();
        hello.welcome(&params, &mut preamble);
        tracing::info!(session = link.number(), client = %hello.instance, agent = %hello.agent.escape_debug(), "session up");
        self.begin(link, Dialect::native(), stream, (preamble, hello.rest));
    }

    fn welcome_legacy(
        &mut self,
        link: LinkId,
        mut stream: Stream,
        verified: VerifiedLegacy,
        dialect: Dialect,
    ) {
        let mut answer = Vec::new();
        if let Err(error) = verified.answer(&self.params(), &mut answer) {
            tracing::debug!(%error, "no answer to a client");
            let ended = Input::SessionEnded(link);
            return self.endpoint.handle_input(Clock::new().now(), ended);
        }
        let spoken = verified.spoken;
        match dialect.capabilities.control {
            ControlOn::Handshake => {
                say_what_is_lacking(link, spoken);
                self.begin(link, dialect, stream, (answer, verified.rest));
            }
            ControlOn::DataConnection => {
                self.shared.spawn_relay(async move {
                    idle::last_words(&mut stream, &answer).await;
                });
                let announced = Announced { dialect, spoken };
                self.announced.insert(link, Box::new(announced));
            }
        }
    }

    /// What every client is told of this tunnel.
    pub(super) fn params(&self) -> Params {
        let config = &self.shared.config;
        Params {
            flow: self.flow,
            // What is enforced: a client that kept more idle would be refused for ever.
            max: u32::try_from(self.shared.most_idle(config.max)).unwrap_or(config.max),
            tls: config.tls,
        }
    }

    /// The control channel of an announced session is there.
    pub(super) fn control(&mut self, conn: ConnId, link: LinkId) {
        let known = self.half_open.remove(&conn).map(|it| *it);
        let Some(HalfOpen::Silent(Caller { stream, .. })) = known else {
            return;
        };
        let announced = self.announced.remove(&link).map(|it| *it);
        if let Some(Announced { dialect, spoken }) = announced {
            say_what_is_lacking(link, spoken);
            let id = written(&dialect.capabilities, DataId::CONTROL);
            self.begin(link, dialect, stream, (id, Vec::new()));
        }
    }

    /// A session is up: `preamble` goes out first, `rest` came in already.
    fn begin(
        &mut self,
        link: LinkId,
        dialect: Dialect,
        stream: Stream,
        (preamble, rest): (Vec<u8>, Vec<u8>),
    ) {
        tracing::debug!(session = link.number(), from = ?stream.peer_addr(), "control connection");
        let now = Clock::new().now();
        let capabilities = dialect.capabilities;
        let (inbox, signals) = control::inbox(capabilities.launch);
        let control = Control {
            link,
            stream,
            rest,
            preamble,
            dialect,
            report_interval: self.shared.config.env.report_interval,
            inbox: signals,
            hub: self.hub.clone(),
        };
        self.shared.spawn_session(control.drive());
        let ingress = self.flow == Flow::Reverse;
        let numbered = match capabilities.launch {
            LaunchBy::DataConnection => None,
            LaunchBy::Signal => Some(Numbered::new(&capabilities, ingress, now)),
        };
        let link_of = Link {
            inbox,
            fate: Fate::new(capabilities.relay_idle),
            capabilities,
            numbered,
        };
        self.links.insert(link, Box::new(link_of));
        self.waiting
            .handle_input(now, ingress::Input::SessionUp(link));
    }

    /// A silent connection is a data connection: it gets its id.
    pub(super) fn numbered(&mut self, conn: ConnId, link: LinkId, id: DataId) {
        let known = self.half_open.remove(&conn).map(|it| *it);
        let Some(HalfOpen::Silent(Caller { stream, leaf, .. })) = known else {
            return;
        };
        let now = Clock::new().now();
        let Some(owner) = self.links.get_mut(&link) else {
            return;
        };
        let Some(numbered) = &mut owner.numbered else {
            return;
        };
        let (leash, orders) = leash();
        let data = NumberedConn {
            data: DataConn {
                conn,
                stream,
                orders,
                fate: Arc::clone(&owner.fate),
                shared: Arc::clone(&self.shared),
                hub: self.hub.clone(),
                _parting: None,
            },
            link,
            preamble: written(&owner.capabilities, id),
            form: owner.capabilities.datagrams,
            peer: match self.flow {
                Flow::Reverse => Peer::Egress,
                Flow::Forward => Peer::Ingress,
            },
            returning: Some(Arc::clone(&self.door.keys.legacy)),
        };
        self.shared.spawn_relay(data.run());
        numbered.add(now, (conn, id), leaf, leash.clone());
        // A signal that came before it has it now: then no user may.
        self.settle_numbered();
        let numbered = self.links.get(&link).and_then(|it| it.numbered.as_ref());
        if self.flow == Flow::Reverse && numbered.is_some_and(|it| it.is_free(conn)) {
            self.waiting.idle(now, link, conn, leash);
        }
    }

    pub(super) fn data(&mut self, conn: ConnId, link: LinkId) {
        let known = self.half_open.remove(&conn).map(|it| *it);
        let Some(HalfOpen::Preface { stream }) = known else {
            return;
        };
        let Some(fate) = self.links.get(&link).map(|link| Arc::clone(&link.fate)) else {
            return;
        };
        let (leash, orders) = leash();
        let data = DataConn {
            conn,
            stream,
            orders,
            fate,
            shared: Arc::clone(&self.shared),
            hub: self.hub.clone(),
            _parting: self.shared.parting.take(),
        };
        match self.flow {
            Flow::Reverse => {
                self.shared.spawn_relay(data.at_ingress());
                self.waiting.idle(Clock::new().now(), link, conn, leash);
            }
            Flow::Forward => {
                self.shared.spawn_relay(data.at_egress());
                self.leashes.insert(conn, (link, leash));
            }
        }
    }

    fn tell(&mut self, now: Instant, link: LinkId, input: roster::Input) {
        if let Some(link) = self.links.get_mut(&link) {
            link.tell(now, input);
        }
    }

    /// Ends a session at once; its relays must hear from their peers from now on.
    pub(super) fn end(&mut self, link: LinkId) {
        self.announced.remove(&link);
        if let Some(gone) = self.links.remove(&link) {
            gone.fate.died_unclean();
        }
        self.drop_idle(Clock::new().now(), link);
    }

    /// A session takes no new launches: its idle data connections go.
    fn drop_idle(&mut self, now: Instant, link: LinkId) {
        self.waiting
            .handle_input(now, ingress::Input::SessionGone(link));
        self.leashes.retain(|_, (owner, _)| *owner != link);
    }
}

/// How an id looks on its data connection.
fn written(capabilities: &Capabilities, id: DataId) -> Vec<u8> {
    let mut bytes = Vec::new();
    match capabilities.data {
        DataBy::Preface => {}
        DataBy::Address(form) => form.encode(id, &mut bytes),
    }
    bytes
}

/// Every session of a legacy generation is worth a warning.
fn say_what_is_lacking(link: LinkId, spoken: Spoken) {
    let (generation, lacks) = (spoken.generation(), spoken.lacks());
    tracing::warn!(session = link.number(), %generation, "legacy session: {lacks}");
}
