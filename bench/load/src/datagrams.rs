//! Datagrams there and back.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::{DATAGRAM, Result};

/// Datagrams of a burst.
const BURST: u32 = 640;
/// Datagrams under way in a flood.
const UNDER_WAY: u32 = 64;
/// Without an answer for this long, what is under way is lost.
const LOST: Duration = Duration::from_millis(300);

/// Sends bursts and waits for what comes back, until `time` is over.
pub fn burst(to: SocketAddr, time: Duration) -> Result<()> {
    let socket = open(to)?;
    let end = Instant::now() + time;
    let (mut bursts, mut least, mut all) = (0_u32, BURST, 0);
    while bursts == 0 || Instant::now() < end {
        let mut came = 0;
        socket.set_nonblocking(true)?;
        for number in 0..BURST {
            send(&socket, bursts, number)?;
            // What comes back early must not be lost here.
            while receive(&socket, bursts)? {
                came += 1;
            }
        }
        socket.set_nonblocking(false)?;
        while came < BURST && receive(&socket, bursts)? {
            came += 1;
        }
        bursts += 1;
        least = least.min(came);
        all += came;
    }
    let mean = f64::from(all) / f64::from(bursts);
    println!("{{\"bursts\":{bursts},\"mean\":{mean:.1},\"least\":{least}}}");
    Ok(())
}

/// Keeps some datagrams under way for `time`.
pub fn flood(to: SocketAddr, time: Duration) -> Result<()> {
    let socket = open(to)?;
    let start = Instant::now();
    let (mut sent, mut came, mut under_way) = (0_u32, 0_u32, 0);
    while start.elapsed() < time {
        while under_way < UNDER_WAY {
            send(&socket, 0, sent)?;
            sent += 1;
            under_way += 1;
        }
        if receive(&socket, 0)? {
            came += 1;
            under_way -= 1;
        } else {
            under_way = 0;
        }
    }
    let rate = f64::from(came) / start.elapsed().as_secs_f64();
    let lost = sent - came - under_way;
    println!("{{\"per_s\":{rate:.1},\"sent\":{sent},\"lost\":{lost}}}");
    Ok(())
}

/// A socket with as much room as the system gives. Port 0 is any.
pub fn bind(port: u16) -> Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, port))?;
    SockRef::from(&socket).set_recv_buffer_size(4 * 1024 * 1024)?;
    SockRef::from(&socket).set_send_buffer_size(4 * 1024 * 1024)?;
    Ok(socket)
}

fn open(to: SocketAddr) -> Result<UdpSocket> {
    let socket = bind(0)?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(LOST))?;
    // The first one sets a session up.
    for _ in 0..20 {
        send(&socket, u32::MAX, 0)?;
        if receive(&socket, u32::MAX)? {
            return Ok(socket);
        }
    }
    Err("no datagram comes back".into())
}

fn send(socket: &UdpSocket, burst: u32, number: u32) -> Result<()> {
    let mut datagram = [0; DATAGRAM];
    datagram[..4].copy_from_slice(&burst.to_be_bytes());
    datagram[4..8].copy_from_slice(&number.to_be_bytes());
    match socket.send(&datagram) {
        Err(error) if error.kind() != ErrorKind::ConnectionRefused => Err(error.into()),
        _ => Ok(()),
    }
}

/// Whether one of this burst comes before it must be lost. Late ones of others do not count.
fn receive(socket: &UdpSocket, burst: u32) -> Result<bool> {
    let mut datagram = [0; DATAGRAM];
    loop {
        match socket.recv(&mut datagram) {
            Ok(_) if datagram[..4] == burst.to_be_bytes() => return Ok(true),
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Ok(false);
            }
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
}
