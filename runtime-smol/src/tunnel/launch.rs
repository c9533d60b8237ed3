//! Ingress: a user is launched on a data connection, then relayed (`wire.md` §2.4, §3).

use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use protocol::launching::{Launching, Outcome};
use protocol::limits;
use protocol::sniff::{Kind, Verdict};
use protocol::wire::datagram::{self, Form};
use protocol::wire::launch::Status;
use smol::channel::Sender;
use smol::future::FutureExt as _;
use smol::io::{AsyncRead as _, AsyncWrite as _, AsyncWriteExt as _};

use super::Shared;
use super::hub::Msg;
use super::idle::DataConn;
use super::served::{Near, Served};
use super::user::{User, UserSide};
use crate::clock::{Clock, Deadline};
use crate::net::Stream;
use crate::relay::tcp::{FirstBytes, Initial};
use crate::relay::udp::{Side, UdpUser};
use crate::relay::{self, Fate};
use crate::stats::Stats;
use crate::timer::Timer;

/// The most that is read at once before a relay begins.
const READ: usize = 4096;

/// Launches `user` on `data` and begins to relay. A user whose launch was withdrawn goes back
/// to the hub: it needs another connection.
pub(super) async fn serve(
    shared: Arc<Shared>,
    data: Stream,
    user: Box<User>,
    fate: Arc<Fate>,
    hub: Sender<Msg>,
) {
    match launch(&shared, data, *user, fate).await {
        Ok(served) => served.spawn(&shared),
        // The hub is gone only when the tunnel is.
        Err(Some(user)) => drop(hub.send(Msg::Again(Box::new(user))).await),
        Err(None) => {}
    }
}

/// Begins to relay `user` on `data` at once: its launch is a signal on the control channel.
pub(super) async fn by_signal(conn: DataConn, form: Form, user: Box<User>) {
    let DataConn {
        stream: mut data,
        fate,
        shared,
        ..
    } = conn;
    let launch = user.launch();
    let User {
        side,
        kept,
        kept_eof,
        first,
        slot,
        ..
    } = *user;
    let near = match side {
        UserSide::Tcp(user) => {
            let initial = Initial {
                to_near: Vec::new(),
                to_peer: kept,
                near_ended: kept_eof,
                peer_quiet: true,
                first,
                ..Initial::default()
            };
            Near::Tcp(user, initial)
        }
        UserSide::Udp(user) => {
            let too_late = async {
                Timer::after(limits::LAUNCH_WAIT).await;
                Err(ErrorKind::TimedOut.into())
            };
            let sent = send_kept(&shared.stats, &mut data, &kept, form);
            if let Err(error) = sent.or(too_late).await {
                shared.stats.refused.add(1);
                return tracing::debug!(user = %launch.source, %error, "user not served");
            }
            Near::Udp(Side::user(user), Vec::new())
        }
    };
    let served = Served {
        near,
        data,
        launch,
        form,
        fate,
        _slot: slot,
    };
    served.spawn(&shared);
}

/// Sends what a launch that another session withdrew leaves of a UDP user: frames.
async fn send_kept(
    stats: &Stats,
    data: &mut Stream,
    mut kept: &[u8],
    form: Form,
) -> io::Result<()> {
    while let Ok(Some(frame)) = datagram::split(kept) {
        let mut bytes = Vec::new();
        match form.encode(frame.datagram, &mut bytes) {
            Ok(()) => data.write_all(&bytes).await?,
            Err(_) => stats.dropped.add(1),
        }
        kept = frame.rest;
    }
    data.flush().await
}

/// Launches `user` on `data`. It comes back if the launch was withdrawn.
async fn launch(
    shared: &Shared,
    mut data: Stream,
    user: User,
    fate: Arc<Fate>,
) -> Result<Served, Option<User>> {
    let launch = user.launch();
    let User {
        source,
        side,
        mut kept,
        kept_eof,
        first,
        slot,
    } = user;
    if let (UserSide::Udp(user), true) = (&side, kept.is_empty()) {
        // The datagrams that began the session wait in its queue. Later ones stay there until
        // the target has answered.
        poll_fn(|cx| Poll::Ready(user.poll_take(cx, &mut kept).is_ready())).await;
        shared.stats.udp_rx.add_len(relay::udp::payload(&kept));
    }
    let machine = Launching::new(Clock::new().now(), &launch, kept, kept_eof);
    let answer = match side {
        UserSide::Tcp(user) => tcp(shared, &mut data, user, first, machine).await,
        UserSide::Udp(user) => udp(&mut data, user, machine).await,
    };
    match answer {
        Ok(near) => Ok(Served {
            near,
            data,
            launch,
            form: Form::NATIVE,
            fate,
            _slot: slot,
        }),
        Err((side, Why::Withdrawn { kept, eof, first })) => Err(Some(User {
            source,
            side,
            kept,
            kept_eof: eof,
            first,
            slot,
        })),
        Err((side, why)) => {
            shared.stats.refused.add(1);
            tracing::debug!(user = %source, transport = %launch.transport, %why, "user not served");
            data.reset();
            side.reset();
            Err(None)
        }
    }
}

