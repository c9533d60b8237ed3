//! The machines of a tunnel behind one lock, and what is done when they say so. Nothing here
//! blocks; for what does, there are threads.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::{Receiver, SyncSender};
use std::sync::{Arc, Condvar, Mutex};

use protocol::config::{self, Mode, Role};
use protocol::dialect::Dialect;
use protocol::endpoint::{self, Endpoint, Refusal};
use protocol::handshake::Established;
use protocol::id::{ConnId, LinkId, Mint, UserId};
use protocol::ingress::{self, Ingress};
use protocol::pool::{self, Pool};
use protocol::proof::PreKey;
use protocol::reconnect::{self, Reconnect};
use protocol::rng::Rng;
use protocol::session::{self, Session};
use protocol::terms::{Fingerprint, Flow, InstanceId};
use protocol::time::{Duration, Instant};
use protocol::wire::signal::Signal;
use rustls::{ClientConfig, ServerConfig};

use crate::conn::{Conn, client_tls, server_tls};
use crate::open::Remote;
use crate::{Fault, accept_users, lock, now, relay, seed, spawn};

/// Most idle data connections of a session: each has a thread.
const IDLE: u32 = 128;

/// A process is one tunnel, so what its threads share is never freed.
pub(crate) type Tunnel = &'static Shared;

pub(crate) struct Shared {
    pub(crate) config: config::Tunnel,
    pub(crate) key: PreKey,
    pub(crate) instance: InstanceId,
    /// What a server decides.
    pub(crate) flow: Flow,
    pub(crate) max: u32,
    pub(crate) server_tls: (Arc<ServerConfig>, Fingerprint),
    pub(crate) client_tls: Arc<ClientConfig>,
    machines: Mutex<Machines>,
    changed: Condvar,
}

/// The machines, and beside each what its ids stand for.
pub(crate) struct Machines {
    /// Whether users arrive here; the server tells its client.
    pub(crate) is_ingress: bool,
    ingress: Ingress,
    /// Who waits for a data connection.
    users: BTreeMap<UserId, SyncSender<Data>>,
    /// Of users, and of a client's sessions.
    ids: Mint,
    /// A client's is told of nothing.
    pub(crate) endpoint: Endpoint,
    pub(crate) doors: BTreeMap<ConnId, (TcpStream, SyncSender<endpoint::Output>)>,
    /// A server's is stopped.
    reconnect: Reconnect,
    /// What a client has while its session is up.
    up: Option<Up>,
    /// Where the next session's pool goes on naming connections.
    conn_ids: Mint,
    sessions: BTreeMap<LinkId, (Session, Writer)>,
    idle: BTreeMap<ConnId, Data>,
}

struct Up {
    link: LinkId,
    pool: Pool,
    remote: Arc<Remote>,
}

/// The way to the thread that writes a control connection.
type Writer = SyncSender<Vec<u8>>;

/// An idle data connection.
pub(crate) struct Data {
    pub(crate) link: LinkId,
    pub(crate) conn: Arc<Conn>,
    /// At ingress: the first byte that comes, after a launch.
    pub(crate) answer: Receiver<u8>,
}

impl Shared {
    pub(crate) fn start(config: config::Tunnel) -> Result<Tunnel, Fault> {
        let wait = config.env.pool_get_timeout;
        let report_interval = config.env.report_interval;
        let ingress = ingress::Config {
            wait,
            report_interval,
        };
        let (tls, max) = (config.tls, config.max.min(IDLE));
        let endpoint = endpoint::Config {
            tls,
            max: max as usize,
            max_total: IDLE as usize,
        };
        let flow = match config.mode {
            Mode::One => Flow::Reverse,
            Mode::Two | Mode::Auto => Flow::Forward,
        };
        let mut machines = Machines {
            is_ingress: config.role == Role::Server && flow == Flow::Reverse,
            ingress: Ingress::new(ingress, now()),
            users: BTreeMap::new(),
            ids: Mint::default(),
            endpoint: Endpoint::new(endpoint, seed(), now()),
            doors: BTreeMap::new(),
            reconnect: Reconnect::new(seed(), now()),
            up: None,
            conn_ids: Mint::default(),
            sessions: BTreeMap::new(),
            idle: BTreeMap::new(),
        };
        if config.role == Role::Server {
            machines.reconnect(reconnect::Input::Stop);
        }
        Ok(Box::leak(Box::new(Self {
            key: PreKey::derive(&config.key),
            instance: InstanceId(Rng::new(seed()).bytes()),
            config,
            flow,
            max,
            server_tls: server_tls()?,
            client_tls: client_tls()?,
            machines: Mutex::new(machines),
            changed: Condvar::new(),
        })))
    }

    /// One mutation, one drain.
    pub(crate) fn tell<T>(&'static self, what: impl FnOnce(&mut Machines) -> T) -> T {
        let mut machines = lock(&self.machines);
        let result = what(&mut machines);
        machines.drain(self);
        self.changed.notify_one();
        result
    }

