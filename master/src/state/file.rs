//! Saving and loading: after a crash at any moment the old state is there or the new one.

use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use runtime_smol::net::reason;

use super::disk::Disk;
use super::document::{Document, Unreadable};

/// The state file and the names beside it.
#[derive(Clone, Debug)]
pub(crate) struct StateFile {
    path: PathBuf,
    temporary: PathBuf,
    backup: PathBuf,
}

/// What was found at start.
#[derive(Debug, PartialEq)]
pub(crate) enum Loaded {
    /// No file: this is the first start.
    Nothing,
    /// The file.
    Whole(Document),
    /// The generation before; and the line that says what happened to the file.
    Backup(Document, String),
}

/// Why the state cannot be loaded. Nothing was changed on disk.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// The system does not let us.
    #[error("cannot read {path}: {reason}")]
    Io {
        /// The file.
        path: String,
        /// What the system said.
        reason: String,
    },
    /// A later version of the program wrote it.
    #[error("cannot use {path}: {reason}")]
    Newer {
        /// The file.
        path: String,
        /// Which version.
        reason: String,
    },
    /// Neither the file nor the generation before can be read.
    #[error("{path} is damaged ({reason}) and so is its backup ({backup}); nothing was changed")]
    Damaged {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
        /// What is wrong with the generation before.
        backup: String,
    },
}

impl StateFile {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self {
            temporary: beside(&path, ".tmp"),
            backup: beside(&path, ".bak"),
            path,
        }
    }

    /// Writes `document`; the generation before stays as `.bak`.
    ///
    /// # Errors
    /// What failed. The file then still holds what it held.
    pub(crate) fn save(&self, disk: &dyn Disk, document: &Document) -> io::Result<()> {
        let bytes = document.write()?;
        absent(disk.remove(&self.temporary))?;
        let written = self.write(disk, &bytes);
        if written.is_err() {
            // It only takes room; if that fails too, the next save meets it.
            disk.remove(&self.temporary).ok();
        }
        written
    }

    /// Makes a file beside the state file and removes it: where that fails, so will every save.
    ///
    /// # Errors
    /// What failed.
    pub(crate) fn try_out(&self, disk: &dyn Disk) -> io::Result<()> {
        absent(disk.remove(&self.temporary))?;
        disk.create(&self.temporary, b"")?;
        disk.remove(&self.temporary)
    }

    fn write(&self, disk: &dyn Disk, bytes: &[u8]) -> io::Result<()> {
        disk.create(&self.temporary, bytes)?;
        disk.sync(&self.temporary)?;
        self.keep_generation(disk)?;
        disk.rename(&self.temporary, &self.path)?;
        let directory = self
            .path
            .parent()
            .filter(|path| !path.as_os_str().is_empty());
        let synced = disk.sync_directory(directory.unwrap_or_else(|| Path::new(".")));
        if synced.is_err() {
            self.take_back(disk);
        }
        synced
    }

    /// Puts the generation before in force again: the change is reported as not made, so no start
    /// may find it.
    fn take_back(&self, disk: &dyn Disk) {
        match disk.rename(&self.backup, &self.path) {
            Err(error) if error.kind() == ErrorKind::NotFound => drop(disk.remove(&self.path)),
            // On a disk that fails twice either generation may be found.
            Ok(()) | Err(_) => {}
        }
    }

    /// Makes the file also the backup. The old backup goes only while there is a file, which was
    /// read or written as a whole.
    fn keep_generation(&self, disk: &dyn Disk) -> io::Result<()> {
        if let Err(error) = disk.read(&self.path) {
            return absent(Err(error));
        }
        absent(disk.remove(&self.backup))?;
        // Not every file system has second names: the file then is the backup for a moment.
        disk.link(&self.path, &self.backup)
            .or_else(|_| disk.rename(&self.path, &self.backup))
    }

    /// Reads what is there. A damaged file is moved aside as `.corrupt-<time>`.
    ///
    /// # Errors
    /// Nothing usable is there, though something is.
    pub(crate) fn load(&self, disk: &dyn Disk) -> Result<Loaded, LoadError> {
        let damage = match read(disk, &self.path)? {
            Some(Ok(document)) => return Ok(Loaded::Whole(document)),
            Some(Err(Unreadable::Newer(version))) => return Err(newer(&self.path, version)),
            Some(Err(Unreadable::Damaged(reason))) => Some(reason),
            None => None,
        };
        let (path, backup) = (self.path.display(), self.backup.display());
        let backup_damage = match (read(disk, &self.backup)?, damage.as_ref()) {
            (Some(Ok(document)), None) => {
                let warning = format!("{path} is missing; {backup} is used");
                return Ok(Loaded::Backup(document, warning));
            }
            (Some(Ok(document)), Some(reason)) => {
                let aside = self.move_aside(disk)?;
                let aside = aside.display();
                let warning =
                    format!("{path} is damaged ({reason}): moved to {aside}; {backup} is used");
                return Ok(Loaded::Backup(document, warning));
            }
            (Some(Err(Unreadable::Newer(version))), _) => return Err(newer(&self.backup, version)),
            (Some(Err(Unreadable::Damaged(reason))), _) => reason,
            (None, None) => return Ok(Loaded::Nothing),
            (None, Some(_)) => "missing".to_owned(),
        };
        Err(LoadError::Damaged {
            path: path.to_string(),
            reason: damage.unwrap_or_else(|| "missing".to_owned()),
            backup: backup_damage,
        })
    }

    fn move_aside(&self, disk: &dyn Disk) -> Result<PathBuf, LoadError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let aside = beside(
            &self.path,
            &format!(".corrupt-{}", now.unwrap_or_default().as_secs()),
        );
        disk.rename(&self.path, &aside)
            .map_err(|error| unreadable(&self.path, &error))?;
        Ok(aside)
    }
}

/// `None` if there is no such file.
fn read(disk: &dyn Disk, path: &Path) -> Result<Option<Result<Document, Unreadable>>, LoadError> {
    match disk.read(path) {
        Ok(bytes) => Ok(Some(Document::read(&bytes))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unreadable(path, &error)),
    }
}

fn unreadable(path: &Path, error: &io::Error) -> LoadError {
    LoadError::Io {
        path: path.display().to_string(),
        reason: reason(error),
    }
}

fn newer(path: &Path, version: u64) -> LoadError {
    LoadError::Newer {
        path: path.display().to_string(),
        reason: Unreadable::Newer(version).to_string(),
    }
}

/// It is fine if there was nothing to remove.
fn absent(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests;
