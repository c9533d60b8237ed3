//! What stands behind the tunnels.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread::Builder;

use crate::Result;

/// The answer to a request: small, with its length.
pub const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 64\r\n\r\n\
    0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcde\n";
/// The same, after which the connection ends.
const LAST_ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 64\r\nConnection: close\r\n\r\n\
    0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcde\n";

/// A connection needs little, and there may be thousands.
const STACK: usize = 64 * 1024;

/// Serves on ports of the system's choice until it is killed.
pub fn serve() -> Result<()> {
    let discard = listen(discard)?;
    let source = listen(source)?;
    let echo = listen(echo)?;
    let http = listen(http)?;
    // A tunnel has one target for both transports.
    let udp = crate::datagrams::bind(echo)?;
    let port = echo;
    println!(
        "{{\"discard\":{discard},\"source\":{source},\"echo\":{echo},\"http\":{http},\"udp\":{port}}}"
    );
    io::stdout().flush()?;
    let mut buffer = [0; 65536];
    loop {
        let (len, from) = udp.recv_from(&mut buffer)?;
        // A full socket loses the datagram, which then counts as lost.
        drop(udp.send_to(&buffer[..len], from));
    }
}

fn listen(serve: fn(TcpStream) -> io::Result<()>) -> Result<u16> {
    // The standard library's backlog is 128 on some systems and 4096 on others; a peer's connections
    // come one by one.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = stream.set_nodelay(true);
            // What happens to one connection shows at its other end.
            let _ = Builder::new()
                .stack_size(STACK)
                .spawn(move || serve(stream));
        }
    });
    Ok(port)
}

fn discard(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; 256 * 1024];
    while stream.read(&mut buffer)? > 0 {}
    Ok(())
}

fn source(mut stream: TcpStream) -> io::Result<()> {
    let buffer = vec![7; 256 * 1024];
    loop {
        stream.write_all(&buffer)?;
    }
}

fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            len => stream.write_all(&buffer[..len])?,
        }
    }
}

fn http(stream: TcpStream) -> io::Result<()> {
    let mut reader = BufReader::with_capacity(1024, stream);
    loop {
        let (mut line, mut last) = (String::new(), false);
        loop {
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            last |= line.eq_ignore_ascii_case("connection: close\r\n");
            if line == "\r\n" {
                break;
            }
        }
        let answer = if last { LAST_ANSWER } else { ANSWER };
        reader.get_mut().write_all(answer)?;
        if last {
            return Ok(());
        }
    }
}
