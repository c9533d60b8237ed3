//! `host:port` as URLs have it.

use alloc::borrow::ToOwned as _;
use alloc::format;
use alloc::string::String;
use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::HostPort;
use super::error::quote;

/// Which half of `host:port` is wrong, and how.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The host.
    Host(String),
    /// The port, or what should separate it from the host.
    Port(String),
}

impl HostPort {
    /// Reads `host:port`; IPv6 in brackets, the host may be empty, the port may be 0.
    pub(super) fn read(text: &str) -> Result<Self, Fault> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => bracketed(rest)?,
            None => plain(text)?,
        };
        let digits = (1..=5).contains(&port.len()) && port.bytes().all(|b| b.is_ascii_digit());
        let number = digits.then(|| port.parse().ok()).flatten();
        Ok(Self {
            host: host.to_owned(),
            port: number.ok_or_else(|| Fault::Port(format!("{} is no port", quote(port))))?,
        })
    }

    /// Whether a connection to `self` may reach a listener on `other` of the same machine, or both
    /// cannot be listened on together. Names are compared as text: nothing is resolved.
    pub(super) fn collides_with(&self, other: &Self) -> bool {
        let same_host = match (Place::of(&self.host), Place::of(&other.host)) {
            (Place::Ip(one), Place::Ip(two)) => {
                one == two || reaches(one, two) || reaches(two, one)
            }
            (Place::Ip(ip), Place::Localhost) | (Place::Localhost, Place::Ip(ip)) => {
                ip.is_loopback() || ip.is_unspecified()
            }
            (Place::Localhost, Place::Localhost) => true,
            (Place::Name(one), Place::Name(two)) => one.eq_ignore_ascii_case(two),
            (Place::Name(_), Place::Ip(_) | Place::Localhost)
            | (Place::Ip(_) | Place::Localhost, Place::Name(_)) => false,
        };
        same_host && self.port == other.port && self.port != 0
    }

    /// Whether the host can only be this machine talking to itself.
    pub(super) fn is_loopback(&self) -> bool {
        match Place::of(&self.host) {
            Place::Ip(ip) => ip.is_loopback(),
            Place::Localhost => true,
            Place::Name(_) => false,
        }
    }
}

