//! A loaded model: what the engine holds. It owns the weights, the KV cache, the threads and the memory
//! of a step; one thread drives it. It knows nothing of requests, and never chooses a token.

use std::{num::NonZeroUsize, path::Path, sync::Arc, time::Instant};

use wharf_kernels::{
    attention::{KvCache, KvFormat, KvShape},
    delta_rule::RecurrentStates,
    isa::Isa,
    matmul::Activations,
    quant::Quantization,
    team::Team,
};

use crate::{
    batch::{Batch, BatchLimits, WrittenBlocks},
    config::Config,
    decoder::{Caches, Compute, Decoder, Scratch},
    directory,
    error::{Malformed, ModelError},
    gguf,
    info::{GenerationDefaults, ModelInfo, TokenizerSource},
    mmap::MappedFile,
    plan,
    rope::Scaling,
    slots::SlotPositions,
    weights::{Naming, Weights},
};

/// How to load.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// Kernels to use.
    pub isa: Isa,
    /// Threads of the forward pass.
    pub threads: NonZeroUsize,
    /// CPUs that threads are bound to, one each; empty: they run where the system puts them.
    pub cpus: Vec<usize>,
    /// In what numbers activations meet weights.
    pub activations: Activations,
    /// To what weights of more bits are quantised.
    pub quantization: Option<Quantization>,
    /// Longest sequence that will be run; `None`: as long as the model was made for. LongRoPE models
    /// take their short factors if it is within the context of their pre-training.
    pub max_model_len: Option<usize>,
}

impl LoadOptions {
    /// Everything as it is stored, and nothing rounded: what transformers computes in 32 bits.
    pub fn exact(isa: Isa, threads: NonZeroUsize) -> Self {
        let activations = Activations::F32;
        Self {
            isa,
            threads,
            cpus: Vec::new(),
            activations,
            quantization: None,
            max_model_len: None,
        }
    }
}

/// A loaded model: weights, its paged KV cache, its threads and its scratch memory.
pub struct Model {
    info: ModelInfo,
    decoder: Decoder,
    isa: Isa,
    /// Shared with the models that were loaded beside it.
    team: Arc<Team>,
    /// `None` until [`Model::allocate_kv`].
    caches: Option<Caches>,
    scratch: Scratch,
    written: WrittenBlocks,
    slots: SlotPositions,
}

/// Everything read of a model but the tensors' bytes.
struct Files {
    name: Option<String>,
    config: Config,
    weights: Weights,
    tokenizer: TokenizerSource,
    chat_template: Option<String>,
    generation: GenerationDefaults,
}

impl Model {
    /// Loads a Hugging Face directory or a GGUF file.
    ///
    /// # Errors
    /// Whatever is missing, wrong or not supported, with the file and the field; threads that cannot be
    /// bound.
    ///
    /// # Panics
    /// When there are some `cpus`, but fewer than `threads`.
    pub fn load(path: &Path, options: &LoadOptions) -> Result<Self, ModelError> {
        let team = match options.cpus.as_slice() {
            [] => Team::new(options.threads),
            cpus => Team::pinned(options.threads, cpus).map_err(ModelError::Pinning)?,
        };
        Self::load_with(path, options, Arc::new(team))
    }

