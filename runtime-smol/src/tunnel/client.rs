//! The hub of a dual-end client: one task that owns its machines and does what they want done.

mod entrance;
mod open;
mod up;

use std::collections::BTreeMap;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use protocol::handshake::probe::{Outcome, Probe, Then};
use protocol::id::{ConnId, LinkId, Mint};
use protocol::pool::{self, Pool};
use protocol::reconnect::{self, Reconnect};
use protocol::rng::Rng;
use protocol::session::{self, End};
use protocol::terms::{Flow, InstanceId};
use protocol::time::{Instant, earliest};
use protocol::wire::signal::Signal;
use protocol::{ingress, roster};
use smol::channel::{Receiver, Sender};
use smol::future::{FutureExt as _, yield_now};

use self::entrance::Entrance;
use self::open::Opening;
use self::up::Up;
use super::connect::{Connected, Connector};
use super::control::{self, Control};
use super::hub::{self, Msg, Turns};
use super::keys::Keys;
use super::leash::leash;
use super::users::Listeners;
use super::waiting::Waiting;
use super::{Shared, TunnelError, goodbye};
use crate::clock::{Clock, Deadline};
use crate::net::Stream;

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
    /// Which generation the next attempt is for.
    probe: Probe,
    waiting: Waiting,
    up: Option<Up>,
    /// Sessions whose server said goodbye: their relays go on, and their end is news of the server.
    leaving: BTreeMap<LinkId, Sender<Signal>>,
    /// Takes users in, while this client is ingress.
    entrance: Entrance,
    /// What the last attempt failed with, so that it is logged once.
    complaint: Option<String>,
    timer: Deadline,
}

impl Client {
    pub(super) fn new(shared: Arc<Shared>, hub: Sender<Msg>, keys: Keys, mut rng: Rng) -> Self {
        let now = Clock::new().now();
        let instance = InstanceId(rng.bytes());
        Self {
            connector: Arc::new(Connector {
                shared: Arc::clone(&shared),
                keys,
                instance,
            }),
            reconnect: Reconnect::new(rng.seed(), now),
            probe: Probe::new(shared.config.proto),
            waiting: Waiting::new(&shared, now),
            rng,
            links: Mint::default(),
            conns: Mint::default(),
            up: None,
            leaving: BTreeMap::new(),
            entrance: Entrance::default(),
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
            let up = self.up.as_ref().and_then(Up::poll_timeout);
            let due = earliest(self.reconnect.poll_timeout(), self.waiting.poll_timeout());
            let msg = hub::next(inbox.as_mut(), &mut self.timer, earliest(due, up)).await;
            let now = Clock::new().now();
            match msg {
                None => {
                    self.reconnect.handle_timeout(now);
                    self.waiting.handle_timeout(now);
                    if let Some(up) = &mut self.up {
                        up.handle_timeout(now);
                    }
                }
                Some(Msg::Stop) => break,
                Some(Msg::Listening(outcome)) => self.on_listening(outcome?),
                Some(msg) => self.on(now, msg),
            }
        }
        self.stop(inbox).await;
        Ok(())
    }

    fn on(&mut self, now: Instant, msg: Msg) {
        match msg {
            Msg::Connected(attempt) => match *attempt {
                Ok(connected) => self.on_connected(now, connected),
                Err(error) => self.on_failed(now, error.outcome(), &error.to_string()),
            },
            Msg::Session(link, output) => self.on_session(now, link, output),
            Msg::Control(conn, stream) => {
                // One that is not wanted is closed.
                if self
                    .up
                    .as_mut()
                    .is_some_and(|up| up.takes_control(now, conn))
                {
                    self.on_control(now, stream, Vec::new());
                }
            }
            Msg::Opened(conn, number) => {
                if let Some(up) = &mut self.up {
                    up.on_opened(now, conn, number, &mut self.waiting);
                }
            }
            Msg::DialFailed(conn) => self.on_gone(now, pool::Input::DialFailed(conn)),
            Msg::NotNumbered(conn, open) => {
                self.on_gone(now, pool::Input::NotNumbered { conn, open });
            }
            Msg::Taken(conn) => self.on_gone(now, pool::Input::Taken(conn)),
            Msg::Early(link, conn) => {
                if let Some(up) = self.up.as_mut().filter(|up| up.link() == link) {
                    up.on_early(now, conn, &mut self.waiting);
                }
            }
            Msg::Lost(conn, withdrawn) => {
                self.waiting.handle_input(now, ingress::Input::Lost(conn));
                if let Some(up) = &mut self.up {
                    up.on_lost(now, conn, withdrawn);
                }
            }
            Msg::User(user) => self.waiting.user(now, user, false),
            Msg::Again(user) => self.waiting.user(now, user, true),
            // Only a server is told these.
            Msg::Accepted(..) | Msg::Door(..) | Msg::Certificate(_) | Msg::CertificateStep(_) => {}
            Msg::Shown(..) | Msg::Returned(_) | Msg::WrongKey(_) => {}
            // Handled before.
            Msg::Listening(_) | Msg::Stop => {}
        }
    }

