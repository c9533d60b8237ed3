//! One attempt of a client to get a session, in the generation that is due.

use protocol::config::Generations;
use protocol::handshake::legacy::{AwaitAnswer, LegacyConfig, LegacyHandshake};
use protocol::handshake::probe::{self, Begin, Inside, Outcome, Then};
use protocol::handshake::{
    AwaitWelcome, ClientHandshake, ClientHandshakeConfig, Established, HandshakeError, Step,
};
use protocol::reconnect;
use protocol::terms::DataTls;
use protocol::time::{Duration, Instant};

use super::{Client, PATIENCE, PORT};
use crate::carrier::Ctx;
use crate::net::{Layer, Read, Sock};
use crate::node_server::legacy_keys;

pub(super) struct Attempt {
    pub(super) sock: Sock,
    how: probe::Attempt,
    /// When it says something, if not at once.
    begins: Option<Instant>,
    wait: Option<Wait>,
    deadline: Instant,
}

impl Attempt {
    pub(super) fn due(&self) -> Instant {
        self.begins
            .map_or(self.deadline, |it| it.min(self.deadline))
    }
}

enum Wait {
    Welcome(AwaitWelcome),
    Answer(AwaitAnswer),
}

impl Wait {
    fn handle_bytes(self, bytes: &[u8]) -> Result<Step<Self, Established>, HandshakeError> {
        Ok(match self {
            Self::Welcome(wait) => match wait.handle_bytes(bytes)? {
                Step::NeedsInput(wait) => Step::NeedsInput(Self::Welcome(wait)),
                Step::Done(established) => Step::Done(established),
            },
            Self::Answer(wait) => match wait.handle_bytes(bytes)? {
                Step::NeedsInput(wait) => Step::NeedsInput(Self::Answer(wait)),
                Step::Done(established) => Step::Done(established),
            },
        })
    }

    fn handle_eof(self) -> Result<Step<Self, Established>, HandshakeError> {
        match self {
            Self::Welcome(wait) => Err(wait.handle_eof()),
            Self::Answer(wait) => wait.handle_eof().map(Step::Done),
        }
    }
}

impl Client {
    pub(super) fn connect(&mut self, ctx: &mut Ctx<'_>) {
        let how = self.probe.attempt();
        let layer = match how {
            probe::Attempt::Tls { .. } => Layer::Tls(how.alpn().first().copied()),
            probe::Attempt::Http | probe::Attempt::Classic => Layer::Plain,
        };
        let sock = ctx.net.dial_to_speak(self.node, self.address, layer);
        let deadline = ctx.now.after(PATIENCE);
        self.attempt = Some(Attempt {
            sock,
            how,
            begins: None,
            wait: None,
            deadline,
        });
    }

    pub(super) fn on_attempt_connected(&mut self, ctx: &mut Ctx<'_>) {
        let dawdles = self.rng.below(ctx.plan.dawdles + 1);
        match &mut self.attempt {
            Some(attempt) if dawdles > 0 => {
                let dawdles = Duration::from_millis(dawdles.into());
                attempt.begins = Some(ctx.now.after(dawdles));
            }
            _ => self.begin_handshake(ctx),
        }
    }

    /// It is time to say something, or to give up.
    pub(super) fn on_attempt_due(&mut self, ctx: &mut Ctx<'_>) {
        let now = ctx.now;
        let Some(attempt) = self.attempt.as_mut().filter(|it| it.due() <= now) else {
            return;
        };
        if attempt.deadline > now {
            attempt.begins = None;
            return self.begin_handshake(ctx);
        }
        ctx.net.abort(attempt.sock);
        self.attempt = None;
        self.on_failed(ctx, Outcome::Failed);
    }

    fn begin_handshake(&mut self, ctx: &mut Ctx<'_>) {
        let Some(attempt) = &mut self.attempt else {
            return;
        };
        let sock = attempt.sock;
        let spoken = match (attempt.how.begin(PORT), ctx.net.layer(sock)) {
            (Begin::Clear(spoken), _) => Some(spoken),
            (Begin::Tls, Layer::Tls(alpn)) => {
                match attempt.how.inside_tls(alpn, PORT, Generations::AUTO) {
                    Some(Inside::Legacy { spoken, .. }) => Some(spoken),
                    other => {
                        assert_eq!(other, Some(Inside::Native));
                        None
                    }
                }
            }
            (Begin::Tls, Layer::Plain) => panic!("no tls where it is needed"),
        };
        let (now, left) = (ctx.now, attempt.deadline.saturating_since(ctx.now));
        let mut out = Vec::new();
        attempt.wait = Some(match spoken {
            None => {
                let config = ClientHandshakeConfig {
                    instance: self.instance,
                    agent: "sim".into(),
                    least_tls: DataTls::Plain,
                };
                let exporter = ctx.net.exporter(sock, b'A');
                let (config, key) = (&config, &self.key);
                let wait = ClientHandshake::start(config, key, &exporter, now, left, &mut out);
                Wait::Welcome(wait)
            }
            Some(spoken) => {
                let config = LegacyConfig {
                    host: "none".into(),
                    least_tls: DataTls::Plain,
                };
                let keys = legacy_keys();
                let wait = LegacyHandshake::start(spoken, &config, &keys, now, left, &mut out);
                Wait::Answer(wait.expect("a key that works"))
            }
        });
        assert_eq!(ctx.net.write(sock, &out), out.len());
        // The server may have said something before: it took silence for something else.
        self.on_answer(ctx, sock);
    }

    pub(super) fn on_answer(&mut self, ctx: &mut Ctx<'_>, sock: Sock) {
        let Some(mut attempt) = self.attempt.take_if(|it| it.wait.is_some()) else {
            return;
        };
        let step = match (ctx.net.read(sock, 4096), attempt.wait.take()) {
            (Read::Empty, wait) => {
                attempt.wait = wait;
                self.attempt = Some(attempt);
                return;
            }
            (Read::Bytes(bytes), Some(wait)) => wait.handle_bytes(&bytes),
            (Read::Fin, Some(wait)) => wait.handle_eof(),
            (_, None) => return,
        };
        match step {
            Ok(Step::NeedsInput(wait)) => {
                attempt.wait = Some(wait);
                self.attempt = Some(attempt);
            }
            Ok(Step::Done(established)) => self.begin_link(ctx, sock, established),
            Err(_) => {
                ctx.net.close(sock);
                self.on_failed(ctx, Outcome::Failed);
            }
        }
    }

    /// There is no session.
    pub(super) fn on_failed(&mut self, ctx: &mut Ctx<'_>, outcome: Outcome) {
        if self.stopped {
            return;
        }
        if self.probe.handle_outcome(outcome) == Then::Now {
            return self.connect(ctx);
        }
        let failed = reconnect::Input::Failed;
        self.reconnect.handle_input(ctx.now, failed);
    }
}
