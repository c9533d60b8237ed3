//! A file system in memory, for tests and fuzzing.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::disk::Disk;

/// Stops working after some steps, as if the machine had.
#[derive(Debug, Default)]
pub(crate) struct Fake {
    files: Mutex<BTreeMap<PathBuf, Bytes>>,
    /// Steps that are left; without a number there is no end to them.
    left: Mutex<Option<usize>>,
    /// Without second names, as some file systems are.
    linkless: bool,
}

#[derive(Clone, Debug)]
struct Bytes {
    bytes: Vec<u8>,
    synced: bool,
}

impl Fake {
    /// An empty one, with second names or without.
    pub(crate) fn new(linkless: bool) -> Self {
        Self {
            linkless,
            ..Self::default()
        }
    }

    /// The same files, with `steps` left before everything fails.
    pub(crate) fn failing_after(&self, steps: usize) -> Self {
        Self {
            files: Mutex::new(self.files().clone()),
            left: Mutex::new(Some(steps)),
            linkless: self.linkless,
        }
    }

    /// The files after the crash; of those that were not synced, a part.
    pub(crate) fn after_crash(&self, part: usize) -> Self {
        let mut files = self.files().clone();
        for file in files.values_mut().filter(|file| !file.synced) {
            file.bytes.truncate(part);
        }
        Self {
            files: Mutex::new(files),
            left: Mutex::default(),
            linkless: self.linkless,
        }
    }

    /// Makes a file that has been there for long.
    pub(crate) fn put(&self, path: &Path, bytes: &[u8]) {
        let file = Bytes {
            bytes: bytes.to_vec(),
            synced: true,
        };
        self.files().insert(path.to_owned(), file);
    }

    /// All files by name, with what is in them.
    pub(crate) fn contents(&self) -> BTreeMap<String, Vec<u8>> {
        let files = self.files();
        files
            .iter()
            .map(|(path, file)| (path.display().to_string(), file.bytes.clone()))
            .collect()
    }

    fn files(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Bytes>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn step(&self) -> io::Result<()> {
        match &mut *self.left.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(0) => Err(io::Error::other("crashed")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

fn not_found() -> io::Error {
    ErrorKind::NotFound.into()
}

impl Disk for Fake {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.step()?;
        let files = self.files();
        let file = files.get(path).ok_or_else(not_found)?;
        Ok(file.bytes.clone())
    }

    fn create(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.step()?;
        let file = Bytes {
            bytes: bytes.to_vec(),
            synced: false,
        };
        let before = self.files().insert(path.to_owned(), file);
        assert!(before.is_none(), "{} was there", path.display());
        Ok(())
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        self.step()?;
        self.files().get_mut(path).ok_or_else(not_found)?.synced = true;
        Ok(())
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step()?;
        if self.linkless {
            return Err(ErrorKind::Unsupported.into());
        }
        let file = self.files().get(from).cloned().ok_or_else(not_found)?;
        let before = self.files().insert(to.to_owned(), file);
        assert!(before.is_none(), "{} was there", to.display());
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step()?;
        let file = self.files().remove(from).ok_or_else(not_found)?;
        self.files().insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.step()?;
        self.files().remove(path).map(drop).ok_or_else(not_found)
    }

    fn sync_directory(&self, _: &Path) -> io::Result<()> {
        self.step()
    }
}
