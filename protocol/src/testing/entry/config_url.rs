//! URLs from bytes.

use alloc::string::ToString as _;

use crate::config::{Config, KeyText, MAX_URL, parse};

/// Reads `data` as a URL. A refused one must say why on one line; an accepted one, spelled out, must
/// read back as the same configuration without a warning, and its masked form must not hold the key.
pub fn run(data: &[u8]) {
    let Ok(text) = core::str::from_utf8(data) else {
        return;
    };
    let no_env = |_: &str| None;
    let parsed = match parse(text, &no_env) {
        Ok(parsed) => parsed,
        Err(error) => {
            assert!(!error.to_string().contains('\n'), "{error}");
            assert!(!error.parameter.is_empty(), "{error}");
            return;
        }
    };
    let printed = parsed.config.spelled_out(KeyText::Revealed);
    if printed.len() > MAX_URL {
        return;
    }
    let again = parse(&printed, &no_env);
    assert!(
        again.as_ref().is_ok_and(|again| again.warnings.is_empty()),
        "{printed}: {again:?}"
    );
    assert!(
        again.is_ok_and(|again| again.config == parsed.config),
        "{printed}"
    );
    if let Config::Tunnel(tunnel) = &parsed.config {
        let masked = tunnel.spelled_out(KeyText::Masked);
        assert_eq!(masked.contains("://***@"), !tunnel.default_key, "{masked}");
    }
}
