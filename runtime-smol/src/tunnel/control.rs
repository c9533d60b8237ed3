//! Drives one session over its control connection: the only owner of the session's machine.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use protocol::dialect::{Dialect, LaunchBy};
use protocol::id::LinkId;
use protocol::limits;
use protocol::session::{Input, Output, Session};
use protocol::wire::signal::Signal;
use smol::channel::{Receiver, Sender, bounded};
use smol::future::{FutureExt as _, yield_now};
use smol::io::{AsyncRead as _, AsyncWrite as _};
use smol::stream::Stream as _;

use super::hub::Msg;
use crate::clock::{Clock, Deadline};
use crate::net::Stream;
use crate::timer::Timer;

/// Signals waiting for a session's task. A hub that finds it full has a peer that does not read.
const INBOX: usize = 64;
/// The same where each launch is a signal: a hub may launch all users that wait in one go.
const INBOX_OF_LAUNCHES: usize = limits::QUEUED_USERS + INBOX;
/// How long the last words of a session may take to be written.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// After this many turns in a row the task lets others run: a task is never made to yield.
const BUDGET: u32 = 64;

/// One session's task: who it is, what it talks to, and who wants to know.
#[derive(Debug)]
pub(super) struct Control {
    pub(super) link: LinkId,
    pub(super) stream: Stream,
    /// Bytes that came behind the handshake.
    pub(super) rest: Vec<u8>,
    /// Bytes that go before the first signal: the server's `welcome`.
    pub(super) preamble: Vec<u8>,
    pub(super) dialect: Dialect,
    pub(super) report_interval: Duration,
    /// What the hub wants to be told to the peer; closed: end the session.
    pub(super) inbox: Receiver<Signal>,
    pub(super) hub: Sender<Msg>,
}

/// What a hub wants to be told to the peer, on its way to the session's task.
pub(super) fn inbox(launch: LaunchBy) -> (Sender<Signal>, Receiver<Signal>) {
    bounded(match launch {
        LaunchBy::DataConnection => INBOX,
        LaunchBy::Signal => INBOX_OF_LAUNCHES,
    })
}

enum Wake {
    Read(io::Result<usize>),
    Wrote(io::Result<usize>),
    Told(Option<Signal>),
    Fired,
}

impl Control {
    /// Runs the session until it closes; the last message to the hub is [`Output::Closed`].
    pub(super) async fn drive(mut self) {
        let clock = Clock::new();
        let mut inbox = pin!(self.inbox.clone());
        let mut session = Session::new(&self.dialect, self.report_interval, clock.now());
        if !self.rest.is_empty() {
            session.handle_input(clock.now(), Input::Control(&self.rest));
            self.rest = Vec::new();
        }
        let mut timer = Deadline::never();
        let mut buffer = vec![0; 4096];
        let mut turn = 0_u32;
        loop {
            turn = turn.wrapping_add(1);
            if turn.is_multiple_of(BUDGET) {
                yield_now().await;
            }
            while let Some(output) = session.poll_output() {
                let closed = matches!(output, Output::Closed(_));
                let told = self.hub.send(Msg::Session(self.link, output)).await;
                if closed || told.is_err() {
                    return;
                }
            }
            let due = session.poll_timeout();
            timer.set(due);
            if due.is_some_and(|due| due <= clock.now()) {
                session.handle_timeout(clock.now());
                continue;
            }
            let wake = self
                .wait(&session, inbox.as_mut(), &mut buffer, &mut timer, turn)
                .await;
            let now = clock.now();
            match wake {
                Wake::Wrote(Ok(n)) if n > 0 => self.wrote(&mut session, n),
                Wake::Read(Ok(n)) if n > 0 => {
                    let bytes = buffer.get(..n).unwrap_or_default();
                    session.handle_input(now, Input::Control(bytes));
                }
                Wake::Read(_) | Wake::Wrote(_) => session.handle_input(now, Input::ControlEof),
                Wake::Told(Some(signal)) => session.handle_input(now, Input::Send(signal)),
                Wake::Told(None) => return self.last_words(&session).await,
                Wake::Fired => session.handle_timeout(now),
            }
        }
    }

    /// Waits for exactly one thing, in one future over the stream: no select, no split halves.
    async fn wait(
        &mut self,
        session: &Session,
        mut inbox: Pin<&mut Receiver<Signal>>,
        buffer: &mut [u8],
        timer: &mut Deadline,
        turn: u32,
    ) -> Wake {
        let out = if self.preamble.is_empty() {
            session.control_out()
        } else {
            &self.preamble[..]
        };
        let mut stream = Pin::new(&mut self.stream);
        poll_fn(|cx| {
            if out.is_empty() {
                if let Poll::Ready(Err(error)) = stream.as_mut().poll_flush(cx) {
                    return Poll::Ready(Wake::Wrote(Err(error)));
                }
            } else if let Poll::Ready(n) = stream.as_mut().poll_write(cx, out) {
                return Poll::Ready(Wake::Wrote(n));
            }
            // Neither the peer nor the hub can starve the other.
            if turn.is_multiple_of(2)
                && let Poll::Ready(told) = inbox.as_mut().poll_next(cx)
            {
                return Poll::Ready(Wake::Told(told));
            }
            if session.wants_control()
                && let Poll::Ready(n) = stream.as_mut().poll_read(cx, buffer)
            {
                return Poll::Ready(Wake::Read(n));
            }
            if let Poll::Ready(told) = inbox.as_mut().poll_next(cx) {
                return Poll::Ready(Wake::Told(told));
            }
            timer.poll(cx).map(|()| Wake::Fired)
        })
        .await
    }

    fn wrote(&mut self, session: &mut Session, n: usize) {
        if self.preamble.is_empty() {
            session.control_sent(n);
        } else {
            self.preamble.drain(..n.min(self.preamble.len()));
        }
    }

    /// Writes what is still queued, a `bye` most of all, and ends the stream properly.
    async fn last_words(mut self, session: &Session) {
        use smol::io::AsyncWriteExt as _;
        let write = async {
            self.stream.write_all(&self.preamble).await?;
            self.stream.write_all(session.control_out()).await?;
            self.stream.close().await
        };
        let too_late = async {
            Timer::after(LAST_WORDS).await;
            Ok(())
        };
        if let Err(error) = write.or(too_late).await {
            tracing::debug!(%error, "last words of a session were not sent");
        }
    }
}
