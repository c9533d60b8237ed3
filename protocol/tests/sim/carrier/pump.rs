//! Moves what can be moved on one data connection.

use protocol::launching::Outcome;
use protocol::limits;
use protocol::time::Instant;
use protocol::wire::launch::{Launch, WhileIdle};

use super::{Carrier, Ctx, News, Relay, State, Use};
use crate::net::{Read, Sock};
use crate::oracle::{Ended, Way, content};

impl Carrier {
    /// Moves what can be moved.
    pub(crate) fn pump(&mut self, ctx: &mut Ctx<'_>, sock: Sock) {
        let Some(mut it) = self.uses.remove(&sock) else {
            return;
        };
        let goes_on = match &mut it.state {
            State::IdleIngress => self.pump_idle_ingress(ctx, sock, &it),
            State::IdleEgress(_) => self.pump_idle_egress(ctx, sock, &mut it),
            State::Numbered(_) => self.pump_numbered(ctx, sock, &mut it),
            State::Launching(..) => self.pump_launching(ctx, sock, &mut it),
            State::Dialing { .. } => true,
            State::Ingress(_) => self.pump_ingress(ctx, sock, &mut it),
            State::Egress(relay) => {
                if pump_in(ctx, sock, relay, Way::Up, &mut it.orphan) {
                    relay.in_ended = true;
                    ctx.oracle.got_end(ctx.plan, relay.user, Way::Up);
                }
                let more = !(ctx.plan.users[relay.user].target_speaks_first || relay.in_ended)
                    || self.pump_out(ctx, sock, relay, Way::Down);
                more || !relay.in_ended
            }
            State::Linger(_) => loop {
                match ctx.net.read(sock, 4096) {
                    Read::Bytes(_) => {}
                    Read::Fin => break false,
                    Read::Empty => break true,
                }
            },
        };
        if goes_on {
            self.uses.insert(sock, it);
        } else {
            ctx.net.close(sock);
            self.over(&it);
        }
    }

    pub(super) fn pump_idle_ingress(&mut self, ctx: &mut Ctx<'_>, sock: Sock, it: &Use) -> bool {
        let withdrawn = match ctx.net.read(sock, 1) {
            Read::Empty => return true,
            Read::Bytes(bytes) => {
                let is_withdrawn = WhileIdle::from_byte(bytes[0]) == WhileIdle::Withdrawn;
                assert!(is_withdrawn, "noise on an idle connection: {bytes:?}");
                true
            }
            Read::Fin => false,
        };
        self.news.push_back(if withdrawn {
            News::Withdrawn(it.link, it.conn)
        } else {
            News::Lost(it.link, it.conn)
        });
        false
    }

    pub(super) fn pump_idle_egress(&mut self, ctx: &mut Ctx<'_>, sock: Sock, it: &mut Use) -> bool {
        let State::IdleEgress(buffer) = &mut it.state else {
            return true;
        };
        match ctx.net.read(sock, 66) {
            Read::Empty => return true,
            Read::Bytes(bytes) => buffer.extend(bytes),
            Read::Fin => {
                self.news.push_back(News::Lost(it.link, it.conn));
                return false;
            }
        }
        let Some((launch, len)) = Launch::decode(buffer).expect("a launch") else {
            return true;
        };
        let user = usize::from(launch.address().expect("a user's address").port());
        assert_eq!(user, ctx.oracle.launched_at(sock));
        ctx.oracle.dialled(user);
        self.news.push_back(News::Taken(it.link, it.conn));
        let ready = ctx.now.after(ctx.plan.users[user].target_delay);
        let kept = buffer.split_off(len);
        it.state = State::Dialing { user, ready, kept };
        true
    }

