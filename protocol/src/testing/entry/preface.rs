use crate::proof::DataSecret;
use crate::wire::preface::{LEN, MAGIC, Preface};

/// Any 44 bytes: a preface that was read is written as the same bytes, and bytes that were made up
/// prove nothing.
pub fn run(data: &[u8]) {
    let Some(bytes) = data.first_chunk::<LEN>() else {
        return;
    };
    let decoded = Preface::decode(bytes);
    assert_eq!(decoded.is_ok(), bytes.starts_with(&MAGIC));
    if let Ok(preface) = decoded {
        assert_eq!(&preface.encode(), bytes);
        let secret = DataSecret::from_bytes([0x5a; 32]);
        assert!(!preface.verify(&secret, None));
        let right = Preface::new(&secret, preface.session, preface.seq, None);
        assert!(right.verify(&secret, None));
    }
}
