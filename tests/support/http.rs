//! A web server just large enough for curl: `GET /<size>` gives that many bytes, `PUT` gives back
//! the SHA-256 of the body.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use sha2::{Digest, Sha256};

use super::{hex, noise};

/// One block of the served body, repeated with its number in front.
const BLOCK: usize = 64 * 1024;

/// Serves one request and closes. A handler for `Target::start`.
pub(crate) fn serve(stream: &TcpStream) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let (method, path) = line.split_once(' ').unwrap_or_default();
    let size = path
        .split(' ')
        .next()
        .unwrap_or_default()
        .trim_start_matches('/')
        .parse();
    let mut length = 0;
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? == 0 || header == "\r\n" {
            break;
        }
        if let Some(value) = header.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    match (method, size) {
        ("PUT", _) => answer(stream, hex(&digest(reader.take(length))?).as_bytes()),
        ("GET", Ok(size)) => {
            write!(
                &mut &*stream,
                "HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n"
            )?;
            write!(&mut &*stream, "Connection: close\r\n\r\n")?;
            body(size, |block| (&mut &*stream).write_all(block))
        }
        _ => answer(stream, b"what?"),
    }
}

/// SHA-256 of the body of `GET /<size>`.
pub(crate) fn body_sha256(size: u64) -> String {
    let mut hasher = Sha256::new();
    body(size, |block| {
        hasher.update(block);
        Ok(())
    })
    .unwrap();
    hex(&hasher.finalize())
}

/// The body of `GET /<size>`, block by block.
pub(crate) fn body(size: u64, mut each: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut block = noise(BLOCK, 7);
    let mut left = size;
    let mut number = 0_u64;
    while left > 0 {
        block[..8].copy_from_slice(&number.to_be_bytes());
        let count = usize::try_from(left).unwrap_or(usize::MAX).min(BLOCK);
        each(&block[..count])?;
        left -= count as u64;
        number += 1;
    }
    Ok(())
}

/// SHA-256 of all that `reader` gives.
pub(crate) fn digest(mut reader: impl Read) -> io::Result<Vec<u8>> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; BLOCK];
    loop {
        let count = reader.read(&mut buffer)?;
        if count == 0 {
            return Ok(hasher.finalize().to_vec());
        }
        hasher.update(&buffer[..count]);
    }
}

fn answer(mut stream: &TcpStream, text: &[u8]) -> io::Result<()> {
    let length = text.len();
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    )?;
    stream.write_all(text)
}
