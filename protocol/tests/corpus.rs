//! Replays what the fuzzer knows on the stable compiler, and feeds every entry some noise.

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use protocol::testing::entry;

fn seeds(target: &str) -> Vec<PathBuf> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    let files = fs::read_dir(corpus.join(target)).into_iter().flatten();
    files.flatten().map(|file| file.path()).collect()
}

#[test]
fn every_seed_of_every_target_holds() {
    for (target, run) in entry::ALL {
        let seeds = seeds(target);
        assert!(!seeds.is_empty(), "fuzz/corpus/{target}/ has no seed");
        for seed in seeds {
            // Shown if the entry panics.
            println!("{}", seed.display());
            run(&fs::read(seed).unwrap());
        }
    }
}

#[test]
fn every_target_has_a_shim() {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/Cargo.toml");
    let manifest = fs::read_to_string(manifest).unwrap();
    for (target, _) in entry::ALL {
        assert!(
            manifest.contains(&format!("name = \"{target}\"")),
            "{target}"
        );
    }
}

proptest! {
    #[test]
    fn any_bytes_are_a_scenario(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        for (_, run) in entry::ALL {
            run(&bytes);
        }
    }
}
