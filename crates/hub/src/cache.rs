//! The cache on disk: where things lie, who may write, and how a file becomes whole.
//!
//! ```text
//! <cache>/
//!   smollm2/SmolLM2-135M-Instruct.Q4_1.gguf      the default model, from its Python package
//!   hub/<org>--<repo>/
//!     refs/<revision>                            what it led to when last asked (`/` as `%2F`)
//!     <commit>/                                  config.json, *.safetensors, ...: whole
//!     <commit>.partial/                          the same, on its way
//!     gguf/<commit>/<file>                       single files: whole
//!   locks/<name>.lock                            held by whoever is fetching <name>
//! ```
//!
//! A path without `.partial` in it is whole: it came there by a rename within its own folder, after
//! its bytes were synced to the disk.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::HubError;

/// How often a waiting process looks whether the lock is free.
const LOCK_POLL: Duration = Duration::from_millis(100);

/// Held while a model is being fetched; freed when dropped, and by the system when the process ends.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Waits until no other process fetches `name` into `cache`.
    pub(crate) async fn acquire(cache: &Path, name: &str) -> Result<Self, HubError> {
        let folder = cache.join("locks");
        make_folder(&folder)?;
        let path = folder.join(format!("{}.lock", flat(name)));
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(HubError::io(&path))?;
        let mut waited = false;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self { _file: file }),
                Err(TryLockError::WouldBlock) => {
                    if !waited {
                        tracing::info!("another process is fetching {name}; waiting for it");
                        waited = true;
                    }
                    tokio::time::sleep(LOCK_POLL).await;
                }
                Err(TryLockError::Error(e)) => return Err(HubError::io(&path)(e)),
            }
        }
    }
}

/// A folder that is deleted when dropped: also when the future that owns it is.
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// An empty folder at `path`. What a killed process left there is deleted first: the caller
    /// holds the lock, so nobody else uses it.
    pub(crate) fn new(path: PathBuf) -> Result<Self, HubError> {
        match std::fs::remove_dir_all(&path) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(HubError::io(&path)(e)),
        }
        make_folder(&path)?;
        Ok(Self(path))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_dir_all(&self.0) {
            tracing::debug!("{} stays behind: {e}", self.0.display());
        }
    }
}

/// Makes a folder and its parents.
pub(crate) fn make_folder(path: &Path) -> Result<(), HubError> {
    std::fs::create_dir_all(path).map_err(HubError::io(path))
}

/// `path` with `suffix` appended to its last component.
pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Gives a finished file or folder its final name, durably. The two are in the same folder, so the
/// rename is atomic.
pub(crate) fn put_in_place(partial: &Path, place: &Path) -> Result<(), HubError> {
    File::open(partial).and_then(|f| f.sync_all()).map_err(HubError::io(partial))?;
    std::fs::rename(partial, place).map_err(HubError::io(place))?;
    if let Some(folder) = place.parent() {
        // The rename itself must survive a power cut too.
        File::open(folder).and_then(|f| f.sync_all()).map_err(HubError::io(folder))?;
    }
    Ok(())
}

/// Writes a small file whole or not at all.
pub(crate) fn write_atomically(path: &Path, contents: &[u8]) -> Result<(), HubError> {
    if let Some(folder) = path.parent() {
        make_folder(folder)?;
    }
    let partial = with_suffix(path, ".partial");
    std::fs::write(&partial, contents).map_err(HubError::io(&partial))?;
    put_in_place(&partial, path)
}

/// The folder of a repository.
pub(crate) fn repository_folder(cache: &Path, repo: &str) -> PathBuf {
    cache.join("hub").join(flat(repo))
}

/// `org/repo` as one path component.
pub(crate) fn flat(name: &str) -> String {
    name.replace('/', "--")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_lock_is_held_by_one_at_a_time() {
        let cache = tempfile::tempdir().unwrap();
        let held = Lock::acquire(cache.path(), "a/b").await.unwrap();
        let second = Lock::acquire(cache.path(), "a/b");
        assert!(tokio::time::timeout(Duration::from_millis(250), second).await.is_err());
        let _other_name = Lock::acquire(cache.path(), "a/c").await.unwrap();
        drop(held);
        Lock::acquire(cache.path(), "a/b").await.unwrap();
    }

    #[test]
    fn scratch_starts_empty_and_is_deleted() {
        let cache = tempfile::tempdir().unwrap();
        let path = cache.path().join("s");
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("left"), b"over").unwrap();
        let scratch = Scratch::new(path.clone()).unwrap();
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
        drop(scratch);
        assert!(!path.exists());
    }
}
