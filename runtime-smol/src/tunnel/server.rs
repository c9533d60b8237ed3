//! The server's hub: one task that owns its machines and does what they want done.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::pin::{Pin, pin};
use std::sync::Arc;

use async_io::{Async, Timer};
use protocol::endpoint::{Config, Endpoint, Input, Notice, Output, Refusal};
use protocol::handshake::{VerifiedHello, WelcomeParams};
use protocol::id::{ConnId, LinkId};
use protocol::ingress;
use protocol::rng::Seed;
use protocol::session;
use protocol::terms::{Flow, SessionId};
use protocol::time::{Instant, earliest};
use protocol::wire::launch::Status;
use protocol::wire::signal::Signal;
use smol::channel::{Receiver, Sender, bounded};
use smol::future::{FutureExt as _, yield_now};

use super::control::{self, Control};
use super::door::{self, Door};
use super::gate::{self, Gate, Pass};
use super::hub::{self, DoorEvent, Leash, Msg, Turns};
use super::idle::{self, DataConn};
use super::keys::Derived;
use super::rotation::{self, Rotation, Step};
use super::shared::Held;
use super::users::{Entrances, Listeners};
use super::waiting::{Told, Waiting};
use super::{Shared, TunnelError, goodbye};
use crate::clock::{Clock, Deadline};
use crate::net::{Acceptor, Stream};
use crate::relay::Fate;
use crate::tls::{Identity, ServerTls};

/// A server's state.
#[derive(Debug)]
pub(super) struct Server {
    shared: Arc<Shared>,
    hub: Sender<Msg>,
    door: Arc<Door>,
    flow: Flow,
    endpoint: Endpoint,
    waiting: Waiting,
    /// Connections at the door, by how far they are.
    half_open: BTreeMap<ConnId, HalfOpen>,
    links: BTreeMap<LinkId, Link>,
    /// Idle data connections of an egress, and whose they are.
    leashes: BTreeMap<ConnId, (LinkId, Leash)>,
    rotation: Rotation,
    accepting: Option<Held>,
    users: Entrances,
    timer: Deadline,
}

/// How far a connection at the door is. Dropping it closes the connection.
#[derive(Debug)]
enum HalfOpen {
    Handshake {
        _leash: Leash,
    },
    Hello {
        stream: Stream,
        hello: Box<VerifiedHello>,
    },
    WrongProof {
        stream: Stream,
        line: Vec<u8>,
    },
    Preface {
        stream: Stream,
    },
}

/// A session's task and what its relays share.
#[derive(Debug)]
struct Link {
    inbox: Sender<Signal>,
    fate: Arc<Fate>,
}

impl Server {
    pub(super) fn new(
        shared: Arc<Shared>,
        hub: Sender<Msg>,
        flow: Flow,
        (tls, identity): (ServerTls, Identity),
        key: Derived,
        (acceptor, listeners): (Acceptor, Option<Listeners>),
        seed: Seed,
    ) -> Self {
        let now = Clock::new().now();
        let config = Config {
            tls: shared.config.tls,
            max: shared.most_idle(shared.config.max),
            max_total: shared.most_idle_in_all(),
        };
        let door = Door {
            shared: Arc::clone(&shared),
            tls,
            key,
            hub: hub.clone(),
        };
        Self {
            door: Arc::new(door),
            flow,
            endpoint: Endpoint::new(config, seed, now),
            waiting: Waiting::new(&shared, now),
            half_open: BTreeMap::new(),
            links: BTreeMap::new(),
            leashes: BTreeMap::new(),
            rotation: Rotation::new(identity),
            accepting: Some(shared.hold(accept(acceptor, hub.clone()))),
            users: listeners
                .map(|it| Entrances::open(&shared, it, &hub))
                .unwrap_or_default(),
            timer: Deadline::never(),
            shared,
            hub,
        }
    }

    /// Runs until a stop has been drained.
    pub(super) async fn run(mut self, inbox: Receiver<Msg>) -> Result<(), TunnelError> {
        let mut inbox = pin!(inbox);
        let mut turns = Turns::default();
        loop {
            turns.take().await;
            self.settle();
            let due = earliest(self.endpoint.poll_timeout(), self.waiting.poll_timeout());
            let msg = hub::next(inbox.as_mut(), &mut self.timer, due).await;
            let now = Clock::new().now();
            match msg {
                None => {
                    self.endpoint.handle_timeout(now);
                    self.waiting.handle_timeout(now);
                }
                Some(Msg::Stop) => break,
                Some(msg) => self.on(now, msg),
            }
        }
        self.stop(inbox).await;
        Ok(())
    }