    /// A data connection changed; one of an earlier session is unknown and ignored.
    fn on_gone(&mut self, now: Instant, input: pool::Input) {
        if let Some(up) = &mut self.up {
            up.on_gone(now, input);
        }
    }

    fn on_connected(&mut self, now: Instant, connected: Connected) {
        let env = &self.shared.config.env;
        let established = &connected.established;
        let pool = Pool::new(
            pool::Config {
                min: usize::try_from(self.shared.config.min).unwrap_or(usize::MAX),
                max: self.shared.most_idle(established.max),
                min_interval: env.min_pool_interval,
                max_interval: env.max_pool_interval,
                control_wait: established.dialect.capabilities.control.wait(),
            },
            self.conns.clone(),
            self.rng.seed(),
            now,
        );
        let (up, control) = Up::new(connected, pool);
        self.up = Some(up);
        if let Some((stream, rest)) = control {
            self.on_control(now, stream, rest);
        }
    }

    /// The session has its control channel: it is up.
    fn on_control(&mut self, now: Instant, stream: Stream, rest: Vec<u8>) {
        let Some(up) = &mut self.up else { return };
        let dialect = &up.session.dialect;
        let generation = dialect.generation;
        self.reconnect.handle_input(now, reconnect::Input::Up);
        self.complaint = None;
        tracing::info!(
            session = up.name.map(tracing::field::display),
            %generation,
            flow = up.flow.as_str(),
            tls = up.session.tls.as_str(),
            "session up"
        );
        if let Some(lacks) = up.lacks {
            tracing::warn!(%generation, "legacy session: {lacks}");
        }
        let (inbox, signals) = control::inbox(dialect.capabilities.launch);
        let control = Control {
            link: up.link(),
            stream,
            rest,
            preamble: Vec::new(),
            dialect: dialect.clone(),
            report_interval: self.shared.config.env.report_interval,
            inbox: signals,
            hub: self.hub.clone(),
        };
        self.shared.spawn_session(control.drive());
        up.control_is(now, inbox, &mut self.waiting);
        let flow = up.flow;
        self.remember(Outcome::Up(generation));
        match flow {
            Flow::Forward => {
                let seed = self.rng.seed();
                self.entrance.open(&self.shared, &self.hub, seed);
            }
            Flow::Reverse => self.entrance = Entrance::Shut,
        }
    }

    fn on_listening(&mut self, listeners: Listeners) {
        self.entrance.opened(&self.shared, &self.hub, listeners);
    }

    /// There is no session. A repeated complaint is logged once.
    fn on_failed(&mut self, now: Instant, outcome: Outcome, error: &str) {
        if self.remember(outcome) {
            let attempt = self.probe.attempt();
            tracing::debug!(%error, "trying {attempt}");
            return self.connect();
        }
        if self.complaint.as_deref() == Some(error) {
            tracing::debug!(%error, "still no session");
        } else {
            tracing::warn!(%error, "no session, trying again");
            self.complaint = Some(error.to_owned());
        }
        self.reconnect.handle_input(now, reconnect::Input::Failed);
    }

    /// Remembers how an attempt ended; whether the next one is due at once.
    fn remember(&mut self, outcome: Outcome) -> bool {
        self.probe.handle_outcome(outcome) == Then::Now
    }

