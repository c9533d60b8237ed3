//! Standard output, without waiting for whoever reads it: a thread of its own writes, so that a pipe
//! nobody empties stops neither tunnels nor the master.

use std::io::{self, Write};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// Bytes that wait to be written; lines beyond are lost, and counted.
const WAITING: usize = 256 * 1024;
/// The longest that the end of the process waits for its last lines.
const PATIENCE: Duration = Duration::from_secs(1);

static STDOUT: Printer<io::Stdout> = Printer::new(io::stdout);

/// Prints whole lines, soon.
pub(super) fn print(text: &str) {
    STDOUT.print(text);
}

/// Waits until all lines so far are written, at most a second: to be called before the process ends.
pub fn flush() {
    STDOUT.flush(PATIENCE);
}

struct Printer<W> {
    open: fn() -> W,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// Lines that wait.
    text: String,
    /// How many did not fit after those.
    lost: u64,
    /// The thread is there.
    started: bool,
    /// It writes what it has taken.
    writing: bool,
}

impl<W: Write + 'static> Printer<W> {
    const fn new(open: fn() -> W) -> Self {
        Self {
            open,
            state: Mutex::new(State {
                text: String::new(),
                lost: 0,
                started: false,
                writing: false,
            }),
            changed: Condvar::new(),
        }
    }

    fn print(&'static self, text: &str) {
        let mut state = self.lock();
        if state.text.len() + text.len() > WAITING {
            state.lost += 1;
            return;
        }
        state.text.push_str(text);
        if !state.started {
            let thread = thread::Builder::new().name("log".to_owned());
            // Without a thread the lines wait for the next attempt.
            state.started = thread.spawn(|| self.run()).is_ok();
        }
        drop(state);
        self.changed.notify_all();
    }

    fn run(&self) {
        let mut out = (self.open)();
        loop {
            let text = self.take();
            // There is nobody to tell if it fails.
            drop(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
        }
    }

    /// What waits; waits for that.
    fn take(&self) -> String {
        let mut state = self.lock();
        state.writing = false;
        self.changed.notify_all();
        while state.text.is_empty() {
            let waited = self.changed.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
        state.writing = true;
        let lost = std::mem::take(&mut state.lost);
        let mut text = std::mem::take(&mut state.text);
        drop(state);
        if lost > 0 {
            text.push_str(&super::lost(lost));
        }
        text
    }

    fn flush(&self, patience: Duration) {
        let busy = |state: &mut State| state.started && (state.writing || !state.text.is_empty());
        let waited = self.changed.wait_timeout_while(self.lock(), patience, busy);
        drop(waited);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// Writes only as often as it is let.
    struct Gate {
        let_go: Receiver<()>,
        written: Sender<String>,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // A gate that is gone is open.
            self.let_go.recv().ok();
            let text = String::from_utf8(bytes.to_vec()).unwrap();
            self.written.send(text).unwrap();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn nobody_waits_for_a_reader_and_lost_lines_are_counted() {
        static ENDS: Mutex<Option<Gate>> = Mutex::new(None);
        static PRINTER: Printer<Gate> = Printer::new(|| ENDS.lock().unwrap().take().unwrap());
        let (open, let_go) = channel();
        let (written, texts) = channel();
        *ENDS.lock().unwrap() = Some(Gate { let_go, written });
        PRINTER.print("first\n");
        let busy = |state: &mut State| !state.writing;
        drop(PRINTER.changed.wait_while(PRINTER.lock(), busy).unwrap());
        // Nothing is written now, and nobody waits for it.
        let line = format!("{}\n", "x".repeat(1023));
        let fit = WAITING / line.len();
        for _ in 0..fit + 7 {
            PRINTER.print(&line);
        }
        PRINTER.flush(Duration::from_millis(1));
        drop(open);
        assert_eq!(texts.recv().unwrap(), "first\n");
        let rest = texts.recv().unwrap();
        assert_eq!(rest.matches(&line).count(), fit);
        let last = rest.lines().last().unwrap();
        assert!(last.ends_with("  WARN  7 log lines were lost, standard output is not read"));
        PRINTER.print("again\n");
        assert_eq!(texts.recv().unwrap(), "again\n");
        PRINTER.flush(Duration::MAX);
        assert!(!PRINTER.lock().writing);
    }
}
