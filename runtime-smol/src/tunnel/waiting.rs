//! The ingress end of a tunnel: its machine, the users it names and the connections it gives out.

use std::collections::BTreeMap;

use protocol::id::{ConnId, LinkId, Mint, UserId};
use protocol::ingress::{Config, Ingress, Input, Output};
use protocol::limits;
use protocol::time::Instant;
use protocol::wire::launch::Launch;

use super::Shared;
use super::leash::{Leash, Order};
use super::user::User;
use crate::clock::Clock;

/// Users waiting for idle data connections, and those connections' leashes.
#[derive(Debug)]
pub(super) struct Waiting {
    ingress: Ingress,
    mint: Mint,
    users: BTreeMap<UserId, Box<User>>,
    leashes: BTreeMap<ConnId, Leash>,
    /// Whether it was said that too many users wait.
    full: bool,
}

impl Waiting {
    pub(super) fn new(shared: &Shared, now: Instant) -> Self {
        let env = &shared.config.env;
        let config = Config {
            wait: env.pool_get_timeout,
            report_interval: env.report_interval,
        };
        Self {
            ingress: Ingress::new(config, now),
            mint: Mint::default(),
            users: BTreeMap::new(),
            leashes: BTreeMap::new(),
            full: false,
        }
    }

    /// A user arrived, or (`again`) its launch was withdrawn.
    pub(super) fn user(&mut self, now: Instant, user: Box<User>, again: bool) {
        self.full &= self.users.len() > limits::QUEUED_USERS / 2;
        let id = UserId::from_number(self.mint.next());
        self.users.insert(id, user);
        let input = if again {
            Input::Again(id)
        } else {
            Input::User(id)
        };
        self.ingress.handle_input(now, input);
    }

    /// A data connection of `link` is idle.
    pub(super) fn idle(&mut self, now: Instant, link: LinkId, conn: ConnId, leash: Leash) {
        self.leashes.insert(conn, leash);
        self.ingress.handle_input(now, Input::Idle(link, conn));
    }

    /// Anything else that concerns the machine.
    pub(super) fn handle_input(&mut self, now: Instant, input: Input) {
        if let Input::Lost(conn) = input {
            self.leashes.remove(&conn);
        }
        self.ingress.handle_input(now, input);
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.ingress.handle_timeout(now);
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.ingress.poll_timeout()
    }

    pub(super) fn connections(&self) -> usize {
        self.ingress.idle()
    }

    /// Does what the machine wants done. What concerns sessions is handed to `tell`; it says `false`
    /// if the peer cannot be told.
    pub(super) fn settle(&mut self, shared: &Shared, mut tell: impl FnMut(Told) -> bool) {
        while let Some(output) = self.ingress.poll_output() {
            match output {
                Output::Launch { user, conn, link } => {
                    if self.is_gone(user) {
                        // Nothing was written on the connection: the next user may have it.
                        self.ingress
                            .handle_input(Clock::new().now(), Input::Idle(link, conn));
                    } else {
                        self.launch(shared, user, (conn, link), &mut tell);
                    }
                }
                Output::Expired(user) => {
                    self.refuse(shared, user, "no data connection in time");
                }
                Output::Refused(user) => {
                    self.say_full();
                    self.refuse(shared, user, "too many users wait");
                }
                Output::Demand(link, n) => {
                    tell(Told::Demand(link, n));
                }
                Output::Close(conn) => {
                    self.leashes.remove(&conn);
                }
            }
        }
    }

    /// Resets everyone who waits, for a stop.
    pub(super) fn close(&mut self) {
        std::mem::take(&mut self.users)
            .into_values()
            .for_each(|user| user.reset());
        self.leashes.clear();
    }

    /// Whether the user hung up while it waited; it is forgotten then.
    fn is_gone(&mut self, user: UserId) -> bool {
        let gone = self.users.get(&user).is_some_and(|user| user.is_gone());
        if gone {
            self.users.remove(&user);
        }
        gone
    }

    fn launch(
        &mut self,
        shared: &Shared,
        user: UserId,
        (conn, link): (ConnId, LinkId),
        tell: &mut impl FnMut(Told) -> bool,
    ) {
        let Some(launch) = self.users.get(&user).map(|user| user.launch()) else {
            return;
        };
        if !tell(Told::Taken(conn, link, launch)) {
            self.leashes.remove(&conn);
            return self.refuse(shared, user, "the peer does not read its control channel");
        }
        let Some(user) = self.users.remove(&user) else {
            return;
        };
        let order = Order::Launch(user);
        let refused = match self.leashes.remove(&conn) {
            Some(leash) => leash.give(order),
            None => Err(order),
        };
        // The connection ended this moment, so nothing was written on it: the user needs another.
        if let Err(Order::Launch(user)) = refused {
            self.user(Clock::new().now(), user, true);
        }
    }

    /// Once, until half of them are gone.
    fn say_full(&mut self) {
        if !self.full {
            let most = limits::QUEUED_USERS;
            tracing::warn!("{most} users wait for data connections, more are refused");
        }
        self.full = true;
    }

    fn refuse(&mut self, shared: &Shared, user: UserId, why: &'static str) {
        if let Some(user) = self.users.remove(&user) {
            shared.stats.refused.add(1);
            tracing::debug!(source = %user.source, why, "user refused");
            user.reset();
        }
    }
}

/// What ingress says about sessions and their connections.
#[derive(Clone, Debug)]
pub(super) enum Told {
    /// This connection is in use now, for this user.
    Taken(ConnId, LinkId, Launch),
    /// That session's peer is to open so many more.
    Demand(LinkId, u32),
}