    fn on_session(&mut self, now: Instant, link: LinkId, output: session::Output) {
        if self.leaving.contains_key(&link) && matches!(output, session::Output::Closed(_)) {
            self.leaving.remove(&link);
            return self.reconnect.handle_input(now, reconnect::Input::News);
        }
        let Some(up) = self.up.as_mut().filter(|up| up.link() == link) else {
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
                self.leaving
                    .extend(up.inbox().map(|inbox| (link, inbox.clone())));
                self.end(now, End::Graceful, Some(retry_after));
            }
            session::Output::Launch { id, launch } => {
                up.on_signal(now, roster::Input::Launch { id, launch });
            }
            session::Output::Verify { id, fp } => {
                up.on_signal(now, roster::Input::Verify { id, fp });
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
            .handle_input(now, ingress::Input::SessionGone(up.link()));
        let input = if up.is_up() {
            reconnect::Input::Ended(retry_after)
        } else {
            // What this led to is as good as a failed attempt.
            self.remember(Outcome::Failed);
            reconnect::Input::Failed
        };
        self.reconnect.handle_input(now, input);
    }

    /// Does what the machines want done, until they want nothing more.
    fn settle(&mut self) {
        while let Some(reconnect::Output::Connect) = self.reconnect.poll_output() {
            self.connect();
        }
        let now = Clock::new().now();
        // Before users are given connections.
        if let Some(up) = &mut self.up
            && !up.settle(now, &mut self.waiting)
        {
            self.end(now, End::Lost, None);
        }
        let up = &mut self.up;
        self.waiting.settle(&self.shared, |told| {
            up.as_mut().is_some_and(|up| up.told(now, told))
        });
        self.settle_pool();
        let idle = self.up.as_ref().map_or(0, |up| up.pool.idle());
        self.shared
            .stats
            .idle
            .set(u64::try_from(idle).unwrap_or(u64::MAX));
    }

    fn settle_pool(&mut self) {
        // What was just launched may have told the machines a later time.
        let now = Clock::new().now();
        let mut useless = None;
        while let Some(up) = &mut self.up
            && let Some(output) = up.pool.poll_output()
        {
            match output {
                pool::Output::Dial(conn) => self.dial(conn),
                pool::Output::Close(conn) => up.close(now, conn, &mut self.waiting),
                pool::Output::Exhausted => {
                    useless = Some("data connections fail one after the other");
                }
                pool::Output::NoControl => {
                    useless = Some("the server made no data connection the control channel");
                }
            }
        }
        if let Some(why) = useless {
            tracing::warn!("{why}, session ended");
            self.end(now, End::Lost, None);
        }
    }

    fn connect(&mut self) {
        let link = LinkId::from_number(self.links.next());
        let connector = Arc::clone(&self.connector);
        let (hub, attempt) = (self.hub.clone(), self.probe.attempt());
        self.shared.spawn_control(async move {
            let outcome = connector.session(link, attempt).await;
            drop(hub.send(Msg::Connected(Box::new(outcome))).await);
        });
    }

    fn dial(&mut self, conn: ConnId) {
        let Some(up) = &mut self.up else { return };
        let (leash, orders) = leash();
        up.dialled(conn, leash);
        let opening = Opening {
            conn,
            session: Arc::clone(&up.session),
            flow: up.flow,
            orders,
            shared: Arc::clone(&self.shared),
            hub: self.hub.clone(),
        };
        self.shared.spawn_relay(opening.run());
    }

    /// Takes nothing new, says goodbye and lets relays run out.
    async fn stop(mut self, inbox: Pin<&mut Receiver<Msg>>) {
        self.entrance.close();
        self.leaving.clear();
        if let Some(up) = &mut self.up {
            up.inbox().map(|inbox| inbox.try_send(goodbye()).ok());
            // The goodbye goes first: without it, withdrawals look like failures.
            yield_now().await;
            up.drop_idle();
        }
        self.waiting.close();
        self.shared.drain().or(hub::discard(inbox)).await;
        self.up = None;
        self.shared.last_words().await;
    }
}
