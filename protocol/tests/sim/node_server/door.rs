//! Connections at the tunnel port, from their first byte, or their silence, to what they want to be.

use std::net::IpAddr;

use protocol::config::Generations;
use protocol::demux::{CLIENT_HELLO, Demux, Expected, Inside, Verdict, after_tls, silent_in_tls};
use protocol::dialect::Dialect;
use protocol::endpoint;
use protocol::handshake::legacy::{AwaitLegacy, LegacyStep, Spoken, VerifiedLegacy};
use protocol::handshake::{AwaitHello, ServerStep, VerifiedHello};
use protocol::id::ConnId;
use protocol::limits;
use protocol::proof::DataSecret;
use protocol::time::{Duration, Instant};
use protocol::wire::http::Params;
use protocol::wire::preface::{self, Preface};

use super::Server;
use crate::carrier::Ctx;
use crate::net::{Layer, Read, Sock};
use crate::plan::Plan;

/// From accept to a finished handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);

pub(super) struct HalfOpen {
    pub(super) conn: ConnId,
    pub(super) from: IpAddr,
    deadline: Instant,
    pub(super) state: State,
}

pub(super) enum State {
    /// Without TLS.
    Raw(Demux, Vec<u8>),
    /// Inside TLS; when silence there means something.
    Inside(Option<Instant>, Vec<u8>),
    Preface(Vec<u8>),
    Hello(AwaitHello),
    Legacy(AwaitLegacy),
    Verified(VerifiedHello),
    Addressed(VerifiedLegacy, Box<Dialect>),
    /// What to say when the door says no.
    Refused(Vec<u8>),
    /// The same, for what no address is charged for.
    TurnedAway(Vec<u8>),
    Asked(Preface),
    Silent,
}

impl HalfOpen {
    pub(super) fn due(&self) -> Instant {
        let due = match &self.state {
            State::Raw(demux, _) => Some(demux.poll_timeout()),
            State::Inside(quiet, _) => *quiet,
            _ => None,
        };
        due.unwrap_or(self.deadline).min(self.deadline)
    }
}

impl Server {
    pub(super) fn on_accepted(&mut self, ctx: &Ctx<'_>, sock: Sock, from: IpAddr) {
        let conn = self.endpoint.next_conn();
        let expected = self.endpoint.expected(from);
        let mut demux = Demux::new(Generations::AUTO, expected, ctx.now, HANDSHAKE);
        let deadline = demux.deadline();
        let state = match ctx.net.layer(sock) {
            Layer::Plain => State::Raw(demux, Vec::new()),
            Layer::Tls(alpn) => {
                assert_eq!(demux.handle_bytes(CLIENT_HELLO), Verdict::Tls);
                let may_be_silent = silent_in_tls(expected, alpn) == Inside::Silent;
                assert!(!may_be_silent || expected == Expected::Tls);
                let quiet = may_be_silent.then(|| ctx.now.after(limits::QUIET));
                State::Inside(quiet, Vec::new())
            }
        };
        let it = HalfOpen {
            conn,
            from,
            deadline,
            state,
        };
        self.half_open.insert(sock, it);
        let input = endpoint::Input::Accepted { conn, from };
        self.endpoint.handle_input(ctx.now, input);
    }

    /// Nothing came for a while: that may mean something, or be too late.
    pub(super) fn on_quiet(&mut self, ctx: &mut Ctx<'_>, sock: Sock) {
        let Some(it) = self.half_open.get_mut(&sock) else {
            return;
        };
        let verdict = match &mut it.state {
            State::Raw(demux, _) => demux.handle_timeout(ctx.now),
            State::Inside(Some(quiet), _) if *quiet <= ctx.now => Verdict::Silent,
            _ if it.deadline <= ctx.now => return self.drop_half_open(ctx, sock),
            _ => Verdict::NeedMore,
        };
        match verdict {
            Verdict::NeedMore => {}
            Verdict::Silent => {
                it.state = State::Silent;
                let (conn, tls) = (it.conn, ctx.net.is_tls(sock));
                let input = endpoint::Input::Silent { conn, tls };
                self.endpoint.handle_input(ctx.now, input);
            }
            _ => self.drop_half_open(ctx, sock),
        }
    }

    /// One that was silent goes on being so.
    pub(super) fn wait(&mut self, ctx: &mut Ctx<'_>, conn: ConnId) {
        let found = self.half_open.iter_mut().find(|(_, it)| it.conn == conn);
        let (&sock, it) = found.expect("a half-open connection");
        let expected = self.endpoint.expected(it.from);
        it.state = match ctx.net.layer(sock) {
            Layer::Plain => {
                let demux = Demux::again(Generations::AUTO, expected, ctx.now, it.deadline);
                State::Raw(demux, Vec::new())
            }
            Layer::Tls(alpn) => {
                let may_be_silent = silent_in_tls(expected, alpn) == Inside::Silent;
                let quiet = may_be_silent.then(|| ctx.now.after(limits::QUIET_AGAIN));
                State::Inside(quiet, Vec::new())
            }
        };
        self.on_first_bytes(ctx, sock);
    }

