//! One session of a client: its pool, what is told to its server, and its data connections.

use std::collections::BTreeMap;
use std::sync::Arc;

use protocol::dialect::LaunchBy;
use protocol::handshake::Established;
use protocol::id::{ConnId, LinkId};
use protocol::pool::{self, Pool};
use protocol::terms::{Flow, SessionId};
use protocol::time::{Instant, earliest};
use protocol::wire::signal::Signal;
use protocol::{ingress, roster};
use smol::channel::Sender;

use super::super::connect::Connected;
use super::super::data::{ClientSession, Number};
use super::super::leash::Leash;
use super::super::numbered::{Change, Numbered};
use super::super::waiting::{Told, Waiting};
use crate::net::Stream;

/// A session; one whose control channel is a data connection is not up before that has come.
#[derive(Debug)]
pub(super) struct Up {
    pub(super) session: Arc<ClientSession>,
    pub(super) flow: Flow,
    pub(super) pool: Pool,
    /// Its name, if it has one.
    pub(super) name: Option<SessionId>,
    /// What a legacy session lacks, for the log.
    pub(super) lacks: Option<&'static str>,
    /// What is to be told to the server; `None` until the control channel is there.
    inbox: Option<Sender<Signal>>,
    /// Data connections being opened, and at an egress those that launch themselves.
    leashes: BTreeMap<ConnId, Leash>,
    /// Those with an id, while the control channel is not there; at most as many as the pool holds.
    early: BTreeMap<ConnId, Box<Early>>,
    /// The others, where launches are signals.
    numbered: Option<Numbered>,
    /// Nobody is in the middle, as far as the other end has shown.
    intact: bool,
}

/// A numbered connection that came before its control channel.
#[derive(Debug)]
struct Early {
    number: Number,
    leash: Leash,
    /// It showed bytes: those of a launch that comes when the control channel has come.
    spoke: bool,
}

impl Up {
    /// The session that an attempt led to, and its control channel if that is there.
    pub(super) fn new(connected: Connected, pool: Pool) -> (Self, Option<(Stream, Vec<u8>)>) {
        let Connected {
            control,
            established,
            session,
            lacks,
        } = connected;
        let Established {
            session: name,
            flow,
            rest,
            ..
        } = established;
        let up = Self {
            session,
            flow,
            pool,
            name,
            lacks,
            inbox: None,
            leashes: BTreeMap::new(),
            early: BTreeMap::new(),
            numbered: None,
            intact: true,
        };
        (up, control.map(|stream| (stream, rest)))
    }

    pub(super) fn link(&self) -> LinkId {
        self.session.link
    }

    /// Whether its control channel is there.
    pub(super) const fn is_up(&self) -> bool {
        self.inbox.is_some()
    }

    pub(super) fn inbox(&self) -> Option<&Sender<Signal>> {
        self.inbox.as_ref()
    }

    /// The control channel is there: what waited for it counts now.
    pub(super) fn control_is(
        &mut self,
        now: Instant,
        inbox: Sender<Signal>,
        waiting: &mut Waiting,
    ) {
        self.inbox = Some(inbox);
        let link = self.link();
        waiting.handle_input(now, ingress::Input::SessionUp(link));
        let capabilities = &self.session.dialect.capabilities;
        if capabilities.launch == LaunchBy::Signal {
            let ingress = self.flow == Flow::Forward;
            self.numbered = Some(Numbered::new(capabilities, ingress, now));
        }
        for (conn, early) in std::mem::take(&mut self.early) {
            self.numbered(now, conn, *early, waiting);
        }
    }

    /// Whether this connection, whose id is zero, is to be the control channel; it is no data
    /// connection then.
    pub(super) fn takes_control(&mut self, now: Instant, conn: ConnId) -> bool {
        let takes = !self.is_up() && self.leashes.remove(&conn).is_some();
        self.pool.handle_input(
            now,
            match takes {
                true => pool::Input::Control(conn),
                false => pool::Input::DialFailed(conn),
            },
        );
        takes
    }

    /// A data connection is being opened.
    pub(super) fn dialled(&mut self, conn: ConnId, leash: Leash) {
        self.leashes.insert(conn, leash);
    }

    /// A data connection is open.
    pub(super) fn on_opened(
        &mut self,
        now: Instant,
        conn: ConnId,
        number: Option<Number>,
        waiting: &mut Waiting,
    ) {
        self.pool.handle_input(now, pool::Input::Opened(conn));
        match (number, self.leashes.remove(&conn)) {
            // Of an earlier session, or not wanted any more.
            (_, None) => {}
            (Some(number), Some(leash)) => {
                let spoke = false;
                let early = Early {
                    number,
                    leash,
                    spoke,
                };
                if self.is_up() {
                    self.numbered(now, conn, early, waiting);
                } else {
                    self.early.insert(conn, Box::new(early));
                }
            }
            (None, Some(leash)) if self.flow == Flow::Forward => {
                waiting.idle(now, self.link(), conn, leash);
            }
            (None, Some(leash)) => {
                self.leashes.insert(conn, leash);
            }
        }
    }

