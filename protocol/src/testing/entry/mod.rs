//! One harness per fuzz target: any bytes are a scenario, and a broken promise panics.
//!
//! A new target is a file here with `pub fn run(data: &[u8])`, one line in the list below, a shim
//! and a `[[bin]]` in `fuzz/`, and at least one seed in `fuzz/corpus/<target>/`. The test `corpus`
//! replays all seeds on the stable compiler and notices a target without one.

macro_rules! entries {
    ($($(#[doc = $doc:literal])+ $name:ident),+ $(,)?) => {
        $(
            mod $name;
            $(#[doc = $doc])+
            pub use self::$name::run as $name;
        )+

        /// Every entry under the name of its fuzz target.
        pub const ALL: &[(&str, fn(&[u8]))] = &[$((stringify!($name), $name)),+];
    };
}

entries! {
    /// The order of several targets.
    balance,
    /// URLs: parsed, printed and parsed again.
    config_url,
    /// Datagram frames.
    datagram,
    /// The first bytes of a connection, raw and inside TLS.
    demux,
    /// The server's door.
    endpoint,
    /// A server's answers to a native client.
    handshake_client,
    /// A native client's first line.
    handshake_server,
    /// Bytes of a data connection before its launch.
    held,
    /// Heads of the `http` handshake.
    http_head,
    /// Users and idle connections.
    ingress,
    /// Launches and their answers.
    launch,
    /// Ingress between launch and answer.
    launching,
    /// A legacy server's answer to a client.
    legacy_client,
    /// Lines of the legacy control channels.
    legacy_line,
    /// A legacy client's request.
    legacy_server,
    /// Lines that arrive in pieces.
    line,
    /// Lines of the native control connection.
    native_line,
    /// A client's idle connections.
    pool,
    /// Data prefaces.
    preface,
    /// Which generation a client tries.
    probe,
    /// PROXY headers.
    proxy_header,
    /// The token bucket.
    rate,
    /// A client's attempts.
    reconnect,
    /// The replay window.
    replay,
    /// A legacy session's data connections.
    roster,
    /// One control channel.
    session,
    /// Users' first bytes.
    sniff,
    /// UDP sessions by user address.
    udp,
}
