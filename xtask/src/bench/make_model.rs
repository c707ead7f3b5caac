//! `cargo xtask bench make-model`: a model of random weights in a published shape, so that speed can
//! be measured, ours and a peer's on the same file, without fetching weights.
//!
//! What it writes depends on shape, format and seed alone. A quantised model is one GGUF file, all
//! matrices in its format, the embedding too; a bf16 model is a Hugging Face directory and, beside
//! its files, the same as GGUF (but that for Llama the rows of queries and keys are not permuted).

pub(crate) mod format;
mod gguf_file;
mod hugging_face;
mod normal;
mod tensor_data;
mod vocabulary;

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    thread::available_parallelism,
    time::Instant,
};

use anyhow::{Context, Result};

pub(super) use self::normal::mix;
use self::{format::Format, tensor_data::Recipe, vocabulary::Vocabulary};
use super::shape::{Makeable, Shape};
use crate::tools;

/// Of what is written: a model of another version is made anew.
const VERSION: u32 = 1;
/// Written last, and says what the directory holds.
const STAMP: &str = "made.txt";

#[derive(clap::Args)]
pub(super) struct MakeModelArgs {
    /// The shape
    #[arg(ignore_case = true)]
    shape: Makeable,
    /// How the matrices are stored; bf16 makes a Hugging Face directory and a GGUF file in it
    #[arg(long, ignore_case = true)]
    format: Format,
    /// Directory to write [default: target/bench-models/SHAPE-FORMAT]
    #[arg(long)]
    out: Option<PathBuf>,
    /// The same seed gives the same weights
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

pub(super) fn run(args: &MakeModelArgs) -> Result<()> {
    let shape = args.shape.shape();
    let out = args.out.clone().unwrap_or_else(|| default_dir(shape, args.format));
    make(shape, args.format, args.seed, &out)?;
    Ok(())
}

/// Where a model is unless the user says otherwise.
pub(super) fn default_dir(shape: &Shape, format: Format) -> PathBuf {
    tools::target_dir().join("bench-models").join(format!("{}-{}", shape.name, format.name()))
}

/// Makes the model in `dir` unless it is there, and returns the path of its GGUF file.
pub(super) fn make(shape: &Shape, format: Format, seed: u64, dir: &Path) -> Result<PathBuf> {
    let gguf = dir.join(format!("{}-{}.gguf", shape.name, format.name()));
    let stamp = format!("{} {} seed {seed}, version {VERSION}\n", shape.name, format.name());
    if fs::read_to_string(dir.join(STAMP)).is_ok_and(|found| found == stamp) {
        println!("{} is there", dir.display());
        return Ok(gguf);
    }
    let begun = Instant::now();
    let named = || format!("cannot write {}", dir.display());
    fs::create_dir_all(dir).with_context(named)?;
    // An older one is not complete any more.
    if dir.join(STAMP).exists() {
        fs::remove_file(dir.join(STAMP)).with_context(named)?;
    }
    let threads = available_parallelism().map_or(1, usize::from);
    let recipe = Recipe { shape, format, seed, threads };
    let vocabulary = Vocabulary::new(shape.vocab);
    if format == Format::Bf16 {
        hugging_face::write(&recipe, &vocabulary, dir).with_context(named)?;
    }
    let mut file = BufWriter::new(File::create(&gguf).with_context(named)?);
    gguf_file::write(&recipe, &vocabulary, &mut file).with_context(named)?;
    file.flush().with_context(named)?;
    fs::write(dir.join(STAMP), stamp).with_context(named)?;
    println!("{} made in {:.1} s", dir.display(), begun.elapsed().as_secs_f64());
    Ok(gguf)
}

#[cfg(test)]
mod tests;