    pub(super) fn pump_launching(&mut self, ctx: &mut Ctx<'_>, sock: Sock, it: &mut Use) -> bool {
        let State::Launching(user, launching) = &mut it.state else {
            return true;
        };
        let user = *user;
        while launching.wants_user() > 0 {
            let most = launching.wants_user();
            let bytes = self.take(ctx, user, Way::Up, most);
            if bytes.is_empty() {
                launching.handle_user_eof();
            } else {
                assert!(launching.handle_user(&bytes));
            }
        }
        let written = ctx.net.write(sock, launching.to_send());
        launching.sent(written);
        let outcome = match ctx.net.read(sock, 1) {
            Read::Empty => return true,
            Read::Bytes(bytes) => launching.handle_peer(bytes[0]),
            Read::Fin => launching.clone().handle_peer_eof(),
        };
        match outcome {
            Outcome::Connected => {
                let out = launching.to_send().to_vec();
                it.state = State::Ingress(Relay {
                    user,
                    out,
                    out_ended: false,
                    in_ended: false,
                });
                // The target's first bytes may be here together with the status.
                return self.pump_ingress(ctx, sock, it);
            }
            Outcome::Failed(_) => ctx.oracle.end(user, Ended::Failed, false),
            Outcome::Withdrawn { kept, eof } => {
                self.waiting.insert(user, (kept, eof));
                self.news.push_back(News::Again(user));
            }
            Outcome::Lost | Outcome::TimedOut => {
                let tainted = ctx.net.is_tainted(sock);
                ctx.oracle.end(user, Ended::Cut, tainted);
            }
        }
        false
    }

    pub(super) fn pump_ingress(&mut self, ctx: &mut Ctx<'_>, sock: Sock, it: &mut Use) -> bool {
        let State::Ingress(relay) = &mut it.state else {
            return true;
        };
        // A client restarted, its handshake was late, and a user had the connection by then: what is
        // launched is never inspected (`wire.md` §1), so the user gets the handshake.
        if it.numbered && ctx.net.is_to_speak(sock) {
            ctx.oracle.end(relay.user, Ended::Cut, true);
            return false;
        }
        let more = self.pump_out(ctx, sock, relay, Way::Up);
        let ends = pump_in(ctx, sock, relay, Way::Down, &mut it.orphan);
        if ends && it.numbered && ctx.oracle.is_broken_off(ctx.plan, relay.user) {
            let tainted = ctx.net.is_tainted(sock);
            ctx.end_broken_off(relay.user, tainted);
            return false;
        }
        if ends {
            relay.in_ended = true;
            ctx.oracle.got_end(ctx.plan, relay.user, Way::Down);
        }
        if !more && relay.in_ended {
            let tainted = ctx.net.is_tainted(sock);
            ctx.oracle.end(relay.user, Ended::Served, tainted);
        }
        more || !relay.in_ended
    }

    /// Whether there is more to write, later.
    pub(super) fn pump_out(
        &mut self,
        ctx: &mut Ctx<'_>,
        sock: Sock,
        relay: &mut Relay,
        way: Way,
    ) -> bool {
        while !relay.out_ended {
            if relay.out.is_empty() {
                relay.out = self.take(ctx, relay.user, way, 4096);
            }
            if relay.out.is_empty() {
                ctx.net.shutdown(sock);
                relay.out_ended = true;
                break;
            }
            let written = ctx.net.write(sock, &relay.out);
            relay.out.drain(..written);
            if written == 0 {
                return true;
            }
        }
        false
    }

    /// The next bytes of a user or a target; none at the end.
    pub(super) fn take(&mut self, ctx: &Ctx<'_>, user: usize, way: Way, most: usize) -> Vec<u8> {
        let spec = &ctx.plan.users[user];
        let (key, len) = match way {
            Way::Up => (2 * user, spec.up),
            Way::Down => (2 * user + 1, spec.down),
        };
        let taken = self.taken.entry(key).or_default();
        let bytes = content(user, way, *taken, most.min(len - *taken));
        *taken += bytes.len();
        bytes
    }
}

/// Whether the stream ends now.
fn pump_in(
    ctx: &mut Ctx<'_>,
    sock: Sock,
    relay: &Relay,
    way: Way,
    orphan: &mut Option<Instant>,
) -> bool {
    if relay.in_ended {
        return false;
    }
    loop {
        match ctx.net.read(sock, 4096) {
            Read::Empty => return false,
            Read::Bytes(bytes) => ctx.oracle.got(ctx.plan, relay.user, way, &bytes),
            Read::Fin => return true,
        }
        if let Some(due) = orphan {
            *due = ctx.now.after(limits::ORPHAN_SILENCE);
        }
    }
}
