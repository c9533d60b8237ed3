//! Data connections that the server gives an id.

use protocol::dialect::{ControlOn, DataBy, LaunchBy};
use protocol::id::ConnId;
use protocol::limits;
use protocol::roster::{self, Roster};
use protocol::terms::{DataId, Flow};
use protocol::{ingress, pool, session};

use super::{Client, Dial, Link, Numbered};
use crate::carrier::Ctx;
use crate::drain;
use crate::net::{Read, Sock};
use crate::oracle::Event;

impl Client {
    pub(super) fn read_id(&mut self, ctx: &mut Ctx<'_>, sock: Sock) {
        let Some(link) = &mut self.link else { return };
        let DataBy::Address(form) = link.established.dialect.capabilities.data else {
            return;
        };
        let Some(dial) = link.dials.get_mut(&sock) else {
            return;
        };
        match ctx.net.read(sock, form.len() - dial.id.len()) {
            Read::Empty => return,
            Read::Bytes(bytes) => dial.id.extend(bytes),
            Read::Fin => {
                ctx.net.close(sock);
                return self.not_numbered(ctx, sock);
            }
        }
        if dial.id.len() < form.len() {
            return self.read_id(ctx, sock);
        }
        let id = form.decode(&dial.id).expect("an id");
        let control = link.established.dialect.capabilities.control;
        if (id, control) == (DataId::CONTROL, ControlOn::DataConnection) {
            return self.on_zero(ctx, sock);
        }
        let Some(Dial { conn, .. }) = link.dials.remove(&sock) else {
            return;
        };
        link.pool.handle_input(ctx.now, pool::Input::Opened(conn));
        self.carrier.add_numbered(sock, link.id, conn);
        let leaf = ctx.net.leaf(sock);
        let it = Numbered {
            sock,
            conn,
            id,
            leaf,
        };
        if link.roster.is_some() {
            self.number(ctx, it);
        } else {
            link.early.push(it);
        }
        self.carrier.pump(ctx, sock);
    }

    /// The server does not take the connection for one of the session, or not any more.
    fn not_numbered(&mut self, ctx: &Ctx<'_>, sock: Sock) {
        if let Some(link) = &mut self.link
            && let Some(Dial { conn, due, .. }) = link.dials.remove(&sock)
        {
            let left = due.saturating_since(ctx.now);
            let open = limits::ID_WAIT.saturating_sub(left);
            let input = pool::Input::NotNumbered { conn, open };
            link.pool.handle_input(ctx.now, input);
        }
    }

    /// A connection is to be the control channel.
    fn on_zero(&mut self, ctx: &mut Ctx<'_>, sock: Sock) {
        let Some(link) = &mut self.link else { return };
        if link.control.is_some() || link.leaving {
            ctx.net.close(sock);
            return self.dial_failed(ctx, sock);
        }
        if let Some(Dial { conn, .. }) = link.dials.remove(&sock) {
            link.pool.handle_input(ctx.now, pool::Input::Control(conn));
            self.begin_session(ctx, sock);
            self.on_readable(ctx, sock);
        }
    }

    /// The control channel is there: what waited for it counts now.
    pub(super) fn begin_roster(&mut self, ctx: &mut Ctx<'_>) {
        let Some(link) = &mut self.link else { return };
        let capabilities = link.established.dialect.capabilities;
        if capabilities.launch != LaunchBy::Signal {
            return;
        }
        let ingress = link.established.flow == Flow::Forward;
        let check = capabilities.check;
        link.roster = Some(Roster::new(roster::Config { ingress, check }, ctx.now));
        for it in core::mem::take(&mut link.early) {
            self.number(ctx, it);
        }
    }

    fn number(&mut self, ctx: &mut Ctx<'_>, it: Numbered) {
        let Numbered {
            sock,
            conn,
            id,
            leaf,
        } = it;
        // The pool may have closed it meanwhile.
        let Some(link) = self.link.as_ref().map(|link| link.id) else {
            return;
        };
        if !self.carrier.owns(sock) {
            return;
        }
        let spoke = !self.carrier.is_free(link, conn);
        self.tell(ctx, roster::Input::Numbered { conn, id, leaf });
        if spoke {
            self.on_early(ctx, conn);
        }
        // A signal that came before its connection has it now: then no user of this end may.
        if self.settle_roster(ctx) {
            ctx.oracle.happened(Event::Parked);
        }
        if ctx.plan.flow == Flow::Forward && self.carrier.is_free(link, conn) {
            let input = ingress::Input::Idle(link, conn);
            self.ingress.handle_input(ctx.now, input);
        }
    }

    pub(super) fn on_early(&mut self, ctx: &Ctx<'_>, conn: ConnId) {
        self.tell(ctx, roster::Input::Early(conn));
        // No user may have it: the server is done with it.
        if ctx.plan.flow == Flow::Forward {
            self.not_idle(ctx, pool::Input::Ended(conn), conn);
        }
    }

    pub(super) fn tell(&mut self, ctx: &Ctx<'_>, input: roster::Input) {
        if let Some(roster) = self.link.as_mut().and_then(|link| link.roster.as_mut()) {
            roster.handle_input(ctx.now, input);
        }
    }

    fn not_idle(&mut self, ctx: &Ctx<'_>, input: pool::Input, conn: ConnId) {
        let lost = ingress::Input::Lost(conn);
        self.ingress.handle_input(ctx.now, lost);
        if let Some(link) = &mut self.link {
            link.pool.handle_input(ctx.now, input);
        }
    }

    /// Whether the roster wanted anything.
    pub(super) fn settle_roster(&mut self, ctx: &mut Ctx<'_>) -> bool {
        let roster = self.link.as_mut().and_then(|link| link.roster.as_mut());
        let outputs = roster.map_or(Vec::new(), |it| drain!(it, ctx.now));
        let busy = !outputs.is_empty();
        for output in outputs {
            self.on_roster(ctx, output);
        }
        busy
    }

    fn on_roster(&mut self, ctx: &mut Ctx<'_>, output: roster::Output) {
        let Some(Link { id, control, .. }) = &mut self.link else {
            return;
        };
        let link = *id;
        match output {
            roster::Output::Send(signal) => {
                if let Some(control) = control {
                    let input = session::Input::Send(signal);
                    control.session.handle_input(ctx.now, input);
                }
            }
            roster::Output::Serve { conn, launch } => {
                self.not_idle(ctx, pool::Input::Taken(conn), conn);
                self.carrier.serve(ctx, link, conn, &launch);
            }
            roster::Output::Judge(_) => panic!("nobody dials a client"),
            roster::Output::Claim(conn) => {
                self.not_idle(ctx, pool::Input::Taken(conn), conn);
                self.carrier.claim(link, conn);
            }
            roster::Output::Close(conn) => {
                self.not_idle(ctx, pool::Input::Ended(conn), conn);
                self.carrier.close_numbered(ctx, link, conn);
            }
            roster::Output::Missing(_) => {}
            roster::Output::Matched => ctx.oracle.happened(Event::Matched),
            roster::Output::Mismatched(_) => {
                assert!(ctx.plan.mitm > 0, "nobody is in the middle");
                ctx.oracle.happened(Event::Mismatched);
                self.end_link(ctx, false);
            }
        }
    }
}
