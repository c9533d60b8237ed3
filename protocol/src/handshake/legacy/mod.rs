//! The handshakes of the generations `http`, `https` and `classic` (`wire.md` §3, §4, §5).
//!
//! ```text
//! client   LegacyHandshake::start ──request──▶ AwaitAnswer ──answer──▶ Established
//! server   AwaitLegacy ──request──▶ VerifiedLegacy ──answer──▶ Dialect
//! ```
//!
//! Nothing here is bound to the channel: whoever sees the request can repeat it.

mod client;
mod held;
mod server;

use crate::config::Generations;
use crate::dialect::{Capabilities, Check, ControlOn, DataBy, Dialect, LaunchBy, Liveness};
use crate::key::TunnelKey;
use crate::limits;
use crate::proof::{Proof, Side};
use crate::terms::{DataTls, Generation};
use crate::wire::classic::{BadKey, Cipher};
use crate::wire::codec::Codec;
use crate::wire::data_id::IdForm;
use crate::wire::datagram::Form;
use crate::wire::http::{PrintForm, SignalCodec};

pub use self::client::{AwaitAnswer, LegacyConfig, LegacyHandshake};
pub use self::held::{Held, Judged, Peer, Seen};
pub use self::server::{AwaitLegacy, LegacyStep, VerifiedLegacy};

/// What a tunnel key means in the legacy generations.
#[derive(Clone, Debug)]
pub struct LegacyKeys {
    http: TunnelKey,
    token: Proof,
    classic: Result<Cipher, BadKey>,
}

impl LegacyKeys {
    /// The keys of a tunnel. `default_port` is the tunnel's port if its URL has no key: `classic`
    /// then has a default of its own.
    #[must_use]
    pub fn new(key: &TunnelKey, default_port: Option<u16>) -> Self {
        let classic = default_port.map_or_else(|| key.clone(), TunnelKey::classic_default_for);
        Self {
            http: key.clone(),
            token: Proof::token(key),
            classic: Cipher::new(classic),
        }
    }

    /// Whether the keys fit the generations of `proto`. Where `classic` is merely allowed it is left out
    /// if it does not work with this key; why is worth a line in the log.
    ///
    /// # Errors
    /// `proto` names `classic`, which does not work with this key.
    pub fn check(&self, proto: Generations) -> Result<Option<BadKey>, BadKey> {
        match self.classic {
            Err(bad) if proto.names(Generation::Classic) => Err(bad),
            Err(bad) if proto.allows(Generation::Classic) => Ok(Some(bad)),
            Ok(_) | Err(_) => Ok(None),
        }
    }

    pub(crate) fn dialect(
        &self,
        spoken: Spoken,
        tls: DataTls,
        side: Side,
    ) -> Result<Dialect, BadKey> {
        Ok(match spoken {
            Spoken::Http | Spoken::Https => self.http_dialect(spoken == Spoken::Https, tls, side),
            Spoken::Classic => classic_dialect(self.classic.clone()?),
        })
    }

    fn http_dialect(&self, inside_tls: bool, tls: DataTls, side: Side) -> Dialect {
        let max = limits::HTTP_DATAGRAM;
        let (generation, prints, datagrams) = if inside_tls {
            (Generation::Https, PrintForm::Digits, Form::Framed { max })
        } else {
            (Generation::Http, PrintForm::Pairs, Form::Bare { max })
        };
        let check = match (tls, side) {
            (DataTls::Plain, _) => None,
            (DataTls::Verified, _) if inside_tls => None,
            // That server ends the session when it is asked, and has nothing to show itself.
            (DataTls::Verified, Side::Client) => Some(Check {
                send: false,
                blind_passes: true,
            }),
            (DataTls::Pinned | DataTls::Verified, _) => Some(Check {
                send: true,
                blind_passes: tls == DataTls::Verified,
            }),
        };
        Dialect {
            generation,
            capabilities: Capabilities {
                launch: LaunchBy::Signal,
                data: DataBy::Address(IdForm::Raw),
                control: ControlOn::DataConnection,
                datagrams,
                liveness: liveness(limits::HTTP_SILENCE),
                relay_idle: None,
                check,
            },
            codec: Codec::Http(SignalCodec::new(self.http.clone(), prints)),
        }
    }
}

/// What a legacy handshake is spoken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoken {
    /// A GET in the clear (`http`).
    Http,
    /// A GET inside TLS (`https`).
    Https,
    /// An XOR-ed line (`classic`).
    Classic,
}

impl Spoken {
    /// The generation's name.
    #[must_use]
    pub const fn generation(self) -> Generation {
        match self {
            Self::Http => Generation::Http,
            Self::Https => Generation::Https,
            Self::Classic => Generation::Classic,
        }
    }

    /// What a session of this generation lacks, for the WARN line that every such session is worth.
    #[must_use]
    pub const fn lacks(self) -> &'static str {
        match self {
            Self::Http => {
                "the key's token and every signal can be read and repeated by anyone on the path; \
                 data connections are told by address alone, and datagrams may merge"
            }
            Self::Https => {
                "the server is not authenticated, signals are only masked, and data connections \
                 are told by address alone"
            }
            Self::Classic => {
                "the key itself can be read by anyone on the path; data connections are told by \
                 address alone, and datagrams may merge"
            }
        }
    }
}

/// The bytes up to the end of the first line, and those behind it, which are none of a handshake's
/// business.
fn first_line(bytes: &[u8]) -> (&[u8], &[u8]) {
    let end = bytes.iter().position(|&byte| byte == b'\n');
    bytes.split_at(end.map_or(bytes.len(), |end| end + 1))
}

fn classic_dialect(cipher: Cipher) -> Dialect {
    Dialect {
        generation: Generation::Classic,
        capabilities: Capabilities {
            launch: LaunchBy::Signal,
            data: DataBy::Address(IdForm::Digits),
            control: ControlOn::Handshake,
            datagrams: Form::Bare {
                max: limits::CLASSIC_DATAGRAM,
            },
            liveness: liveness(limits::CLASSIC_SILENCE),
            relay_idle: Some(limits::CLASSIC_RELAY_IDLE),
            check: None,
        },
        codec: Codec::Classic(cipher),
    }
}

const fn liveness(silence: core::time::Duration) -> Liveness {
    Liveness {
        ping: Some(limits::LEGACY_PING),
        silence: Some(silence),
    }
}

#[cfg(test)]
mod tests;
