//! A running peer, as a test holds it.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::journal::Journal;
use super::life::Life;
use super::script::{Generation, Script};
use crate::support::until::until;

/// What every thread of a peer knows.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    /// What it is to be.
    pub(crate) script: Arc<Script>,
    /// Until when.
    pub(crate) life: Arc<Life>,
    /// What it saw.
    pub(crate) journal: Arc<Journal>,
}

/// A scripted peer. Dropped, it closes everything, and fails the test if the other side broke a
/// rule; a failing test prints what the peer saw.
#[derive(Debug)]
pub(crate) struct Peer {
    context: Context,
    main: Option<thread::JoinHandle<()>>,
}

impl Peer {
    /// Runs `main` in a thread.
    pub(crate) fn start(script: Script, main: impl FnOnce(&Context) + Send + 'static) -> Self {
        let context = Context {
            script: Arc::new(script),
            life: Arc::new(Life::default()),
            journal: Arc::new(Journal::new()),
        };
        let of_thread = context.clone();
        let main = Some(thread::spawn(move || main(&of_thread)));
        Self { context, main }
    }

    /// How many sessions it has had.
    pub(crate) fn sessions(&self) -> usize {
        self.context.journal.sessions()
    }

    /// Whether it has one now.
    pub(crate) fn is_up(&self) -> bool {
        self.context.journal.is_up()
    }

    /// Waits for a session.
    pub(crate) fn until_up(&self, limit: Duration) {
        until("a session with the scripted peer", limit, || {
            self.is_up().then_some(())
        });
    }

    /// Waits until both ends have checked the certificates, if they do. Whoever checks closes a
    /// connection that a user might just have got.
    pub(crate) fn until_verified(&self, tls: u8, limit: Duration) {
        if tls == 1 && self.context.script.generation != Generation::Classic {
            for done in ["verify ", "verified"] {
                until(done, limit, || self.saw(done).then_some(()));
            }
        }
    }

    /// It says nothing on its control channel from now on, or speaks again.
    pub(crate) fn mute(&self, muted: bool) {
        self.context.journal.mute(muted);
    }

    /// Whether it has written this down.
    pub(crate) fn saw(&self, what: &str) -> bool {
        self.context
            .journal
            .lines()
            .iter()
            .any(|line| line.contains(what))
    }

    /// Every rule that the other side has broken so far.
    pub(crate) fn fouls(&self) -> Vec<String> {
        self.context.journal.fouls()
    }

    /// Ends it.
    pub(crate) fn stop(&mut self) {
        self.context.life.end();
        if let Some(main) = self.main.take() {
            let ended = main.join();
            assert!(
                thread::panicking() || ended.is_ok(),
                "the scripted peer panicked"
            );
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.stop();
        let fouls = self.context.journal.fouls();
        if thread::panicking() || !fouls.is_empty() {
            let Script {
                generation, tunnel, ..
            } = &*self.context.script;
            eprintln!("--- scripted {generation:?} peer of {tunnel}");
            for line in self.context.journal.lines() {
                eprintln!("    {line}");
            }
        }
        if !thread::panicking() {
            assert!(fouls.is_empty(), "the other side broke the wire: {fouls:?}");
        }
    }
}