async fn tcp(
    shared: &Shared,
    data: &mut Stream,
    user: Stream,
    first: Option<FirstBytes>,
    machine: Launching,
) -> Result<Near, (UserSide, Why)> {
    let mut opening = Opening {
        shared,
        machine,
        user,
        user_quiet: false,
        first,
        timer: Deadline::never(),
    };
    let (outcome, to_near) = poll_fn(|cx| opening.poll(data, cx)).await;
    let Opening {
        machine,
        user,
        user_quiet,
        first,
        ..
    } = opening;
    match outcome.and_then(connected) {
        Ok(()) => {
            let initial = Initial {
                to_near,
                to_peer: machine.to_send().to_vec(),
                near_ended: machine.user_ended(),
                near_quiet: user_quiet,
                peer_quiet: true,
                first,
            };
            Ok(Near::Tcp(user, initial))
        }
        Err(mut why) => {
            // What is known of its first bytes goes along to the next launch.
            if let Why::Withdrawn { first: known, .. } = &mut why {
                *known = first;
            }
            Err((UserSide::Tcp(user), why))
        }
    }
}

async fn udp(
    data: &mut Stream,
    user: UdpUser,
    mut machine: Launching,
) -> Result<Near, (UserSide, Why)> {
    let mut timer = Deadline::never();
    let (outcome, rest) = poll_fn(|cx| {
        if write(&mut machine, data, cx).is_err() {
            return Poll::Ready((Outcome::Lost, Vec::new()));
        }
        wait_for_answer(&mut machine, data, &mut timer, cx)
    })
    .await;
    if let Err(why) = connected(outcome) {
        return Err((UserSide::Udp(user), why));
    }
    let too_late = async {
        Timer::after(limits::LAUNCH_WAIT).await;
        Err(ErrorKind::TimedOut.into())
    };
    match data.write_all(machine.to_send()).or(too_late).await {
        Ok(()) => Ok(Near::Udp(Side::user(user), rest)),
        Err(_) => Err((UserSide::Udp(user), Why::Lost)),
    }
}

/// Why a user was not served.
#[derive(Debug, thiserror::Error)]
enum Why {
    #[error("the launch was withdrawn")]
    Withdrawn {
        kept: Vec<u8>,
        eof: bool,
        first: Option<FirstBytes>,
    },
    #[error("target: {0}")]
    Egress(Status),
    #[error("data connection lost")]
    Lost,
    #[error("no answer from the peer in time")]
    TimedOut,
    #[error("{0} is blocked")]
    Blocked(Kind),
    #[error("user: {0}")]
    User(io::Error),
}

/// Whether the target answered, or why not.
fn connected(outcome: Outcome) -> Result<(), Why> {
    Err(match outcome {
        Outcome::Connected => return Ok(()),
        Outcome::Withdrawn { kept, eof } => Why::Withdrawn {
            kept,
            eof,
            first: None,
        },
        Outcome::Failed(status) => Why::Egress(status),
        Outcome::Lost => Why::Lost,
        Outcome::TimedOut => Why::TimedOut,
    })
}

/// A TCP user between its launch and the status byte.
struct Opening<'a> {
    shared: &'a Shared,
    machine: Launching,
    user: Stream,
    /// All that it has sent was read.
    user_quiet: bool,
    /// Until it is known that the user may speak what it speaks.
    first: Option<FirstBytes>,
    timer: Deadline,
}

