//! Many small requests, on new connections or on kept ones.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::Result;
use crate::target::ANSWER;

/// What a request is.
#[derive(Clone, Copy)]
pub enum Kind {
    /// A new connection, HTTP with `Connection: close`, until its end.
    Close,
    /// HTTP on a kept connection.
    Keep,
    /// A new connection, 64 bytes there and back, then closed from here.
    Raw,
}

const CLOSE: &[u8] = b"GET / HTTP/1.1\r\nHost: load\r\nConnection: close\r\n\r\n";
const KEEP: &[u8] = b"GET / HTTP/1.1\r\nHost: load\r\n\r\n";
const RAW: &[u8; 64] = &[b'x'; 64];

/// Sends requests from `at_once` threads for `time`.
pub fn run(kind: Kind, to: SocketAddr, at_once: usize, time: Duration) -> Result<()> {
    let start = Instant::now();
    let end = start + time;
    let threads: Vec<_> = (0..at_once)
        .map(|_| thread::spawn(move || requests(kind, to, end)))
        .collect();
    let (mut times, mut failed) = (Vec::new(), 0);
    for thread in threads {
        let (some, bad) = thread.join().map_err(|_| "a thread panicked")?;
        times.extend(some);
        failed += bad;
    }
    let took = start.elapsed().as_secs_f64();
    times.sort_unstable();
    let at = |share: f64| {
        let index = (times.len() as f64 * share) as usize;
        let time = times.get(index.min(times.len().saturating_sub(1)));
        time.map_or(0.0, |time: &Duration| time.as_secs_f64() * 1e3)
    };
    println!(
        "{{\"done\":{},\"failed\":{failed},\"per_s\":{:.1},\"p50\":{:.3},\"p99\":{:.3}}}",
        times.len(),
        times.len() as f64 / took,
        at(0.5),
        at(0.99)
    );
    Ok(())
}

fn requests(kind: Kind, to: SocketAddr, end: Instant) -> (Vec<Duration>, usize) {
    let (mut times, mut failed, mut kept) = (Vec::new(), 0, None);
    loop {
        let start = Instant::now();
        if start >= end {
            return (times, failed);
        }
        let done = match kind {
            Kind::Close => close(to),
            Kind::Keep => keep(to, &mut kept),
            Kind::Raw => raw(to),
        };
        match done {
            Ok(()) => times.push(start.elapsed()),
            Err(_) => {
                failed += 1;
                kept = None;
                thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(to)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    Ok(stream)
}

fn close(to: SocketAddr) -> io::Result<()> {
    let mut stream = connect(to)?;
    stream.write_all(CLOSE)?;
    let mut got = Vec::new();
    stream.read_to_end(&mut got)?;
    let whole = got.starts_with(b"HTTP/1.1 200") && got.len() > ANSWER.len();
    whole.then_some(()).ok_or(io::ErrorKind::InvalidData.into())
}

fn keep(to: SocketAddr, kept: &mut Option<TcpStream>) -> io::Result<()> {
    let stream = match kept {
        Some(stream) => stream,
        None => kept.insert(connect(to)?),
    };
    stream.write_all(KEEP)?;
    stream.read_exact(&mut [0; ANSWER.len()])
}

fn raw(to: SocketAddr) -> io::Result<()> {
    let mut stream = connect(to)?;
    stream.write_all(RAW)?;
    stream.read_exact(&mut [0; RAW.len()])
}
