//! The data connections of a session whose launches are signals: its roster, and their leashes.
//! Both ends keep one, beside the session (`wire.md` §3, §5).

use std::collections::BTreeMap;

use protocol::dialect::Capabilities;
use protocol::id::ConnId;
use protocol::roster::{Config, Input, Output, Roster};
use protocol::terms::{DataId, Fingerprint};
use protocol::time::Instant;
use protocol::wire::launch::Launch;
use protocol::wire::signal::Signal;
use smol::channel::Sender;

use super::leash::{Leash, Order};

/// One session's numbered data connections.
#[derive(Debug)]
pub(super) struct Numbered {
    roster: Roster,
    /// Of those without a launch. An ingress holds a second leash of those that users may take.
    leashes: BTreeMap<ConnId, Leash>,
    /// Of those that serve a user of the peer, who go on when the leash is cut.
    serving: BTreeMap<ConnId, Leash>,
    /// It was said that a signal found no connection.
    missed: bool,
}

/// What the hub has to see to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// This connection is in use now: no user may take it.
    Taken(ConnId),
    /// This connection is closed, if it was not yet.
    Closed(ConnId),
    /// Somebody is in the middle: end the session.
    Mismatched,
}

impl Numbered {
    /// For a session whose control channel has just come up.
    pub(super) fn new(capabilities: &Capabilities, ingress: bool, now: Instant) -> Self {
        let check = capabilities.check;
        Self {
            roster: Roster::new(Config { ingress, check }, now),
            leashes: BTreeMap::new(),
            serving: BTreeMap::new(),
            missed: false,
        }
    }

    /// A data connection got its id. `leaf` is the certificate that the server shows on it. After a
    /// [`settle`](Self::settle) it may be [free](Self::is_free), or something was waiting for it.
    pub(super) fn add(
        &mut self,
        now: Instant,
        (conn, id): (ConnId, DataId),
        leaf: Option<Fingerprint>,
        leash: Leash,
    ) {
        self.leashes.insert(conn, leash);
        let input = Input::Numbered { conn, id, leaf };
        self.roster.handle_input(now, input);
    }

    /// Anything else that concerns the roster, apart from users of this end.
    pub(super) fn handle_input(&mut self, now: Instant, input: Input) {
        if let Input::Gone(conn) = input {
            self.leashes.remove(&conn);
            self.serving.remove(&conn);
        }
        self.roster.handle_input(now, input);
    }

    /// A user of this end takes the connection: tells the peer by way of `inbox`, or says `false`.
    /// [`settle`](Self::settle) comes first.
    pub(super) fn take(
        &mut self,
        now: Instant,
        conn: ConnId,
        launch: Launch,
        inbox: &Sender<Signal>,
    ) -> bool {
        self.leashes.remove(&conn);
        self.roster.handle_input(now, Input::Taken { conn, launch });
        match self.roster.poll_output() {
            Some(Output::Send(signal)) => inbox.try_send(signal).is_ok(),
            _ => false,
        }
    }

    /// Whether nothing waited for this connection that was just added: users of this end may have it.
    pub(super) fn is_free(&self, conn: ConnId) -> bool {
        self.leashes.contains_key(&conn)
    }

    /// How many have no launch.
    pub(super) fn len(&self) -> usize {
        self.leashes.len()
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.roster.handle_timeout(now);
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.roster.poll_timeout()
    }

