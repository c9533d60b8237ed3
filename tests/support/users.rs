//! Users: what connects to a tunnel.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use super::kernel::ask_for_room;
use super::peers::PATIENCE;
use super::until::{poll, until};

/// Connects, with deadlines on every read and write.
pub(crate) fn connect(addr: SocketAddr) -> TcpStream {
    try_connect(addr, PATIENCE).unwrap_or_else(|error| panic!("connect to {addr}: {error}"))
}

/// Connects, every step within `limit`.
pub(crate) fn try_connect(addr: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&addr, limit)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    Ok(stream)
}

/// Connects with `source` as its own address.
pub(crate) fn connect_from(source: IpAddr, addr: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(source, 0).into()).unwrap();
    socket
        .connect_timeout(&addr.into(), PATIENCE)
        .expect("connect from a chosen address");
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// One round trip through an echo target.
pub(crate) fn echo(mut stream: &TcpStream, message: &[u8]) -> io::Result<()> {
    stream.write_all(message)?;
    let mut answer = vec![0; message.len()];
    stream.read_exact(&mut answer)?;
    if answer == message {
        Ok(())
    } else {
        Err(io::Error::other("the echo differs"))
    }
}

/// A fresh user makes one round trip, every step within `limit`.
pub(crate) fn try_served(addr: SocketAddr, limit: Duration) -> io::Result<()> {
    echo(&try_connect(addr, limit)?, b"are you there?")
}

/// A fresh user must make a round trip.
pub(crate) fn served(addr: SocketAddr) {
    try_served(addr, PATIENCE).unwrap_or_else(|error| panic!("a user of {addr}: {error}"));
}

/// Users come one after the other until one is served, which must be within `limit`.
pub(crate) fn until_served(addr: SocketAddr, limit: Duration) {
    until(&format!("a user of {addr} is served"), limit, || {
        try_served(addr, Duration::from_secs(1)).ok()
    });
}

/// No user is served while `span` passes.
pub(crate) fn never_served(addr: SocketAddr, span: Duration) {
    let served = poll(span, || try_served(addr, Duration::from_millis(500)).ok());
    assert!(served.is_none(), "a user of {addr} was served");
}

/// How a connection ended for its user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// End of stream.
    Closed,
    /// RST.
    Reset,
    /// It has not: `limit` passed in silence.
    StillOpen,
}

/// Reads, dropping what comes, until the connection ends or stays silent for `limit`.
pub(crate) fn end_of(mut stream: &TcpStream, limit: Duration) -> End {
    stream.set_read_timeout(Some(limit)).unwrap();
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return End::Closed,
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return End::StillOpen;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return End::Reset,
        }
    }
}

/// Whether a connection on which nothing has come has not ended.
pub(crate) fn is_open(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let seen = stream.peek(&mut [0]);
    stream.set_nonblocking(false).unwrap();
    seen.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

/// Sends `message`, which must not be answered; how the connection ended.
pub(crate) fn end_after(addr: SocketAddr, message: &[u8], limit: Duration) -> End {
    let Ok(mut stream) = try_connect(addr, limit) else {
        return End::Reset;
    };
    // The other side may be gone before the message is out. A reset is told once, to whoever asks
    // first; of anything else reading says how.
    match stream.write_all(message) {
        Err(error) if error.kind() == ErrorKind::ConnectionReset => End::Reset,
        Ok(()) | Err(_) => end_of(&stream, limit),
    }
}

/// A UDP user of `addr`.
pub(crate) fn datagrams(addr: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind(SocketAddr::new(addr.ip(), 0)).unwrap();
    socket.connect(addr).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    ask_for_room(&socket);
    socket
}

/// Asks port `port` of several addresses of this machine, each by a user that takes answers from
/// there alone, with datagrams that come back one by one and with some that come back together.
/// IPv6 only with `dual`.
pub(crate) fn answered_from_where_they_asked(port: u16, dual: bool) {
    let v4 = ["127.0.0.1", "127.0.0.2", "127.77.0.8"].map(|ip| ip.parse::<IpAddr>().unwrap());
    let v6 = dual.then(|| Ipv6Addr::LOCALHOST.into());
    for ip in v4.into_iter().chain(v6) {
        let user = UdpSocket::bind((if ip.is_ipv6() { "::1" } else { "127.0.0.1" }, 0)).unwrap();
        user.connect((ip, port)).unwrap();
        assert!(echo_datagram(&user, b"who are you?", PATIENCE), "{ip}");
        for _ in 0..20 {
            user.send(b"and again").unwrap();
        }
        let mut buffer = [0; 16];
        for number in 0..20 {
            let len = user.recv(&mut buffer);
            let len = len.unwrap_or_else(|error| panic!("{ip}, answer {number}: {error}"));
            assert_eq!(&buffer[..len], b"and again");
        }
    }
}

/// Sends `datagram` and waits for its echo for `limit`.
pub(crate) fn echo_datagram(socket: &UdpSocket, datagram: &[u8], limit: Duration) -> bool {
    socket.set_read_timeout(Some(limit)).unwrap();
    let mut buffer = vec![0; 65_536];
    if socket.send(datagram).is_err() {
        return false;
    }
    while let Ok(len) = socket.recv(&mut buffer) {
        if buffer[..len] == *datagram {
            return true;
        }
    }
    false
}

/// Sends datagrams until one is echoed, which must be within `limit`.
pub(crate) fn until_served_udp(addr: SocketAddr, limit: Duration) {
    let socket = datagrams(addr);
    until(&format!("a UDP user of {addr} is served"), limit, || {
        echo_datagram(&socket, b"are you there?", Duration::from_millis(300)).then_some(())
    });
}

/// The first byte that a fresh user gets without saying anything.
pub(crate) fn greeted(addr: SocketAddr, limit: Duration) -> Option<u8> {
    let mut stream = try_connect(addr, limit).ok()?;
    let mut first = [0];
    stream.read_exact(&mut first).ok()?;
    Some(first[0])
}

/// Sends what follows the first `sent` bytes of `message`, and reads the echo of all of it.
pub(crate) fn echo_rest(mut stream: &TcpStream, message: &[u8], sent: usize) -> io::Result<()> {
    stream.write_all(&message[sent..])?;
    let mut answer = vec![0; message.len()];
    stream.read_exact(&mut answer)?;
    if answer == message {
        Ok(())
    } else {
        Err(io::Error::other("the echo differs"))
    }
}