    /// A numbered connection and the control channel are there. What waited for it comes first; it is
    /// for users of this end if nothing did.
    fn numbered(&mut self, now: Instant, conn: ConnId, early: Early, waiting: &mut Waiting) {
        let Some(numbered) = &mut self.numbered else {
            return;
        };
        let Number { id, leaf } = early.number;
        numbered.add(now, (conn, id), leaf, early.leash.clone());
        if early.spoke {
            self.on_early(now, conn, waiting);
        }
        self.settle(now, waiting);
        let free = self.numbered.as_ref().is_some_and(|it| it.is_free(conn));
        if free && !early.spoke && self.flow == Flow::Forward {
            waiting.idle(now, self.link(), conn, early.leash);
        }
    }

    /// A numbered connection showed bytes or its end before it was launched.
    pub(super) fn on_early(&mut self, now: Instant, conn: ConnId, waiting: &mut Waiting) {
        if let Some(early) = self.early.get_mut(&conn) {
            early.spoke = true;
        }
        let Some(numbered) = &mut self.numbered else {
            return;
        };
        numbered.handle_input(now, roster::Input::Early(conn));
        if self.flow == Flow::Forward {
            // No user may have it: the server is done with it.
            waiting.handle_input(now, ingress::Input::Lost(conn));
            self.pool.handle_input(now, pool::Input::Ended(conn));
        }
    }

    /// A data connection ended.
    pub(super) fn on_lost(&mut self, now: Instant, conn: ConnId, withdrawn: bool) {
        if let Some(numbered) = &mut self.numbered {
            numbered.handle_input(now, roster::Input::Gone(conn));
        }
        self.leashes.remove(&conn);
        self.early.remove(&conn);
        self.pool.handle_input(
            now,
            match withdrawn {
                true => pool::Input::Withdrawn(conn),
                false => pool::Input::Ended(conn),
            },
        );
    }

    /// The server launched a user on a connection that carries launches itself, or a dial failed.
    pub(super) fn on_gone(&mut self, now: Instant, input: pool::Input) {
        if let pool::Input::Taken(conn)
        | pool::Input::DialFailed(conn)
        | pool::Input::NotNumbered { conn, .. } = input
        {
            self.leashes.remove(&conn);
        }
        self.pool.handle_input(now, input);
    }

    /// A signal for the roster.
    pub(super) fn on_signal(&mut self, now: Instant, input: roster::Input) {
        if let Some(numbered) = &mut self.numbered {
            numbered.handle_input(now, input);
        }
    }

    /// The pool has no use for an idle connection, or for one that is being opened.
    pub(super) fn close(&mut self, now: Instant, conn: ConnId, waiting: &mut Waiting) {
        waiting.handle_input(now, ingress::Input::Lost(conn));
        self.leashes.remove(&conn);
        self.early.remove(&conn);
        self.on_signal(now, roster::Input::Spare(conn));
    }

    /// What ingress says about connections and users; `false`: the server cannot be told.
    pub(super) fn told(&mut self, now: Instant, told: Told) -> bool {
        let input = match told {
            Told::Taken(conn, link, launch) if link == self.link() => {
                if let (Some(numbered), Some(inbox)) = (&mut self.numbered, &self.inbox)
                    && !numbered.take(now, conn, launch, inbox)
                {
                    return false;
                }
                pool::Input::Taken(conn)
            }
            Told::Demand(link, n) if link == self.link() => pool::Input::Demand(n),
            Told::Taken(..) | Told::Demand(..) => return false,
        };
        self.pool.handle_input(now, input);
        true
    }

    /// Does what the roster wants done. `false`: somebody is in the middle, end the session.
    pub(super) fn settle(&mut self, now: Instant, waiting: &mut Waiting) -> bool {
        let (Some(numbered), Some(inbox)) = (&mut self.numbered, &self.inbox) else {
            return true;
        };
        let (pool, intact) = (&mut self.pool, &mut self.intact);
        numbered.settle(inbox, |change| {
            let (conn, input) = match change {
                Change::Taken(conn) => (conn, pool::Input::Taken(conn)),
                Change::Closed(conn) => (conn, pool::Input::Ended(conn)),
                Change::Mismatched => return *intact = false,
            };
            waiting.handle_input(now, ingress::Input::Lost(conn));
            pool.handle_input(now, input);
        });
        self.intact
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.pool.handle_timeout(now);
        if let Some(numbered) = &mut self.numbered {
            numbered.handle_timeout(now);
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let numbered = self.numbered.as_ref().and_then(Numbered::poll_timeout);
        earliest(self.pool.poll_timeout(), numbered)
    }

    /// Closes all idle connections; relays and the control channel stay.
    pub(super) fn drop_idle(&mut self) {
        self.leashes.clear();
        self.early.clear();
        self.numbered = None;
    }
}
