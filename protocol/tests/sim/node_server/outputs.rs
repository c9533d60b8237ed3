//! Does what the server's machines want.

use protocol::dialect::{ControlOn, Dialect};
use protocol::endpoint::Refusal;
use protocol::handshake::{VerifiedHello, WelcomeParams};
use protocol::id::{ConnId, LinkId, UserId};
use protocol::roster;
use protocol::terms::{Flow, SessionId};
use protocol::wire::signal::Signal;
use protocol::{endpoint, ingress, session};

use super::door::{HalfOpen, State};
use super::{Link, Server, flush_control};
use crate::carrier::{Ctx, News, launch_of};
use crate::drain;
use crate::net::Sock;
use crate::oracle::{Ended, Event};

impl Server {
    pub(super) fn settle(&mut self, ctx: &mut Ctx<'_>) {
        let mut busy = true;
        while core::mem::take(&mut busy) {
            for output in drain!(self.endpoint, ctx.now) {
                busy = true;
                self.on_endpoint(ctx, output);
            }
            // Before users are given connections.
            let links: Vec<LinkId> = self.sessions.keys().copied().collect();
            for link in links {
                busy |= self.settle_roster(ctx, link);
            }
            for output in drain!(self.ingress, ctx.now) {
                busy = true;
                self.on_ingress(ctx, output);
            }
            let links: Vec<LinkId> = self.sessions.keys().copied().collect();
            for link in links {
                let it = self.sessions.get_mut(&link);
                for output in it.map_or(Vec::new(), |it| drain!(it.session, ctx.now)) {
                    busy = true;
                    self.on_session(ctx, link, output);
                }
            }
            while let Some(news) = self.carrier.news.pop_front() {
                busy = true;
                self.on_news(ctx, news);
            }
        }
        for it in self.sessions.values_mut() {
            flush_control(ctx, &mut it.session, it.sock);
        }
        let sessions = self.sessions.len() + self.announced.len();
        assert_eq!(sessions, self.endpoint.sessions());
    }

    pub(super) fn take(&mut self, conn: ConnId) -> (Sock, HalfOpen) {
        let found = self.half_open.iter().find(|(_, it)| it.conn == conn);
        let sock = *found.expect("a half-open connection").0;
        let it = self.half_open.remove(&sock).expect("just found");
        (sock, it)
    }

    pub(super) fn on_endpoint(&mut self, ctx: &mut Ctx<'_>, output: endpoint::Output) {
        match output {
            endpoint::Output::Close(conn, why) => {
                let (sock, it) = self.take(conn);
                if let (Refusal::TooManyIdle, State::Asked(preface)) = (why, it.state) {
                    let of_it = |it: &(&LinkId, &Link)| it.1.name == preface.session;
                    let (&link, _) = self.sessions.iter().find(of_it).expect("its session");
                    assert_eq!(self.carrier.idle(link), ctx.plan.pool_max, "a slot is lost");
                    let conn = ConnId::from_number(u64::MAX);
                    self.carrier.add_idle(sock, link, conn);
                    return self.carrier.close_idle(ctx, Some(link), conn);
                }
                match why {
                    // Its session was lost, of which the client does not know yet.
                    Refusal::UnknownSession | Refusal::Banned => ctx.net.blame_faults(sock),
                    Refusal::Replayed => ctx.net.blame_plain_text(sock),
                    _ => {}
                }
                ctx.net.close(sock);
            }
            endpoint::Output::Wait(conn) => {
                // One session of that address has data connections like this one.
                let full = |(&link, it): (&LinkId, &Link)| {
                    it.roster.is_some() && self.carrier.idle(link) == ctx.plan.pool_max
                };
                assert!(self.sessions.iter().any(full), "a slot is lost");
                ctx.oracle.happened(Event::Full);
                self.wait(ctx, conn);
            }
            endpoint::Output::Refuse(conn) => {
                let (sock, it) = self.take(conn);
                let State::Refused(line) = it.state else {
                    panic!("a refusal of a proof that was not wrong");
                };
                ctx.net.write(sock, &line);
                ctx.net.shutdown(sock);
                self.carrier.linger(ctx, sock);
                self.carrier.pump(ctx, sock);
            }
            endpoint::Output::Welcome {
                conn,
                link,
                session,
            } => {
                let (sock, it) = self.take(conn);
                match it.state {
                    State::Verified(hello) => self.welcome(ctx, sock, link, session, &hello),
                    State::Addressed(verified, dialect) => {
                        self.welcome_legacy(ctx, sock, (link, session), &verified, *dialect);
                    }
                    _ => panic!("a welcome without a proof"),
                }
            }
            endpoint::Output::Data(conn, link) => {
                let (sock, it) = self.take(conn);
                let State::Asked(preface) = it.state else {
                    panic!("a data connection without a preface");
                };
                ctx.oracle.admitted(preface.session, preface.seq);
                let ingress = ctx.plan.flow == Flow::Reverse;
                self.carrier.add_idle(sock, link, conn);
                assert!(self.carrier.idle(link) <= ctx.plan.pool_max);
                if ingress {
                    let input = ingress::Input::Idle(link, conn);
                    self.ingress.handle_input(ctx.now, input);
                }
                if self.sessions[&link].leaving {
                    self.carrier.close_idle(ctx, Some(link), conn);
                    let input = endpoint::Input::NotIdle(conn);
                    self.endpoint.handle_input(ctx.now, input);
                }
                self.carrier.pump(ctx, sock);
            }
            endpoint::Output::Numbered(conn, link, id) => self.numbered(ctx, conn, link, id),
            endpoint::Output::Control(conn, link) => self.control(ctx, conn, link),
            endpoint::Output::EndSession(link, _) => {
                self.announced.remove(&link);
                self.end_link(ctx, link, false);
            }
            endpoint::Output::Notice(_) => {}
        }
    }