    pub(super) fn on_first_bytes(&mut self, ctx: &mut Ctx<'_>, sock: Sock) {
        let Some(it) = self.half_open.get_mut(&sock) else {
            return;
        };
        // Not beyond what decides: what follows belongs to whoever reads next.
        let most = match &it.state {
            State::Raw(..) | State::Inside(..) => 1,
            State::Preface(head) => preface::LEN - head.len(),
            State::Hello(_) | State::Legacy(_) => 4096,
            // The door has yet to say what becomes of it.
            _ => return,
        };
        let bytes = match ctx.net.read(sock, most) {
            Read::Empty => return,
            Read::Bytes(bytes) => bytes,
            Read::Fin => return self.drop_half_open(ctx, sock),
        };
        let state = core::mem::replace(&mut it.state, State::Silent);
        let Some(state) = self.read_on(ctx, sock, state, &bytes) else {
            return self.drop_half_open(ctx, sock);
        };
        let it = self.half_open.get_mut(&sock).expect("it was there");
        it.state = state;
        let conn = it.conn;
        let input = match &it.state {
            State::Verified(hello) => endpoint::Input::Hello {
                conn,
                instance: hello.instance,
                data_secret: DataSecret::from_bytes(ctx.net.exporter(sock, b'D')),
            },
            State::Addressed(_, dialect) => {
                let control = dialect.capabilities.control;
                endpoint::Input::Addressed { conn, control }
            }
            State::Refused(_) => endpoint::Input::WrongProof(conn),
            State::TurnedAway(answer) => {
                ctx.net.write(sock, answer);
                return self.drop_half_open(ctx, sock);
            }
            State::Asked(preface) => endpoint::Input::Preface {
                conn,
                preface: *preface,
                exporter: ctx.net.is_tls(sock).then(|| ctx.net.exporter(sock, b'X')),
            },
            _ => return self.on_first_bytes(ctx, sock),
        };
        self.endpoint.handle_input(ctx.now, input);
    }

    /// What the next bytes make of a connection; `None`: close it.
    fn read_on(&self, ctx: &Ctx<'_>, sock: Sock, state: State, bytes: &[u8]) -> Option<State> {
        match state {
            State::Raw(mut demux, mut head) => {
                head.extend(bytes);
                match demux.handle_bytes(bytes) {
                    Verdict::NeedMore => Some(State::Raw(demux, head)),
                    Verdict::NativePreface => Some(State::Preface(head)),
                    Verdict::Legacy(spoken) => self.legacy(ctx, spoken, &head),
                    Verdict::Tls | Verdict::Silent | Verdict::Close(_) => None,
                }
            }
            State::Inside(_, mut head) => {
                head.extend(bytes);
                let Layer::Tls(alpn) = ctx.net.layer(sock) else {
                    return None;
                };
                match after_tls(Generations::AUTO, alpn, &head) {
                    Inside::NeedMore => Some(State::Inside(None, head)),
                    Inside::Preface => Some(State::Preface(head)),
                    Inside::Control => {
                        let exporter = ctx.net.exporter(sock, b'A');
                        let wait = AwaitHello::new(&self.key, &exporter, ctx.now, HANDSHAKE);
                        on_hello(wait, &head)
                    }
                    Inside::Legacy(spoken) => self.legacy(ctx, spoken, &head),
                    Inside::Silent | Inside::Close(_) => None,
                }
            }
            State::Preface(mut head) => {
                head.extend(bytes);
                match <&[u8; preface::LEN]>::try_from(&head[..]) {
                    Ok(bytes) => Preface::decode(bytes).ok().map(State::Asked),
                    Err(_) => Some(State::Preface(head)),
                }
            }
            State::Hello(wait) => on_hello(wait, bytes),
            State::Legacy(wait) => on_request(ctx.plan, wait, bytes),
            _ => None,
        }
    }

    fn legacy(&self, ctx: &Ctx<'_>, spoken: Spoken, head: &[u8]) -> Option<State> {
        let wait = AwaitLegacy::new(spoken, &self.legacy_keys, ctx.now, HANDSHAKE).ok()?;
        on_request(ctx.plan, wait, head)
    }

    pub(super) fn drop_half_open(&mut self, ctx: &mut Ctx<'_>, sock: Sock) {
        if let Some(it) = self.half_open.remove(&sock) {
            let input = endpoint::Input::Ended(it.conn);
            self.endpoint.handle_input(ctx.now, input);
            ctx.net.close(sock);
        }
    }
}

fn on_hello(wait: AwaitHello, bytes: &[u8]) -> Option<State> {
    match wait.handle_bytes(bytes).ok()? {
        ServerStep::NeedsInput(wait) => Some(State::Hello(wait)),
        ServerStep::Verified(hello) => Some(State::Verified(hello)),
        ServerStep::Refused { line, why } => {
            assert!(why.counts_for_ban());
            Some(State::Refused(line))
        }
    }
}

fn on_request(plan: &Plan, wait: AwaitLegacy, bytes: &[u8]) -> Option<State> {
    match wait.handle_bytes(bytes).ok()? {
        LegacyStep::NeedsInput(wait) => Some(State::Legacy(wait)),
        LegacyStep::Verified(verified) => {
            let dialect = verified.dialect(&params(plan)).ok()?;
            Some(State::Addressed(verified, Box::new(dialect)))
        }
        LegacyStep::Refused { answer, why } if why.counts_for_ban() => Some(State::Refused(answer)),
        LegacyStep::Refused { answer, .. } => Some(State::TurnedAway(answer)),
    }
}

/// What a legacy client is told of the tunnel.
pub(super) fn params(plan: &Plan) -> Params {
    Params {
        flow: plan.flow,
        max: plan.pool_max as u32,
        tls: plan.tls,
    }
}
