//! One session: the control channel, and what is said on it.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::codec::{self, Signal};
use super::conn::{Conn, Lines};
use super::head::Terms;
use super::journal::Journal;
use super::life::Life;
use super::peer::Context;
use super::pool::{Pool, is_handshake};
use super::relay::Ending;
use super::script::{Generation, Script};
use super::{egress, ingress};
use crate::support::tunnel::{End, Flow};

/// How long an id is looked for, and a user waits for an idle connection.
pub(crate) const WAIT: Duration = Duration::from_secs(5);

/// One session of a peer.
#[derive(Debug)]
pub(crate) struct Session {
    /// What the peer is.
    pub(crate) script: Arc<Script>,
    /// Which end it is.
    pub(crate) end: End,
    /// What was agreed on.
    pub(crate) terms: Terms,
    /// Idle data connections.
    pub(crate) pool: Arc<Pool>,
    /// Until when.
    pub(crate) life: Arc<Life>,
    /// What the peer saw.
    pub(crate) journal: Arc<Journal>,
    control: Arc<Conn>,
    key: String,
    /// The server's own certificate.
    leaf: Option<Vec<u8>>,
    heard: Mutex<Instant>,
    verified: AtomicBool,
}

impl Session {
    /// Over `control`, with `leaf` the server's own certificate.
    pub(crate) fn new(
        context: &Context,
        life: Arc<Life>,
        end: End,
        terms: Terms,
        control: Arc<Conn>,
        pool: Arc<Pool>,
        leaf: Option<Vec<u8>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            script: Arc::clone(&context.script),
            end,
            terms,
            pool,
            life,
            journal: Arc::clone(&context.journal),
            control,
            key: context.script.key(),
            leaf,
            heard: Mutex::new(Instant::now()),
            verified: AtomicBool::new(false),
        })
    }

    /// Runs it to its end.
    pub(crate) fn run(self: &Arc<Self>, lines: Lines) {
        self.journal.up();
        let ticker = {
            let session = Arc::clone(self);
            thread::spawn(move || session.tick())
        };
        let users = self.is_ingress().then(|| {
            let session = Arc::clone(self);
            thread::spawn(move || ingress::run(&session))
        });
        self.read(lines);
        self.life.end();
        self.control.close();
        self.pool.flush();
        drop(ticker.join());
        drop(users.map(thread::JoinHandle::join));
        self.journal.down();
    }

    /// Whether users come in here.
    pub(crate) fn is_ingress(&self) -> bool {
        (self.end == End::Server) == (self.terms.flow == Flow::Reverse)
    }

    /// Whether users have to wait for a `verify` of the other side.
    pub(crate) fn may_serve(&self) -> bool {
        // With tls=2 the client trusts the chain and no `verify` comes.
        let gated = self.script.generation == Generation::Http && self.terms.tls == 1;
        !gated || self.verified.load(Ordering::SeqCst)
    }

    /// How its relays end.
    pub(crate) fn ending(&self) -> Ending {
        if self.script.generation == Generation::Classic {
            // Who wants to use a connection again must be done with it before the other side is.
            let intervals = if self.script.quirks.reuse { 3 } else { 4 };
            Ending::Idle((self.script.interval * intervals).max(Duration::from_secs(4)))
        } else {
            Ending::HalfClose
        }
    }

    /// Says something, in one write.
    pub(crate) fn send(&self, signals: &[Signal]) -> io::Result<()> {
        if self.journal.is_muted() {
            return Ok(());
        }
        let encode = |signal| codec::encode(self.script.generation, &self.key, signal);
        self.control
            .write_all(&signals.iter().flat_map(encode).collect::<Vec<u8>>())
    }

    /// Ends it and says why.
    fn fail(&self, why: &str) {
        self.journal.note(format!("the session ends: {why}"));
        self.life.end();
        self.control.close();
    }

    fn read(self: &Arc<Self>, mut lines: Lines) {
        let mut first = true;
        loop {
            match lines.next(&self.control, self.script.patience()) {
                Ok(line) => {
                    *self.heard.lock().unwrap() = Instant::now();
                    match codec::decode(self.script.generation, &self.key, &line) {
                        Ok(signal) => self.handle(signal),
                        // Whoever asks again while we wait for a control channel gets id zero.
                        Err(_) if first && is_handshake(&line) => {
                            return self
                                .fail("a new handshake on what was to be the control channel");
                        }
                        Err(rule) => self.journal.foul(rule),
                    }
                    first = false;
                }
                Err(why) => return self.fail(&why),
            }
        }
    }

    fn handle(self: &Arc<Self>, signal: Signal) {
        if !matches!(signal, Signal::Ping | Signal::Pong) {
            self.journal.note(format!("heard {signal:?}"));
        }
        match signal {
            // A muted peer hears nothing either.
            Signal::Ping => drop(self.send(&[Signal::Pong])),
            Signal::Pong => {}
            Signal::Flush => self.pool.flush(),
            Signal::Verify { id, fp } => {
                let session = Arc::clone(self);
                thread::spawn(move || session.check(&id, &fp));
            }
            launch @ (Signal::Tcp { .. } | Signal::Udp { .. }) => {
                if self.is_ingress() {
                    return self
                        .journal
                        .foul(format!("{launch:?} for the end that accepts users"));
                }
                let session = Arc::clone(self);
                thread::spawn(move || egress::run(&session, &launch));
            }
        }
    }

    fn tick(&self) {
        let mut count = 0;
        let mut verified = false;
        self.ping();
        while self.life.pause(self.script.interval) {
            count += 1;
            if self.heard.lock().unwrap().elapsed() > self.script.patience() {
                return self.fail("silence");
            }
            if !verified && self.has_verify() && count >= self.script.quirks.verify_after {
                verified = self.verify();
                // The real ones say nothing else at that tick.
                if verified {
                    continue;
                }
            }
            self.ping();
        }
    }

    fn ping(&self) {
        // The reader notices a broken connection.
        drop(self.send(&vec![Signal::Ping; self.script.quirks.burst]));
    }

    fn has_verify(&self) -> bool {
        match self.script.generation {
            Generation::Http => self.terms.tls > 0,
            Generation::Https => self.terms.tls == 1,
            Generation::Classic => false,
        }
    }

    /// Takes its oldest idle connection and says which certificate it has; the close overtakes the
    /// line. Whether there was one.
    fn verify(&self) -> bool {
        let Some(idle) = self.pool.take_oldest() else {
            return false;
        };
        let fp = if self.script.quirks.wrong_fp {
            codec::write_fingerprint(b"another certificate", self.script.generation)
        } else if self.end == End::Server && self.terms.tls == 2 {
            // A defect of the real one: it knows only certificates that it made itself.
            String::new()
        } else {
            self.view(&idle.conn)
        };
        self.journal.note(format!("verify {} {fp}", idle.id));
        idle.conn.end_writing();
        idle.conn.close();
        self.life.pause(Duration::from_millis(20));
        drop(self.send(&[Signal::Verify { id: idle.id, fp }]));
        true
    }

    /// The other side's `verify`.
    fn check(&self, id: &str, fp: &str) {
        if !self.has_verify() {
            return self.journal.foul("a verify where none belongs");
        }
        if self.end == End::Server && self.terms.tls == 2 {
            self.journal.foul("a verify to a 1.14 server with tls=2");
            return self.fail("it cannot check anything");
        }
        let Some(idle) = self.pool.take_id(id, &self.life, WAIT) else {
            return self.fail("verify of a connection that is not idle");
        };
        let mine = self.view(&idle.conn);
        idle.conn.end_writing();
        idle.conn.close();
        if mine == fp {
            self.journal.note("verified");
            self.verified.store(true, Ordering::SeqCst);
        } else {
            self.fail("the certificates differ");
        }
    }

    fn view(&self, conn: &Conn) -> String {
        let leaf = self
            .leaf
            .clone()
            .or_else(|| conn.leaf())
            .unwrap_or_default();
        codec::write_fingerprint(&leaf, self.script.generation)
    }
}
