//! What outlasts a restart: the state directory, its lock, and the instances' ids in it.
//!
//! One gateway owns a state directory, by a file lock that the system releases with the process.
//! The registry is one small JSON file, replaced as a whole (write, sync, rename), so that a crash
//! leaves either the old or the new one. A file that cannot be understood is an error for a person
//! to look at, never a reason to hand out a new id: clients have the old one in their settings.

use std::{
    fs::{DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::GatewayError;

const FILE: &str = "instances.json";
const LOCK: &str = "lock";
const VERSION: u32 = 1;

/// The file's contents.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    version: u32,
    default_instance: Uuid,
}

/// The open registry. The directory is ours as long as this lives.
#[derive(Debug)]
pub(crate) struct Registry {
    pub(crate) default_instance: Uuid,
    /// Locked; closing it releases the directory.
    _lock: File,
}

impl Registry {
    /// Opens the registry of `directory` (made if need be, for its owner only), or makes a new one.
    /// Blocks on the file system.
    pub(crate) fn open(directory: &Path) -> Result<Self, GatewayError> {
        private_directory(directory).map_err(io_error(directory))?;
        let lock = lock(directory)?;
        let path = directory.join(FILE);
        let contents = match std::fs::read(&path) {
            Ok(bytes) => read(&bytes)
                .map_err(|reason| GatewayError::BrokenRegistry { path: path.clone(), reason })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let contents = Contents { version: VERSION, default_instance: Uuid::new_v4() };
                write(directory, &contents).map_err(io_error(&path))?;
                contents
            }
            Err(error) => return Err(io_error(&path)(error)),
        };
        Ok(Self { default_instance: contents.default_instance, _lock: lock })
    }
}

/// Makes a directory that only its owner can enter; an existing one is left as it is.
pub(crate) fn private_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

pub(crate) fn io_error(path: &Path) -> impl FnOnce(io::Error) -> GatewayError + use<> {
    let path: PathBuf = path.to_owned();
    move |source| GatewayError::Io { path, source }
}

fn lock(directory: &Path) -> Result<File, GatewayError> {
    let path = directory.join(LOCK);
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    let file = options.open(&path).map_err(io_error(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(GatewayError::InUse(directory.to_owned())),
        Err(TryLockError::Error(error)) => Err(io_error(&path)(error)),
    }
}

fn read(bytes: &[u8]) -> Result<Contents, String> {
    let contents: Contents = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    match contents.version {
        VERSION => Ok(contents),
        other => Err(format!("it has version {other}, this program knows version {VERSION}")),
    }
}

fn write(directory: &Path, contents: &Contents) -> io::Result<()> {
    // The lock makes us the only writer, so the name of the temporary file need not be unique.
    let temporary = directory.join(format!("{FILE}.new"));
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(&serde_json::to_vec_pretty(contents)?)?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    std::fs::rename(&temporary, directory.join(FILE))?;
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_default_instance_keeps_its_id() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("new/state");
        let first = Registry::open(&directory).unwrap().default_instance;
        assert_eq!(Registry::open(&directory).unwrap().default_instance, first);
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&directory), 0o700);
        assert_eq!(mode(&directory.join(FILE)), 0o600);
    }

    #[test]
    fn a_second_owner_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let first = Registry::open(directory.path()).unwrap();
        let second = Registry::open(directory.path());
        assert!(matches!(second, Err(GatewayError::InUse(_))), "{second:?}");
        drop(first);
        Registry::open(directory.path()).unwrap();
    }

    #[test]
    fn a_broken_file_is_an_error_and_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        let id = Uuid::nil();
        let newer = format!(r#"{{"version": 2, "default_instance": "{id}"}}"#);
        for broken in ["", "{", "[]", r#"{"version": 1, "default_instance": "x"}"#, &newer] {
            std::fs::write(&path, broken).unwrap();
            let error = Registry::open(directory.path()).unwrap_err();
            assert!(matches!(error, GatewayError::BrokenRegistry { .. }), "{error}");
            assert!(error.to_string().contains(FILE));
            assert_eq!(std::fs::read_to_string(&path).unwrap(), broken);
        }
    }

    #[test]
    fn a_crash_while_writing_leaves_no_trace() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(format!("{FILE}.new")), "{\"vers").unwrap();
        let first = Registry::open(directory.path()).unwrap().default_instance;
        assert_eq!(Registry::open(directory.path()).unwrap().default_instance, first);
    }

    proptest! {
        #[test]
        fn reading_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes);
        }
    }
}
