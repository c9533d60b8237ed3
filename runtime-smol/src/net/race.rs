//! Happy eyeballs: one connection out of several addresses.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::pin::Pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use smol::future::poll_fn;
use socket2::{Domain, SockRef, Socket, Type};

use super::dial::DialFailure;
use super::polled::Polled;
use super::socket::Tune;
use crate::timer::Timer;

/// How long an address is tried alone before the next one is tried beside it.
pub const HEAD_START: Duration = Duration::from_millis(250);

/// Connects to the first of `addresses` that answers; the other attempts are dropped.
pub(super) async fn race(
    addresses: Vec<SocketAddr>,
    source: Option<IpAddr>,
    tune: Tune,
    deadline: Instant,
) -> Result<Polled<TcpStream>, DialFailure> {
    let left = deadline.saturating_duration_since(Instant::now());
    let pace = head_start(addresses.len(), left);
    let mut waiting = interleave(addresses);
    let mut running: Vec<Attempt> = Vec::new();
    let mut turn = Timer::never();
    let mut end = Timer::at(deadline);
    let mut failure = DialFailure::Unreachable;
    loop {
        match waiting.pop_front() {
            Some(address) => running.push(Box::pin(connect(address, source, tune))),
            None if running.is_empty() => return Err(failure),
            None => {}
        }
        if waiting.is_empty() {
            turn.clear();
        } else {
            turn.set_after(pace);
        }
        let event = poll_fn(|cx| {
            for (index, attempt) in running.iter_mut().enumerate() {
                if let Poll::Ready(result) = attempt.as_mut().poll(cx) {
                    return Poll::Ready(Event::Ended(index, result));
                }
            }
            if Pin::new(&mut turn).poll(cx).is_ready() {
                return Poll::Ready(Event::Turn);
            }
            Pin::new(&mut end).poll(cx).map(|_| Event::Deadline)
        });
        match event.await {
            Event::Ended(_, Ok(stream)) => return Ok(stream),
            Event::Ended(index, Err(error)) => {
                drop(running.swap_remove(index));
                failure = failure.worse(DialFailure::from_io(error));
            }
            Event::Turn => {}
            Event::Deadline => return Err(DialFailure::TimedOut),
        }
    }
}

type Attempt = Pin<Box<dyn Future<Output = io::Result<Polled<TcpStream>>> + Send>>;

/// What ends a wait in [`race`].
enum Event {
    Ended(usize, io::Result<Polled<TcpStream>>),
    Turn,
    Deadline,
}

/// The order of attempts: the families in turn, beginning with the first address's.
fn interleave(addresses: Vec<SocketAddr>) -> VecDeque<SocketAddr> {
    let first = addresses.first().is_some_and(SocketAddr::is_ipv4);
    let (same, other): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|a| a.is_ipv4() == first);
    let mut other = other.into_iter();
    let mut order = VecDeque::new();
    for address in same {
        order.push_back(address);
        order.extend(other.next());
    }
    order.extend(other);
    order
}

/// The head start when `count` addresses share `left`: all of them get their turn in its first half.
fn head_start(count: usize, left: Duration) -> Duration {
    let share = left / 2 / u32::try_from(count.max(1)).unwrap_or(u32::MAX);
    HEAD_START.min(share)
}

async fn connect(
    address: SocketAddr,
    source: Option<IpAddr>,
    tune: Tune,
) -> io::Result<Polled<TcpStream>> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking(),
        None,
    )?;
    tune(&SockRef::from(&socket))?;
    if let Some(source) = source {
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    let begun = socket.connect(&address.into());
    let stream = Polled::connecting(TcpStream::from(socket))?;
    match begun {
        // Loopback connects at once.
        Ok(()) => {}
        Err(error) if Errno::from_io_error(&error) == Some(Errno::INPROGRESS) => {
            stream.writable().await?;
            if let Some(error) = stream.get_ref().take_error()? {
                return Err(error);
            }
        }
        Err(error) => return Err(error),
    }
    // A port that nobody listens on may be the one the system picks for our own end, and TCP
    // then connects the socket with itself.
    if address.ip().is_loopback() && stream.get_ref().local_addr()? == address {
        return Err(Errno::CONNREFUSED.into());
    }
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use smol::block_on;

    use super::super::socket::tune_edge;
    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    fn list(addresses: &[&str]) -> Vec<SocketAddr> {
        addresses.iter().map(|a| a.parse().unwrap()).collect()
    }

    /// A listener that never accepts and whose queue is full: further SYNs get no answer.
    fn deaf() -> (Socket, Vec<TcpStream>, SocketAddr) {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        socket.bind(&any.into()).unwrap();
        socket.listen(0).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        let mut queued = Vec::new();
        let patience = Duration::from_secs(1);
        while let Ok(stream) = TcpStream::connect_timeout(&address, patience) {
            queued.push(stream);
        }
        (socket, queued, address)
    }

    #[test]
    fn families_alternate_beginning_with_the_first() {
        let order = |addresses| Vec::from(interleave(list(addresses)));
        assert_eq!(
            order(&["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1"]),
            list(&["[::1]:1", "1.1.1.1:1", "[::2]:1", "[::3]:1"])
        );
        assert_eq!(
            order(&["1.1.1.1:1", "[::1]:1", "[::2]:1"]),
            list(&["1.1.1.1:1", "[::1]:1", "[::2]:1"])
        );
        assert!(order(&[]).is_empty());
    }

    #[test]
    fn many_addresses_share_the_time() {
        assert_eq!(head_start(2, Duration::from_secs(5)), HEAD_START);
        assert_eq!(
            head_start(25, Duration::from_secs(5)),
            Duration::from_millis(100)
        );
    }

    #[test]
    fn a_silent_address_does_not_hold_up_the_next_one() {
        let (_deaf, _queued, silent) = deaf();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stream = block_on(race(vec![silent, address], None, tune_edge, soon())).unwrap();
        assert_eq!(stream.get_ref().peer_addr().unwrap(), address);
    }

    #[test]
    fn the_deadline_holds() {
        let (_listener, _queued, address) = deaf();
        let deadline = Instant::now() + Duration::from_millis(20);
        let error = block_on(race(vec![address], None, tune_edge, deadline)).unwrap_err();
        assert!(matches!(error, DialFailure::TimedOut), "{error}");
        assert!(Instant::now() >= deadline);
    }
}
