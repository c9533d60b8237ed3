//! Certificate files that change (`config.md` §3, `crt` and `key`).

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use smol::channel::Receiver;
use smol::future::FutureExt as _;

use super::{Identity, IdentityError};
use crate::timer::Timer;

/// How often the files are looked at.
pub const LOOK: Duration = Duration::from_secs(1);

/// Watches a certificate and its key, and reads them again when they have changed.
///
/// A change is read once the files have rested between two looks, so that one half-written or
/// written before the other is not taken for the result. A bad one is logged once, and the old
/// identity stays.
#[derive(Debug)]
pub struct Watch {
    crt: PathBuf,
    key: PathBuf,
    schedule: Schedule,
    current: Identity,
}

impl Watch {
    /// Reads the files and remembers their state. `interval` is `NP_RELOAD_INTERVAL`: the least time
    /// between good reads, zero: every change. Blocks on the files, as the later reads do.
    ///
    /// # Errors
    /// Those of [`Identity::from_files`].
    pub fn open(
        crt: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
        interval: Duration,
    ) -> Result<Self, IdentityError> {
        let (crt, key) = (crt.into(), key.into());
        let stamp = Stamp::of(&crt, &key);
        let current = Identity::from_files(&crt, &key)?;
        Ok(Self {
            crt,
            key,
            schedule: Schedule::new(stamp, interval, Instant::now()),
            current,
        })
    }

    /// The identity that was read last.
    #[must_use]
    pub const fn current(&self) -> &Identity {
        &self.current
    }

    /// Waits until the files hold another certificate, and returns it. A message on `force` (SIGHUP)
    /// reads at once, without regard to the interval. Dropping the future loses nothing.
    pub async fn changed(&mut self, force: &Receiver<()>) -> Identity {
        loop {
            let forced = wait(force).await;
            if let Some(identity) = self.look(Instant::now(), forced) {
                return identity;
            }
        }
    }

    /// One look at the files.
    fn look(&mut self, now: Instant, forced: bool) -> Option<Identity> {
        let stamp = Stamp::of(&self.crt, &self.key);
        if !self.schedule.is_due(now, stamp, forced) {
            return None;
        }
        match Identity::from_files(&self.crt, &self.key) {
            Ok(identity) => {
                self.schedule.good(now);
                if identity.fingerprint() == self.current.fingerprint() {
                    return None;
                }
                self.current = identity.clone();
                Some(identity)
            }
            Err(error) => {
                tracing::warn!("the certificate in use stays: {error}");
                None
            }
        }
    }
}

/// Waits for the next look; true if it is forced.
async fn wait(force: &Receiver<()>) -> bool {
    let tick = async {
        Timer::after(LOOK).await;
        false
    };
    let forced = async {
        // Without anybody who could force it, the clock alone counts.
        if force.recv().await.is_err() {
            std::future::pending::<()>().await;
        }
        true
    };
    forced.or(tick).await
}

/// Decides when to read.
#[derive(Debug)]
struct Schedule {
    interval: Duration,
    /// When the files were last read with success.
    read: Instant,
    /// Their state when they were last read, with or without success.
    known: Stamp,
    /// Their state at the last look.
    seen: Stamp,
}

impl Schedule {
    const fn new(stamp: Stamp, interval: Duration, now: Instant) -> Self {
        Self {
            interval,
            read: now,
            known: stamp,
            seen: stamp,
        }
    }

    /// Notes a look that found `stamp`; true if the files must be read now.
    fn is_due(&mut self, now: Instant, stamp: Stamp, forced: bool) -> bool {
        let rested = std::mem::replace(&mut self.seen, stamp) == stamp;
        let waited = now.saturating_duration_since(self.read) >= self.interval;
        let due = forced || (stamp != self.known && rested && waited);
        if due {
            self.known = stamp;
        }
        due
    }

    /// Notes a read with success.
    const fn good(&mut self, now: Instant) {
        self.read = now;
    }
}

/// The state of both files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp([Option<FileStamp>; 2]);

impl Stamp {
    fn of(crt: &Path, key: &Path) -> Self {
        Self([crt, key].map(|path| {
            std::fs::metadata(path)
                .ok()
                .map(|file| FileStamp::of(&file))
        }))
    }
}

