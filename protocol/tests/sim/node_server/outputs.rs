//! Does what the server's machines want.

use protocol::endpoint::Refusal;
use protocol::handshake::{VerifiedHello, WelcomeParams};
use protocol::id::{ConnId, LinkId, UserId};
use protocol::session::Session;
use protocol::terms::{Flow, SessionId};
use protocol::wire::signal::Signal;
use protocol::{endpoint, ingress, session};

use super::{Link, Server, State, flush_control};
use crate::carrier::{Ctx, News};
use crate::drain;
use crate::net::Sock;
use crate::oracle::Ended;

impl Server {
    pub(super) fn settle(&mut self, ctx: &mut Ctx<'_>) {
        let mut busy = true;
        while core::mem::take(&mut busy) {
            for output in drain!(self.endpoint, ctx.now) {
                busy = true;
                self.on_endpoint(ctx, output);
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
        assert_eq!(self.sessions.len(), self.endpoint.sessions());
    }

    pub(super) fn take(&mut self, conn: ConnId) -> (Sock, State) {
        let found = self.half_open.iter().find(|(_, it)| it.conn == conn);
        let sock = *found.expect("a half-open connection").0;
        let it = self.half_open.remove(&sock).expect("just found");
        (sock, it.state)
    }

    pub(super) fn on_endpoint(&mut self, ctx: &mut Ctx<'_>, output: endpoint::Output) {
        match output {
            endpoint::Output::Close(conn, why) => {
                let (sock, state) = self.take(conn);
                if let (Refusal::TooManyIdle, State::Asked(preface)) = (why, state) {
                    let of_it = |it: &(&LinkId, &Link)| it.1.name == preface.session;
                    let (&link, _) = self.sessions.iter().find(of_it).expect("its session");
                    assert_eq!(self.carrier.idle(link), ctx.plan.pool_max, "a slot is lost");
                    let conn = ConnId::from_number(u64::MAX);
                    let ingress = ctx.plan.flow == Flow::Reverse;
                    self.carrier.add_idle(sock, link, conn, ingress);
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
            endpoint::Output::Refuse(conn) => {
                let (sock, state) = self.take(conn);
                let State::Refused(line) = state else {
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
                let (sock, state) = self.take(conn);
                let State::Verified(hello) = state else {
                    panic!("a welcome without a proof");
                };
                self.welcome(ctx, sock, link, session, &hello);
            }
            endpoint::Output::Data(conn, link) => {
                let (sock, state) = self.take(conn);
                let State::Asked(preface) = state else {
                    panic!("a data connection without a preface");
                };
                ctx.oracle.admitted(preface.session, preface.seq);
                let ingress = ctx.plan.flow == Flow::Reverse;
                self.carrier.add_idle(sock, link, conn, ingress);
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
            endpoint::Output::EndSession(link, _) => self.end_link(ctx, link, false),
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
        let mut session = Session::new(ctx.plan.report_interval, ctx.now);
        session.handle_input(ctx.now, session::Input::Control(&hello.rest));
        self.sessions.insert(
            link,
            Link {
                sock,
                session,
                name,
                leaving: false,
            },
        );
        if ctx.plan.flow == Flow::Reverse {
            self.ingress
                .handle_input(ctx.now, ingress::Input::SessionUp(link));
        }
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
            session::Output::Skipped => panic!("a line that is no signal"),
            session::Output::Demand(_) | session::Output::Flush => {}
            session::Output::RoundTrip(_) | session::Output::Certificates(_) => {}
        }
    }

    pub(super) fn on_ingress(&mut self, ctx: &mut Ctx<'_>, output: ingress::Output) {
        match output {
            ingress::Output::Launch { user, conn, link } => {
                self.endpoint
                    .handle_input(ctx.now, endpoint::Input::NotIdle(conn));
                self.carrier.launch(ctx, user.number() as usize, conn, link);
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

    pub(super) fn on_news(&mut self, ctx: &Ctx<'_>, news: News) {
        match news {
            News::Taken(_, conn) | News::Lost(_, conn) | News::Withdrawn(_, conn) => {
                self.endpoint
                    .handle_input(ctx.now, endpoint::Input::NotIdle(conn));
                self.ingress
                    .handle_input(ctx.now, ingress::Input::Lost(conn));
            }
            News::Again(user) => {
                let input = ingress::Input::Again(UserId::from_number(user as u64));
                self.ingress.handle_input(ctx.now, input);
            }
        }
    }
}