    /// Keeps the machines' deadlines.
    pub(crate) fn run(&'static self) -> ! {
        loop {
            let machines = lock(&self.machines);
            let due = machines.poll_timeout();
            let wait = due.map_or(Duration::MAX, |due| due.saturating_since(now()));
            drop(self.changed.wait_timeout(machines, wait));
            self.tell(Machines::handle_timeout);
        }
    }
}

impl Machines {
    fn poll_timeout(&self) -> Option<Instant> {
        let (ingress, endpoint) = (&self.ingress, &self.endpoint);
        let mut due = vec![ingress.poll_timeout(), endpoint.poll_timeout()];
        due.push(self.reconnect.poll_timeout());
        due.extend(self.up.iter().map(|up| up.pool.poll_timeout()));
        due.extend(self.sessions.values().map(|(it, _)| it.poll_timeout()));
        due.into_iter().flatten().min()
    }

    fn handle_timeout(&mut self) {
        let now = now();
        self.ingress.handle_timeout(now);
        self.endpoint.handle_timeout(now);
        self.reconnect.handle_timeout(now);
        if let Some(up) = &mut self.up {
            up.pool.handle_timeout(now);
        }
        for (session, _) in self.sessions.values_mut() {
            session.handle_timeout(now);
        }
    }

    /// Does what the machines say; what one wants may be another's input.
    fn drain(&mut self, tunnel: Tunnel) {
        loop {
            if let Some(output) = self.ingress.poll_output() {
                self.on_ingress(output);
            } else if let Some(output) = self.endpoint.poll_output() {
                self.on_endpoint(output);
            } else if let Some(reconnect::Output::Connect) = self.reconnect.poll_output() {
                spawn(move || relay::session(tunnel));
            } else if let Some(output) = self.up.as_mut().and_then(|up| up.pool.poll_output()) {
                self.on_pool(tunnel, output);
            } else if let Some((link, output)) = self.poll_sessions() {
                self.on_session(link, output);
            } else {
                return;
            }
        }
    }

    // What the machines are told.

    pub(crate) fn endpoint(&mut self, input: endpoint::Input) {
        if let endpoint::Input::Ended(conn) = input {
            self.doors.remove(&conn);
        }
        self.endpoint.handle_input(now(), input);
    }

    pub(crate) fn reconnect(&mut self, input: reconnect::Input) {
        self.reconnect.handle_input(now(), input);
    }

    /// Ids never repeat, so what concerns an earlier session's connections is ignored.
    pub(crate) fn pool(&mut self, input: pool::Input) {
        if let Some(up) = &mut self.up {
            up.pool.handle_input(now(), input);
        }
    }

    pub(crate) fn session(&mut self, link: LinkId, input: session::Input<'_>) {
        if let Some((session, _)) = self.sessions.get_mut(&link) {
            session.handle_input(now(), input);
        }
    }

    fn ingress(&mut self, input: ingress::Input) {
        self.ingress.handle_input(now(), input);
    }

    /// A user waits for a data connection, which comes by way of `sender` or not at all.
    pub(crate) fn add_user(&mut self, sender: SyncSender<Data>, how: fn(UserId) -> ingress::Input) {
        let id = UserId::from_number(self.ids.next());
        self.users.insert(id, sender);
        self.ingress(how(id));
    }

    /// A data connection is idle; says whether this end is its ingress, `None` without its session.
    pub(crate) fn add_idle(&mut self, id: ConnId, data: Data) -> Option<bool> {
        let link = data.link;
        self.pool(pool::Input::Opened(id));
        self.sessions.get(&link)?;
        self.idle.insert(id, data);
        if self.is_ingress {
            self.ingress(ingress::Input::Idle(link, id));
        }
        Some(self.is_ingress)
    }

    /// Whoever takes an idle connection out of the table decides what becomes of it.
    pub(crate) fn take(&mut self, id: ConnId, why: pool::Input) -> Option<Data> {
        let data = self.idle.remove(&id)?;
        self.ingress(ingress::Input::Lost(id));
        self.endpoint(endpoint::Input::NotIdle(id));
        self.pool(why);
        Some(data)
    }

    pub(crate) fn on_connected(
        &mut self,
        tunnel: Tunnel,
        (said, remote): (Established, Remote),
    ) -> LinkId {
        let config = pool::Config {
            min: tunnel.config.min.min(IDLE) as usize,
            max: said.max.min(IDLE) as usize,
            min_interval: tunnel.config.env.min_pool_interval,
            max_interval: tunnel.config.env.max_pool_interval,
            control_wait: None,
        };
        let pool = Pool::new(config, self.conn_ids.clone(), seed(), now());
        let link = LinkId::from_number(self.ids.next());
        let remote = Arc::new(remote);
        self.up = Some(Up { link, pool, remote });
        self.reconnect(reconnect::Input::Up);
        self.is_ingress = said.flow == Flow::Forward;
        if self.is_ingress {
            accept_users(tunnel);
        }
        link
    }

