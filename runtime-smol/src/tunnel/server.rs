//! The server's hub: one task that owns its machines and does what they want done.

mod certificates;
mod door;
mod sessions;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};

use protocol::endpoint::{Config, Endpoint, Input, Notice, Output};
use protocol::id::{ConnId, LinkId};
use protocol::ingress;
use protocol::rng::Seed;
use protocol::roster;
use protocol::terms::Flow;
use protocol::time::{Instant, earliest};
use protocol::wire::signal::Signal;
use smol::channel::{Receiver, Sender};
use smol::future::{FutureExt as _, yield_now};

use self::door::HalfOpen;
use self::sessions::{Announced, Link};
use super::door::{Caller, Door};
use super::gate::{self, Gate, Pass};
use super::hub::{self, Msg, Turns};
use super::keys::Keys;
use super::leash::{Leash, leash};
use super::numbered::Change;
use super::rotation::Rotation;
use super::shared::Held;
use super::users::{Entrances, Listeners};
use super::waiting::{Told, Waiting};
use super::{Shared, TunnelError, goodbye};
use crate::clock::{Clock, Deadline};
use crate::net::{Acceptor, Polled, Stream};
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
    half_open: BTreeMap<ConnId, Box<HalfOpen>>,
    /// Sessions whose control channel is yet to come.
    announced: BTreeMap<LinkId, Box<Announced>>,
    links: BTreeMap<LinkId, Box<Link>>,
    /// Idle data connections of an egress without ids, and whose they are.
    leashes: BTreeMap<ConnId, (LinkId, Leash)>,
    rotation: Rotation,
    accepting: Option<Held>,
    users: Entrances,
    timer: Deadline,
}

