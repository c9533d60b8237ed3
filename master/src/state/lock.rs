//! One master per state file.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// Held as long as the state file is ours. The lock ends with the process, whatever ends it.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

/// Locks the state file by way of a file beside it, since the state file itself is replaced.
/// `None` if another process has it.
///
/// # Errors
/// There can be no file.
pub(crate) fn lock(path: &Path) -> io::Result<Option<Lock>> {
    let mut options = OpenOptions::new();
    let options = options.write(true).create(true).truncate(false).mode(0o600);
    let file = options.open(super::file::beside(path, ".lock"))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(Lock { _file: file })),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
