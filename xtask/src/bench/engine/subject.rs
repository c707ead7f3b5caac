//! What is measured: a model's file, and what a token of it costs.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};
use clap::builder::PossibleValue;

use crate::bench::{
    make_model::{self, format::Format},
    server,
    shape::{LLAMA_3_2_1B, QWEN3_0_6B, SMOLLM2_135M, Shape},
};

/// A model on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Model {
    Smollm2,
    Qwen3,
    Llama,
}

impl Model {
    fn shape(self) -> &'static Shape {
        match self {
            Model::Smollm2 => &SMOLLM2_135M,
            Model::Qwen3 => &QWEN3_0_6B,
            Model::Llama => &LLAMA_3_2_1B,
        }
    }
}

impl clap::ValueEnum for Model {
    fn value_variants<'a>() -> &'a [Self] {
        &[Model::Smollm2, Model::Qwen3, Model::Llama]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.shape().name))
    }
}

/// A model in a format.
#[derive(Debug, Clone)]
pub(super) struct Subject {
    /// `qwen3-0.6b q4_0`
    pub(super) name: String,
    /// As the kernels' benchmark names its formats.
    pub(super) format: &'static str,
    /// One GGUF file for all servers.
    pub(super) file: PathBuf,
    pub(super) file_bytes: u64,
    /// Weights that a token is multiplied with.
    pub(super) weights: usize,
    /// Bytes of them that are read for a token. Of a fetched file its length, some vocabulary too.
    pub(super) weight_bytes: u64,
    pub(super) kv_token_bytes: usize,
}

impl Subject {
    /// Finds or makes the models' files. A fetched model has the one format it was fetched in.
    pub(super) fn all(
        models: &[Model],
        formats: &[Format],
        wharf: &std::path::Path,
    ) -> Result<Vec<Self>> {
        let mut subjects = Vec::new();
        for model in models {
            let shape = model.shape();
            if *model == Model::Smollm2 {
                let file = server::model_path(wharf, shape.name)?;
                subjects.push(Self::new(shape, Format::Q4_1, file, None)?);
                continue;
            }
            for &format in formats {
                let file =
                    make_model::make(shape, format, 0, &make_model::default_dir(shape, format))?;
                let bytes = format.bytes(shape.multiplied_weights());
                subjects.push(Self::new(shape, format, file, Some(bytes as u64))?);
            }
        }
        Ok(subjects)
    }

    fn new(
        shape: &Shape,
        format: Format,
        file: PathBuf,
        weight_bytes: Option<u64>,
    ) -> Result<Self> {
        let metadata = fs::metadata(&file).with_context(|| file.display().to_string())?;
        Ok(Self {
            name: format!("{} {}", shape.name, format.name()),
            format: format.name(),
            file,
            file_bytes: metadata.len(),
            weights: shape.multiplied_weights(),
            weight_bytes: weight_bytes.unwrap_or(metadata.len()),
            kv_token_bytes: shape.kv_token_bytes(),
        })
    }
}
