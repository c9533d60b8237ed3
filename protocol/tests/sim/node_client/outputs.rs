//! Does what a client's machines want.

use protocol::dialect::DataBy;
use protocol::id::UserId;
use protocol::proof::ALPN;
use protocol::session;
use protocol::terms::DataTls;
use protocol::{ingress, pool, reconnect, roster};

use super::{Client, Dial, PATIENCE};
use crate::carrier::{Ctx, News, launch_of};
use crate::drain;
use crate::net::Layer;
use crate::node_server::flush_control;
use crate::oracle::Ended;

impl Client {
    /// Does what the machines want until none wants anything.
    pub(super) fn settle(&mut self, ctx: &mut Ctx<'_>) {
        let mut busy = true;
        while core::mem::take(&mut busy) {
            for output in self
                .link
                .as_mut()
                .and_then(|it| it.control.as_mut())
                .map_or(Vec::new(), |it| drain!(it.session, ctx.now))
            {
                busy = true;
                self.on_session(ctx, output);
            }
            // Before users are given connections.
            busy |= self.settle_roster(ctx);
            for output in self
                .link
                .as_mut()
                .map_or(Vec::new(), |it| drain!(it.pool, ctx.now))
            {
                busy = true;
                self.on_pool(ctx, output);
            }
            for output in drain!(self.ingress, ctx.now) {
                busy = true;
                self.on_ingress(ctx, output);
            }
            for reconnect::Output::Connect in drain!(self.reconnect, ctx.now) {
                busy = true;
                self.connect(ctx);
            }
            while let Some(news) = self.carrier.news.pop_front() {
                busy = true;
                self.on_news(ctx, news);
            }
        }
        let Some(link) = &mut self.link else {
            return;
        };
        if let Some(control) = &mut link.control {
            flush_control(ctx, &mut control.session, control.sock);
        }
        if link.leaving && !self.carrier.is_launching(link.id) {
            self.end_link(ctx, true);
            self.settle(ctx);
        }
    }

    pub(super) fn on_session(&mut self, ctx: &mut Ctx<'_>, output: session::Output) {
        let Some(link) = &mut self.link else {
            return;
        };
        match output {
            session::Output::Heard => {
                self.ingress
                    .handle_input(ctx.now, ingress::Input::Heard(link.id));
            }
            session::Output::Demand(n) => {
                link.pool.handle_input(ctx.now, pool::Input::Demand(n));
            }
            session::Output::Flush => link.pool.handle_input(ctx.now, pool::Input::Flush),
            session::Output::Leaving { retry_after, .. } => {
                link.retry_after = Some(retry_after);
                self.begin_leaving(ctx);
            }
            session::Output::Closed(end) => self.end_link(ctx, end.is_clean()),
            session::Output::Skipped => panic!("a line that is no signal"),
            session::Output::RoundTrip(_) | session::Output::Certificates(_) => {}
            session::Output::Launch { id, launch } => {
                self.tell(ctx, roster::Input::Launch { id, launch });
            }
            session::Output::Verify { id, fp } => {
                self.tell(ctx, roster::Input::Verify { id, fp });
            }
        }
    }

    pub(super) fn on_pool(&mut self, ctx: &mut Ctx<'_>, output: pool::Output) {
        let Some(link) = &mut self.link else {
            return;
        };
        match output {
            pool::Output::Dial(conn) => {
                let native = link.established.dialect.capabilities.data == DataBy::Preface;
                let layer = match link.established.tls {
                    DataTls::Plain => Layer::Plain,
                    DataTls::Pinned | DataTls::Verified => Layer::Tls(native.then_some(ALPN)),
                };
                let sock = ctx.net.dial(self.node, self.address, layer);
                let (due, id) = (ctx.now.after(PATIENCE), Vec::new());
                link.dials.insert(sock, Dial { conn, due, id });
            }
            pool::Output::Close(conn) => {
                self.ingress
                    .handle_input(ctx.now, ingress::Input::Lost(conn));
                if link.roster.is_some() {
                    return self.tell(ctx, roster::Input::Spare(conn));
                }
                link.early.retain(|it| it.conn != conn);
                self.carrier.close_idle(ctx, Some(link.id), conn);
                link.pool.handle_input(ctx.now, pool::Input::Ended(conn));
            }
            pool::Output::NoControl => self.end_link(ctx, false),
            pool::Output::Exhausted => self.say_bye(ctx),
        }
    }

    pub(super) fn on_ingress(&mut self, ctx: &mut Ctx<'_>, output: ingress::Output) {
        match output {
            ingress::Output::Launch { user, conn, link } => {
                let user = user.number() as usize;
                let up = self.link.as_mut().filter(|it| it.id == link);
                let by_signal = up.as_ref().is_some_and(|it| it.roster.is_some());
                if let Some(it) = up {
                    it.pool.handle_input(ctx.now, pool::Input::Taken(conn));
                }
                if !by_signal {
                    return self.carrier.launch(ctx, user, conn, link);
                }
                let launch = launch_of(user);
                self.tell(ctx, roster::Input::Taken { conn, launch });
                self.settle_roster(ctx);
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
            // The pool is at this very end.
            ingress::Output::Demand(link, n) => {
                if let Some(it) = self.link.as_mut().filter(|it| it.id == link) {
                    it.pool.handle_input(ctx.now, pool::Input::Demand(n));
                }
            }
            ingress::Output::Close(conn) => self.carrier.close_idle(ctx, None, conn),
        }
    }

    pub(super) fn on_news(&mut self, ctx: &Ctx<'_>, news: News) {
        let (link, input, conn) = match news {
            News::Taken(link, conn) => (link, pool::Input::Taken(conn), conn),
            News::Lost(link, conn) => (link, pool::Input::Ended(conn), conn),
            News::Withdrawn(link, conn) => (link, pool::Input::Withdrawn(conn), conn),
            News::Early(link, conn) => {
                if self.link.as_ref().is_some_and(|it| it.id == link) {
                    self.on_early(ctx, conn);
                }
                return;
            }
            News::Gone(link, conn) => {
                if self.link.as_ref().is_some_and(|it| it.id == link) {
                    self.tell(ctx, roster::Input::Gone(conn));
                }
                return;
            }
            News::Shown(..) | News::Returned(_) | News::WrongKey(_) => {
                panic!("nobody dials a client");
            }
            News::Again(user) => {
                let input = ingress::Input::Again(UserId::from_number(user as u64));
                return self.ingress.handle_input(ctx.now, input);
            }
        };
        if let Some(it) = self.link.as_mut().filter(|it| it.id == link) {
            it.pool.handle_input(ctx.now, input);
            self.ingress
                .handle_input(ctx.now, ingress::Input::Lost(conn));
        }
    }
}