    /// [`Self::load`] for a model that runs in turns with this one, on the same threads: two teams
    /// would take the cores from each other. `options.threads` has no meaning.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_beside(&self, path: &Path, options: &LoadOptions) -> Result<Self, ModelError> {
        Self::load_with(path, options, Arc::clone(&self.team))
    }

    fn load_with(path: &Path, options: &LoadOptions, team: Arc<Team>) -> Result<Self, ModelError> {
        let begun = Instant::now();
        let mut files = if path.is_dir() { open_directory(path)? } else { open_gguf(path)? };
        if let Some(longest) = options.max_model_len {
            files.config.max_model_len = files.config.max_model_len.min(longest);
        }
        let decoder = plan::build(&mut files.config, files.weights, &team, options)?;
        let config = files.config;
        if config.rope.scaling == Scaling::DynamicNtk {
            tracing::warn!(
                max_model_len = config.max_model_len,
                "dynamic RoPE scaling: served up to the trained context, where it changes nothing"
            );
        }
        if config.multimodal {
            tracing::warn!("the model sees images too: its text model is served");
        }
        let info = ModelInfo {
            name: files.name,
            architecture: config.architecture.name().to_owned(),
            vocab_size: config.vocab_size,
            max_model_len: config.max_model_len,
            num_layers: config.num_layers,
            num_kv_layers: decoder.num_kv_layers(),
            num_kv_heads: config.num_kv_heads,
            head_dim: config.head_dim,
            eos_token_ids: config.eos_token_ids,
            tokenizer: files.tokenizer,
            chat_template: files.chat_template,
            generation: files.generation,
            weight_bytes: decoder.bytes(),
            state_bytes: decoder
                .states()
                .map_or(0, |(layers, shape)| RecurrentStates::slot_bytes(layers, shape)),
        };
        tracing::debug!(
            path = %path.display(),
            weight_bytes = info.weight_bytes,
            milliseconds = begun.elapsed().as_millis() as u64,
            "model loaded"
        );
        Ok(Self {
            info,
            decoder,
            isa: options.isa,
            team,
            caches: None,
            scratch: Scratch::default(),
            written: WrittenBlocks::default(),
            slots: SlotPositions::default(),
        })
    }

    /// About it.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// Bytes one KV block takes over all layers.
    pub fn kv_block_bytes(&self, format: KvFormat) -> usize {
        KvCache::block_bytes(self.info.num_kv_layers, self.kv_shape(1, format))
    }

    /// (Re)allocates the KV cache: `num_blocks` blocks of [`BLOCK_TOKENS`](crate::BLOCK_TOKENS)
    /// tokens, and for a model with recurrent layers no slot of their states. Must be called before
    /// [`Model::forward`]; what was cached before is gone.
    pub fn allocate_kv(&mut self, num_blocks: usize, format: KvFormat) {
        self.allocate(num_blocks, format, 0);
    }

    /// As [`Model::allocate_kv`], with slots for the states of recurrent layers, of
    /// [`ModelInfo::state_bytes`] each. A model without such layers takes no notice.
    pub fn allocate(&mut self, num_blocks: usize, format: KvFormat, num_slots: usize) {
        // The old caches go first: both might not fit.
        self.caches = None;
        let kv = KvCache::new(self.info.num_kv_layers, self.kv_shape(num_blocks, format));
        let states = self.decoder.states();
        let states = states.map(|(layers, shape)| RecurrentStates::new(layers, num_slots, shape));
        self.slots = SlotPositions::new(states.as_ref().map_or(0, RecurrentStates::num_slots));
        self.caches = Some(Caches { kv, states });
    }

    fn kv_shape(&self, num_blocks: usize, format: KvFormat) -> KvShape {
        KvShape {
            num_blocks,
            num_kv_heads: self.info.num_kv_heads,
            head_dim: self.info.head_dim,
            format,
        }
    }

    /// Runs one step; `logits` becomes `[logits_rows.len(), vocab_size]`.
    ///
    /// # Errors
    /// [`ModelError::Batch`] if the batch names tokens, positions, blocks or states that are not there,
    /// or no cache was allocated. Nothing was computed then, and the cache is as it was.
    pub fn forward(&mut self, batch: &Batch, logits: &mut Vec<f32>) -> Result<(), ModelError> {
        let Some(caches) = &mut self.caches else {
            return Err(ModelError::batch("no KV cache has been allocated"));
        };
        let limits = BatchLimits {
            vocab_size: self.info.vocab_size,
            max_model_len: self.info.max_model_len,
            num_blocks: caches.kv.shape().num_blocks,
        };
        batch.check(&limits, &mut self.written)?;
        let recurrent = caches.states.is_some();
        if recurrent {
            self.slots.check(batch)?;
            self.slots.begin(batch);
        }
        let compute = Compute { isa: self.isa, team: &self.team };
        self.decoder.forward(compute, caches, &mut self.scratch, batch, logits);
        if recurrent {
            self.slots.end(batch);
        }
        Ok(())
    }
}

fn open_directory(path: &Path) -> Result<Files, ModelError> {
    let directory = directory::open(path)?;
    Ok(Files {
        // config.json's `_name_or_path` is where somebody's disk had it, not a name.
        name: None,
        config: directory.config,
        weights: directory.weights,
        tokenizer: directory.tokenizer,
        chat_template: directory.chat_template,
        generation: directory.generation,
    })
}

/// The layer that a tensor of a GGUF file belongs to.
fn gguf_layer(name: &str) -> Option<usize> {
    name.strip_prefix("blk.")?.split('.').next()?.parse().ok()
}

fn open_gguf(path: &Path) -> Result<Files, ModelError> {
    let file = MappedFile::open(path)?;
    if !file.bytes().starts_with(gguf::MAGIC) {
        let reason = "is neither a GGUF file nor a Hugging Face directory";
        return Err(Malformed::new("magic", reason).in_file(path));
    }
    let fault = |fault: Malformed| fault.in_file(path);
    let parsed = gguf::parse(file.bytes()).map_err(fault)?;
    let name = parsed.get("general.name").and_then(gguf::Value::as_text);
    let config = gguf::config(&parsed).map_err(fault)?;
    let tokenizer = TokenizerSource::Gguf(gguf::vocabulary(&parsed).map_err(fault)?);
    let chat_template = gguf::chat_template(&parsed).map_err(fault)?;
    let mut tensors = parsed.tensors;
    let left_out = config.num_layers..config.num_layers + config.mtp_layers;
    tensors.retain(|tensor| gguf_layer(&tensor.name).is_none_or(|of| !left_out.contains(&of)));
    let mut weights = Weights::new(Naming::Gguf, false);
    weights.add(file, tensors)?;
    Ok(Files {
        name,
        config,
        weights,
        tokenizer,
        chat_template,
        generation: GenerationDefaults::default(),
    })
}
