//! The hub of a dual-end client: one task that owns its machines and does what they want done.

use std::collections::BTreeMap;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use protocol::id::{ConnId, LinkId, Mint};
use protocol::pool::{self, Pool};
use protocol::reconnect::{self, Reconnect};
use protocol::rng::Rng;
use protocol::session::{self, End};
use protocol::terms::{Flow, InstanceId};
use protocol::time::{Instant, earliest};
use protocol::wire::signal::Signal;
use protocol::{ingress, limits};
use smol::channel::{Receiver, Sender, bounded};
use smol::future::{FutureExt as _, yield_now};

use super::connect::{ClientSession, Connected, Connector};
use super::control::{self, Control};
use super::hub::{self, Leash, Msg, Turns, cut};
use super::idle::DataConn;
use super::keys::Derived;
use super::users::Entrances;
use super::waiting::{Told, Waiting};
use super::{Shared, TunnelError, goodbye};
use crate::clock::{Clock, Deadline};

/// A client's state.
#[derive(Debug)]
pub(super) struct Client {
    shared: Arc<Shared>,
    hub: Sender<Msg>,
    connector: Arc<Connector>,
    rng: Rng,
    links: Mint,
    conns: Mint,
    reconnect: Reconnect,
    waiting: Waiting,
    up: Option<Up>,
    /// Sessions whose server said goodbye: their relays go on, and their end is news of the server.
    leaving: BTreeMap<LinkId, Sender<Signal>>,
    /// Takes users in, while this client is ingress.
    users: Option<Entrances>,
    /// What the last attempt failed with, so that it is logged once.
    complaint: Option<String>,
    timer: Deadline,
}

/// The session that is up.
#[derive(Debug)]
struct Up {
    session: Arc<ClientSession>,
    inbox: Sender<Signal>,
    flow: Flow,
    pool: Pool,
    /// Data connections being opened or idle; at an ingress `waiting` holds the idle ones.
    leashes: BTreeMap<ConnId, Leash>,
}

impl Client {
    pub(super) fn new(shared: Arc<Shared>, hub: Sender<Msg>, key: Derived, mut rng: Rng) -> Self {
        let now = Clock::new().now();
        let instance = InstanceId(rng.bytes());
        Self {
            connector: Arc::new(Connector::new(Arc::clone(&shared), key, instance)),
            reconnect: Reconnect::new(rng.seed(), now),
            waiting: Waiting::new(&shared, now),
            rng,
            links: Mint::default(),
            conns: Mint::default(),
            up: None,
            leaving: BTreeMap::new(),
            users: None,
            complaint: None,
            timer: Deadline::never(),
            shared,
            hub,
        }
    }

    /// Runs until a stop has been drained, or until users cannot be listened for.
    pub(super) async fn run(mut self, inbox: Receiver<Msg>) -> Result<(), TunnelError> {
        let mut inbox = pin!(inbox);
        let mut turns = Turns::default();
        loop {
            turns.take().await;
            self.settle();
            let pool = self.up.as_ref().and_then(|up| up.pool.poll_timeout());
            let due = earliest(self.reconnect.poll_timeout(), self.waiting.poll_timeout());
            let msg = hub::next(inbox.as_mut(), &mut self.timer, earliest(due, pool)).await;
            let now = Clock::new().now();
            match msg {
                None => {
                    self.reconnect.handle_timeout(now);
                    self.waiting.handle_timeout(now);
                    if let Some(up) = &mut self.up {
                        up.pool.handle_timeout(now);
                    }
                }
                Some(Msg::Stop) => break,
                Some(Msg::Connected(attempt)) => match *attempt {
                    Ok(connected) => self.on_connected(now, connected).await?,
                    Err(error) => self.on_failed(now, &error.to_string()),
                },
                Some(msg) => self.on(now, msg),
            }
        }
        self.stop(inbox).await;
        Ok(())
    }

    fn on(&mut self, now: Instant, msg: Msg) {
        match msg {
            Msg::Session(link, output) => self.on_session(now, link, output),
            Msg::Opened(conn) => self.on_opened(now, conn),
            Msg::DialFailed(conn) => self.tell_pool(now, pool::Input::DialFailed(conn)),
            Msg::Taken(conn) => self.tell_pool(now, pool::Input::Taken(conn)),
            Msg::Lost(conn, withdrawn) => {
                self.waiting.handle_input(now, ingress::Input::Lost(conn));
                self.tell_pool(
                    now,
                    match withdrawn {
                        true => pool::Input::Withdrawn(conn),
                        false => pool::Input::Ended(conn),
                    },
                );
            }
            Msg::User(user) => self.waiting.user(now, user, false),
            Msg::Again(user) => self.waiting.user(now, user, true),
            // Only a server is told these.
            Msg::Accepted(..) | Msg::Door(..) | Msg::Certificate(_) | Msg::CertificateStep(_) => {}
            // Handled before.
            Msg::Connected(_) | Msg::Stop => {}
        }
    }

