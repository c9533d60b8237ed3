//! Moving bytes from one plain TCP socket to another through a pipe, without copying them to this
//! process and back: half the processor time for large transfers, and more system calls for small
//! messages. So a direction splices only while it [surges](Surge).
//!
//! A pipe is used like a [buffer](super::buffer): borrowed while bytes are in hand and given back
//! empty before waiting for more. It is therefore always empty when it is filled and never empty
//! when it is drained, and `WouldBlock` always speaks of the socket.

#[cfg(target_os = "linux")]
mod pipe;
#[cfg(not(target_os = "linux"))]
#[path = "splice/no_pipe.rs"]
mod pipe;

pub(crate) use pipe::Pipe;
#[cfg(all(test, target_os = "linux"))]
pub(crate) use pipe::testing;

use super::buffer::STANDARD;

/// How much to splice at once and the capacity to ask for, in bytes. A pipe holds one piece of a packet
/// for each 4 KiB of it, however small the piece, so that the default of 64 KiB would be full after 16
/// packets of Ethernet size; and with four times as much, a tunnel took a quarter less processor time.
#[cfg_attr(
    not(target_os = "linux"),
    expect(dead_code, reason = "nothing splices")
)]
pub(crate) const CAPACITY: usize = 256 * 1024;

/// Reads in a row that fill their buffer before a direction splices.
const FULL_READS: i8 = 2;

/// Full reads to do without a pipe when there was none, before one is asked for again.
const RETRY: i8 = 64;

/// Whether so much comes in one direction that splicing pays.
#[derive(Debug, Default)]
pub(crate) struct Surge {
    /// Full reads in a row; below zero while there is no pipe to be had.
    full: i8,
    /// Bytes spliced since the source was quiet last.
    moved: usize,
}

impl Surge {
    /// Whether to splice rather than copy.
    pub(crate) const fn is_on(&self) -> bool {
        self.full >= FULL_READS
    }

    /// A read was copied, and filled its buffer or did not.
    pub(crate) const fn copied(&mut self, filled: bool) {
        self.full = if filled {
            self.full.saturating_add(1)
        } else {
            0
        };
    }

    /// `bytes` were spliced.
    pub(crate) const fn spliced(&mut self, bytes: usize) {
        self.moved = self.moved.saturating_add(bytes);
    }

    /// The source has nothing more for now. If it had no more than a buffer holds since the last time,
    /// it is copied from now on. (That includes a source that is readable but cannot be spliced, as
    /// with urgent data.)
    pub(crate) const fn ebb(&mut self) {
        if self.is_on() && self.moved < STANDARD {
            self.full = 0;
        }
        self.moved = 0;
    }

    /// There is no pipe to be had: copy for a while.
    pub(crate) const fn denied(&mut self) {
        self.full = -RETRY;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn surging() -> Surge {
        let mut surge = Surge::default();
        (0..FULL_READS).for_each(|_| surge.copied(true));
        assert!(surge.is_on());
        surge
    }

    #[test]
    fn full_reads_in_a_row_begin_a_surge() {
        let mut surge = Surge::default();
        for filled in [true, false, true] {
            surge.copied(filled);
            assert!(!surge.is_on());
        }
        surge.copied(true);
        assert!(surge.is_on());
    }

    #[test]
    fn a_surge_outlives_a_pause_and_ends_with_small_amounts() {
        let mut surge = surging();
        surge.spliced(STANDARD - 1);
        surge.spliced(1);
        surge.ebb();
        assert!(surge.is_on());
        surge.spliced(STANDARD - 1);
        surge.ebb();
        assert!(!surge.is_on());
    }

    #[test]
    fn a_missing_pipe_is_asked_for_again_later() {
        let mut surge = surging();
        surge.denied();
        for _ in 0..RETRY {
            surge.copied(true);
            assert!(!surge.is_on());
        }
        surge.copied(true);
        surge.copied(true);
        assert!(surge.is_on());
    }
}