    pub(super) fn welcome(
        &mut self,
        ctx: &mut Ctx<'_>,
        sock: Sock,
        link: LinkId,
        name: SessionId,
        hello: &VerifiedHello,
    ) {
        let params = WelcomeParams {
            session: name,
            flow: ctx.plan.flow,
            max: ctx.plan.pool_max as u32,
            tls: ctx.plan.tls,
            fingerprints: Vec::new(),
        };
        let mut out = Vec::new();
        hello.welcome(&params, &mut out);
        assert_eq!(ctx.net.write(sock, &out), out.len());
        self.begin(ctx, sock, (link, name), Dialect::native(), &hello.rest);
    }

    pub(super) fn on_session(&mut self, ctx: &mut Ctx<'_>, link: LinkId, output: session::Output) {
        match output {
            session::Output::Heard => {
                self.ingress
                    .handle_input(ctx.now, ingress::Input::Heard(link));
                self.endpoint
                    .handle_input(ctx.now, endpoint::Input::Heard(link));
            }
            session::Output::Leaving { .. } => {
                let gone = ingress::Input::SessionGone(link);
                self.ingress.handle_input(ctx.now, gone);
            }
            session::Output::Closed(end) => self.end_link(ctx, link, end.is_clean()),
            // A handshake that was so late that its connection became the control channel.
            session::Output::Skipped => {
                let it = self.sessions.get(&link);
                let late = it.is_some_and(|it| {
                    let control = it.dialect.capabilities.control;
                    control == ControlOn::DataConnection && ctx.net.is_to_speak(it.sock)
                });
                assert!(late, "a line that is no signal");
            }
            // Only a server says these here.
            session::Output::Demand(_) | session::Output::Flush => {}
            session::Output::RoundTrip(_) | session::Output::Certificates(_) => {}
            session::Output::Launch { id, launch } => {
                self.tell(ctx, link, roster::Input::Launch { id, launch });
            }
            session::Output::Verify { id, fp } => {
                self.tell(ctx, link, roster::Input::Verify { id, fp });
            }
        }
    }

    pub(super) fn on_ingress(&mut self, ctx: &mut Ctx<'_>, output: ingress::Output) {
        match output {
            ingress::Output::Launch { user, conn, link } => {
                self.endpoint
                    .handle_input(ctx.now, endpoint::Input::NotIdle(conn));
                let user = user.number() as usize;
                if self.sessions[&link].roster.is_none() {
                    return self.carrier.launch(ctx, user, conn, link);
                }
                let launch = launch_of(user);
                self.tell(ctx, link, roster::Input::Taken { conn, launch });
                self.settle_roster(ctx, link);
                self.carrier.launch_by_signal(ctx, user, conn, link);
            }
            ingress::Output::Expired(user) => {
                self.carrier.user_is_gone(user.number() as usize);
                ctx.oracle
                    .end(user.number() as usize, Ended::Expired, false);
            }
            ingress::Output::Refused(user) => {
                self.carrier.user_is_gone(user.number() as usize);
                ctx.oracle
                    .end(user.number() as usize, Ended::Refused, false);
            }
            ingress::Output::Demand(link, n) => {
                if let Some(it) = self.sessions.get_mut(&link) {
                    let input = session::Input::Send(Signal::Demand { n });
                    it.session.handle_input(ctx.now, input);
                }
            }
            ingress::Output::Close(conn) => {
                self.endpoint
                    .handle_input(ctx.now, endpoint::Input::NotIdle(conn));
                self.carrier.close_idle(ctx, None, conn);
            }
        }
    }

    pub(super) fn on_news(&mut self, ctx: &mut Ctx<'_>, news: News) {
        match news {
            News::Taken(_, conn) | News::Lost(_, conn) | News::Withdrawn(_, conn) => {
                self.endpoint
                    .handle_input(ctx.now, endpoint::Input::NotIdle(conn));
                self.ingress
                    .handle_input(ctx.now, ingress::Input::Lost(conn));
            }
            News::Early(link, conn) => {
                self.tell(ctx, link, roster::Input::Early(conn));
                // A launch may still take it, but no user of this end.
                if ctx.plan.flow == Flow::Reverse {
                    self.not_idle(ctx, conn);
                }
            }
            News::Gone(link, conn) => self.tell(ctx, link, roster::Input::Gone(conn)),
            News::Shown(link, conn) => self.tell(ctx, link, roster::Input::Shown(conn)),
            News::WrongKey(link) => {
                let input = endpoint::Input::WrongKey(link);
                self.endpoint.handle_input(ctx.now, input);
            }
            News::Returned(link) => {
                ctx.oracle.happened(Event::Returned);
                let input = endpoint::Input::Returned(link);
                self.endpoint.handle_input(ctx.now, input);
            }
            News::Again(user) => {
                let input = ingress::Input::Again(UserId::from_number(user as u64));
                self.ingress.handle_input(ctx.now, input);
            }
        }
    }
}