    /// A data connection changed; one of an earlier session is unknown to the pool and ignored.
    fn tell_pool(&mut self, now: Instant, input: pool::Input) {
        let Some(up) = &mut self.up else { return };
        match input {
            pool::Input::DialFailed(conn)
            | pool::Input::Taken(conn)
            | pool::Input::Ended(conn)
            | pool::Input::Withdrawn(conn) => {
                up.leashes.remove(&conn);
            }
            pool::Input::Opened(_)
            | pool::Input::Demand(_)
            | pool::Input::Flush
            | pool::Input::Drain => {}
        }
        up.pool.handle_input(now, input);
    }

    fn on_opened(&mut self, now: Instant, conn: ConnId) {
        let Some(up) = &mut self.up else { return };
        up.pool.handle_input(now, pool::Input::Opened(conn));
        if up.flow == Flow::Forward
            && let Some(leash) = up.leashes.remove(&conn)
        {
            self.waiting.idle(now, up.session.link, conn, leash);
        }
    }

    async fn on_connected(
        &mut self,
        now: Instant,
        connected: Connected,
    ) -> Result<(), TunnelError> {
        let Connected {
            stream,
            established,
            session,
        } = connected;
        let flow = established.flow;
        self.reconnect.handle_input(now, reconnect::Input::Up);
        self.complaint = None;
        let env = &self.shared.config.env;
        let pool = Pool::new(
            pool::Config {
                min: usize::try_from(self.shared.config.min).unwrap_or(usize::MAX),
                max: self.shared.most_idle(established.max),
                min_interval: env.min_pool_interval,
                max_interval: env.max_pool_interval,
            },
            self.conns.clone(),
            self.rng.seed(),
            now,
        );
        let (inbox, signals) = bounded(control::INBOX);
        let control = Control {
            link: session.link,
            stream,
            rest: established.rest,
            preamble: Vec::new(),
            report_interval: env.report_interval,
            inbox: signals,
            hub: self.hub.clone(),
        };
        tracing::info!(
            session = %established.session,
            flow = flow.as_str(),
            tls = established.tls.as_str(),
            "session up"
        );
        self.shared.spawn_session(control.drive());
        self.waiting
            .handle_input(now, ingress::Input::SessionUp(session.link));
        let leashes = BTreeMap::new();
        self.up = Some(Up {
            session,
            inbox,
            flow,
            pool,
            leashes,
        });
        self.shared.flow_is(flow);
        match flow {
            Flow::Forward if self.users.is_none() => {
                let listeners = self.shared.listen_for_users().await?;
                self.users = Some(Entrances::open(&self.shared, listeners, &self.hub));
            }
            Flow::Forward => {}
            Flow::Reverse => self.users = None,
        }
        Ok(())
    }

    /// A repeated complaint is logged once.
    fn on_failed(&mut self, now: Instant, error: &str) {
        if self.complaint.as_deref() == Some(error) {
            tracing::debug!(%error, "still no session");
        } else {
            tracing::warn!(%error, "no session, trying again");
            self.complaint = Some(error.to_owned());
        }
        self.reconnect.handle_input(now, reconnect::Input::Failed);
    }

    fn on_session(&mut self, now: Instant, link: LinkId, output: session::Output) {
        if self.leaving.contains_key(&link) && matches!(output, session::Output::Closed(_)) {
            self.leaving.remove(&link);
            return self.reconnect.handle_input(now, reconnect::Input::News);
        }
        let Some(up) = self.up.as_mut().filter(|up| up.session.link == link) else {
            return;
        };
        match output {
            session::Output::Heard => self.waiting.handle_input(now, ingress::Input::Heard(link)),
            session::Output::RoundTrip(time) => self.shared.stats.pinged(time),
            session::Output::Demand(n) => up.pool.handle_input(now, pool::Input::Demand(n)),
            session::Output::Certificates(fingerprints) => up.session.trust_now(fingerprints),
            session::Output::Flush => up.pool.handle_input(now, pool::Input::Flush),
            session::Output::Leaving {
                reason,
                retry_after,
            } => {
                tracing::info!(%reason, "the server is leaving");
                self.leaving.insert(link, up.inbox.clone());
                self.end(now, End::Graceful, Some(retry_after));
            }
            session::Output::Skipped => tracing::debug!("unreadable line from the server"),
            session::Output::Closed(end) => {
                tracing::info!(%end, "session ended");
                self.end(now, end, None);
            }
        }
    }

