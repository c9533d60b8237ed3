//! What a peer saw, and what it holds against the other side.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

/// The diary of a peer, shared by all of its threads.
#[derive(Debug)]
pub(crate) struct Journal {
    born: Instant,
    lines: Mutex<Vec<String>>,
    fouls: Mutex<Vec<String>>,
    sessions: AtomicUsize,
    up: AtomicBool,
    muted: AtomicBool,
}

impl Journal {
    /// An empty one.
    pub(crate) fn new() -> Self {
        Self {
            born: Instant::now(),
            lines: Mutex::default(),
            fouls: Mutex::default(),
            sessions: AtomicUsize::new(0),
            up: AtomicBool::new(false),
            muted: AtomicBool::new(false),
        }
    }

    /// Remembers what happened, for whoever reads a failed test.
    pub(crate) fn note(&self, what: impl AsRef<str>) {
        let line = format!(
            "{:8.3} {}",
            self.born.elapsed().as_secs_f64(),
            what.as_ref()
        );
        self.lines.lock().unwrap().push(line);
    }

    /// The other side broke a rule of the wire: the test fails.
    pub(crate) fn foul(&self, what: impl AsRef<str>) {
        self.note(format!("FOUL {}", what.as_ref()));
        self.fouls.lock().unwrap().push(what.as_ref().to_owned());
    }

    /// A session begins.
    pub(crate) fn up(&self) {
        self.note("session up");
        self.sessions.fetch_add(1, Ordering::SeqCst);
        self.up.store(true, Ordering::SeqCst);
    }

    /// The session is over.
    pub(crate) fn down(&self) {
        self.note("session over");
        self.up.store(false, Ordering::SeqCst);
    }

    /// How many sessions there have been.
    pub(crate) fn sessions(&self) -> usize {
        self.sessions.load(Ordering::SeqCst)
    }

    /// Whether there is one now.
    pub(crate) fn is_up(&self) -> bool {
        self.up.load(Ordering::SeqCst)
    }

    /// Whether nothing is to be said on the control channel any more.
    pub(crate) fn is_muted(&self) -> bool {
        self.muted.load(Ordering::SeqCst)
    }

    /// Says nothing any more, or speaks again.
    pub(crate) fn mute(&self, muted: bool) {
        self.muted.store(muted, Ordering::SeqCst);
    }

    /// All of it so far.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    /// Every broken rule so far.
    pub(crate) fn fouls(&self) -> Vec<String> {
        self.fouls.lock().unwrap().clone()
    }
}
