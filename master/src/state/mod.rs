//! The state file: one JSON document, one writer (`rest.md` §5).
//!
//! A change is on disk when [`Store::change`] returns. Changes that come while one is being written
//! share the next write; if that fails, none of them was made.

mod disk;
mod document;
#[cfg(any(test, feature = "testing"))]
mod fake;
mod file;
mod lock;
mod path;

use std::fmt;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use event_listener::Event;
use runtime_smol::net::reason;
use smol::channel::{Sender, bounded};

pub use self::file::LoadError;
pub use self::path::state_path;

pub(crate) use self::disk::{Disk, Files};
pub(crate) use self::document::{Change, Document, Identity, Record};
#[cfg(feature = "testing")]
pub(crate) use self::fake::Fake;
pub(crate) use self::file::{Loaded, StateFile};

use self::lock::{Lock, lock};
use crate::error::Error;

/// The API key in the state file at `path`, for `nodepass key`.
///
/// # Errors
/// There is no such file, or it cannot be read.
pub fn stored_key(path: &Path) -> Result<String, LoadError> {
    let missing = || LoadError::Io {
        path: path.display().to_string(),
        reason: "there is no key in it".to_owned(),
    };
    // Without a change on disk: a running master may be writing.
    let bytes = Files.read(path).map_err(|error| LoadError::Io {
        path: path.display().to_string(),
        reason: reason(&error),
    })?;
    let document = Document::read(&bytes).map_err(|error| LoadError::Io {
        path: path.display().to_string(),
        reason: error.to_string(),
    })?;
    let key = &document.master.key;
    (!key.is_empty())
        .then(|| key.to_string())
        .ok_or_else(missing)
}

/// Why a master cannot have its state file. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Nothing says where it is.
    #[error("state: there is no home directory for the state file; state=<path> in the URL")]
    Nowhere,
    /// Another master uses it.
    #[error("state: {0} is in use by another master")]
    Locked(String),
    /// The directory or the file cannot be written.
    #[error("state: cannot write {path}: {reason}")]
    Unwritable {
        /// The file.
        path: String,
        /// What the system said.
        reason: String,
    },
    /// What is there cannot be used.
    #[error("state: {0}")]
    Load(#[from] LoadError),
    /// The system gave no random bytes for keys.
    #[error("no random bytes: {0}")]
    Random(String),
}

/// A state file that is this process's.
#[derive(Debug)]
pub(crate) struct Opened {
    file: StateFile,
    path: PathBuf,
    lock: Lock,
}

impl Opened {
    /// Locks and reads the state file; its directory is made if it is not there.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub(crate) fn open(path: PathBuf) -> Result<(Self, Loaded), OpenError> {
        let failed = |error: io::Error| unwritable(&path, &error);
        if let Some(directory) = path.parent().filter(|path| !path.as_os_str().is_empty()) {
            let mut builder = std::fs::DirBuilder::new();
            builder.recursive(true).mode(0o700);
            builder.create(directory).map_err(failed)?;
        }
        let lock = lock(&path).map_err(failed)?;
        let lock = lock.ok_or_else(|| OpenError::Locked(path.display().to_string()))?;
        let file = StateFile::new(path.clone());
        let loaded = file.load(&Files)?;
        file.try_out(&Files).map_err(failed)?;
        Ok((Self { file, path, lock }, loaded))
    }

    /// Writes the document once: at start it must work.
    ///
    /// # Errors
    /// [`OpenError::Unwritable`].
    pub(crate) fn save(&self, document: &Document) -> Result<(), OpenError> {
        let saved = self.file.save(&Files, document);
        saved.map_err(|error| unwritable(&self.path, &error))
    }

    /// Hands the file to a writer that starts from `document`.
    pub(crate) fn store(self, document: Document) -> (Arc<Store>, Writer) {
        let (store, writer) = store(self.file, Arc::new(Files), document);
        let lock = Some(self.lock);
        (store, Writer { lock, ..writer })
    }
}

