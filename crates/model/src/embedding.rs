//! The embedding matrix, of which tokens need a row now and then.

use std::{fs::File, io, path::PathBuf};

use wharf_kernels::quant::{Format, dequantize};

use crate::mmap::MappedFile;

/// The embedding matrix `[vocab_size, hidden_size]`, read row by row from the file. It is not mapped: each
/// row would bring its neighbours' pages with it, to count as this process's memory, and a file that is cut
/// short while it is served would end the process where it now fails a step.
pub(crate) struct Embedding {
    file: File,
    path: PathBuf,
    /// Where in the file the matrix begins.
    start: u64,
    row_bytes: usize,
    format: Format,
}

impl Embedding {
    /// `start`: where in the file it begins.
    pub(crate) fn new(mapped: MappedFile, start: usize, row_bytes: usize, format: Format) -> Self {
        let (file, path) = mapped.unmap();
        Self { file, path, start: start as u64, row_bytes, format }
    }

    /// Decodes the rows of `tokens` into `out`, `[tokens, hidden_size]`.
    ///
    /// # Panics
    /// When the file cannot be read, or not as far as it went when it was opened.
    pub(crate) fn read(&self, tokens: &[u32], out: &mut [f32]) {
        let Some(width) = out.len().checked_div(tokens.len()) else { return };
        let mut bytes = vec![0; self.row_bytes];
        for (token, row) in tokens.iter().zip(out.chunks_exact_mut(width)) {
            let start = self.start + u64::from(*token) * self.row_bytes as u64;
            if let Err(error) = read_exact_at(&self.file, &mut bytes, start) {
                panic!(
                    "{}: cannot read the embedding of token {token}: {error}",
                    self.path.display()
                );
            }
            dequantize(self.format, &bytes, row);
        }
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, bytes: &mut [u8], start: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, start)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut bytes: &mut [u8], mut start: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, bytes, start)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => (bytes, start) = (&mut bytes[read..], start + read as u64),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// Four rows of two, from byte 3 on.
    fn rows() -> (tempfile::NamedTempFile, Embedding) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"abc").unwrap();
        for value in 0..8u8 {
            file.write_all(&f32::from(value).to_le_bytes()).unwrap();
        }
        let mapped = MappedFile::open(file.path()).unwrap();
        let embedding = Embedding::new(mapped, 3, 8, Format::F32);
        (file, embedding)
    }

    #[test]
    fn rows_come_in_the_tokens_order() {
        let (_file, embedding) = rows();
        let mut out = [0.0; 6];
        embedding.read(&[3, 0, 2], &mut out);
        assert_eq!(out, [6.0, 7.0, 0.0, 1.0, 4.0, 5.0]);
        embedding.read(&[], &mut []);
    }

    #[test]
    #[should_panic(expected = "cannot read the embedding of token 3")]
    fn a_file_that_is_cut_short_is_an_error() {
        let (file, embedding) = rows();
        file.as_file().set_len(3 + 24).unwrap();
        let mut out = [0.0; 2];
        embedding.read(&[2], &mut out);
        assert_eq!(out, [4.0, 5.0]);
        embedding.read(&[3], &mut out);
    }
}