    /// Does what the roster wants done; what concerns the hub is handed to `tell`. Comes before users
    /// are given connections.
    pub(super) fn settle(&mut self, inbox: &Sender<Signal>, mut tell: impl FnMut(Change)) {
        while let Some(output) = self.roster.poll_output() {
            match output {
                // A session whose inbox is full has a peer that does not read; its end is near.
                Output::Send(signal) => drop(inbox.try_send(signal)),
                Output::Serve { conn, launch } => {
                    if let Some(leash) = self.leashes.remove(&conn) {
                        // The task has ended this moment, if it does not take the order.
                        leash.give(Order::Serve(launch)).ok();
                        self.serving.insert(conn, leash);
                    }
                    tell(Change::Taken(conn));
                }
                Output::Judge(conn) => {
                    if let Some(leash) = self.leashes.get(&conn) {
                        leash.give(Order::Judge).ok();
                    }
                }
                Output::Claim(conn) => tell(Change::Taken(conn)),
                Output::Close(conn) => {
                    self.leashes.remove(&conn);
                    if let Some(leash) = self.serving.remove(&conn) {
                        leash.give(Order::End).ok();
                    }
                    tell(Change::Closed(conn));
                }
                // Loud once a session: a peer may name as many as it likes.
                Output::Missing(id) if self.missed => {
                    tracing::debug!(%id, "launch or check of a data connection that never came");
                }
                Output::Missing(id) => {
                    self.missed = true;
                    tracing::info!(%id, "launch or check of a data connection that never came");
                }
                Output::Matched => tracing::debug!("both ends see the same certificate"),
                Output::Mismatched(id) => {
                    tracing::error!(%id, "the peer sees another certificate, somebody is in between");
                    tell(Change::Mismatched);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use protocol::dialect::{Check, Dialect};
    use protocol::limits::CHECK_TICK;
    use protocol::terms::Transport;
    use smol::channel::bounded;

    use super::super::leash::{Orders, leash};
    use super::*;

    const LEAF: Fingerprint = Fingerprint([7; 32]);

    fn numbered(ingress: bool) -> Numbered {
        let mut capabilities = Dialect::native().capabilities;
        capabilities.check = Some(Check {
            send: true,
            blind_passes: false,
        });
        Numbered::new(&capabilities, ingress, Instant::default())
    }

    /// Adds connections with the ids 1 to `n`, and gives the orders for them.
    fn fill<const N: usize>(numbered: &mut Numbered) -> [Orders; N] {
        let mut number = 0_u32;
        [(); N].map(|()| {
            number += 1;
            let (leash, orders) = leash();
            let named = (ConnId::from_number(u64::from(number)), DataId(number));
            numbered.add(Instant::default(), named, Some(LEAF), leash);
            orders
        })
    }

    fn conn(number: u64) -> ConnId {
        ConnId::from_number(number)
    }

    fn launch() -> Launch {
        Launch::new(Transport::Tcp, ([192, 0, 2, 1], 5000).into())
    }

    fn settle(numbered: &mut Numbered, inbox: &Sender<Signal>) -> Vec<Change> {
        let mut changes = Vec::new();
        numbered.settle(inbox, |change| changes.push(change));
        changes
    }

    #[test]
    fn a_user_is_taken_only_if_the_peer_can_be_told() {
        let mut numbered = numbered(true);
        let _orders: [_; 3] = fill(&mut numbered);
        let (inbox, told) = bounded(1);
        let now = Instant::default();
        assert!(numbered.take(now, conn(2), launch(), &inbox));
        assert!(!numbered.take(now, conn(1), launch(), &inbox), "full");
        let (id, launch_of) = (DataId(2), launch());
        assert_eq!(
            told.try_recv(),
            Ok(Signal::Launch {
                id,
                launch: launch_of
            })
        );
        assert!(
            !numbered.take(now, conn(2), launch(), &inbox),
            "taken before"
        );
        assert_eq!(numbered.len(), 1);
    }

    #[test]
    fn a_launch_of_the_peer_is_an_order() {
        let mut numbered = numbered(false);
        let [first, second] = fill(&mut numbered);
        let (inbox, _told) = bounded(1);
        let (id, launch) = (DataId(1), launch());
        numbered.handle_input(Instant::default(), Input::Launch { id, launch });
        assert_eq!(settle(&mut numbered, &inbox), [Change::Taken(conn(1))]);
        assert!(matches!(first.take(), Some(Order::Serve(_))));
        assert!(!second.is_cut());
        assert_eq!(numbered.len(), 1);
    }

    #[test]
    fn a_connection_that_is_launched_again_ends_and_the_others_outlive_their_session() {
        let mut numbered = numbered(false);
        let [first, second] = fill(&mut numbered);
        let (inbox, _told) = bounded(1);
        for number in [1, 2, 1] {
            let (id, launch) = (DataId(number), launch());
            numbered.handle_input(Instant::default(), Input::Launch { id, launch });
        }
        assert_eq!(settle(&mut numbered, &inbox).len(), 3);
        drop(numbered);
        for orders in [&first, &second] {
            assert!(matches!(orders.take(), Some(Order::Serve(_))));
        }
        assert!(matches!(first.take(), Some(Order::End)));
        assert!(second.take().is_none());
    }

    #[test]
    fn a_connection_that_a_signal_waits_for_is_no_users() {
        let mut numbered = numbered(true);
        let [_first] = fill(&mut numbered);
        let (inbox, _told) = bounded(1);
        let now = Instant::default();
        let (id, fp) = (DataId(2), Some(LEAF));
        numbered.handle_input(now, Input::Verify { id, fp });
        let (leash, orders) = leash();
        numbered.add(now, (conn(2), id), fp, leash);
        assert_eq!(settle(&mut numbered, &inbox), [Change::Closed(conn(2))]);
        assert!(!numbered.is_free(conn(2)) && orders.is_cut());
        assert!(numbered.is_free(conn(1)));
    }

    #[test]
    fn a_connection_that_serves_the_check_stays_open_until_the_peer_ends_it() {
        let mut numbered = numbered(true);
        let [first, second] = fill(&mut numbered);
        let (inbox, told) = bounded(1);
        let now = Instant::default().after(CHECK_TICK);
        numbered.handle_timeout(now);
        assert_eq!(settle(&mut numbered, &inbox), [Change::Taken(conn(2))]);
        let (id, fp) = (DataId(2), Some(LEAF));
        assert_eq!(told.try_recv(), Ok(Signal::Verify { id, fp }));
        assert!(!second.is_cut());
        numbered.handle_input(now, Input::Early(conn(2)));
        assert_eq!(settle(&mut numbered, &inbox), [Change::Closed(conn(2))]);
        assert!(second.is_cut() && !first.is_cut());
    }

    #[test]
    fn another_certificate_ends_the_session_and_a_flush_all_that_is_idle() {
        let mut numbered = numbered(true);
        let [first, second] = fill(&mut numbered);
        let (inbox, _told) = bounded(1);
        let now = Instant::default();
        let (id, fp) = (DataId(1), Some(Fingerprint([8; 32])));
        numbered.handle_input(now, Input::Verify { id, fp });
        let changes = settle(&mut numbered, &inbox);
        assert_eq!(changes, [Change::Closed(conn(1)), Change::Mismatched]);
        assert!(first.is_cut());
        numbered.handle_input(now, Input::Flushed);
        assert_eq!(settle(&mut numbered, &inbox), [Change::Closed(conn(2))]);
        assert!(second.is_cut());
        assert_eq!(numbered.len(), 0);
    }
}
