//! Accepting connections, whatever the system runs short of.

use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::SocketFlags;
use rustix::process::{Resource, getrlimit};
use socket2::SockRef;

use super::polled::Polled;
use super::reason;
use super::shortage::{Episode, is_shortage};
use super::socket::{Tune, canonical};
use crate::timer::Timer;

/// The pause when the system has no room for another connection.
const PAUSE: Duration = Duration::from_millis(50);

/// A listener that keeps accepting: it waits out shortages instead of failing.
///
/// One task owns it. Handshakes do not belong into that task.
#[derive(Debug)]
pub struct Acceptor {
    listener: Polled<TcpListener>,
    /// For each connection, unless it inherits its options.
    tune: Option<Tune>,
    /// Descriptors in use from which on accepting pauses.
    crowd: u64,
    /// The last accepted descriptor's number reached `crowd`.
    crowded: bool,
    crowding: Episode,
    shortage: Episode,
}

impl Acceptor {
    /// Accepts from `listener` and prepares each connection with `tune`. Accepting pauses while
    /// 95 % of the process's descriptors (its soft limit now) are in use.
    #[must_use]
    pub fn new(listener: Polled<TcpListener>, tune: Tune) -> Self {
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        Self::with_crowd(listener, tune, limit.saturating_sub(limit / 20))
    }

    fn with_crowd(listener: Polled<TcpListener>, tune: Tune, crowd: u64) -> Self {
        // Linux hands the options of the listener down: half a dozen system calls less for each
        // connection.
        let inherited =
            cfg!(target_os = "linux") && tune(&SockRef::from(listener.get_ref())).is_ok();
        Self {
            listener,
            tune: (!inherited).then_some(tune),
            crowd,
            crowded: false,
            crowding: Episode::default(),
            shortage: Episode::default(),
        }
    }

    /// The listener's own address.
    ///
    /// # Errors
    /// Those of `getsockname`.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.get_ref().local_addr()
    }

    /// The next connection and its peer's address, an IPv4 one written as such. Dropping the future
    /// loses no connection.
    ///
    /// # Errors
    /// The listener itself is broken, which should not happen.
    pub async fn accept(&mut self) -> io::Result<(Polled<TcpStream>, SocketAddr)> {
        self.wait_for_descriptors().await;
        loop {
            let error = match poll_fn(|cx| self.listener.poll_read_with(cx, take)).await {
                Ok((stream, peer)) => match Polled::new_nonblocking(stream) {
                    Ok(stream) => return Ok((self.admit(stream), canonical(peer))),
                    Err(error) => error,
                },
                Err(error) => error,
            };
            match classify(&error) {
                Trouble::Connection => {}
                Trouble::Shortage => {
                    if self.shortage.begins(Instant::now()) {
                        tracing::warn!("accepting waits: {}", reason(&error));
                    }
                    Timer::after(PAUSE).await;
                }
                Trouble::Listener => return Err(error),
            }
        }
    }

    fn admit(&mut self, stream: Polled<TcpStream>) -> Polled<TcpStream> {
        // The system gives out the lowest free number, so all below it are in use.
        self.crowded = number(stream.get_ref()) >= self.crowd;
        if let Some(tune) = self.tune {
            // A peer that is gone already shows when its connection is read.
            drop(tune(&SockRef::from(stream.get_ref())));
        }
        stream
    }

    async fn wait_for_descriptors(&mut self) {
        while self.crowded {
            if self.crowding.begins(Instant::now()) {
                tracing::warn!(
                    "accepting pauses: {} descriptors are in use, 95 % of the limit",
                    self.crowd
                );
            }
            Timer::after(PAUSE).await;
            let lowest = rustix::io::fcntl_dupfd_cloexec(self.listener.get_ref(), 0);
            self.crowded = lowest.is_ok_and(|free| number(&free) >= self.crowd);
        }
    }
}