    pub(crate) fn add_session(&mut self, tunnel: Tunnel, link: LinkId, writer: Writer) {
        eprintln!("session {} is up", link.number());
        let session = Session::new(&Dialect::native(), tunnel.config.env.report_interval, now());
        self.sessions.insert(link, (session, writer));
        if self.is_ingress {
            self.ingress(ingress::Input::SessionUp(link));
        }
    }

    // What the machines say.

    fn on_ingress(&mut self, output: ingress::Output) {
        match output {
            ingress::Output::Launch { user, conn, .. } => {
                let data = self.take(conn, pool::Input::Taken(conn));
                if let Some((user, data)) = self.users.remove(&user).zip(data) {
                    user.try_send(data).ok();
                }
            }
            ingress::Output::Expired(user) | ingress::Output::Refused(user) => {
                self.users.remove(&user);
            }
            ingress::Output::Demand(link, n) => {
                self.session(link, session::Input::Send(Signal::Demand { n }));
            }
            ingress::Output::Close(conn) => self.close_idle(conn),
        }
    }

    fn on_endpoint(&mut self, output: endpoint::Output) {
        let conn = match output {
            endpoint::Output::EndSession(link, why) => return self.end_session(link, &why),
            endpoint::Output::Notice(notice) => return eprintln!("tunnel port: {notice:?}"),
            endpoint::Output::Close(conn, _)
            | endpoint::Output::Refuse(conn)
            | endpoint::Output::Welcome { conn, .. }
            | endpoint::Output::Data(conn, _)
            // Only for generations that this example lacks.
            | endpoint::Output::Wait(conn)
            | endpoint::Output::Numbered(conn, ..)
            | endpoint::Output::Control(conn, _) => conn,
        };
        if let Some((socket, verdict)) = self.doors.remove(&conn) {
            if let endpoint::Output::Close(_, Refusal::Banned | Refusal::HalfOpen) = output {
                // Its thread may still wait for bytes.
                socket.shutdown(Shutdown::Both).ok();
            }
            verdict.try_send(output).ok();
        }
    }

    fn on_pool(&mut self, tunnel: Tunnel, output: pool::Output) {
        let Some(up) = &self.up else { return };
        let (link, remote) = (up.link, Arc::clone(&up.remote));
        match output {
            pool::Output::Dial(conn) => spawn(move || relay::dialled(tunnel, link, conn, &remote)),
            pool::Output::Close(conn) => self.close_idle(conn),
            pool::Output::Exhausted | pool::Output::NoControl => {
                self.end_session(link, &"its dials fail");
            }
        }
    }

    fn close_idle(&mut self, id: ConnId) {
        match self.take(id, pool::Input::Ended(id)) {
            Some(data) if self.is_ingress => data.conn.close(),
            // Nothing was ever written to it, so a byte more cannot block.
            Some(data) => relay::withdraw(&data.conn),
            None => {}
        }
    }

    /// Passes on what sessions have to say; what their writers do not take yet waits in them.
    fn poll_sessions(&mut self) -> Option<(LinkId, session::Output)> {
        for (link, (session, writer)) in &mut self.sessions {
            if let Some(output) = session.poll_output() {
                return Some((*link, output));
            }
            let unsent = session.control_out();
            let n = unsent.len();
            if n > 0 && writer.try_send(unsent.to_vec()).is_ok() {
                session.control_sent(n);
            }
        }
        None
    }

    fn on_session(&mut self, link: LinkId, output: session::Output) {
        match output {
            session::Output::Heard => {
                self.ingress(ingress::Input::Heard(link));
                self.endpoint(endpoint::Input::Heard(link));
            }
            session::Output::RoundTrip(_) | session::Output::Skipped => {}
            session::Output::Launch { .. } | session::Output::Verify { .. } => {}
            session::Output::Demand(n) => self.pool(pool::Input::Demand(n)),
            session::Output::Flush => self.pool(pool::Input::Flush),
            session::Output::Certificates(fingerprints) => {
                if let Some(up) = &self.up {
                    *lock(&up.remote.fingerprints) = fingerprints;
                }
            }
            session::Output::Leaving { .. } => {
                self.pool(pool::Input::Drain);
                self.drop_idle(link);
            }
            session::Output::Closed(why) => {
                eprintln!("session {} is over: {why}", link.number());
                self.sessions.remove(&link);
                self.drop_idle(link);
                self.endpoint(endpoint::Input::SessionEnded(link));
                if let Some(up) = self.up.take() {
                    self.conn_ids = up.pool.mint();
                }
                self.reconnect(reconnect::Input::Ended(None));
            }
        }
    }

    /// The session takes no new launches.
    fn drop_idle(&mut self, link: LinkId) {
        self.ingress(ingress::Input::SessionGone(link));
        let of_link = self.idle.iter().filter(|(_, data)| data.link == link);
        for id in of_link.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.close_idle(id);
        }
    }

    fn end_session(&mut self, link: LinkId, why: &dyn Display) {
        eprintln!("session {}: {why}", link.number());
        self.session(link, session::Input::ControlEof);
    }
}
