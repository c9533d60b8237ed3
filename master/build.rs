//! Takes the files of Swagger UI that `/docs` needs out of the archive that a crate carries.
//!
//! They are deflated in the archive already, so each becomes a gzip file by another header and
//! trailer: nothing is compressed here, and nothing is unpacked in the program.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "an archive that is not what it was is to fail the build"
)]

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(feature = "ui")]
    assets::write();
}

#[cfg(feature = "ui")]
mod assets {
    use std::path::PathBuf;
    use std::{env, fs};

    use utoipa_swagger_ui_vendored::SWAGGER_UI_VENDORED as ARCHIVE;

    const FILES: [&str; 2] = ["swagger-ui-bundle.js", "swagger-ui.css"];
    /// "Deflated" in an archive.
    const DEFLATED: u64 = 8;
    /// The parts of an archive that are of interest begin so.
    const ENTRY: &[u8] = b"PK\x01\x02";
    const END: &[u8] = b"PK\x05\x06";

    pub(super) fn write() {
        let folder = env::var_os("OUT_DIR")
            .map(PathBuf::from)
            .expect("set by cargo");
        for file in FILES {
            let path = folder.join(format!("{file}.gz"));
            fs::write(path, gzip(file)).expect("the output folder is writable");
        }
    }

    /// `dist/<file>` as a gzip file (RFC 1952).
    fn gzip(file: &str) -> Vec<u8> {
        let entry = entry(&format!("/dist/{file}"));
        assert_eq!(
            number(entry + 10, 2),
            DEFLATED,
            "{file} is compressed in another way"
        );
        let (checksum, size) = (&ARCHIVE[entry + 16..][..4], &ARCHIVE[entry + 24..][..4]);
        let packed = place(entry + 20, 4);
        let local = place(entry + 42, 4);
        let start = local + 30 + place(local + 26, 2) + place(local + 28, 2);
        let mut gzip = b"\x1f\x8b\x08\0\0\0\0\0\x02\xff".to_vec();
        gzip.extend_from_slice(&ARCHIVE[start..start + packed]);
        gzip.extend_from_slice(checksum);
        gzip.extend_from_slice(size);
        gzip
    }

    /// Where the archive's directory describes the one file whose name ends so, not that of a
    /// flavour.
    fn entry(name: &str) -> usize {
        let end = ARCHIVE
            .windows(4)
            .rposition(|four| four == END)
            .expect("an archive");
        let mut at = place(end + 16, 4);
        while &ARCHIVE[at..at + 4] == ENTRY {
            let length = place(at + 28, 2);
            let path = &ARCHIVE[at + 46..][..length];
            let is_flavour = path.windows(9).any(|nine| nine == b"/flavors/");
            if path.ends_with(name.as_bytes()) && !is_flavour {
                return at;
            }
            at += 46 + length + place(at + 30, 2) + place(at + 32, 2);
        }
        panic!("{name} is not in the archive");
    }

    /// A little-endian number of `bytes` bytes.
    fn number(at: usize, bytes: usize) -> u64 {
        let bytes = ARCHIVE[at..at + bytes].iter().rev();
        bytes.fold(0, |value, byte| value << 8 | u64::from(*byte))
    }

    fn place(at: usize, bytes: usize) -> usize {
        usize::try_from(number(at, bytes)).expect("it is within the archive")
    }
}
