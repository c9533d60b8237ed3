//! The targets of an instance: which is dialled, in which order, and what is learnt from it.

use std::net::{TcpStream, UdpSocket};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use protocol::balance::Balance;
use protocol::config::{HostPort, Tunnel};
use protocol::rng::Seed;
use protocol::wire::launch::Status;

use crate::clock::Clock;
use crate::net::{DialError, DialFailure, Dialer, Polled};
use crate::stats::Stats;
use crate::timer::Timer;

/// The targets and the order they are tried in.
#[derive(Debug)]
pub(super) struct Targets {
    hosts: Vec<HostPort>,
    balance: Mutex<Balance>,
    dialer: Dialer,
    tcp_timeout: Duration,
    udp_timeout: Duration,
    report_interval: Duration,
    /// Whether TCP is carried.
    tcp: bool,
}

impl Targets {
    pub(super) fn new(config: &Tunnel, dialer: Dialer, seed: Seed) -> Self {
        Self {
            hosts: config.targets.clone(),
            balance: Mutex::new(Balance::new(config.lbs, config.targets.len(), seed)),
            dialer,
            tcp_timeout: config.env.tcp_dial_timeout,
            udp_timeout: config.env.udp_dial_timeout,
            report_interval: config.env.report_interval,
            tcp: config.tcp,
        }
    }

    /// Connects to the first target that answers, within `NP_TCP_DIAL_TIMEOUT` in all.
    pub(super) async fn tcp(&self, stats: &Stats) -> Result<Polled<TcpStream>, Status> {
        let deadline = Instant::now() + self.tcp_timeout;
        let order = self.balance().order(Clock::new().now());
        let mut failure = Status::Unreachable;
        for (tried, &index) in order.iter().enumerate() {
            let Some(host) = self.hosts.get(index) else {
                continue;
            };
            let share = share(deadline, order.len() - tried);
            let started = Instant::now();
            match self.dialer.tcp(&host.host, host.port, share).await {
                Ok(stream) => {
                    self.balance().succeeded(index, started.elapsed());
                    return Ok(stream);
                }
                Err(error) => failure = self.failed(stats, index, &error),
            }
        }
        Err(failure)
    }

    /// A socket for the first target that has an address, within `NP_UDP_DIAL_TIMEOUT` in all.
    pub(super) async fn udp(&self, stats: &Stats) -> Result<Polled<UdpSocket>, Status> {
        let deadline = Instant::now() + self.udp_timeout;
        let order = self.balance().order(Clock::new().now());
        let mut failure = Status::Unreachable;
        for (tried, &index) in order.iter().enumerate() {
            let Some(host) = self.hosts.get(index) else {
                continue;
            };
            let share = share(deadline, order.len() - tried);
            match self.dialer.udp(&host.host, host.port, share).await {
                Ok(socket) => {
                    self.balance().reached(index);
                    return Ok(socket);
                }
                Err(error) => failure = self.failed(stats, index, &error),
            }
        }
        Err(failure)
    }

    /// Whether [`probe`](Self::probe) has anything to do. Targets of UDP alone are not asked by TCP.
    pub(super) fn wants_probes(&self) -> bool {
        self.tcp && self.balance().wants_probes()
    }

    /// Measures the connect latency of every target, each report interval, for ever.
    pub(super) async fn probe(&self, stats: &Stats) {
        loop {
            for (index, host) in self.hosts.iter().enumerate() {
                let started = Instant::now();
                match self
                    .dialer
                    .tcp(&host.host, host.port, started + self.tcp_timeout)
                    .await
                {
                    Ok(_) => self.balance().succeeded(index, started.elapsed()),
                    Err(error) => {
                        self.failed(stats, index, &error);
                    }
                }
            }
            Timer::after(self.report_interval).await;
        }
    }

    fn failed(&self, stats: &Stats, index: usize, error: &DialError) -> Status {
        stats.dial_failures.add(1);
        tracing::debug!(%error, "target not reached");
        self.balance().failed(Clock::new().now(), index);
        match error.failure {
            DialFailure::Refused => Status::Refused,
            DialFailure::TimedOut => Status::TimedOut,
            DialFailure::Local(_) | DialFailure::Unreachable | DialFailure::Unresolved(_) => {
                Status::Unreachable
            }
        }
    }

    fn balance(&self) -> MutexGuard<'_, Balance> {
        self.balance.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When to give up one of `left` targets, so that the others have their share of the time.
fn share(deadline: Instant, left: usize) -> Instant {
    let now = Instant::now();
    let left = u32::try_from(left.max(1)).unwrap_or(u32::MAX);
    now + deadline.saturating_duration_since(now) / left
}

#[cfg(test)]
mod tests {
    use protocol::config::{Config, parse};

    use super::*;
    use crate::net::Resolver;

    fn targets(url: &str) -> Targets {
        let Config::Tunnel(config) = parse(url, &|_| None).unwrap().config else {
            panic!("{url} is a master");
        };
        let dialer = Dialer::new(Resolver::new(config.dns), None);
        Targets::new(&config, dialer, Seed([1; 32]))
    }

    #[test]
    fn tcp_probes_are_for_targets_of_tcp() {
        let targets = |more| targets(&format!("client://:1/a:2,b:3?mode=1&{more}"));
        assert!(targets("lbs=1").wants_probes());
        assert!(targets("lbs=1&noudp=1").wants_probes());
        assert!(!targets("lbs=1&notcp=1").wants_probes());
        assert!(!targets("lbs=2").wants_probes());
    }

    #[test]
    fn a_udp_target_that_has_an_address_again_is_used_again() {
        let targets = targets("client://:1/127.0.0.1:2,127.0.0.1:3?mode=1&notcp=1&lbs=2");
        let stats = Stats::default();
        let port = || {
            let socket = smol::block_on(targets.udp(&stats)).unwrap();
            socket.get_ref().peer_addr().unwrap().port()
        };
        assert_eq!(port(), 2);
        let unresolved = DialError {
            target: "127.0.0.1:2".to_owned(),
            failure: DialFailure::Unreachable,
        };
        // On a busy machine a back-off may be over before it is looked at.
        let avoided = (0..100).any(|_| {
            targets.failed(&stats, 0, &unresolved);
            port() == 3
        });
        assert!(avoided);
        let patience = Instant::now() + Duration::from_secs(20);
        while port() != 2 {
            assert!(Instant::now() < patience, "never tried again");
        }
        // The one that tried is not the only one.
        assert_eq!([port(), port()], [2, 2]);
    }
}
