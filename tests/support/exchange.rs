//! Users who know every byte they send and get, and a target that does, on a network with faults.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::noise;
use super::peers::{PATIENCE, Target};
use super::until::{millis, until};
use super::users::try_connect;

/// Bytes that every user sends, and gets back.
pub(crate) const SIZE: usize = 10_000;

/// What all users send.
pub(crate) fn message() -> Vec<u8> {
    noise(SIZE, 77)
}

/// What a user saw of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Everything, and an end of stream.
    Whole,
    /// An end of stream after so many bytes.
    Cut(usize),
    /// A reset, or nobody there.
    Reset,
    /// So many bytes, then silence until the user gave up.
    Silence(usize),
}

/// A user sends everything, ends its stream and reads to the end. It gives up when it has read
/// nothing for a while and `hopeless` says that nothing will come. Wrong bytes fail the test.
pub(crate) fn exchange(addr: SocketAddr, hopeless: impl Fn() -> bool) -> Seen {
    let message = message();
    let Ok(mut user) = try_connect(addr, PATIENCE) else {
        return Seen::Reset;
    };
    // What fails here is seen when reading, except for a reset: it is told once.
    let written = user.write_all(&message);
    let reset = written.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset);
    drop(user.shutdown(Shutdown::Write));
    user.set_read_timeout(Some(millis(100))).unwrap();
    let (mut got, mut quiet_since) = (0, Instant::now());
    let mut buffer = vec![0; SIZE];
    loop {
        match user.read(&mut buffer) {
            Ok(0) if got == SIZE => return Seen::Whole,
            Ok(0) if reset => return Seen::Reset,
            Ok(0) => return Seen::Cut(got),
            Ok(count) => {
                let expected = message.get(got..got + count);
                assert_eq!(expected, Some(&buffer[..count]), "wrong bytes at {got}");
                got += count;
                quiet_since = Instant::now();
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                let quiet = quiet_since.elapsed();
                if quiet > millis(250) && hopeless() {
                    return Seen::Silence(got);
                }
                assert!(quiet < PATIENCE, "nothing came after {got} bytes");
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return Seen::Reset,
        }
    }
}

/// Users come one after the other until one gets everything, which must be within `limit`.
pub(crate) fn until_whole(addr: SocketAddr, limit: Duration) {
    until(&format!("a user of {addr} gets everything"), limit, || {
        let began = Instant::now();
        let seen = exchange(addr, || began.elapsed() > Duration::from_secs(2));
        (seen == Seen::Whole).then_some(())
    });
}

/// An echo that notes what cannot be right.
#[derive(Debug)]
pub(crate) struct Witness {
    target: Target,
    cut: Notes,
    wrong: Notes,
}

/// Places in a stream.
type Notes = Arc<Mutex<Vec<usize>>>;

impl Witness {
    /// On a port of its own.
    pub(crate) fn start() -> Self {
        let (cut, wrong) = (Notes::default(), Notes::default());
        let (note_cut, note_wrong) = (Arc::clone(&cut), Arc::clone(&wrong));
        let message = message();
        let target = Target::start(move |stream| {
            let got = echo(stream, &message, &note_wrong)?;
            if got != SIZE {
                note_cut.lock().unwrap().push(got);
            }
            stream.shutdown(Shutdown::Write)
        });
        Self { target, cut, wrong }
    }

    /// Where it listens.
    pub(crate) const fn addr(&self) -> SocketAddr {
        self.target.addr()
    }

    /// How many of its connections have not ended.
    pub(crate) fn open(&self) -> usize {
        self.target.open()
    }

    /// Fails if bytes arrived that no user sent there.
    pub(crate) fn expect_right_bytes(&self) {
        let wrong = self.wrong.lock().unwrap();
        assert!(wrong.is_empty(), "wrong bytes at {wrong:?}");
    }

    /// Lengths of streams that ended in order though bytes were missing.
    pub(crate) fn cut(&self) -> Vec<usize> {
        self.cut.lock().unwrap().clone()
    }
}

/// Echoes to the end of the stream; how much came.
fn echo(
    mut stream: &TcpStream,
    message: &[u8],
    wrong: &Mutex<Vec<usize>>,
) -> std::io::Result<usize> {
    let (mut got, mut buffer) = (0, vec![0; SIZE]);
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Ok(got);
        }
        if message.get(got..got + count) != Some(&buffer[..count]) {
            wrong.lock().unwrap().push(got);
        }
        got += count;
        stream.write_all(&buffer[..count])?;
    }
}

#[test]
fn a_user_tells_a_whole_exchange_from_a_cut_a_reset_and_silence() {
    let witness = Witness::start();
    assert_eq!(exchange(witness.addr(), || false), Seen::Whole);
    assert!(witness.cut().is_empty());
    witness.expect_right_bytes();
    let short = Target::start(|stream| {
        let mut stream = stream;
        stream.write_all(&message()[..5])?;
        super::peers::discard(stream)
    });
    assert_eq!(exchange(short.addr(), || false), Seen::Cut(5));
    let silent = Target::start(|stream| {
        let mut stream = stream;
        stream.write_all(&message()[..5])?;
        super::until::pause(super::until::secs(1));
        Ok(())
    });
    assert_eq!(exchange(silent.addr(), || true), Seen::Silence(5));
}