impl Opening<'_> {
    /// The outcome, and what the peer sent behind its status byte.
    fn poll(
        &mut self,
        data: &mut Stream,
        cx: &mut Context<'_>,
    ) -> Poll<(Result<Outcome, Why>, Vec<u8>)> {
        loop {
            let read = match self.read_user(cx) {
                Ok(read) => read,
                Err(why) => return Poll::Ready((Err(why), Vec::new())),
            };
            if write(&mut self.machine, data, cx).is_err() {
                return Poll::Ready((Ok(Outcome::Lost), Vec::new()));
            }
            if !read {
                break;
            }
        }
        wait_for_answer(&mut self.machine, data, &mut self.timer, cx)
            .map(|(outcome, rest)| (Ok(outcome), rest))
    }

    /// Reads the user once, if there is room; says whether anything came.
    fn read_user(&mut self, cx: &mut Context<'_>) -> Result<bool, Why> {
        let room = self
            .machine
            .wants_user()
            .saturating_sub(limits::SNIFFED)
            .min(READ);
        let mut buffer = [0; READ];
        let buffer = buffer.get_mut(..room).unwrap_or_default();
        if buffer.is_empty() {
            return Ok(false);
        }
        let user = &mut self.user;
        let read = match self.user_quiet {
            true => read_when_ready(user, cx, buffer),
            false => Pin::new(user).poll_read(cx, buffer),
        };
        let bytes = match read {
            Poll::Pending => {
                self.user_quiet = true;
                return Ok(false);
            }
            Poll::Ready(Err(error)) => return Err(Why::User(error)),
            Poll::Ready(Ok(n)) => buffer.get(..n).unwrap_or_default(),
        };
        self.user_quiet = bytes.len() < room;
        self.shared.stats.tcp_rx.add_len(bytes.len());
        let Some(mut first) = self.first.take() else {
            self.take(bytes);
            return Ok(true);
        };
        match first.feed(bytes) {
            Verdict::NeedMore if !bytes.is_empty() => self.first = Some(first),
            Verdict::Blocked(kind) => return Err(Why::Blocked(kind)),
            Verdict::NeedMore | Verdict::Pass => {
                self.take(&first.release());
                if bytes.is_empty() {
                    self.take(bytes);
                }
            }
        }
        Ok(true)
    }

    /// Bytes of the user, or its end. There is room: no more was read.
    fn take(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return self.machine.handle_user_eof();
        }
        let fits = self.machine.handle_user(bytes);
        debug_assert!(fits, "no more is read than there is room for");
    }
}

/// Writes what is to be sent, as far as the connection takes it.
fn write(machine: &mut Launching, data: &mut Stream, cx: &mut Context<'_>) -> io::Result<()> {
    while !machine.to_send().is_empty() {
        match Pin::new(&mut *data).poll_write(cx, machine.to_send())? {
            Poll::Ready(0) => return Err(ErrorKind::WriteZero.into()),
            Poll::Ready(n) => machine.sent(n),
            Poll::Pending => return Ok(()),
        }
    }
    match Pin::new(data).poll_flush(cx) {
        Poll::Ready(flushed) => flushed,
        Poll::Pending => Ok(()),
    }
}

/// Reads what comes next, of which nothing is expected to be there yet.
fn read_when_ready(
    stream: &mut Stream,
    cx: &mut Context<'_>,
    buffer: &mut [u8],
) -> Poll<io::Result<usize>> {
    ready!(stream.poll_read_ready(cx))?;
    Pin::new(stream).poll_read(cx, buffer)
}

/// Reads the status byte, and what came with it, until the deadline.
fn wait_for_answer(
    machine: &mut Launching,
    data: &mut Stream,
    timer: &mut Deadline,
    cx: &mut Context<'_>,
) -> Poll<(Outcome, Vec<u8>)> {
    let mut buffer = [0; READ];
    if let Poll::Ready(read) = read_when_ready(data, cx, &mut buffer) {
        let bytes = buffer.get(..read.unwrap_or(0)).unwrap_or_default();
        return Poll::Ready(match bytes.split_first() {
            Some((&status, rest)) => (machine.handle_peer(status), rest.to_vec()),
            None => (Outcome::Lost, Vec::new()),
        });
    }
    loop {
        timer.set(Some(machine.deadline()));
        ready!(timer.poll(cx));
        if let Some(outcome) = machine.handle_timeout(Clock::new().now()) {
            return Poll::Ready((outcome, Vec::new()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;
    use crate::relay::testing::connection;

    #[test]
    fn datagrams_of_a_withdrawn_launch_go_in_the_form_of_the_next_peer() {
        let kept = b"\0\x03one\0\x05three\0\x03two";
        for (form, expected) in [
            (Form::Framed { max: 3 }, &b"\0\x03one\0\x03two"[..]),
            (Form::Bare { max: 3 }, b"onetwo"),
        ] {
            let (mut data, mut far) = connection();
            let stats = Stats::default();
            smol::block_on(send_kept(&stats, &mut data, kept, form)).unwrap();
            drop(data);
            let mut sent = Vec::new();
            far.read_to_end(&mut sent).unwrap();
            assert_eq!(sent, expected);
            assert_eq!(stats.snapshot().dropped, 1);
        }
    }
}