impl Server {
    pub(super) fn new(
        shared: Arc<Shared>,
        hub: Sender<Msg>,
        flow: Flow,
        (tls, identity): (ServerTls, Identity),
        keys: Keys,
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
            keys,
            hub: hub.clone(),
            excluded: Mutex::default(),
        };
        Self {
            door: Arc::new(door),
            flow,
            endpoint: Endpoint::new(config, seed, now),
            waiting: Waiting::new(&shared, now),
            half_open: BTreeMap::new(),
            announced: BTreeMap::new(),
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
            let due = self.poll_timeout();
            let msg = hub::next(inbox.as_mut(), &mut self.timer, due).await;
            let now = Clock::new().now();
            match msg {
                None => self.handle_timeout(now),
                Some(Msg::Stop) => break,
                Some(msg) => self.on(now, msg),
            }
        }
        self.stop(inbox).await;
        Ok(())
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let links = self.links.values();
        let numbered = links.filter_map(|link| link.numbered.as_ref()?.poll_timeout());
        let machines = earliest(self.endpoint.poll_timeout(), self.waiting.poll_timeout());
        earliest(machines, numbered.min())
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.endpoint.handle_timeout(now);
        self.waiting.handle_timeout(now);
        for link in self.links.values_mut() {
            if let Some(numbered) = &mut link.numbered {
                numbered.handle_timeout(now);
            }
        }
    }

    fn on(&mut self, now: Instant, msg: Msg) {
        match msg {
            Msg::Accepted(socket, from, pass) => self.on_accepted(now, socket, from, pass),
            Msg::Door(conn, event) => self.on_door(now, conn, event),
            Msg::Session(link, output) => self.on_session(now, link, output),
            Msg::Taken(conn) | Msg::Lost(conn, _) => {
                self.leashes.remove(&conn);
                for link in self.links.values_mut() {
                    link.tell(now, roster::Input::Gone(conn));
                }
                self.not_idle(now, conn);
            }
            Msg::Early(link, conn) => {
                if let Some(link) = self.links.get_mut(&link) {
                    link.tell(now, roster::Input::Early(conn));
                }
                // A launch may still take it, but no user of this end. It counts as idle until it is
                // closed: whoever speaks too early must not hold more than `max`.
                if self.flow == Flow::Reverse {
                    self.waiting.handle_input(now, ingress::Input::Lost(conn));
                }
            }
            Msg::Shown(link, conn) => {
                if let Some(link) = self.links.get_mut(&link) {
                    link.tell(now, roster::Input::Shown(conn));
                }
            }
            Msg::WrongKey(link) => {
                self.shared.stats.auth_failures.add(1);
                self.endpoint.handle_input(now, Input::WrongKey(link));
            }
            Msg::Returned(link) => self.endpoint.handle_input(now, Input::Returned(link)),
            Msg::User(user) => self.waiting.user(now, user, false),
            Msg::Again(user) => self.waiting.user(now, user, true),
            Msg::Certificate(identity) => self.on_certificate(identity),
            Msg::CertificateStep(change) => self.on_certificate_step(change),
            Msg::Connected(_)
            | Msg::Opened(..)
            | Msg::Control(..)
            | Msg::Listening(_)
            | Msg::DialFailed(_)
            | Msg::NotNumbered(..)
            | Msg::Stop => {}
        }
    }

    /// A data connection is in use or gone.
    fn not_idle(&mut self, now: Instant, conn: ConnId) {
        self.waiting.handle_input(now, ingress::Input::Lost(conn));
        self.endpoint.handle_input(now, Input::NotIdle(conn));
    }

    fn on_accepted(
        &mut self,
        now: Instant,
        socket: Polled<TcpStream>,
        from: SocketAddr,
        pass: Pass,
    ) {
        let conn = self.endpoint.next_conn();
        let (leash, orders) = leash();
        self.half_open
            .insert(conn, Box::new(HalfOpen::Handshake { _leash: leash }));
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
            let expected = self.endpoint.expected(from.ip());
            let caller = Caller {
                stream: Stream::Plain(socket),
                leaf: None,
                from,
                deadline: now.after(self.shared.config.env.handshake_timeout),
                again: false,
            };
            let met = Arc::clone(&self.door).meet(conn, caller, expected, orders);
            self.shared.spawn_relay(gate::through(pass, met));
        }
    }

    /// Does what the machines want done, until they want nothing more.
    fn settle(&mut self) {
        self.settle_endpoint();
        // First, so that no user gets a connection that a roster wants for something else.
        self.settle_numbered();
        self.settle_users();
        let idle = match self.flow {
            Flow::Reverse => self.waiting.connections(),
            Flow::Forward => {
                let links = self.links.values();
                let numbered = links.filter_map(|link| Some(link.numbered.as_ref()?.len()));
                self.leashes.len() + numbered.sum::<usize>()
            }
        };
        let idle = u64::try_from(idle).unwrap_or(u64::MAX);
        self.shared.stats.idle.set(idle);
    }

    fn settle_endpoint(&mut self) {
        while let Some(output) = self.endpoint.poll_output() {
            match output {
                Output::Close(conn, why) => {
                    tracing::debug!(%why, "connection at the tunnel port refused");
                    self.close(conn, why);
                }
                Output::Wait(conn) => self.wait(conn),
                Output::Refuse(conn) => self.refuse(conn),
                Output::Welcome {
                    conn,
                    link,
                    session,
                } => self.welcome(conn, link, session),
                Output::Data(conn, link) => self.data(conn, link),
                Output::Numbered(conn, link, id) => self.numbered(conn, link, id),
                Output::Control(conn, link) => self.control(conn, link),
                Output::EndSession(link, why) => {
                    tracing::info!(session = link.number(), %why, "session ended");
                    self.end(link);
                }
                Output::Notice(notice) => log(notice),
            }
        }
    }

    pub(super) fn settle_numbered(&mut self) {
        let now = Clock::new().now();
        let (waiting, endpoint) = (&mut self.waiting, &mut self.endpoint);
        let mut mismatched = Vec::new();
        for (&id, link) in &mut self.links {
            let Some(numbered) = &mut link.numbered else {
                continue;
            };
            numbered.settle(&link.inbox, |change| match change {
                Change::Taken(conn) | Change::Closed(conn) => {
                    waiting.handle_input(now, ingress::Input::Lost(conn));
                    endpoint.handle_input(now, Input::NotIdle(conn));
                }
                Change::Mismatched => mismatched.push(id),
            });
        }
        for link in mismatched {
            self.endpoint.handle_input(now, Input::SessionEnded(link));
            self.end(link);
        }
    }

    fn settle_users(&mut self) {
        let now = Clock::new().now();
        let links = &mut self.links;
        let mut taken = Vec::new();
        self.waiting.settle(&self.shared, |told| match told {
            Told::Taken(conn, link, launch) => {
                taken.push(conn);
                links
                    .get_mut(&link)
                    .is_some_and(|link| link.take(now, conn, launch))
            }
            // A session whose inbox is full has a peer that does not read; its end is near.
            Told::Demand(link, n) => links
                .get(&link)
                .is_some_and(|link| link.inbox.try_send(Signal::Demand { n }).is_ok()),
        });
        let now = Clock::new().now();
        for conn in taken {
            self.endpoint.handle_input(now, Input::NotIdle(conn));
        }
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
        for link in self.links.values_mut() {
            link.numbered = None;
        }
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
        Notice::IdleLimit(link) => {
            tracing::info!(
                session = link.number(),
                "the client opens more data connections than may be idle"
            );
        }
    }
}

/// Accepts connections at the tunnel port until the future is dropped.
async fn accept(mut acceptor: Acceptor, hub: Sender<Msg>) {
    let gate = Gate::default();
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
