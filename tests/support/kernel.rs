//! What the kernel knows about sockets and processes, read without touching them.

use std::net::SocketAddr;
use std::time::Duration;

use super::until::until;

const ESTABLISHED: &str = "01";
const LISTEN: &str = "0A";
/// Ticks per second in `/proc/<pid>/stat`, the same on every architecture we run on.
const USER_HZ: u64 = 100;

/// Waits until something listens for TCP on the port of `addr`.
pub(crate) fn until_listening(addr: SocketAddr) {
    let what = format!("a listener on {addr}");
    until(&what, Duration::from_secs(10), || {
        is_listening(addr).then_some(())
    });
}

/// Whether something listens for TCP on the port of `addr`.
pub(crate) fn is_listening(addr: SocketAddr) -> bool {
    sockets("tcp", addr.port(), LISTEN) > 0
}

/// Whether a UDP socket is bound to the port of `addr`.
pub(crate) fn is_bound_udp(addr: SocketAddr) -> bool {
    sockets("udp", addr.port(), "07") > 0
}

/// Established TCP connections that were accepted on the port of `addr`.
pub(crate) fn established(addr: SocketAddr) -> usize {
    sockets("tcp", addr.port(), ESTABLISHED)
}

fn sockets(kind: &str, port: u16, state: &str) -> usize {
    let suffix = format!(":{port:04X}");
    ["", "6"]
        .iter()
        .filter_map(|family| std::fs::read_to_string(format!("/proc/net/{kind}{family}")).ok())
        .map(|table| {
            let rows = table.lines().skip(1).map(str::split_ascii_whitespace);
            rows.filter(|row| {
                let mut row = row.clone();
                row.nth(1).is_some_and(|local| local.ends_with(&suffix))
                    && row.nth(1) == Some(state)
            })
            .count()
        })
        .sum()
}

/// Proportional set size of a process in bytes.
pub(crate) fn pss(pid: u32) -> u64 {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = rollup
        .lines()
        .find(|line| line.starts_with("Pss:"))
        .unwrap();
    let kib: u64 = line
        .split_ascii_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    kib * 1024
}

/// Processor time that a process has used.
pub(crate) fn cpu(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, after_name) = stat.rsplit_once(')').unwrap();
    let fields: Vec<&str> = after_name.split_ascii_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 1000 / USER_HZ)
}

/// Raises this process's own descriptor limit as far as it may.
pub(crate) fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    setrlimit(Resource::Nofile, raised).expect("raise the descriptor limit");
}
