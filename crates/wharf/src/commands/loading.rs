//! From a model's files and the options as typed to a loaded model and its tokenizer, for the
//! commands that compute. The only place that knows both `model` and `text`.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use wharf_model::{
    Activations, GgufVocabulary, Isa, KvFormat, Level, LoadOptions, Model, Quantization,
    TokenizerSource,
};
use wharf_text::tokenizer::{self, Tokenizer};

use super::cores;
use crate::cli::{ActivationsName, ComputeOptions, IsaName, KvCacheDtype, QuantizeName};

/// Loads the model at `path`, for sequences of `max_model_len` tokens if that is known already.
pub(crate) fn model(
    path: &Path,
    options: &ComputeOptions,
    max_model_len: Option<usize>,
) -> Result<Model> {
    let load_options = load_options(options, max_model_len)?;
    tracing::info!("{load_options:?}");
    Ok(Model::load(path, &load_options)?)
}

/// Loads the draft model at `path` to guess for `model`, on its threads.
pub(crate) fn draft_model(
    path: &Path,
    options: &ComputeOptions,
    max_model_len: Option<usize>,
    model: &Model,
) -> Result<Model> {
    Ok(model.load_beside(path, &load_options(options, max_model_len)?)?)
}

fn load_options(options: &ComputeOptions, max_model_len: Option<usize>) -> Result<LoadOptions> {
    let activations = match options.activations {
        // With smollm2 in Q4_1: half as fast again, perplexity times 1.001 (2 cores of an AMD EPYC with
        // AVX2, November 2026).
        ActivationsName::Auto => Activations::Rounded,
        ActivationsName::F32 => Activations::F32,
    };
    let threads = options.threads.unwrap_or_else(cores::available);
    let cpus = if options.pin_threads { cpus_for(threads)? } else { Vec::new() };
    let isa = choose_isa(options.isa)?;
    let quantization = match options.quantize {
        QuantizeName::Auto => Some(Quantization::Auto),
        QuantizeName::None => None,
        QuantizeName::Int8 => Some(Quantization::Int8),
        QuantizeName::Int4 => Some(Quantization::Int4),
    };
    Ok(LoadOptions { isa, threads, cpus, activations, quantization, max_model_len })
}

/// A CPU of a core of its own for each of `threads`.
fn cpus_for(threads: NonZeroUsize) -> Result<Vec<usize>> {
    let cpus = cores::first_cpus().context("--pin-threads: this system does not tell its cores")?;
    ensure!(
        cpus.len() >= threads.get(),
        "--pin-threads: {threads} threads, but this process may use {} cores: see --threads",
        cpus.len()
    );
    Ok(cpus)
}

/// The kernels asked for, or the best there are.
fn choose_isa(name: Option<IsaName>) -> Result<Isa> {
    let level = match name {
        None => return Ok(Isa::detect()),
        Some(IsaName::Portable) => Level::Portable,
        Some(IsaName::Neon) => Level::Neon,
        Some(IsaName::NeonDotprod) => Level::NeonDotprod,
        Some(IsaName::Avx2) => Level::Avx2,
        Some(IsaName::Avx512) => Level::Avx512,
        Some(IsaName::Avx512Vnni) => Level::Avx512Vnni,
        Some(IsaName::Amx) => Level::Amx,
    };
    Isa::at(level).with_context(|| {
        let best = Isa::detect().level();
        format!("this CPU cannot run --isa {level}; the best it has is {best}")
    })
}

/// How keys and values are kept.
pub(crate) fn kv_format(options: &ComputeOptions) -> Result<KvFormat> {
    let isa = choose_isa(options.isa)?;
    let rounds = options.activations == ActivationsName::Auto;
    Ok(match options.kv_cache_dtype {
        // With Qwen3-0.6B's shape a prompt's attention takes a quarter of f16's time (2 cores of an Intel
        // Xeon with AMX, November 2026).
        KvCacheDtype::Auto if rounds && KvFormat::Bf16.is_available(isa) => KvFormat::Bf16,
        // With smollm2 and 8 streams of 384 tokens: 18% more tokens per second than f32, and 220 MB
        // less (2 cores of an AMD EPYC with AVX-512, November 2026).
        KvCacheDtype::Auto | KvCacheDtype::F16 => KvFormat::F16,
        KvCacheDtype::F32 => KvFormat::F32,
        KvCacheDtype::Int8 => KvFormat::Int8,
        KvCacheDtype::Bf16 => {
            ensure!(
                rounds,
                "--kv-cache-dtype bf16 rounds what it meets, which --activations f32 forbids: see f16"
            );
            ensure!(
                KvFormat::Bf16.is_available(isa),
                "--kv-cache-dtype bf16 is for AMX, which --isa {} has not: f16 takes the same memory",
                isa.level()
            );
            KvFormat::Bf16
        }
    })
}

/// The model's vocabulary as a tokenizer.
pub(crate) fn tokenizer(source: &TokenizerSource) -> Result<Arc<dyn Tokenizer>> {
    Ok(match source {
        TokenizerSource::HuggingFace { tokenizer_json, tokenizer_config } => {
            tokenizer::from_hugging_face(tokenizer_json, tokenizer_config.as_deref())?
        }
        TokenizerSource::Gguf(vocabulary) => tokenizer::from_gguf(text_vocabulary(vocabulary))?,
    })
}

/// `model` reads the vocabulary, `text` uses it, and neither knows the other: field by field.
fn text_vocabulary(from: &GgufVocabulary) -> tokenizer::GgufVocabulary {
    let from = from.clone();
    tokenizer::GgufVocabulary {
        model: from.model,
        pre: from.pre,
        tokens: from.tokens,
        scores: from.scores,
        token_types: from.token_types,
        merges: from.merges,
        bos: from.bos,
        eos: from.eos,
        unk: from.unk,
        add_bos: from.add_bos,
        add_eos: from.add_eos,
        add_space_prefix: from.add_space_prefix,
    }
}