fn unwritable(path: &Path, error: &io::Error) -> OpenError {
    OpenError::Unwritable {
        path: path.display().to_string(),
        reason: reason(error),
    }
}

type Waiter = Sender<Result<(), String>>;

/// Where changes are handed in.
#[derive(Debug, Default)]
pub(crate) struct Store {
    queue: Mutex<Queue>,
    changed: Event,
}

#[derive(Default)]
struct Queue {
    pending: Vec<(Change, Waiter)>,
    closed: bool,
}

impl Store {
    /// Makes a change and waits until it is on disk. Once called, it is made even if the future is
    /// dropped.
    ///
    /// # Errors
    /// [`Error::State`]: it was not made.
    pub(crate) async fn change(&self, change: Change) -> Result<(), Error> {
        let (tell, told) = bounded(1);
        {
            let mut queue = self.queue();
            if queue.closed {
                return Err(Error::Closing);
            }
            queue.pending.push((change, tell));
        }
        self.changed.notify(1);
        match told.recv().await {
            Ok(outcome) => outcome.map_err(Error::State),
            Err(_) => Err(Error::Closing),
        }
    }

    /// Takes no more changes; the writer ends after those that are waiting.
    pub(crate) fn close(&self) {
        self.queue().closed = true;
        self.changed.notify(1);
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The changes that are waiting; `None` when there will be no more.
    async fn next(&self) -> Option<Vec<(Change, Waiter)>> {
        loop {
            let listener = self.changed.listen();
            {
                let mut queue = self.queue();
                if !queue.pending.is_empty() {
                    return Some(std::mem::take(&mut queue.pending));
                }
                if queue.closed {
                    return None;
                }
            }
            listener.await;
        }
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").finish_non_exhaustive()
    }
}

/// The one that writes.
pub(crate) struct Writer {
    store: Arc<Store>,
    file: StateFile,
    disk: Arc<dyn Disk>,
    document: Document,
    lock: Option<Lock>,
}

/// A store and its writer, which is to be [run](Writer::run).
pub(crate) fn store(
    file: StateFile,
    disk: Arc<dyn Disk>,
    document: Document,
) -> (Arc<Store>, Writer) {
    let store = Arc::<Store>::default();
    let writer = Writer {
        store: Arc::clone(&store),
        file,
        disk,
        document,
        lock: None,
    };
    (store, writer)
}

impl Writer {
    /// Writes until the store is closed. The file is ours until then.
    pub(crate) async fn run(self) {
        let Self {
            store,
            file,
            disk,
            mut document,
            lock,
        } = self;
        let mut complaint = None;
        while let Some(batch) = store.next().await {
            let mut next = document.clone();
            for (change, _) in &batch {
                next.apply(change);
            }
            let (file, disk) = (file.clone(), Arc::clone(&disk));
            // Waiting for a disk is for a thread of its own.
            let (next, saved) = smol::unblock(move || {
                let saved = file.save(&*disk, &next);
                (next, saved)
            })
            .await;
            let outcome = saved.map_err(|error| reason(&error));
            if outcome.is_ok() {
                document = next;
            }
            complain(&mut complaint, outcome.as_ref().err());
            for (_, waiter) in batch {
                // Nobody waits if the caller is gone.
                waiter.try_send(outcome.clone()).ok();
            }
        }
        drop(lock);
    }
}

/// Logs a failure once, however many changes it costs, and its end.
fn complain(known: &mut Option<String>, error: Option<&String>) {
    match error {
        Some(error) if known.as_ref() != Some(error) => {
            tracing::error!(
                "state: cannot be saved: {error}; the state before stays in force, \
                 changes are refused until it can"
            );
        }
        None if known.is_some() => tracing::info!("state: saved again"),
        Some(_) | None => {}
    }
    *known = error.cloned();
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}
