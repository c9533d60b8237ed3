//! Bulk transfers, the first connection, and connections that do nothing.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::Result;

/// Which way the bytes go, seen from here.
#[derive(Clone, Copy)]
pub enum Way {
    Up,
    Down,
}

/// Moves bytes on `connections` for `time`, of which the first tenth does not count.
pub fn run(way: Way, to: SocketAddr, connections: usize, time: Duration) -> Result<()> {
    let moved = Arc::new(AtomicU64::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let mut threads = Vec::new();
    for _ in 0..connections {
        let stream = TcpStream::connect(to)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.set_write_timeout(Some(Duration::from_secs(10)))?;
        let (moved, stop) = (Arc::clone(&moved), Arc::clone(&stop));
        threads.push(thread::spawn(move || shovel(way, stream, &moved, &stop)));
    }
    thread::sleep(time / 10);
    let (start, before) = (Instant::now(), moved.load(Ordering::Relaxed));
    thread::sleep(time - time / 10);
    let (took, counted) = (start.elapsed(), moved.load(Ordering::Relaxed) - before);
    stop.store(true, Ordering::Relaxed);
    for thread in threads {
        thread.join().map_err(|_| "a thread panicked")??;
    }
    let total = moved.load(Ordering::Relaxed);
    let rate = counted as f64 * 8.0 / 1e9 / took.as_secs_f64();
    // `total` also has what the rate does not count: processor time is measured around all of it.
    println!("{{\"gbits\":{rate:.4},\"total\":{total}}}");
    Ok(())
}

fn shovel(way: Way, mut stream: TcpStream, moved: &AtomicU64, stop: &AtomicBool) -> Result<()> {
    let mut buffer = vec![7; 256 * 1024];
    while !stop.load(Ordering::Relaxed) {
        let len = match way {
            Way::Up => stream.write(&buffer)?,
            Way::Down => stream.read(&mut buffer)?,
        };
        if len == 0 {
            return Err("the connection ended early".into());
        }
        moved.fetch_add(len as u64, Ordering::Relaxed);
    }
    Ok(())
}

/// How long it takes from now until a byte comes back.
pub fn first(to: SocketAddr, patience: Duration) -> Result<()> {
    let start = Instant::now();
    while ping(to).is_err() {
        if start.elapsed() > patience {
            return Err("nothing came back in time".into());
        }
        thread::sleep(Duration::from_millis(2));
    }
    println!("{{\"ms\":{:.1}}}", start.elapsed().as_secs_f64() * 1e3);
    Ok(())
}

fn ping(to: SocketAddr) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"x")?;
    stream.read_exact(&mut [0])?;
    Ok(stream)
}

/// Opens connections that have worked once, and keeps them until standard input ends.
pub fn idle(to: SocketAddr, connections: usize) -> Result<()> {
    let mut open = Vec::new();
    for _ in 0..connections {
        open.push(ping(to)?);
    }
    println!("{{\"open\":{}}}", open.len());
    std::io::stdout().flush()?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
