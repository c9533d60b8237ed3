//! What the system runs short of: descriptors, and memory for sockets.

use std::io;
use std::time::{Duration, Instant};

use rustix::io::Errno;

/// Trouble this long ago is over: the next one is logged again.
const EPISODE: Duration = Duration::from_secs(60);

/// Whether the process or the system has no room for another socket.
pub(super) fn is_shortage(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM | Errno::NOSPC)
    )
}

/// A time of trouble, to log its begin once.
#[derive(Debug, Default)]
pub(super) struct Episode {
    last: Option<Instant>,
}

impl Episode {
    /// Notes trouble at `now`; true if there was none for a while.
    pub(super) fn begins(&mut self, now: Instant) -> bool {
        let fresh = self
            .last
            .is_none_or(|last| now.saturating_duration_since(last) > EPISODE);
        self.last = Some(now);
        fresh
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_episode_is_logged_once() {
        let (start, pause) = (Instant::now(), Duration::from_millis(50));
        let mut episode = Episode::default();
        assert!(episode.begins(start));
        assert!(!episode.begins(start + pause));
        assert!(!episode.begins(start + pause + EPISODE));
        assert!(episode.begins(start + pause + EPISODE * 3));
    }
}
