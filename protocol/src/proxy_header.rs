//! The PROXY protocol's header: tells a TCP target who the user is (`config.md` §3, `proxy`).
//!
//! Version 1 is a line of text, version 2 binary; both come before the user's first byte.

use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};

use crate::config::ProxyVersion;

/// Appends the header of a TCP connection from `source` (the user) to `destination` (the address
/// that the user meant, or the target) to `out`.
///
/// IPv4 addresses mapped into IPv6 are written as IPv4; but if the two are not of one family, both
/// are written as IPv6, since the target wants to know the user in any case. If an address is not
/// known, the header says that the user is unknown (`UNKNOWN`, `LOCAL`).
pub fn encode(
    version: ProxyVersion,
    source: Option<SocketAddr>,
    destination: Option<SocketAddr>,
    out: &mut Vec<u8>,
) {
    let ends = source.zip(destination).map(Ends::new);
    match version {
        ProxyVersion::V1 => text(ends, out),
        ProxyVersion::V2 => binary(ends, out),
    }
}

/// Both ends of a connection, of one family.
struct Ends {
    source: IpAddr,
    destination: IpAddr,
    ports: [u16; 2],
}

impl Ends {
    fn new((source, destination): (SocketAddr, SocketAddr)) -> Self {
        let ports = [source.port(), destination.port()];
        let ends = [source, destination].map(|end| end.ip().to_canonical());
        let mixed = ends.iter().any(IpAddr::is_ipv4) && ends.iter().any(IpAddr::is_ipv6);
        let [source, destination] = ends.map(|ip| match ip {
            IpAddr::V4(v4) if mixed => IpAddr::V6(v4.to_ipv6_mapped()),
            IpAddr::V4(_) | IpAddr::V6(_) => ip,
        });
        Self {
            source,
            destination,
            ports,
        }
    }
}

fn text(ends: Option<Ends>, out: &mut Vec<u8>) {
    let line = ends.map(|ends| {
        let family = if ends.source.is_ipv4() {
            "TCP4"
        } else {
            "TCP6"
        };
        let (source, destination, [from, to]) = (ends.source, ends.destination, ends.ports);
        alloc::format!("PROXY {family} {source} {destination} {from} {to}\r\n")
    });
    out.extend_from_slice(line.as_deref().unwrap_or("PROXY UNKNOWN\r\n").as_bytes());
}

fn binary(ends: Option<Ends>, out: &mut Vec<u8>) {
    out.extend_from_slice(SIGNATURE);
    let Some(ends) = ends else {
        out.extend_from_slice(&[LOCAL, UNSPECIFIED, 0, 0]);
        return;
    };
    let (family, len) = if ends.source.is_ipv4() {
        (TCP_OVER_IPV4, 2 * 4 + 4)
    } else {
        (TCP_OVER_IPV6, 2 * 16 + 4)
    };
    out.extend_from_slice(&[PROXIED, family, 0, len]);
    for ip in [ends.source, ends.destination] {
        match ip {
            IpAddr::V4(ip) => out.extend_from_slice(&ip.octets()),
            IpAddr::V6(ip) => out.extend_from_slice(&ip.octets()),
        }
    }
    out.extend(ends.ports.into_iter().flat_map(u16::to_be_bytes));
}

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const LOCAL: u8 = 0x20;
const PROXIED: u8 = 0x21;
const UNSPECIFIED: u8 = 0x00;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;

#[cfg(test)]
mod tests {
    use alloc::string::String;

    use proptest::prelude::*;

    use super::*;

    fn header(version: ProxyVersion, source: &str, destination: &str) -> Vec<u8> {
        let mut out = Vec::new();
        let (source, destination) = (source.parse().ok(), destination.parse().ok());
        encode(version, source, destination, &mut out);
        out
    }

    #[test]
    fn golden_text() {
        let table = [
            (
                ("192.0.2.1:5000", "198.51.100.7:80"),
                "PROXY TCP4 192.0.2.1 198.51.100.7 5000 80\r\n",
            ),
            (
                ("[2001:db8::1]:5000", "[2001:db8::2]:443"),
                "PROXY TCP6 2001:db8::1 2001:db8::2 5000 443\r\n",
            ),
            (
                ("[::ffff:192.0.2.1]:5000", "198.51.100.7:80"),
                "PROXY TCP4 192.0.2.1 198.51.100.7 5000 80\r\n",
            ),
            (
                ("[fe80::1%3]:5000", "[fe80::2]:443"),
                "PROXY TCP6 fe80::1 fe80::2 5000 443\r\n",
            ),
            (
                ("192.0.2.1:5000", "[2001:db8::2]:443"),
                "PROXY TCP6 ::ffff:192.0.2.1 2001:db8::2 5000 443\r\n",
            ),
            (
                ("[2001:db8::1]:5000", "127.0.0.1:80"),
                "PROXY TCP6 2001:db8::1 ::ffff:127.0.0.1 5000 80\r\n",
            ),
            (("", "198.51.100.7:80"), "PROXY UNKNOWN\r\n"),
            (("192.0.2.1:5000", ""), "PROXY UNKNOWN\r\n"),
        ];
        for ((source, destination), line) in table {
            let header = header(ProxyVersion::V1, source, destination);
            assert_eq!(String::from_utf8(header).unwrap(), line);
        }
    }

    #[test]
    fn golden_binary() {
        let table: [(&str, &str, &[u8]); 4] = [
            (
                "192.0.2.1:5000",
                "[::ffff:198.51.100.7]:80",
                b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x01\xc6\x33\x64\x07\x13\x88\x00\x50",
            ),
            (
                "[2001:db8::1]:5000",
                "[::2]:443",
                b"\r\n\r\n\0\r\nQUIT\n\x21\x21\x00\x24\
                  \x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\
                  \0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x02\x13\x88\x01\xbb",
            ),
            ("", "198.51.100.7:80", b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00"),
            (
                "192.0.2.1:1",
                "[::2]:443",
                b"\r\n\r\n\0\r\nQUIT\n\x21\x21\x00\x24\
                  \0\0\0\0\0\0\0\0\0\0\xff\xff\xc0\x00\x02\x01\
                  \0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x02\x00\x01\x01\xbb",
            ),
        ];
        for (source, destination, bytes) in table {
            assert_eq!(header(ProxyVersion::V2, source, destination), bytes);
        }
    }

    proptest! {
        #[test]
        fn text_is_within_what_receivers_accept(source: SocketAddr, destination: SocketAddr) {
            let mut line = Vec::new();
            encode(ProxyVersion::V1, Some(source), Some(destination), &mut line);
            prop_assert!(line.len() <= 107 && line.ends_with(b"\r\n"));
        }

        #[test]
        fn binary_announces_its_own_length(source: SocketAddr, destination: SocketAddr) {
            let mut header = Vec::new();
            encode(ProxyVersion::V2, Some(source), Some(destination), &mut header);
            prop_assert_eq!(header.len(), 16 + usize::from(header[15]));
        }
    }
}
