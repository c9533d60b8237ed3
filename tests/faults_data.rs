//! Faults on data connections, at every stage of one and in every way: each strikes one connection
//! at a chosen byte, and whoever was on it is the only one to notice.

use std::ops::Range;

use crate::support::cutter::{Fault, Strike, Way};
use crate::support::exchange::{SIZE, Seen, Witness, exchange, until_whole};
use crate::support::kernel::tcp_sockets;
use crate::support::tunnel::{End, Flow, Pair, Setup};
use crate::support::until::{poll, secs, until};

/// Bytes of a preface, of a launch at least, and of what TLS adds to one piece.
const PREFACE: usize = 44;
const LAUNCH: usize = 2 + "127.0.0.1:1".len();
const RECORD: usize = 5 + 17;

/// One stage in the life of a data connection: which way, and which bytes.
#[derive(Debug)]
struct Stage {
    name: String,
    way: Way,
    bytes: Range<usize>,
}

fn stage(name: &str, way: Way, start: usize, len: usize) -> Stage {
    let name = name.to_owned();
    let bytes = start..start + len;
    Stage { name, way, bytes }
}

/// Where the TLS records of `bytes` are; a `ChangeCipherSpec` belongs to what follows.
pub(crate) fn records(bytes: &[u8]) -> Vec<Range<usize>> {
    let (mut found, mut start, mut at) = (Vec::new(), 0, 0);
    while let Some(&[kind, _, _, high, low]) = bytes.get(at..at + 5) {
        at += 5 + usize::from(u16::from_be_bytes([high, low]));
        if kind != 0x14 && at <= bytes.len() {
            found.push(start..at);
            start = at;
        }
    }
    found
}

/// Where a stage is struck, by whatever fault: every fault somewhere and, as far as there are bytes,
/// its first, second, sixth, middle and last byte, and right behind it.
pub(crate) fn strikes(way: Way, bytes: &Range<usize>, turn: usize) -> Vec<Strike> {
    let len = bytes.len();
    let mut places: Vec<usize> = [0, 1, 5, len / 2, len.saturating_sub(1), len]
        .into_iter()
        .filter(|place| *place <= len)
        .collect();
    places.dedup();
    let faults = Fault::ALL.into_iter().cycle().skip(turn);
    let places = places.into_iter().cycle();
    faults
        .zip(places)
        .take(Fault::ALL.len())
        .map(|(fault, place)| Strike {
            way,
            at: bytes.start + place,
            fault,
        })
        .collect()
}

/// What an idle connection has said so far, each way. All of it: one before it said as much.
fn idle(pair: &Pair) -> (Vec<u8>, Vec<u8>) {
    let cutter = pair.cutter();
    let mut seen: Vec<(usize, [usize; 2])> = Vec::new();
    until(
        "two idle data connections that look alike",
        secs(20),
        || {
            let last = cutter.count() - 1;
            let [up, down] = [Way::Up, Way::Down].map(|way| cutter.recorded(last, way));
            let lengths = [up.len(), down.len()];
            // One that was used has carried more.
            if cutter.is_whole(last) && up.len() >= PREFACE && up.len() + down.len() < SIZE {
                if seen.iter().any(|it| it.0 != last && it.1 == lengths) {
                    return Some((up, down));
                }
                seen.push((last, lengths));
            }
            until_whole(pair.users(), secs(20));
            None
        },
    )
}

