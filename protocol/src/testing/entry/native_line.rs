use alloc::vec::Vec;

use crate::limits;
use crate::wire::native::{Answer, Hello};
use crate::wire::signal::Signal;

/// Bytes: one line.
///
/// # Panics
/// If what was read cannot be written, or reads differently then.
pub fn run(data: &[u8]) {
    if let Ok(Some(signal)) = Signal::decode_line(data) {
        let line = written(|out| signal.encode_line(out));
        assert_eq!(Signal::decode_line(&line), Ok(Some(signal)));
    }
    if let Ok(hello) = Hello::decode_line(data) {
        let line = written(|out| hello.encode_line(out));
        assert_eq!(Hello::decode_line(&line), Ok(hello));
    }
    if let Ok(answer) = Answer::decode_line(data) {
        let line = written(|out| match &answer {
            Answer::Welcome(welcome) => welcome.encode_line(out),
            Answer::Refuse(refuse) => refuse.encode_line(out),
        });
        assert_eq!(Answer::decode_line(&line), Ok(answer));
    }
}

fn written(encode: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut line = Vec::new();
    encode(&mut line);
    assert!(line.len() <= limits::CONTROL_LINE);
    assert_eq!(
        line.iter().position(|&byte| byte == b'\n'),
        Some(line.len() - 1)
    );
    line
}
