//! A TCP user's bytes, both ways.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::conn::{Conn, is_silence};

/// How a generation ends a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The end of one direction is passed on; the relay ends with both.
    HalfClose,
    /// The end of one direction is told to nobody; the relay ends after this long without data.
    Idle(Duration),
}

/// Relays until both directions have ended. What becomes of the connections is the caller's.
pub(crate) fn relay(one: &Arc<Conn>, other: &Arc<Conn>, ending: Ending) {
    let shared = Arc::new(Shared {
        born: Instant::now(),
        last: AtomicU64::new(0),
        broken: AtomicBool::new(false),
    });
    let (from, to, of_thread) = (Arc::clone(one), Arc::clone(other), Arc::clone(&shared));
    let back = thread::spawn(move || pump(&to, &from, ending, &of_thread));
    pump(one, other, ending, &shared);
    drop(back.join());
}

struct Shared {
    born: Instant,
    /// When bytes last passed, in milliseconds since `born`.
    last: AtomicU64,
    broken: AtomicBool,
}

impl Shared {
    fn now(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_millis()).unwrap()
    }

    fn silent_for(&self) -> Duration {
        Duration::from_millis(self.now().saturating_sub(self.last.load(Ordering::SeqCst)))
    }
}

fn pump(from: &Conn, to: &Conn, ending: Ending, shared: &Shared) {
    if let Ending::Idle(limit) = ending {
        from.patience(Some(limit / 4));
    }
    let mut buffer = vec![0; 16 * 1024];
    loop {
        match (from.read(&mut buffer), ending) {
            (Ok(count), _) if count > 0 => {
                shared.last.store(shared.now(), Ordering::SeqCst);
                if to.write_all(&buffer[..count]).is_err() {
                    break;
                }
            }
            (Ok(_), Ending::HalfClose) => return to.end_writing(),
            (Ok(_), Ending::Idle(_)) => return,
            (Err(error), Ending::Idle(limit)) if is_silence(&error) => {
                if shared.silent_for() >= limit || shared.broken.load(Ordering::SeqCst) {
                    return;
                }
            }
            (Err(_), _) => break,
        }
    }
    // An error ends both directions.
    shared.broken.store(true, Ordering::SeqCst);
    from.close();
    to.close();
}
