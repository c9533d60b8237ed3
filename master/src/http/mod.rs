//! HTTP/1.1 over our own sockets: connections and their limits, TLS, framing. What a request
//! means is the API's business.

mod adapter;
pub(crate) mod body;
pub(crate) mod certificate;
mod connection;
mod date;
pub(crate) mod head;
mod limits;
mod response;
mod seats;
pub(crate) mod sse;
mod stream;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod wire;

use std::io;
use std::net::{IpAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use event_listener::Event;
use runtime_smol::executor::Handle;
use runtime_smol::group::Group;
use runtime_smol::net::{Acceptor, Polled};
use runtime_smol::tls::ServerTls;
use smol::future;
use socket2::{SockRef, TcpKeepalive};

use self::adapter::Adapter;
use self::limits::Limits;
use self::seats::{Held, Seats};
use crate::api::Api;

/// Probes of an idle connection.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// Serves one API.
#[derive(Debug)]
pub(crate) struct Http {
    adapter: Adapter,
    prefix: String,
    tls: Option<Arc<ServerTls>>,
    seats: Arc<Seats>,
    limits: Limits,
    stop: AtomicBool,
    stopped: Event,
}

impl Http {
    /// For the paths below `prefix`; under TLS if there is a certificate.
    pub(crate) fn new(api: Api, prefix: &str, tls: Option<Arc<ServerTls>>) -> Option<Self> {
        Self::with(api, prefix, tls, Limits::REST)
    }

    fn with(api: Api, prefix: &str, tls: Option<Arc<ServerTls>>, limits: Limits) -> Option<Self> {
        Some(Self {
            adapter: Adapter::new(Arc::new(api))?,
            prefix: prefix.to_owned(),
            tls,
            seats: Seats::new(limits.connections),
            limits,
            stop: AtomicBool::new(false),
            stopped: Event::new(),
        })
    }

    /// Accepts connections and serves each by a task of `group`, until told to stop; the listener
    /// is closed then.
    pub(crate) async fn serve(
        self: Arc<Self>,
        listener: Polled<TcpListener>,
        executor: Handle,
        group: Weak<Group>,
    ) {
        let mut acceptor = Acceptor::new(listener, tune);
        let mut crowded = false;
        loop {
            let accepted = async { Some(acceptor.accept().await) };
            let stopping = async {
                self.stopping().await;
                None
            };
            let (tcp, peer) = match future::or(stopping, accepted).await {
                Some(Ok(accepted)) => accepted,
                Some(Err(error)) => {
                    tracing::error!("the API cannot accept connections any more: {error}");
                    return;
                }
                None => return,
            };
            let seat = self.seats.take();
            let was_crowded = std::mem::replace(&mut crowded, seat.is_none());
            match seat {
                Some(seat) => {
                    let Some(group) = group.upgrade() else {
                        return;
                    };
                    let http = Arc::clone(&self);
                    group.spawn(&executor, http.connection(tcp, peer.ip(), seat));
                }
                None if !was_crowded => {
                    let all = self.limits.connections;
                    tracing::warn!("all {all} API connections are in use, more are closed");
                }
                None => {}
            }
        }
    }

    async fn connection(self: Arc<Self>, tcp: Polled<TcpStream>, peer: IpAddr, seat: Held) {
        let served = async {
            match connection::open(tcp, &self).await {
                Ok(stream) => connection::serve(stream, peer, &seat, &self).await,
                Err(error) => tracing::debug!("{peer}: no TLS: {error}"),
            }
        };
        future::or(served, seat.lost()).await;
    }

    /// Accepts nothing more, and ends connections as soon as they have no request.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.stopped.notify(usize::MAX);
    }

    fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Waits until told to stop.
    pub(crate) async fn stopping(&self) {
        while !self.is_stopping() {
            let stopped = self.stopped.listen();
            if !self.is_stopping() {
                stopped.await;
            }
        }
    }
}

/// Small answers at once, and callers that vanished without a word are noticed.
fn tune(socket: &SockRef<'_>) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_user_timeout(Some(Limits::REST.write))?;
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE * 2);
    socket.set_tcp_keepalive(&keepalive.with_interval(KEEPALIVE).with_retries(3))
}
