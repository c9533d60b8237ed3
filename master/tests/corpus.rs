//! Replays what the fuzzer knows on the stable compiler, and feeds every entry some noise.

use std::fs;
use std::path::Path;

use master::entry;
use proptest::prelude::*;

#[test]
fn every_target_has_a_shim_and_seeds_that_hold() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
    let manifest = fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
    for (target, run) in entry::ALL {
        assert!(
            manifest.contains(&format!("name = \"{target}\"")),
            "{target}"
        );
        let seeds = fs::read_dir(fuzz.join("corpus").join(target)).unwrap();
        let seeds: Vec<_> = seeds.flatten().map(|file| file.path()).collect();
        assert!(!seeds.is_empty(), "fuzz/corpus/{target}/ has no seed");
        for seed in seeds {
            // Shown if the entry panics.
            println!("{}", seed.display());
            run(&fs::read(seed).unwrap());
        }
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
