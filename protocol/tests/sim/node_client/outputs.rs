//! Does what a client's machines want.

use protocol::id::UserId;
use protocol::session;
use protocol::terms::DataTls;
use protocol::{ingress, pool, reconnect};

use super::{Attempt, Client, PATIENCE};
use crate::carrier::{Ctx, News};
use crate::drain;
use crate::node_server::{bye, flush_control};
use crate::oracle::Ended;

impl Client {
    /// Does what the machines want until none wants anything.
    pub(super) fn settle(&mut self, ctx: &mut Ctx<'_>) {
        let mut busy = true;
        while core::mem::take(&mut busy) {
            for output in self
                .link
                .as_mut()
                .map_or(Vec::new(), |it| drain!(it.session, ctx.now))
            {
                busy = true;
                self.on_session(ctx, output);
            }
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
                let sock = ctx.net.dial(self.node, self.address, true);
                let deadline = ctx.now.after(PATIENCE);
                self.attempt = Some(Attempt {
                    sock,
                    wait: None,
                    deadline,
                });
            }
            while let Some(news) = self.carrier.news.pop_front() {
                busy = true;
                self.on_news(ctx, news);
            }
        }
        let Some(link) = &mut self.link else {
            return;
        };
        flush_control(ctx, &mut link.session, link.sock);
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
        }
    }

    pub(super) fn on_pool(&mut self, ctx: &mut Ctx<'_>, output: pool::Output) {
        let Some(link) = &mut self.link else {
            return;
        };
        match output {
            pool::Output::Dial(conn) => {
                let tls = link.established.tls != DataTls::Plain;
                let sock = ctx.net.dial(self.node, self.address, tls);
                link.dials.insert(sock, (conn, ctx.now.after(PATIENCE)));
            }
            pool::Output::Close(conn) => {
                self.ingress
                    .handle_input(ctx.now, ingress::Input::Lost(conn));
                self.carrier.close_idle(ctx, Some(link.id), conn);
                link.pool.handle_input(ctx.now, pool::Input::Ended(conn));
            }
            pool::Output::Exhausted => {
                let input = session::Input::Send(bye(0));
                link.session.handle_input(ctx.now, input);
                self.begin_leaving(ctx);
            }
        }
    }

    pub(super) fn on_ingress(&mut self, ctx: &mut Ctx<'_>, output: ingress::Output) {
        match output {
            ingress::Output::Launch { user, conn, link } => {
                let user = user.number() as usize;
                if let Some(it) = self.link.as_mut().filter(|it| it.id == link) {
                    it.pool.handle_input(ctx.now, pool::Input::Taken(conn));
                }
                self.carrier.launch(ctx, user, conn, link);
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
