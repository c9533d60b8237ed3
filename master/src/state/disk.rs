//! The system calls that a state file is made of, so that tests can stop between any two.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind::{InvalidInput, Unsupported};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Only the owner may read the file: it holds the API key and tunnel keys.
const MODE: u32 = 0o600;

/// A file system. Every method is one step; a crash may happen between any two.
pub(crate) trait Disk: fmt::Debug + Send + Sync + 'static {
    /// All bytes of a file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// Makes a file that was not there, readable by its owner alone, and fills it. Until it is
    /// synced it may hold any part of the bytes after a crash.
    fn create(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;
    /// Waits until a file's bytes are on disk.
    fn sync(&self, path: &Path) -> io::Result<()>;
    /// Gives a file a second name.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Gives a file another name, whatever had that one before.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a name.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Waits until the names in a directory are on disk, if the file system can do that.
    fn sync_directory(&self, path: &Path) -> io::Result<()>;
}

/// The machine's.
#[derive(Debug)]
pub(crate) struct Files;

impl Disk for Files {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        fs::read(path)
    }

    fn create(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(MODE).open(path)?;
        file.write_all(bytes)
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        OpenOptions::new().write(true).open(path)?.sync_all()
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        match File::open(path)?.sync_all() {
            // Network and shared folders keep names as they see fit, and cannot be asked to.
            Err(error) if matches!(error.kind(), Unsupported | InvalidInput) => Ok(()),
            synced => synced,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_that_cannot_sync_directories_will_do() {
        let refused = File::open("/proc").unwrap().sync_all().unwrap_err();
        assert_eq!(refused.kind(), InvalidInput);
        Files.sync_directory(Path::new("/proc")).unwrap();
        Files.sync_directory(Path::new("/nonexistent")).unwrap_err();
    }
}