/// The state of a file: a change that keeps all of this is not noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileStamp {
    modified: (i64, i64),
    size: u64,
    inode: u64,
}

impl FileStamp {
    fn of(file: &Metadata) -> Self {
        Self {
            modified: (file.mtime(), file.mtime_nsec()),
            size: file.size(),
            inode: file.ino(),
        }
    }
}

#[cfg(test)]
mod tests {
    use smol::block_on;

    use super::super::testing::{Folder, authority};
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn stamp(inode: u64) -> Stamp {
        let file = FileStamp {
            modified: (1, 0),
            size: 1,
            inode,
        };
        Stamp([Some(file), None])
    }

    #[test]
    fn a_change_is_read_once_it_rests() {
        let start = Instant::now();
        let at = |seconds| start + LOOK * seconds;
        let mut schedule = Schedule::new(stamp(1), Duration::ZERO, start);
        assert!(!schedule.is_due(at(1), stamp(1), false));
        assert!(!schedule.is_due(at(2), stamp(2), false));
        assert!(!schedule.is_due(at(3), stamp(3), false));
        assert!(schedule.is_due(at(4), stamp(3), false));
        assert!(!schedule.is_due(at(5), stamp(3), false), "once per change");
    }

    #[test]
    fn the_interval_is_kept_between_good_reads() {
        let start = Instant::now();
        let mut schedule = Schedule::new(stamp(1), HOUR, start);
        assert!(!schedule.is_due(start + LOOK, stamp(2), false));
        assert!(!schedule.is_due(start + LOOK * 2, stamp(2), false));
        assert!(schedule.is_due(start + HOUR, stamp(2), false));
        // That read failed, so the next change may be read at once.
        assert!(!schedule.is_due(start + HOUR + LOOK, stamp(3), false));
        assert!(schedule.is_due(start + HOUR + LOOK * 2, stamp(3), false));
        schedule.good(start + HOUR + LOOK * 2);
        assert!(!schedule.is_due(start + HOUR + LOOK * 3, stamp(4), false));
        assert!(!schedule.is_due(start + HOUR * 2, stamp(4), false));
    }

    #[test]
    fn force_reads_whatever_the_files_look_like() {
        let start = Instant::now();
        let mut schedule = Schedule::new(stamp(1), HOUR, start);
        assert!(schedule.is_due(start, stamp(1), true));
        assert!(schedule.is_due(start, stamp(2), true));
    }

    #[test]
    fn a_forced_look_brings_the_new_certificate() {
        let folder = Folder::new();
        let authority = authority();
        let (crt, key) = folder.identity("a", &authority, "example.org");
        let mut watch = Watch::open(&crt, &key, HOUR).unwrap();
        let old = watch.current().fingerprint();
        folder.identity("a", &authority, "example.org");
        let (force, forced) = smol::channel::bounded(1);
        force.try_send(()).unwrap();
        let new = block_on(watch.changed(&forced));
        assert_ne!(new.fingerprint(), old);
        assert_eq!(watch.current().fingerprint(), new.fingerprint());
    }

    #[test]
    fn a_bad_file_leaves_the_old_certificate_until_a_good_one_comes() {
        let folder = Folder::new();
        let authority = authority();
        let (crt, key) = folder.identity("a", &authority, "example.org");
        let mut watch = Watch::open(&crt, &key, Duration::ZERO).unwrap();
        let old = watch.current().fingerprint();
        let now = Instant::now();
        folder.write("a.crt", "half a certifica");
        assert!(watch.look(now, false).is_none());
        assert!(watch.look(now, false).is_none());
        assert_eq!(watch.current().fingerprint(), old);
        folder.identity("a", &authority, "example.org");
        assert!(watch.look(now, false).is_none(), "it has not rested");
        assert!(watch.look(now, false).is_some());
    }

    #[test]
    fn a_missing_file_is_an_error_at_start() {
        let folder = Folder::new();
        let (crt, key) = (folder.path("a.crt"), folder.path("a.key"));
        let error = Watch::open(crt, key, HOUR).unwrap_err();
        assert!(error.to_string().starts_with("crt: cannot read "));
    }
}