    fn on(&mut self, now: Instant, msg: Msg) {
        match msg {
            Msg::Accepted(socket, from, pass) => self.on_accepted(now, socket, from, pass),
            Msg::Door(conn, event) => self.on_door(now, conn, event),
            Msg::Session(link, output) => self.on_session(now, link, output),
            Msg::Taken(conn) | Msg::Lost(conn, _) => {
                self.leashes.remove(&conn);
                self.waiting.handle_input(now, ingress::Input::Lost(conn));
                self.endpoint.handle_input(now, Input::NotIdle(conn));
            }
            Msg::User(user) => self.waiting.user(now, user, false),
            Msg::Again(user) => self.waiting.user(now, user, true),
            Msg::Certificate(identity) => self.on_certificate(identity),
            Msg::CertificateStep(change) => self.on_certificate_step(change),
            Msg::Connected(_) | Msg::Opened(_) | Msg::DialFailed(_) | Msg::Stop => {}
        }
    }

    fn on_accepted(
        &mut self,
        now: Instant,
        socket: Async<TcpStream>,
        from: SocketAddr,
        pass: Pass,
    ) {
        let conn = self.endpoint.next_conn();
        let (leash, orders) = bounded(1);
        self.half_open
            .insert(conn, HalfOpen::Handshake { _leash: leash });
        self.endpoint.handle_input(
            now,
            Input::Accepted {
                conn,
                from: from.ip(),
            },
        );
        // What the endpoint turns away at once never gets a task.
        self.settle();
        if self.half_open.contains_key(&conn) {
            let met = Arc::clone(&self.door).meet(conn, socket, from, orders);
            self.shared.spawn_relay(gate::through(pass, met));
        }
    }

    fn on_door(&mut self, now: Instant, conn: ConnId, event: DoorEvent) {
        let (state, input) = match event {
            DoorEvent::Hello {
                stream,
                hello,
                data_secret,
            } => {
                let instance = hello.instance;
                let input = Input::Hello {
                    conn,
                    instance,
                    data_secret,
                };
                (HalfOpen::Hello { stream, hello }, input)
            }
            DoorEvent::WrongProof { stream, line } => {
                self.shared.stats.auth_failures.add(1);
                (
                    HalfOpen::WrongProof { stream, line },
                    Input::WrongProof(conn),
                )
            }
            DoorEvent::Preface {
                stream,
                preface,
                exporter,
            } => (
                HalfOpen::Preface { stream },
                Input::Preface {
                    conn,
                    preface,
                    exporter,
                },
            ),
            DoorEvent::Ended => {
                self.half_open.remove(&conn);
                return self.endpoint.handle_input(now, Input::Ended(conn));
            }
        };
        // One that was closed meanwhile is gone from the table: its late words are ignored.
        if let Some(known) = self.half_open.get_mut(&conn) {
            *known = state;
            self.endpoint.handle_input(now, input);
        }
    }