impl fmt::Display for HostPort {
    /// As in a URL: `host:port`, IPv6 in brackets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Whether `text` is a host name: letters, digits, `-` and `_` in labels of at most 63 characters,
/// at most 253 in all. A last label of digits alone would be half an IPv4 address.
pub(super) fn is_name(text: &str) -> bool {
    let name = text.strip_suffix('.').unwrap_or(text);
    let good_label = |label: &str| {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        (1..=63).contains(&label.len()) && label.bytes().all(allowed)
    };
    let last = name.rsplit('.').next().unwrap_or(name);
    name.len() <= 253
        && name.split('.').all(good_label)
        && !last.bytes().all(|byte| byte.is_ascii_digit())
}

fn bracketed(rest: &str) -> Result<(&str, &str), Fault> {
    let Some((host, tail)) = rest.split_once(']') else {
        return Err(Fault::Host("`[` without `]`".to_owned()));
    };
    if host.parse::<Ipv6Addr>().is_err() {
        return Err(Fault::Host(format!("{} is no IPv6 address", quote(host))));
    }
    let port = tail.strip_prefix(':');
    Ok((host, port.ok_or_else(|| Fault::Port("no port".to_owned()))?))
}

fn plain(text: &str) -> Result<(&str, &str), Fault> {
    let Some((host, port)) = text.rsplit_once(':') else {
        // Not quoted: this may be the beginning of a key with a raw `/` or `?`.
        return Err(Fault::Port("no port".to_owned()));
    };
    if host.contains(':') {
        return Err(Fault::Host("an IPv6 address without brackets".to_owned()));
    }
    if !(host.is_empty() || is_name(host) || host.parse::<Ipv4Addr>().is_ok()) {
        return Err(Fault::Host(format!("{} is no host", quote(host))));
    }
    Ok((host, port))
}

enum Place<'a> {
    Ip(IpAddr),
    Localhost,
    Name(&'a str),
}

impl<'a> Place<'a> {
    fn of(host: &'a str) -> Self {
        let name = host.strip_suffix('.').unwrap_or(host);
        if host.is_empty() {
            // All interfaces, of both families.
            Self::Ip(Ipv6Addr::UNSPECIFIED.into())
        } else if let Ok(ip) = host.parse::<IpAddr>() {
            Self::Ip(ip.to_canonical())
        } else if name.eq_ignore_ascii_case("localhost") {
            Self::Localhost
        } else {
            Self::Name(name)
        }
    }
}

/// Whether a listener on all interfaces `any` is met at `ip`, an address of this machine for sure.
fn reaches(any: IpAddr, ip: IpAddr) -> bool {
    let here = ip.is_loopback() || ip.is_unspecified();
    // `::` is dual-stack.
    any.is_unspecified() && here && (any.is_ipv6() || ip.is_ipv4())
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString as _;

    use super::*;

    fn address(text: &str) -> HostPort {
        HostPort::read(text).unwrap()
    }

    #[test]
    fn addresses_print_as_they_are_written() {
        for text in [
            ":80",
            "a:1",
            "[::1]:65535",
            "1.2.3.4:0",
            "a-b.c_d.e:80",
            "x.:1",
            "[::ffff:1.2.3.4]:9",
            "1a:1",
            "a.1b:1",
        ] {
            assert_eq!(address(text).to_string(), text);
        }
    }

    #[test]
    fn bad_addresses_blame_the_right_half() {
        for text in [
            "", "a", "1.2.3.4", "a:", "a:x", "a:65536", "a:000001", "a:+1", "[::1]", "[::1]80",
        ] {
            assert!(
                matches!(HostPort::read(text), Err(Fault::Port(_))),
                "{text}"
            );
        }
        let long_label = "a".repeat(64) + ":1";
        let long_name = "a.".repeat(127) + "a:1";
        for text in [
            "::1:80",
            "[::1:80",
            "[1.2.3.4]:80",
            "[fe80::1%eth0]:1",
            "256.1.1.1:1",
            "1.2.3:1",
            "80:80",
            "a b:1",
            "ä:1",
            "a..b:1",
            ".:1",
            "a/b:1",
            &long_label,
            &long_name,
        ] {
            assert!(
                matches!(HostPort::read(text), Err(Fault::Host(_))),
                "{text}"
            );
        }
    }

    #[test]
    fn loops_are_seen_without_resolving() {
        let loops = [
            ("a:1", "A:1"),
            ("a:1", "a.:1"),
            (":1", ":1"),
            (":1", "127.0.0.1:1"),
            (":1", "[::1]:1"),
            ("0.0.0.0:1", "localhost:1"),
            ("0.0.0.0:1", "127.3.2.1:1"),
            ("[::]:1", "127.0.0.1:1"),
            ("[::]:1", "0.0.0.0:1"),
            ("localhost:1", "[::1]:1"),
            ("10.0.0.1:1", "[::ffff:10.0.0.1]:1"),
        ];
        let distinct = [
            ("a:1", "a:2"),
            (":0", ":0"),
            ("a:1", "b:1"),
            ("a:1", "10.0.0.1:1"),
            (":1", "10.0.0.1:1"),
            (":1", "a:1"),
            ("0.0.0.0:1", "[::1]:1"),
            ("127.0.0.1:1", "127.0.0.2:1"),
            ("127.0.0.1:1", "10.0.0.1:1"),
            ("localhost:1", "a:1"),
        ];
        for (table, expected) in [(loops.as_slice(), true), (distinct.as_slice(), false)] {
            for (one, two) in table {
                let (a, b) = (address(one), address(two));
                assert_eq!(a.collides_with(&b), expected, "{one} {two}");
                assert_eq!(b.collides_with(&a), expected, "{two} {one}");
            }
        }
    }
}
