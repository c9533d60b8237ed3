//! A wall clock that a test moves while the program runs. Its monotonic clock goes on as ever.

use std::path::PathBuf;

use super::scratch::Scratch;
use super::tools::program;

/// The wall clock of the processes that are started with [`env`](Self::env).
#[derive(Debug)]
pub(crate) struct MovedClock {
    scratch: Scratch,
}

impl MovedClock {
    /// One that shows `offset`, such as `+0`, `-10d` or `@1970-01-01 00:10:00`, in the language of
    /// `faketime`.
    pub(crate) fn new(offset: &str) -> Self {
        let clock = Self {
            scratch: Scratch::new(),
        };
        clock.set(offset);
        clock
    }

    /// Moves it.
    pub(crate) fn set(&self, offset: &str) {
        // In one step: it may be read at any time.
        let fresh = self.scratch.write("fresh", offset);
        std::fs::rename(fresh, self.file()).unwrap();
    }

    /// What makes a process see it.
    pub(crate) fn env(&self) -> [(&'static str, String); 4] {
        [
            ("LD_PRELOAD", library().display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", self.file().display().to_string()),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ]
    }

    fn file(&self) -> PathBuf {
        self.scratch.path().join("time")
    }
}

/// The library that `faketime` preloads.
fn library() -> PathBuf {
    // Fails the test if it is not installed.
    program("faketime");
    let places = std::fs::read_dir("/usr/lib").unwrap().flatten();
    let candidates = places.map(|place| place.path().join("faketime/libfaketimeMT.so.1"));
    let here = |path: &PathBuf| path.exists() && is_ours(path);
    { candidates }.find(here).expect("libfaketimeMT.so.1")
}

/// Whether its directory is that of this architecture.
fn is_ours(path: &std::path::Path) -> bool {
    path.display().to_string().contains(std::env::consts::ARCH)
}
