use alloc::vec::Vec;
use core::net::SocketAddr;

use crate::config::ProxyVersion;
use crate::proxy_header::encode;

/// Two addresses: both headers agree on whether the user is known, and end where they say.
pub fn run(data: &[u8]) {
    let Some((&families, data)) = data.split_first() else {
        return;
    };
    let Some((source, data)) = address(families & 3, data) else {
        return;
    };
    let Some((destination, _)) = address(families >> 2 & 3, data) else {
        return;
    };
    let (mut text, mut binary) = (Vec::new(), Vec::new());
    encode(ProxyVersion::V1, source, destination, &mut text);
    encode(ProxyVersion::V2, source, destination, &mut binary);

    assert!(text.len() <= 107 && text.ends_with(b"\r\n"));
    let Some((&[.., command, _, high, low], rest)) = binary.split_first_chunk::<16>() else {
        unreachable!("shorter than a header")
    };
    assert_eq!(rest.len(), usize::from(u16::from_be_bytes([high, low])));
    assert_eq!(text.starts_with(b"PROXY UNKNOWN"), command == 0x20);
}

fn address(family: u8, data: &[u8]) -> Option<(Option<SocketAddr>, &[u8])> {
    let (&port, data) = data.split_first_chunk()?;
    let port = u16::from_be_bytes(port);
    match family {
        0 => Some((None, data)),
        1 => {
            let (&ip, data) = data.split_first_chunk::<4>()?;
            Some((Some((ip, port).into()), data))
        }
        _ => {
            let (&ip, data) = data.split_first_chunk::<16>()?;
            Some((Some((ip, port).into()), data))
        }
    }
}
