//! What a caller did wrong, in the words that clients know (`rest.md` §3).

use protocol::config::ConfigError;

/// The longest alias, in bytes, of an instance or of the master.
pub const ALIAS: usize = 256;

/// Why a request was not carried out. The text is part of the interface.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Not JSON, a wrong type, or something missing.
    #[error("Invalid request body")]
    Body,
    /// Not a URL, or without host, port or target, or too long.
    #[error("Invalid URL format")]
    UrlFormat,
    /// Neither `client` nor `server`.
    #[error("Invalid URL scheme")]
    UrlScheme,
    /// A known parameter with an impossible value.
    #[error("Invalid URL parameter: {0}")]
    UrlParameter(ConfigError),
    /// The same URL as before.
    #[error("Instance URL conflict")]
    UrlConflict,
    /// No such instance.
    #[error("Instance not found")]
    NotFound,
    /// No id in the path.
    #[error("Instance ID is required")]
    IdRequired,
    /// Not one of `start stop restart reset`.
    #[error("Invalid action: {0}")]
    Action(String),
    /// An alias above [`ALIAS`] bytes.
    #[error("Instance alias exceeds maximum length {ALIAS}")]
    Alias,
    /// The master's alias above [`ALIAS`] bytes.
    #[error("Master alias exceeds maximum length {ALIAS}")]
    MasterAlias,
    /// A string in `meta` above its limit; the name of it.
    #[error("Meta {0} exceeds maximum length {ALIAS}")]
    Meta(&'static str),
    /// The object would not fit an event block.
    #[error("Instance metadata too large")]
    TooLarge,
    /// Too many instances.
    #[error("Maximum number of instances reached")]
    TooMany,
    /// The key instance can neither be replaced nor deleted.
    #[error("Forbidden: API Key")]
    KeyInstance,
    /// `tcping` without a target.
    #[error("Target address required")]
    TargetRequired,
    /// The change could not be written to disk: it was not made.
    #[error("Failed to save state: {0}")]
    State(String),
    /// The master is being stopped.
    #[error("Master is shutting down")]
    Closing,
    /// A bug: what carried it out panicked.
    #[error("Internal failure")]
    Internal,
}

impl Error {
    /// The HTTP status that goes with it (`rest.md` §3).
    #[must_use]
    pub const fn status(&self) -> u16 {
        match self {
            Self::NotFound => 404,
            Self::KeyInstance => 403,
            Self::UrlConflict | Self::TooMany => 409,
            Self::State(_) | Self::Internal => 500,
            Self::Closing => 503,
            Self::Body
            | Self::UrlFormat
            | Self::UrlScheme
            | Self::UrlParameter(_)
            | Self::IdRequired
            | Self::Action(_)
            | Self::Alias
            | Self::MasterAlias
            | Self::Meta(_)
            | Self::TooLarge
            | Self::TargetRequired => 400,
        }
    }
}
