//! Makes traffic and measures what comes of it; `bench/compare` runs it around tunnels.
//!
//!     load target                                  listen; prints {"discard":PORT, …} and stays
//!     load stream up|down ADDRESS CONNECTIONS SECONDS
//!     load requests close|keep|raw ADDRESS AT_ONCE SECONDS
//!     load udp burst|flood ADDRESS SECONDS         bursts of 640, or 64 under way all the time
//!     load first ADDRESS SECONDS                   tries until a byte comes back
//!     load idle ADDRESS CONNECTIONS                opens them, prints a line, stays until stdin ends
//!
//! Every command but `target` prints one JSON object. Threads and blocking sockets: simple, and on
//! loopback faster than what is measured.

mod datagrams;
mod requests;
mod streams;
mod target;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// The size of the datagrams, in bytes.
pub const DATAGRAM: usize = 512;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("load {}: {error}", args.join(" "));
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[&str]) -> Result<()> {
    match *args {
        ["target"] => target::serve(),
        ["stream", way @ ("up" | "down"), to, connections, time] => {
            let way = if way == "up" {
                streams::Way::Up
            } else {
                streams::Way::Down
            };
            streams::run(way, address(to)?, connections.parse()?, seconds(time)?)
        }
        [
            "requests",
            kind @ ("close" | "keep" | "raw"),
            to,
            at_once,
            time,
        ] => {
            let kind = match kind {
                "close" => requests::Kind::Close,
                "keep" => requests::Kind::Keep,
                _ => requests::Kind::Raw,
            };
            requests::run(kind, address(to)?, at_once.parse()?, seconds(time)?)
        }
        ["udp", "burst", to, time] => datagrams::burst(address(to)?, seconds(time)?),
        ["udp", "flood", to, time] => datagrams::flood(address(to)?, seconds(time)?),
        ["first", to, time] => streams::first(address(to)?, seconds(time)?),
        ["idle", to, connections] => streams::idle(address(to)?, connections.parse()?),
        _ => Err("unknown command; see the head of bench/load/src/main.rs".into()),
    }
}

fn address(text: &str) -> Result<SocketAddr> {
    Ok(text.parse()?)
}

fn seconds(text: &str) -> Result<Duration> {
    Ok(Duration::try_from_secs_f64(text.parse()?)?)
}