    /// The session is over: its idle connections go, its relays go on.
    fn end(&mut self, now: Instant, end: End, retry_after: Option<Duration>) {
        let Some(up) = self.up.take() else { return };
        self.conns = up.pool.mint();
        if !end.is_clean() {
            up.session.fate.died_unclean();
        }
        self.waiting
            .handle_input(now, ingress::Input::SessionGone(up.session.link));
        self.reconnect
            .handle_input(now, reconnect::Input::Ended(retry_after));
    }

    /// Does what the machines want done, until they want nothing more.
    fn settle(&mut self) {
        while let Some(reconnect::Output::Connect) = self.reconnect.poll_output() {
            self.connect();
        }
        let now = Clock::new().now();
        let Self {
            waiting,
            up,
            shared,
            ..
        } = self;
        waiting.settle(shared, |told| {
            let Some(up) = up else { return };
            let input = match told {
                Told::Taken(conn, link) if link == up.session.link => pool::Input::Taken(conn),
                Told::Demand(link, n) if link == up.session.link => pool::Input::Demand(n),
                Told::Taken(..) | Told::Demand(..) => return,
            };
            up.pool.handle_input(now, input);
        });
        // What was just launched may have told the machines a later time.
        let now = Clock::new().now();
        let mut exhausted = false;
        while let Some(output) = self.up.as_mut().and_then(|up| up.pool.poll_output()) {
            match output {
                pool::Output::Dial(conn) => self.dial(conn),
                pool::Output::Close(conn) => {
                    self.waiting.handle_input(now, ingress::Input::Lost(conn));
                    self.up.as_mut().map(|up| up.leashes.remove(&conn));
                }
                pool::Output::Exhausted => exhausted = true,
            }
        }
        if exhausted {
            let failures = limits::DIAL_FAILURES;
            tracing::warn!(
                failures,
                "data connections fail one after the other, session ended"
            );
            self.end(now, End::Lost, None);
        }
        let idle = self.up.as_ref().map_or(0, |up| up.pool.idle());
        self.shared
            .stats
            .idle
            .set(u64::try_from(idle).unwrap_or(u64::MAX));
    }

    fn connect(&mut self) {
        let link = LinkId::from_number(self.links.next());
        let connector = Arc::clone(&self.connector);
        let hub = self.hub.clone();
        self.shared.spawn_control(async move {
            let attempt = connector.session(link).await;
            drop(hub.send(Msg::Connected(Box::new(attempt))).await);
        });
    }

    fn dial(&mut self, conn: ConnId) {
        let Some(up) = &mut self.up else { return };
        let (leash, orders) = bounded(1);
        up.leashes.insert(conn, leash);
        let session = Arc::clone(&up.session);
        let (shared, hub, flow) = (Arc::clone(&self.shared), self.hub.clone(), up.flow);
        self.shared
            .spawn_relay(open(session, conn, flow, orders, shared, hub));
    }

    /// Takes nothing new, says goodbye and lets relays run out.
    async fn stop(mut self, inbox: Pin<&mut Receiver<Msg>>) {
        self.users.iter_mut().for_each(Entrances::close);
        self.leaving.clear();
        if let Some(up) = &mut self.up {
            up.inbox.try_send(goodbye()).ok();
            // The goodbye goes first: without it, withdrawals look like failures.
            yield_now().await;
            up.leashes.clear();
        }
        self.waiting.close();
        self.shared.drain().or(hub::discard(inbox)).await;
        self.up = None;
        self.shared.last_words().await;
    }
}

/// Opens a data connection; from then on it is a task of its own.
async fn open(
    session: Arc<ClientSession>,
    conn: ConnId,
    flow: Flow,
    orders: Receiver<hub::Order>,
    shared: Arc<Shared>,
    hub: Sender<Msg>,
) {
    let dial = async { Some(session.data(&shared).await) };
    let cut = async {
        cut(&orders).await;
        None
    };
    let opened = smol::future::or(dial, cut).await;
    let stream = match opened {
        Some(Ok(stream)) => stream,
        Some(Err(error)) => {
            tracing::debug!(%error, "data connection not opened");
            shared.stats.dial_failures.add(1);
            drop(hub.send(Msg::DialFailed(conn)).await);
            return;
        }
        None => {
            drop(hub.send(Msg::DialFailed(conn)).await);
            return;
        }
    };
    if hub.send(Msg::Opened(conn)).await.is_err() {
        return;
    }
    let fate = Arc::clone(&session.fate);
    drop(session);
    let parting = shared.parting.take();
    let data = DataConn {
        conn,
        stream,
        orders,
        fate,
        shared,
        hub,
        _parting: parting,
    };
    let shared = Arc::clone(&data.shared);
    match flow {
        Flow::Reverse => shared.spawn_relay(data.at_egress()),
        Flow::Forward => shared.spawn_relay(data.at_ingress()),
    }
}