    fn on_session(&mut self, now: Instant, link: LinkId, output: session::Output) {
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

    /// Does what the machines want done, until they want nothing more.
    fn settle(&mut self) {
        while let Some(output) = self.endpoint.poll_output() {
            match output {
                Output::Close(conn, why) => {
                    tracing::debug!(%why, "connection at the tunnel port refused");
                    self.close(conn, why);
                }
                Output::Refuse(conn) => self.refuse(conn),
                Output::Welcome {
                    conn,
                    link,
                    session,
                } => self.welcome(conn, link, session),
                Output::Data(conn, link) => self.data(conn, link),
                Output::EndSession(link, why) => {
                    tracing::info!(session = link.number(), %why, "session ended");
                    self.end(link);
                }
                Output::Notice(notice) => log(notice),
            }
        }
        let links = &self.links;
        let mut taken = Vec::new();
        self.waiting.settle(&self.shared, |told| match told {
            Told::Taken(conn, _) => taken.push(conn),
            Told::Demand(link, n) => {
                // A session whose inbox is full has a peer that does not read; its end is near.
                links
                    .get(&link)
                    .map(|link| link.inbox.try_send(Signal::Demand { n }).ok());
            }
        });
        let now = Clock::new().now();
        for conn in taken {
            self.endpoint.handle_input(now, Input::NotIdle(conn));
        }
        let idle = self.waiting.connections() + self.leashes.len();
        self.shared
            .stats
            .idle
            .set(u64::try_from(idle).unwrap_or(u64::MAX));
    }

    fn welcome(&mut self, conn: ConnId, link: LinkId, session: SessionId) {
        let Some(HalfOpen::Hello { stream, hello }) = self.half_open.remove(&conn) else {
            return;
        };
        let config = &self.shared.config;
        let params = WelcomeParams {
            session,
            flow: self.flow,
            // What is enforced: a client that kept more idle would be refused for ever.
            max: u32::try_from(self.shared.most_idle(config.max)).unwrap_or(config.max),
            tls: config.tls,
            fingerprints: self.rotation.fingerprints(),
        };
        let mut preamble = Vec::new();
        hello.welcome(&params, &mut preamble);
        let (inbox, signals) = bounded(control::INBOX);
        tracing::info!(session = link.number(), client = %hello.instance, agent = %hello.agent.escape_debug(), "session up");
        tracing::debug!(session = link.number(), from = ?stream.peer_addr(), "control connection");
        let control = Control {
            link,
            stream,
            rest: hello.rest,
            preamble,
            report_interval: config.env.report_interval,
            inbox: signals,
            hub: self.hub.clone(),
        };
        self.shared.spawn_session(control.drive());
        self.links.insert(
            link,
            Link {
                inbox,
                fate: Fate::new(),
            },
        );
        self.waiting
            .handle_input(Clock::new().now(), ingress::Input::SessionUp(link));
    }

    /// Closes a connection at the door, without a word. But behind the preface of one too many a
    /// launch may be on its way already, so an egress withdraws it.
    fn close(&mut self, conn: ConnId, why: Refusal) {
        let closed = self.half_open.remove(&conn);
        if let (Some(HalfOpen::Preface { mut stream }), Refusal::TooManyIdle, Flow::Forward) =
            (closed, why, self.flow)
        {
            self.shared.spawn_relay(async move {
                idle::last_byte(&mut stream, Status::Withdrawn).await;
            });
        }
    }

    fn refuse(&mut self, conn: ConnId) {
        let Some(HalfOpen::WrongProof { mut stream, line }) = self.half_open.remove(&conn) else {
            return;
        };
        let timeout = self.shared.config.env.handshake_timeout;
        self.shared.spawn_relay(async move {
            let too_late = async {
                Timer::after(timeout).await;
                Ok(())
            };
            // A peer that does not take its refusal is closed all the same.
            drop(door::send_refusal(&mut stream, &line).or(too_late).await);
        });
    }

    fn data(&mut self, conn: ConnId, link: LinkId) {
        let Some(HalfOpen::Preface { stream }) = self.half_open.remove(&conn) else {
            return;
        };
        let Some(fate) = self.links.get(&link).map(|link| Arc::clone(&link.fate)) else {
            return;
        };
        let (leash, orders) = bounded(1);
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

    /// Ends a session at once; its relays must hear from their peers from now on.
    fn end(&mut self, link: LinkId) {
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

    fn on_certificate(&mut self, next: Identity) {
        if let Some(change) = self.rotation.begin(next) {
            tracing::info!("certificate files changed, new data connections will use them");
            self.announce();
            self.step_later(change);
        }
    }

    fn on_certificate_step(&mut self, change: u64) {
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

    /// Takes nothing new, says goodbye and lets relays run out.
    async fn stop(mut self, inbox: Pin<&mut Receiver<Msg>>) {
        self.accepting = None;
        self.users.close();
        self.half_open.clear();
        for link in self.links.values() {
            link.inbox.try_send(goodbye()).ok();
        }
        // The goodbye goes first: without it, withdrawals look like failures.
        yield_now().await;
        self.waiting.close();
        self.leashes.clear();
        self.shared.drain().or(hub::discard(inbox)).await;
        self.links.clear();
        self.shared.last_words().await;
    }
}

fn log(notice: Notice) {
    match notice {
        Notice::WrongKey(from) => {
            tracing::warn!(%from, "a client with a wrong key was refused");
        }
        Notice::Banned(from) => {
            tracing::warn!(%from, "banned for 60 s after wrong keys");
        }
        Notice::HalfOpenLimit => {
            tracing::warn!("too many connections in handshake, the oldest are closed");
        }
    }
}

/// Accepts connections at the tunnel port until the future is dropped.
async fn accept(mut acceptor: Acceptor, hub: Sender<Msg>) {
    let gate = Gate::new();
    let mut turns = Turns::default();
    loop {
        let pass = gate.enter().await;
        match acceptor.accept().await {
            Ok((socket, from)) => {
                turns.take().await;
                if hub.send(Msg::Accepted(socket, from, pass)).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::error!(%error, "the tunnel port accepts no more connections");
                return;
            }
        }
    }
}