fn take(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let (socket, peer) = rustix::net::acceptfrom_with(listener, flags)?;
    let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
    let stream = TcpStream::from(socket);
    match peer {
        Some(peer) => Ok((stream, peer)),
        None => Err(Errno::CONNABORTED.into()),
    }
}

fn number(descriptor: &impl std::os::fd::AsFd) -> u64 {
    u64::try_from(descriptor.as_fd().as_raw_fd()).unwrap_or_default()
}

/// What a failed accept is about.
#[derive(Debug, PartialEq, Eq)]
enum Trouble {
    /// That one connection, which is gone.
    Connection,
    /// The process or the system has no room.
    Shortage,
    /// The listener.
    Listener,
}

fn classify(error: &io::Error) -> Trouble {
    if is_shortage(error) {
        return Trouble::Shortage;
    }
    match Errno::from_io_error(error) {
        Some(Errno::BADF | Errno::FAULT | Errno::INVAL | Errno::NOTSOCK) => Trouble::Listener,
        // accept(2) passes on what happened to the connection while it waited.
        _ => Trouble::Connection,
    }
}

#[cfg(test)]
mod tests {
    use smol::future::{FutureExt as _, poll_once};

    use super::super::listen::listen_tcp;
    use super::super::socket::{TUNNEL_IDLE, TUNNEL_USER_TIMEOUT, tune_edge, tune_tunnel};
    use super::*;

    #[test]
    fn errors_of_connections_and_shortages_do_not_end_accepting() {
        let of = |errno: Errno| classify(&errno.into());
        assert_eq!(of(Errno::CONNABORTED), Trouble::Connection);
        assert_eq!(of(Errno::PERM), Trouble::Connection);
        assert_eq!(of(Errno::MFILE), Trouble::Shortage);
        assert_eq!(of(Errno::BADF), Trouble::Listener);
    }

    #[test]
    fn a_dual_stack_listener_names_ipv4_peers_plainly() {
        smol::block_on(async {
            let mut acceptor =
                Acceptor::new(listen_tcp("[::]:0".parse().unwrap()).unwrap(), tune_edge);
            let port = acceptor.local_addr().unwrap().port();
            let user = TcpStream::connect(("127.0.0.1", port)).unwrap();
            let (served, peer) = acceptor.accept().await.unwrap();
            assert_eq!(peer, user.local_addr().unwrap());
            assert!(served.get_ref().nodelay().unwrap());
        });
    }

    #[test]
    fn every_connection_is_tuned() {
        smol::block_on(async {
            let listener = listen_tcp("127.0.0.1:0".parse().unwrap()).unwrap();
            let mut acceptor = Acceptor::new(listener, tune_tunnel);
            let _peer = TcpStream::connect(acceptor.local_addr().unwrap()).unwrap();
            let (accepted, _) = acceptor.accept().await.unwrap();
            let socket = SockRef::from(accepted.get_ref());
            assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
            assert_eq!(socket.tcp_keepalive_time().unwrap(), TUNNEL_IDLE);
            assert_eq!(
                socket.tcp_user_timeout().unwrap(),
                Some(TUNNEL_USER_TIMEOUT)
            );
        });
    }

    #[test]
    fn accepting_pauses_until_descriptors_are_free_again() {
        smol::block_on(async {
            let listener = listen_tcp("127.0.0.1:0".parse().unwrap()).unwrap();
            // Every connection is one too many.
            let mut acceptor = Acceptor::with_crowd(listener, tune_edge, 0);
            let address = acceptor.local_addr().unwrap();
            let _users = [(); 2].map(|()| TcpStream::connect(address).unwrap());
            acceptor.accept().await.unwrap();
            assert!(poll_once(acceptor.accept()).await.is_none());
            acceptor.crowd = u64::MAX;
            let late = async {
                Timer::after(Duration::from_secs(10)).await;
                Err(Errno::TIMEDOUT.into())
            };
            acceptor.accept().or(late).await.unwrap();
        });
    }
}
