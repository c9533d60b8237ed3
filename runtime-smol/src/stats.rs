//! What an instance counts. Plain atomics, shared by everything that belongs to the instance.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use protocol::terms::Transport;

macro_rules! stats {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {
        /// The counters of one instance. `rx` is what this end read from its users or targets, `tx`
        /// what it wrote to them; both in bytes of payload.
        #[derive(Debug, Default)]
        pub struct Stats {
            $($(#[$doc])* pub $name: Counter,)+
        }

        /// The counters at one moment.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Snapshot {
            $($(#[$doc])* pub $name: u64,)+
        }

        impl Stats {
            /// The counters now; each by itself is exact, together they are as good as telemetry
            /// needs.
            #[must_use]
            pub fn snapshot(&self) -> Snapshot {
                Snapshot { $($name: self.$name.get(),)+ }
            }
        }
    };
}

stats! {
    /// TCP relays running now.
    tcps,
    /// UDP sessions running now.
    udps,
    /// Bytes read from TCP users or targets.
    tcp_rx,
    /// Bytes written to TCP users or targets.
    tcp_tx,
    /// Bytes read from UDP users or targets.
    udp_rx,
    /// Bytes written to UDP users or targets.
    udp_tx,
    /// The last round-trip time of the control connection, in milliseconds.
    ping,
    /// Idle data connections now, of all sessions.
    idle,
    /// Dials that failed: targets, and data connections.
    dial_failures,
    /// Handshakes that failed to prove the key.
    auth_failures,
    /// Datagrams that could not be delivered.
    dropped,
    /// Users turned away: no slot, no data connection, or blocked.
    refused,
}

/// One number.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `amount`, wrapping after 2⁶⁴.
    pub fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Relaxed);
    }

    /// Adds a length.
    pub fn add_len(&self, len: usize) {
        self.add(u64::try_from(len).unwrap_or(u64::MAX));
    }

    /// Sets a gauge.
    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    /// The number now.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    fn sub(&self, amount: u64) {
        self.0.fetch_sub(amount, Relaxed);
    }
}

impl Stats {
    /// Counters continued from an earlier life of the instance: traffic goes on, gauges start at 0.
    #[must_use]
    pub fn resumed(before: &Snapshot) -> Self {
        let stats = Self::default();
        stats.tcp_rx.set(before.tcp_rx);
        stats.tcp_tx.set(before.tcp_tx);
        stats.udp_rx.set(before.udp_rx);
        stats.udp_tx.set(before.udp_tx);
        stats
    }

    /// Sets the traffic to zero; gauges and what went wrong stay.
    pub fn reset_traffic(&self) {
        for counter in [&self.tcp_rx, &self.tcp_tx, &self.udp_rx, &self.udp_tx] {
            counter.set(0);
        }
    }

    /// Notes a round-trip time.
    pub fn pinged(&self, round_trip: Duration) {
        self.ping
            .set(u64::try_from(round_trip.as_millis()).unwrap_or(u64::MAX));
    }

    /// Counts a relay as running until the guard is dropped.
    #[must_use]
    pub fn running(self: &Arc<Self>, transport: Transport) -> Running {
        self.gauge(transport).add(1);
        Running {
            stats: Arc::clone(self),
            transport,
        }
    }

    fn gauge(&self, transport: Transport) -> &Counter {
        match transport {
            Transport::Tcp => &self.tcps,
            Transport::Udp => &self.udps,
        }
    }
}

/// A relay that is counted as running.
#[derive(Debug)]
pub struct Running {
    stats: Arc<Stats>,
    transport: Transport,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stats.gauge(self.transport).sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn running_relays_are_counted_while_their_guard_lives() {
        let stats = Arc::new(Stats::default());
        let tcp = stats.running(Transport::Tcp);
        let both = (stats.running(Transport::Tcp), stats.running(Transport::Udp));
        assert_eq!((stats.snapshot().tcps, stats.snapshot().udps), (2, 1));
        drop(both);
        assert_eq!((stats.snapshot().tcps, stats.snapshot().udps), (1, 0));
        drop(tcp);
        assert_eq!(stats.snapshot(), Snapshot::default());
    }

    #[test]
    fn traffic_survives_a_restart_and_gauges_do_not() {
        let stats = Arc::new(Stats::default());
        stats.tcp_rx.add_len(5);
        stats.udp_tx.add(7);
        stats.pinged(Duration::from_micros(12_700));
        let _running = stats.running(Transport::Udp);
        let resumed = Stats::resumed(&stats.snapshot()).snapshot();
        assert_eq!(stats.snapshot().ping, 12);
        assert_eq!((resumed.tcp_rx, resumed.udp_tx), (5, 7));
        assert_eq!((resumed.ping, resumed.udps), (0, 0));
        stats.reset_traffic();
        let reset = stats.snapshot();
        assert_eq!((reset.tcp_rx, reset.udp_tx), (0, 0));
        assert_eq!((reset.ping, reset.udps), (12, 1));
    }
}
