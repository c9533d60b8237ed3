use std::sync::{Arc, Mutex};

use super::super::document::{Change, Identity, Record};
use super::super::fake::Fake;
use super::*;

fn names(disk: &Fake) -> Vec<String> {
    disk.contents().into_keys().collect()
}

fn file() -> StateFile {
    StateFile::new(PathBuf::from("/d/state.json"))
}

/// A document with as many instances as its generation.
fn generation(number: u64) -> Document {
    let mut document = Document::new(Identity {
        id: "m".into(),
        key: "k".into(),
        ..Identity::default()
    });
    for order in 0..number {
        let record = Record {
            id: format!("{order:08x}").into(),
            url: "client://:1/h:2".into(),
            ..Record::default()
        };
        document.apply(&Change::Put(order, Arc::new(record)));
    }
    document
}

fn size(loaded: &Loaded) -> usize {
    match loaded {
        Loaded::Nothing => 0,
        Loaded::Whole(document) | Loaded::Backup(document, _) => document.instances.len(),
    }
}

#[test]
fn what_was_saved_is_loaded_and_the_generation_before_is_kept() {
    let disk = Fake::default();
    assert_eq!(file().load(&disk), Ok(Loaded::Nothing));
    for number in 1..4 {
        file().save(&disk, &generation(number)).unwrap();
        assert_eq!(file().load(&disk), Ok(Loaded::Whole(generation(number))));
    }
    assert_eq!(names(&disk), ["/d/state.json", "/d/state.json.bak"]);
    disk.remove(Path::new("/d/state.json")).unwrap();
    let Loaded::Backup(document, warning) = file().load(&disk).unwrap() else {
        panic!("no backup");
    };
    assert_eq!(document, generation(2));
    assert!(warning.contains("is missing"), "{warning}");
}

/// Saves generation 2 or 3 over the one before and stops after every step: a start then finds one
/// of the two, and can save again.
fn crash_everywhere(disk: &Fake, old: u64) {
    let new = generation(old + 1);
    for steps in 0.. {
        let crashing = disk.failing_after(steps);
        let done = file().save(&crashing, &new).is_ok();
        for part in [0, 1, 20, usize::MAX] {
            let disk = crashing.after_crash(part);
            let loaded = file().load(&disk).unwrap();
            let found = size(&loaded) as u64;
            assert!(
                found == old || found == old + 1,
                "{found} after {steps} steps"
            );
            assert!(!done || found == old + 1);
            file().save(&disk, &generation(7)).unwrap();
            assert_eq!(size(&file().load(&disk).unwrap()), 7);
        }
        if done {
            return;
        }
    }
}

#[test]
fn a_crash_between_any_two_steps_leaves_the_old_state_or_the_new_one() {
    for linkless in [false, true] {
        let disk = Fake::new(linkless);
        crash_everywhere(&disk, 0);
        file().save(&disk, &generation(1)).unwrap();
        crash_everywhere(&disk, 1);
        file().save(&disk, &generation(2)).unwrap();
        crash_everywhere(&disk, 2);
        // After a start from the backup it is the only copy.
        disk.remove(Path::new("/d/state.json")).unwrap();
        crash_everywhere(&disk, 1);
    }
}

#[test]
fn a_step_that_fails_leaves_the_old_state_in_force() {
    /// Fails at one step and works before and after, as a full disk may.
    #[derive(Debug)]
    struct Full(Fake, Mutex<usize>);
    impl Full {
        fn step(&self) -> io::Result<()> {
            let mut left = self.1.lock().unwrap();
            *left = left.wrapping_sub(1);
            if *left == 0 {
                Err(io::Error::other("full"))
            } else {
                Ok(())
            }
        }
    }
    impl Disk for Full {
        fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
            self.0.read(path)
        }
        fn create(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
            self.step()?;
            self.0.create(path, bytes)
        }
        fn sync(&self, path: &Path) -> io::Result<()> {
            self.step()?;
            self.0.sync(path)
        }
        fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
            self.0.link(from, to)
        }
        fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
            self.step()?;
            self.0.rename(from, to)
        }
        fn remove(&self, path: &Path) -> io::Result<()> {
            self.0.remove(path)
        }
        fn sync_directory(&self, path: &Path) -> io::Result<()> {
            self.step()?;
            self.0.sync_directory(path)
        }
    }
    let first = Full(Fake::default(), Mutex::new(4));
    assert!(file().save(&first, &generation(1)).is_err());
    assert_eq!(file().load(&first), Ok(Loaded::Nothing));
    for failing in 1..=4 {
        let disk = Fake::default();
        file().save(&disk, &generation(1)).unwrap();
        let full = Full(disk, Mutex::new(failing));
        assert!(file().save(&full, &generation(2)).is_err());
        assert_eq!(file().load(&full), Ok(Loaded::Whole(generation(1))));
        assert!(!names(&full.0).iter().any(|name| name.contains("tmp")));
        file().save(&full, &generation(3)).unwrap();
        assert_eq!(file().load(&full), Ok(Loaded::Whole(generation(3))));
    }
}

#[test]
fn a_file_cut_at_any_byte_is_moved_aside_and_the_backup_is_used() {
    let whole = String::from_utf8(generation(2).write().unwrap()).unwrap();
    for end in 0..whole.trim_end().len() {
        let disk = Fake::default();
        file().save(&disk, &generation(1)).unwrap();
        file().save(&disk, &generation(2)).unwrap();
        disk.put(Path::new("/d/state.json"), &whole.as_bytes()[..end]);
        let loaded = file().load(&disk);
        let Ok(Loaded::Backup(document, warning)) = loaded else {
            panic!("{loaded:?} at {end}");
        };
        assert_eq!(document, generation(1));
        assert!(
            warning.contains(".corrupt-") && warning.contains("damaged"),
            "{warning}"
        );
        let names = names(&disk);
        assert!(
            names.len() == 2 && names[0] == "/d/state.json.bak",
            "{names:?}"
        );
        assert!(names[1].starts_with("/d/state.json.corrupt-"), "{names:?}");
        let kept = disk.read(Path::new(&names[1])).unwrap();
        assert_eq!(kept, &whole.as_bytes()[..end]);
    }
}

#[test]
fn nothing_is_touched_when_nothing_can_be_used() {
    let newer = r#"{"version":9}"#;
    let table = [
        ("junk", Some("junk"), "damaged"),
        ("junk", None, "backup (missing)"),
        ("", None, "damaged"),
        (newer, Some("junk"), "newer"),
        ("junk", Some(newer), "newer"),
    ];
    for (main, backup, expected) in table {
        let disk = Fake::default();
        disk.put(Path::new("/d/state.json"), main.as_bytes());
        if let Some(backup) = backup {
            disk.put(Path::new("/d/state.json.bak"), backup.as_bytes());
        }
        let before = disk.contents();
        let error = file().load(&disk).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert_eq!(disk.contents(), before);
    }
}

#[test]
fn what_cannot_be_read_is_not_taken_for_missing() {
    let disk = Fake::default();
    file().save(&disk, &generation(1)).unwrap();
    let error = file().load(&disk.failing_after(0)).unwrap_err();
    assert!(matches!(error, LoadError::Io { .. }), "{error}");
}
