//! What the kernel knows about sockets and processes, read without touching them.

use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use socket2::SockRef;

use super::until::until;

const ESTABLISHED: &str = "01";
const SYN_SENT: &str = "02";
const LISTEN: &str = "0A";
/// Ticks per second in `/proc/<pid>/stat`, the same on every architecture we run on.
const USER_HZ: u64 = 100;

/// Waits until something listens for TCP on the port of `addr`.
pub(crate) fn until_listening(addr: SocketAddr) {
    let what = format!("a listener on {addr}");
    until(&what, Duration::from_secs(20), || {
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

/// Whether a connection to `addr`, an IPv4 address, has been begun and not yet answered.
pub(crate) fn is_dialled(addr: SocketAddr) -> bool {
    let suffix = format!(":{:04X}", addr.port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    table.lines().any(|row| {
        let mut fields = row.split_ascii_whitespace().skip(2);
        let remote = fields.next().is_some_and(|addr| addr.ends_with(&suffix));
        remote && fields.next() == Some(SYN_SENT)
    })
}

fn sockets(kind: &str, port: u16, state: &str) -> usize {
    let suffix = format!(":{port:04X}");
    let tables = ["", "6"].map(|family| format!("/proc/thread-self/net/{kind}{family}"));
    let tables = tables.map(std::fs::read_to_string);
    // A table that changes while it is read may show a socket twice.
    let mut found = BTreeSet::new();
    for table in tables.iter().flatten() {
        for row in table.lines().skip(1) {
            let mut fields = row.split_ascii_whitespace().skip(1);
            if let (Some(local), Some(remote)) = (fields.next(), fields.next())
                && local.ends_with(&suffix)
                && fields.next() == Some(state)
            {
                found.insert((local, remote));
            }
        }
    }
    found.len()
}

/// Proportional set size of a process in bytes. It changes with the number of other processes that
/// run the same binary.
pub(crate) fn pss(pid: u32) -> u64 {
    memory(pid, "Pss:")
}

/// What a process keeps in memory that is its own, in bytes: the same without what is mapped from
/// files.
pub(crate) fn own_memory(pid: u32) -> u64 {
    memory(pid, "Pss_Anon:")
}

fn memory(pid: u32, kind: &str) -> u64 {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let mut rows = rollup.lines().map(str::split_ascii_whitespace);
    let kib = rows.find_map(|mut row| (row.next() == Some(kind)).then(|| row.next()));
    let kib: u64 = kib.flatten().unwrap().parse().unwrap();
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

/// Descriptors that a process has open.
pub(crate) fn descriptors(pid: u32) -> usize {
    let list = std::fs::read_dir(format!("/proc/{pid}/fd"));
    list.map(Iterator::count).unwrap_or_default()
}

/// The TCP sockets that a process has open, as rows of the kernel's table, to be shown when a test
/// fails.
pub(crate) fn tcp_sockets(pid: u32) -> Vec<String> {
    let links = std::fs::read_dir(format!("/proc/{pid}/fd"));
    let links = links.into_iter().flatten().flatten();
    let inodes: BTreeSet<String> = links
        .filter_map(|entry| std::fs::read_link(entry.path()).ok())
        .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.replace(']', "")))
        .collect();
    let table = std::fs::read_to_string("/proc/thread-self/net/tcp").unwrap_or_default();
    let is_its = |row: &&str| {
        let mut fields = row.split_ascii_whitespace();
        fields.nth(9).is_some_and(|inode| inodes.contains(inode))
    };
    table.lines().filter(is_its).map(str::to_owned).collect()
}

/// What a receive buffer is asked to hold, in bytes.
const ROOM: usize = 4 << 20;

/// Asks for a receive buffer that holds a burst of datagrams; how many bytes the kernel counts it
/// as. Without privileges it is what `net.core.rmem_max` allows.
pub(crate) fn ask_for_room(socket: &UdpSocket) -> usize {
    let options = SockRef::from(socket);
    if set_socket_recv_buffer_size_force(socket, ROOM).is_err() {
        options.set_recv_buffer_size(ROOM).unwrap();
    }
    options.recv_buffer_size().unwrap()
}

/// What the kernel counts a waiting datagram as, at most: it rounds up to a power of two.
pub(crate) const fn room_of(len: usize) -> usize {
    2 * len + 2048
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
