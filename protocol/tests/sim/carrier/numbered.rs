//! Data connections whose launches are signals, until a user has one.

use protocol::handshake::legacy::{Held, Judged, Peer, Seen};
use protocol::id::{ConnId, LinkId};
use protocol::wire::launch::Launch;

use super::{Carrier, Ctx, News, Relay, State, Use, Waiting};
use crate::net::{Read, Sock};
use crate::oracle::Event;

impl Carrier {
    pub(crate) fn add_numbered(&mut self, sock: Sock, link: LinkId, conn: ConnId) {
        let waiting = Waiting {
            held: Held::of(self.peer()),
            early: false,
            claimed: false,
            reset: None,
        };
        self.add(sock, link, conn, State::Numbered(waiting));
    }

    fn peer(&self) -> Peer {
        match (&self.returning, self.is_egress) {
            (None, _) => Peer::Server,
            (Some(_), true) => Peer::Ingress,
            (Some(_), false) => Peer::Egress,
        }
    }

    /// Whether a user may have it.
    pub(crate) fn is_free(&self, link: LinkId, conn: ConnId) -> bool {
        let it = self.find(link, conn).and_then(|sock| self.uses.get(&sock));
        let state = it.map(|it| &it.state);
        matches!(state, Some(State::Numbered(it)) if !it.claimed && !it.early)
    }

    /// Whether what comes is kept for a launch.
    pub(super) fn pump_numbered(&mut self, ctx: &mut Ctx<'_>, sock: Sock, it: &mut Use) -> bool {
        let State::Numbered(waiting) = &mut it.state else {
            return true;
        };
        while waiting.held.room() > 0 {
            let seen = match ctx.net.read(sock, waiting.held.room()) {
                Read::Empty => return true,
                Read::Fin if waiting.early => return true,
                Read::Fin => Seen::Early,
                Read::Bytes(bytes) => waiting.held.feed(&bytes),
            };
            if seen == Seen::Foreign {
                self.news.push_back(News::Lost(it.link, it.conn));
                self.news.push_back(News::Gone(it.link, it.conn));
                return false;
            }
            if !core::mem::replace(&mut waiting.early, true) {
                self.news.push_back(News::Early(it.link, it.conn));
            }
            if seen == Seen::Shown {
                self.news.push_back(News::Shown(it.link, it.conn));
            }
        }
        true
    }

    /// What a connection showed before its launch has its turn.
    pub(crate) fn judge(&mut self, ctx: &mut Ctx<'_>, link: LinkId, conn: ConnId) {
        let found = self.find(link, conn);
        let it = found.and_then(|sock| Some((sock, &self.uses.get(&sock)?.state)));
        let (Some((sock, State::Numbered(waiting))), Some(keys)) = (it, &self.returning) else {
            panic!("a judgement on a connection that does not wait");
        };
        let (answer, verdict) = match waiting.held.judge(keys) {
            Judged::Users => return,
            Judged::Returned => (Vec::new(), Some(News::Returned(link))),
            Judged::Refused { answer, why } => {
                assert!(why.counts_for_ban(), "nobody says {why}");
                (answer, Some(News::WrongKey(link)))
            }
        };
        self.uses.remove(&sock);
        self.news.push_back(News::Lost(link, conn));
        self.news.push_back(News::Gone(link, conn));
        self.news.extend(verdict);
        ctx.net.write(sock, &answer);
        ctx.net.shutdown(sock);
        self.linger(ctx, sock);
        self.pump(ctx, sock);
    }

    /// A user of this end begins at once.
    pub(crate) fn launch_by_signal(
        &mut self,
        ctx: &mut Ctx<'_>,
        user: usize,
        conn: ConnId,
        link: LinkId,
    ) {
        let sock = self
            .find(link, conn)
            .expect("a launch on an idle connection");
        let it = self.uses.get_mut(&sock).expect("just found");
        let State::Numbered(Waiting {
            early: false,
            claimed: false,
            ..
        }) = it.state
        else {
            panic!("a launch on a connection that is not idle");
        };
        let waited = self.waiting.remove(&user);
        let (out, _) = waited.expect("a launch of a waiting user");
        ctx.oracle.launched(sock, user, ctx.now);
        it.state = State::Ingress(Relay {
            user,
            out,
            out_ended: false,
            in_ended: false,
        });
        self.pump(ctx, sock);
    }

    /// The roster has a launch for it.
    pub(crate) fn serve(&mut self, ctx: &mut Ctx<'_>, link: LinkId, conn: ConnId, launch: &Launch) {
        let Some(sock) = self.find(link, conn) else {
            return;
        };
        let it = self.uses.get_mut(&sock).expect("just found");
        let State::Numbered(waiting) = &mut it.state else {
            panic!("a launch on a connection that is used");
        };
        let (held, reset) = (core::mem::take(&mut waiting.held), waiting.reset);
        let user = ctx.oracle.launched_at(sock);
        let named = launch.address().map(|source| usize::from(source.port()));
        assert!(
            named.is_none_or(|named| named == user),
            "{launch:?} for {user}"
        );
        ctx.oracle.dialled(user);
        if let Some(tainted) = reset {
            ctx.oracle.target_is_cut(user, tainted);
            self.news.push_back(News::Gone(link, conn));
            self.uses.remove(&sock);
            return;
        }
        let ready = ctx.now.after(ctx.plan.users[user].target_delay);
        let kept = held.into_bytes();
        if !kept.is_empty() {
            ctx.oracle.happened(Event::Overtook);
        }
        it.state = State::Dialing { user, ready, kept };
    }

    /// The certificate check has it from now on.
    pub(crate) fn claim(&mut self, link: LinkId, conn: ConnId) {
        let sock = self.find(link, conn);
        let it = sock.and_then(|sock| self.uses.get_mut(&sock));
        let Some(State::Numbered(waiting)) = it.map(|it| &mut it.state) else {
            panic!("a check on a connection that is not idle");
        };
        waiting.claimed = true;
    }

    /// The roster closes one that has no user.
    pub(crate) fn close_numbered(&mut self, ctx: &mut Ctx<'_>, link: LinkId, conn: ConnId) {
        let Some(sock) = self.find(link, conn) else {
            return;
        };
        let it = self.uses.remove(&sock);
        let waits = it.is_some_and(|it| matches!(it.state, State::Numbered(_)));
        assert!(waits, "the end of a connection that serves a user");
        ctx.net.close(sock);
    }

    fn find(&self, link: LinkId, conn: ConnId) -> Option<Sock> {
        let is_it = |it: &Use| it.numbered && it.link == link && it.conn == conn;
        let mut found = self.uses.iter().filter(|(_, it)| is_it(it));
        found.next().map(|(&sock, _)| sock)
    }
}
