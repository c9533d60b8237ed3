//! The `http` and `https` generations: the handshake's heads and the signals (`wire.md` §3, §4).

mod head;
mod signal;

pub(crate) use self::head::BadParams;
pub use self::head::{Answer, BadHead, Head, Params, Request, Whole, encode_error, encode_request};
pub use self::signal::{PrintForm, SignalCodec};
