//! A file mapped into memory: the one module of this crate with `unsafe`.
//!
//! Weights are read once, front to back, to be repacked. Mapping lets the kernel's page cache hold them,
//! so that a second start reads no disk.
//! Nothing here looks at what the bytes mean.
#![allow(unsafe_code)]

use std::{
    fs::File,
    ops::Range,
    path::{Path, PathBuf},
};

use memmap2::Mmap;

use crate::error::ModelError;

/// A read-only private mapping of a whole file.
pub(crate) struct MappedFile {
    path: PathBuf,
    file: File,
    map: Mmap,
}

impl MappedFile {
    /// Maps a regular file.
    pub(crate) fn open(path: &Path) -> Result<Self, ModelError> {
        let io = |e| ModelError::io(path, e);
        let file = File::open(path).map_err(io)?;
        if !file.metadata().map_err(io)?.is_file() {
            return Err(io(std::io::Error::other("not a regular file")));
        }
        // SAFETY: the map is read-only and private, and only ever read as `u8`, of which every bit
        // pattern is valid. What no program can rule out is another process changing the file under
        // us. Changed bytes change numbers, never memory safety: every length and offset is checked
        // against the length of the map, which is fixed here, after it was copied out; a text is
        // copied before it is checked as UTF-8, and no `&str` into the map is kept. A file *cut short*
        // while it is loaded ends the process with SIGBUS when a lost page is next touched. It is not
        // undefined behaviour, but it is an end: model files must be replaced by renaming a new one into
        // place (as the hub does), never by rewriting.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        Ok(Self { path: path.to_owned(), file, map })
    }

    /// Where the file is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The file, mapped no longer, and where it is.
    pub(crate) fn unmap(self) -> (File, PathBuf) {
        (self.file, self.path)
    }

    /// The file's bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Says that the file is about to be read from end to end.
    pub(crate) fn will_read_all(&self) {
        #[cfg(unix)]
        // A hint: a kernel that refuses it only reads more slowly.
        let _ = self.map.advise(memmap2::Advice::WillNeed);
    }

    /// Says that `range` will not be needed again; its pages no longer count as this process's memory.
    pub(crate) fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        {
            const PAGE: usize = 4096;
            let start = range.start.next_multiple_of(PAGE);
            let end = range.end.min(self.map.len()) / PAGE * PAGE;
            if start >= end {
                return;
            }
            // SAFETY: the map is a file's, private and never written, so nothing of ours is lost: a
            // dropped page is read again from the file, as it then is, when it is next touched.
            let hint = unsafe {
                self.map.unchecked_advise_range(
                    memmap2::UncheckedAdvice::DontNeed,
                    start,
                    end - start,
                )
            };
            // A hint. Where pages are larger, what lies beside the range in its first and last one is
            // dropped as well.
            let _ = hint;
        }
        #[cfg(not(unix))]
        let _ = range;
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn released_pages_can_still_be_read() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let bytes: Vec<u8> = (0..50_000u32).map(|i| i as u8).collect();
        file.write_all(&bytes).unwrap();
        let map = MappedFile::open(file.path()).unwrap();
        map.will_read_all();
        assert_eq!(map.bytes(), bytes);
        map.release(1..49_999);
        map.release(0..1_000_000);
        assert_eq!(map.bytes(), bytes);
    }

    #[test]
    fn a_folder_and_a_missing_file_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        assert!(MappedFile::open(dir.path()).is_err());
        assert!(MappedFile::open(&dir.path().join("none")).is_err());
    }

    #[test]
    fn an_empty_file_is_no_bytes() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(MappedFile::open(file.path()).unwrap().bytes().is_empty());
    }
}
