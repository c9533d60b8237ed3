//! Sessions of the legacy generations: their control channels and their numbered connections.

use protocol::dialect::{ControlOn, DataBy, Dialect, LaunchBy};
use protocol::handshake::legacy::VerifiedLegacy;
use protocol::id::{ConnId, LinkId};
use protocol::limits;
use protocol::roster::{self, Roster};
use protocol::session::{self, Session};
use protocol::terms::{DataId, Flow, SessionId};
use protocol::{endpoint, ingress};

use super::door::{State, params};
use super::{Link, Server};
use crate::carrier::Ctx;
use crate::drain;
use crate::net::Sock;
use crate::oracle::Event;

impl Server {
    pub(super) fn welcome_legacy(
        &mut self,
        ctx: &mut Ctx<'_>,
        sock: Sock,
        (link, name): (LinkId, SessionId),
        verified: &VerifiedLegacy,
        dialect: Dialect,
    ) {
        let mut answer = Vec::new();
        let answered = verified.answer(&params(ctx.plan), &mut answer);
        answered.expect("a key that was good enough");
        assert_eq!(ctx.net.write(sock, &answer), answer.len());
        match dialect.capabilities.control {
            ControlOn::Handshake => self.begin(ctx, sock, (link, name), dialect, &verified.rest),
            ControlOn::DataConnection => {
                ctx.net.shutdown(sock);
                self.carrier.linger(ctx, sock);
                self.carrier.pump(ctx, sock);
                self.announced.insert(link, dialect);
            }
        }
    }

    pub(super) fn control(&mut self, ctx: &mut Ctx<'_>, conn: ConnId, link: LinkId) {
        let sock = self.take_silent(conn);
        let dialect = self.announced.remove(&link).expect("it was announced");
        write_id(ctx, sock, &dialect, DataId::CONTROL);
        self.begin(ctx, sock, (link, SessionId([0; 16])), dialect, &[]);
    }

    /// A session is up; `rest` came with its handshake.
    pub(super) fn begin(
        &mut self,
        ctx: &Ctx<'_>,
        sock: Sock,
        (link, name): (LinkId, SessionId),
        dialect: Dialect,
        rest: &[u8],
    ) {
        let mut session = Session::new(&dialect, ctx.plan.report_interval, ctx.now);
        session.handle_input(ctx.now, session::Input::Control(rest));
        let ingress = ctx.plan.flow == Flow::Reverse;
        let check = dialect.capabilities.check;
        let config = roster::Config { ingress, check };
        let by_signal = dialect.capabilities.launch == LaunchBy::Signal;
        let it = Link {
            sock,
            session,
            name,
            dialect,
            roster: by_signal.then(|| Roster::new(config, ctx.now)),
            leaving: false,
        };
        self.sessions.insert(link, it);
        if ingress {
            let up = ingress::Input::SessionUp(link);
            self.ingress.handle_input(ctx.now, up);
        }
    }

    pub(super) fn numbered(&mut self, ctx: &mut Ctx<'_>, conn: ConnId, link: LinkId, id: DataId) {
        let sock = self.take_silent(conn);
        let it = self.sessions.get_mut(&link).expect("its session");
        write_id(ctx, sock, &it.dialect, id);
        self.carrier.add_numbered(sock, link, conn);
        assert!(self.carrier.idle(link) <= ctx.plan.pool_max);
        let leaf = ctx.net.leaf(sock);
        self.tell(ctx, link, roster::Input::Numbered { conn, id, leaf });
        // A check that came before its connection has it now: then no user may.
        self.settle_roster(ctx, link);
        if ctx.plan.flow == Flow::Reverse && self.carrier.is_free(link, conn) {
            let input = ingress::Input::Idle(link, conn);
            self.ingress.handle_input(ctx.now, input);
        }
        self.carrier.pump(ctx, sock);
    }

    pub(super) fn tell(&mut self, ctx: &Ctx<'_>, link: LinkId, input: roster::Input) {
        let roster = self
            .sessions
            .get_mut(&link)
            .and_then(|it| it.roster.as_mut());
        if let Some(roster) = roster {
            roster.handle_input(ctx.now, input);
            // What was closed this moment may still be on its way to the roster.
            let slack = limits::PARKED + ctx.plan.pool_max;
            assert!(roster.len() <= self.carrier.numbered(link) + slack);
        }
    }

    /// Whether the roster wanted anything.
    pub(super) fn settle_roster(&mut self, ctx: &mut Ctx<'_>, link: LinkId) -> bool {
        let roster = self
            .sessions
            .get_mut(&link)
            .and_then(|it| it.roster.as_mut());
        let outputs = roster.map_or(Vec::new(), |it| drain!(it, ctx.now));
        let busy = !outputs.is_empty();
        for output in outputs {
            self.on_roster(ctx, link, output);
        }
        busy
    }

    fn on_roster(&mut self, ctx: &mut Ctx<'_>, link: LinkId, output: roster::Output) {
        match output {
            roster::Output::Send(signal) => {
                if let Some(it) = self.sessions.get_mut(&link) {
                    let input = session::Input::Send(signal);
                    it.session.handle_input(ctx.now, input);
                }
            }
            roster::Output::Serve { conn, launch } => {
                self.not_idle(ctx, conn);
                self.carrier.serve(ctx, link, conn, &launch);
            }
            roster::Output::Judge(conn) => self.carrier.judge(ctx, link, conn),
            roster::Output::Claim(conn) => {
                self.not_idle(ctx, conn);
                self.carrier.claim(link, conn);
            }
            roster::Output::Close(conn) => {
                self.not_idle(ctx, conn);
                self.carrier.close_numbered(ctx, link, conn);
            }
            roster::Output::Missing(_) => {}
            roster::Output::Matched => ctx.oracle.happened(Event::Matched),
            roster::Output::Mismatched(_) => {
                assert!(ctx.plan.mitm > 0, "nobody is in the middle");
                ctx.oracle.happened(Event::Mismatched);
                self.end_link(ctx, link, false);
            }
        }
    }

    pub(super) fn not_idle(&mut self, ctx: &Ctx<'_>, conn: ConnId) {
        let input = endpoint::Input::NotIdle(conn);
        self.endpoint.handle_input(ctx.now, input);
        self.ingress
            .handle_input(ctx.now, ingress::Input::Lost(conn));
    }

    fn take_silent(&mut self, conn: ConnId) -> Sock {
        let it = self.take(conn);
        assert!(matches!(it.1.state, State::Silent), "it said something");
        it.0
    }
}

fn write_id(ctx: &mut Ctx<'_>, sock: Sock, dialect: &Dialect, id: DataId) {
    let DataBy::Address(form) = dialect.capabilities.data else {
        panic!("a session whose connections have no ids");
    };
    let mut bytes = Vec::new();
    form.encode(id, &mut bytes);
    assert_eq!(ctx.net.write(sock, &bytes), bytes.len());
}
