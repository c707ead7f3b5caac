//! Where engines listen: Unix sockets in a directory that only the owner can enter.
//!
//! A socket's path has to fit into 108 bytes (`sun_path`, with its closing zero; 104 on some
//! systems). A state directory with a long name gets a short directory of its own under the
//! system's temporary one, with a random name and made anew, so that nobody else can have made it.

use std::{
    fs::DirBuilder,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use uuid::Uuid;

use crate::{
    error::GatewayError,
    registry::{io_error, private_directory},
};

/// The longest path that every Unix takes.
const LONGEST: usize = 103;

/// Longer than any socket's name in the directory.
const NAME_ROOM: usize = "/0123456789.sock".len();

/// A directory of sockets, and the next name in it.
#[derive(Debug)]
pub(crate) struct SocketDirectory {
    path: PathBuf,
    /// Made for this run alone: removed at its end.
    temporary: bool,
    next: u32,
}

impl SocketDirectory {
    /// A directory for sockets in `state`, or elsewhere if that is too deep.
    /// Only the owner of `state` may call this: sockets left by an earlier run are removed.
    pub(crate) fn make(state: &Path) -> Result<Self, GatewayError> {
        // The engine gets the path as an argument and may have another working directory.
        let state = std::path::absolute(state).map_err(io_error(state))?;
        let path = state.join("run");
        if path.as_os_str().len() + NAME_ROOM <= LONGEST {
            if path.exists() {
                std::fs::remove_dir_all(&path).map_err(io_error(&path))?;
            }
            private_directory(&path).map_err(io_error(&path))?;
            return Ok(Self { path, temporary: false, next: 0 });
        }
        let name = Uuid::new_v4().simple().to_string();
        let path = std::env::temp_dir().join(format!("wharf-{}", &name[..16]));
        // Not recursive: an existing directory is an error.
        DirBuilder::new().mode(0o700).create(&path).map_err(io_error(&path))?;
        Ok(Self { path, temporary: true, next: 0 })
    }

    /// A path at which no socket is yet: each engine gets its own, so that a late one of an old
    /// engine is never taken for the new one's.
    pub(crate) fn next(&mut self) -> PathBuf {
        let path = self.path.join(format!("{}.sock", self.next));
        self.next = self.next.wrapping_add(1);
        path
    }
}

impl Drop for SocketDirectory {
    fn drop(&mut self) {
        if self.temporary {
            // Nothing depends on it, and nobody is left to be told.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::{fs::PermissionsExt as _, net::UnixListener};

    use super::*;

    #[test]
    fn sockets_can_be_bound_however_deep_the_state_directory_is() {
        for depth in [0, 200] {
            let parent = tempfile::tempdir().unwrap();
            let state = parent.path().join("d".repeat(depth));
            let mut sockets = SocketDirectory::make(&state).unwrap();
            let (first, second) = (sockets.next(), sockets.next());
            assert_ne!(first, second);
            UnixListener::bind(&first).unwrap();
            let directory = first.parent().unwrap().to_owned();
            let mode = std::fs::metadata(&directory).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o700);
            drop(sockets);
            assert_eq!(directory.exists(), depth == 0);
        }
    }

    #[test]
    fn sockets_of_an_earlier_run_are_gone() {
        let state = tempfile::tempdir().unwrap();
        let left = SocketDirectory::make(state.path()).unwrap().next();
        drop(UnixListener::bind(&left).unwrap());
        assert!(left.exists());
        let mut sockets = SocketDirectory::make(state.path()).unwrap();
        UnixListener::bind(sockets.next()).unwrap();
    }
}