fn stages(pair: &Pair, flow: Flow, tls: u8) -> Vec<Stage> {
    let (up, down) = idle(pair);
    let mut stages = Vec::new();
    if tls == 0 {
        stages.push(stage("preface", Way::Up, 0, PREFACE));
    } else {
        for (way, bytes) in [(Way::Up, &up), (Way::Down, &down)] {
            for (number, record) in records(bytes).into_iter().enumerate() {
                let name = format!("TLS handshake and preface, record {number}");
                stages.push(stage(&name, way, record.start, record.len()));
            }
        }
    }
    let [to_egress, to_ingress] = match flow {
        Flow::Reverse => [(Way::Down, down.len()), (Way::Up, up.len())],
        Flow::Forward => [(Way::Up, up.len()), (Way::Down, down.len())],
    };
    let extra = if tls == 0 { 0 } else { RECORD };
    let (way, start) = to_egress;
    stages.push(stage("launch", way, start, LAUNCH + extra));
    stages.push(stage("to the target", way, start + LAUNCH + extra, SIZE));
    let (way, start) = to_ingress;
    stages.push(stage("status", way, start, 1 + extra));
    stages.push(stage("from the target", way, start + 1 + extra, SIZE - 1));
    stages
}

/// Users come until the next data connection has been struck; what the last one saw.
fn strike(pair: &Pair, strike: Strike) -> Seen {
    let cutter = pair.cutter();
    let before = cutter.struck();
    let struck = || cutter.struck() > before;
    let mut users = 0;
    until(&format!("{strike:?}"), secs(20), || {
        // One may be given up, or lie idle for long, before it has carried so much.
        if !cutter.is_armed() || users % 8 == 0 {
            cutter.strike_next(strike);
        }
        users += 1;
        let seen = exchange(pair.users(), || struck() && strike.fault.is_silent());
        struck().then_some(seen)
    })
}

/// Whether a user may see this on a connection that was struck, or on one beside it.
fn is_fair(seen: Seen, fault: Fault, tls: u8) -> bool {
    match seen {
        Seen::Whole => true,
        Seen::Reset => fault != Fault::Delay,
        Seen::Silence(_) => fault.is_silent(),
        // Plain TCP cannot tell an end from a cut. TLS can.
        Seen::Cut(_) => tls == 0 && matches!(fault, Fault::Fin | Fault::Half),
    }
}

fn every_fault_at_every_stage(flow: Flow, tls: u8) {
    let target = Witness::start();
    let pair = Setup::new(flow, tls, target.addr())
        .min(1)
        .env("NP_HANDSHAKE_TIMEOUT", "2s")
        .env("NP_POOL_GET_TIMEOUT", "15s")
        .through_cutter()
        .start();
    until_whole(pair.users(), secs(20));
    let ends = [(End::Server, &pair.server), (End::Client, &pair.client)];
    let before = ends.map(|(end, _)| pair.other_descriptors(end));
    for (turn, stage) in stages(&pair, flow, tls).iter().enumerate() {
        for blow in strikes(stage.way, &stage.bytes, turn) {
            let seen = strike(&pair, blow);
            let what = format!("{}: {blow:?} of {:?}: {seen:?}", stage.name, stage.bytes);
            eprintln!("{flow:?} tls={tls} {what}");
            assert!(is_fair(seen, blow.fault, tls), "{what}");
            pair.cutter().lift();
            until_whole(pair.users(), secs(10));
        }
    }
    target.expect_right_bytes();
    assert!(tls == 0 || target.cut().is_empty(), "{:?}", target.cut());
    until("no relay is left", secs(20), || {
        (target.open() == 0).then_some(())
    });
    for ((end, process), before) in ends.into_iter().zip(before) {
        let back = poll(secs(20), || {
            (pair.other_descriptors(end) <= before).then_some(())
        });
        let left = || tcp_sockets(process.id());
        assert!(back.is_some(), "{end:?}: {before} before: {:#?}", left());
    }
    // The session outlives its data connections.
    pair.client.only_line_with(&["session up"]);
}

/// All at once, because they wait most of the time.
#[test]
fn a_fault_on_a_data_connection_harms_nobody_else() {
    std::thread::scope(|scope| {
        for flow in [Flow::Reverse, Flow::Forward] {
            for tls in [0, 1] {
                scope.spawn(move || every_fault_at_every_stage(flow, tls));
            }
        }
    });
}
