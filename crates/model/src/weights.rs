//! The tensors of a model by their part in the network, whichever files and names they come under.
//!
//! [`Weights`] owns the mappings and the index. [`Inventory`] hands tensors out, checking each one's
//! shape against the config, and knows at the end which ones nobody asked for: those are an error, since
//! a network run without some of its weights gives wrong answers without complaint. Nothing is decoded
//! or packed here, so a file with parts missing costs nothing but the look.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    path::Path,
};

use wharf_kernels::quant::{Format, dequantize};

use crate::{
    config::{Config, StoredQuantization},
    error::{Malformed, ModelError},
    mmap::MappedFile,
    tensor::{Dtype, TensorInfo},
};

/// A tensor's part in the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Embedding,
    FinalNorm,
    Output,
    AttentionNorm,
    /// Queries, keys and values, one after the other.
    QueryKeyValue,
    Query,
    Key,
    Value,
    AttentionOutput,
    QueryNorm,
    KeyNorm,
    PostAttentionNorm,
    FeedForwardNorm,
    /// The same where attention has a norm after it too.
    PreFeedForwardNorm,
    /// Gate and up, one after the other.
    GateUp,
    Gate,
    Up,
    Down,
    PostFeedForwardNorm,
    Router,
    /// Of the expert of that number, as the next two.
    ExpertGate(usize),
    ExpertUp(usize),
    ExpertDown(usize),
    /// Of a gated delta net: queries, keys and values, one after the other.
    LinearQueryKeyValue,
    /// What its output is gated by.
    LinearGate,
    LinearAlpha,
    /// Added to alpha, for each head of values, and what the result is multiplied by. Of kinds of their
    /// own: "dt_bias" and "A_log".
    LinearAlphaBias,
    LinearRate,
    LinearBeta,
    LinearConv,
    LinearNorm,
    LinearOutput,
    /// Queries, keys, values and gate, by key heads, and beta and alpha.
    LinearFused,
    LinearBetaAlpha,
    /// Of the expert that all tokens go through.
    SharedGate,
    SharedUp,
    SharedDown,
    /// What its output is multiplied by.
    SharedExpertGate,
    /// The same under Mixtral's names.
    MixtralRouter,
    MixtralGate(usize),
    MixtralUp(usize),
    MixtralDown(usize),
    /// All experts of a layer, of kinds of their own ("gate_up_proj", "down_proj", and what goes with
    /// them): gpt-oss's and Qwen3.5's.
    FusedExperts,
    /// gpt-oss's router, and the sinks of its attention.
    BiasedRouter,
    Sinks,
}

impl Part {
    /// The expert's number, if it is one's.
    fn expert(self) -> Option<usize> {
        match self {
            Self::ExpertGate(expert) | Self::ExpertUp(expert) | Self::ExpertDown(expert) => {
                Some(expert)
            }
            Self::MixtralGate(expert) | Self::MixtralUp(expert) | Self::MixtralDown(expert) => {
                Some(expert)
            }
            _ => None,
        }
    }
}

/// How a file format names the parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Naming {
    HuggingFace,
    Gguf,
}

impl Naming {
    fn of(self, part: Part, layer: usize, kind: &str) -> String {
        let name = match (self, part) {
            (Self::HuggingFace, Part::Embedding) => "model.embed_tokens",
            (Self::HuggingFace, Part::FinalNorm) => "model.norm",
            (Self::HuggingFace, Part::Output) => "lm_head",
            (Self::HuggingFace, Part::AttentionNorm) => "input_layernorm",
            (Self::HuggingFace, Part::QueryKeyValue) => "self_attn.qkv_proj",
            (Self::HuggingFace, Part::Query) => "self_attn.q_proj",
            (Self::HuggingFace, Part::Key) => "self_attn.k_proj",
            (Self::HuggingFace, Part::Value) => "self_attn.v_proj",
            (Self::HuggingFace, Part::AttentionOutput) => "self_attn.o_proj",
            (Self::HuggingFace, Part::QueryNorm) => "self_attn.q_norm",
            (Self::HuggingFace, Part::KeyNorm) => "self_attn.k_norm",
            // One name for two: the norm of what attention gives, and of what comes next.
            (Self::HuggingFace, Part::PostAttentionNorm) => "post_attention_layernorm",
            (Self::HuggingFace, Part::FeedForwardNorm) => "post_attention_layernorm",
            (Self::HuggingFace, Part::PreFeedForwardNorm) => "pre_feedforward_layernorm",
            (Self::HuggingFace, Part::GateUp) => "mlp.gate_up_proj",
            (Self::HuggingFace, Part::Gate) => "mlp.gate_proj",
            (Self::HuggingFace, Part::Up) => "mlp.up_proj",
            (Self::HuggingFace, Part::Down) => "mlp.down_proj",
            (Self::HuggingFace, Part::PostFeedForwardNorm) => "post_feedforward_layernorm",
            (Self::HuggingFace, Part::Router) => "mlp.gate",
            (Self::HuggingFace, Part::ExpertGate(_)) => "mlp.experts.{}.gate_proj",
            (Self::HuggingFace, Part::ExpertUp(_)) => "mlp.experts.{}.up_proj",
            (Self::HuggingFace, Part::ExpertDown(_)) => "mlp.experts.{}.down_proj",
            (Self::HuggingFace, Part::LinearQueryKeyValue) => "linear_attn.in_proj_qkv",
            (Self::HuggingFace, Part::LinearGate) => "linear_attn.in_proj_z",
            (Self::HuggingFace, Part::LinearAlpha) => "linear_attn.in_proj_a",
            (Self::HuggingFace, Part::LinearAlphaBias | Part::LinearRate) => "linear_attn",
            (Self::HuggingFace, Part::LinearBeta) => "linear_attn.in_proj_b",
            (Self::HuggingFace, Part::LinearConv) => "linear_attn.conv1d",
            (Self::HuggingFace, Part::LinearNorm) => "linear_attn.norm",
            (Self::HuggingFace, Part::LinearOutput) => "linear_attn.out_proj",
            (Self::HuggingFace, Part::LinearFused) => "linear_attn.in_proj_qkvz",
            (Self::HuggingFace, Part::LinearBetaAlpha) => "linear_attn.in_proj_ba",
            (Self::HuggingFace, Part::SharedGate) => "mlp.shared_expert.gate_proj",
            (Self::HuggingFace, Part::SharedUp) => "mlp.shared_expert.up_proj",
            (Self::HuggingFace, Part::SharedDown) => "mlp.shared_expert.down_proj",
            (Self::HuggingFace, Part::SharedExpertGate) => "mlp.shared_expert_gate",
            (Self::HuggingFace, Part::MixtralRouter) => "block_sparse_moe.gate",
            (Self::HuggingFace, Part::MixtralGate(_)) => "block_sparse_moe.experts.{}.w1",
            (Self::HuggingFace, Part::MixtralUp(_)) => "block_sparse_moe.experts.{}.w3",
            (Self::HuggingFace, Part::MixtralDown(_)) => "block_sparse_moe.experts.{}.w2",
            (Self::HuggingFace, Part::BiasedRouter) => "mlp.router",
            (Self::HuggingFace, Part::FusedExperts) => "mlp.experts",
            (Self::HuggingFace, Part::Sinks) => "self_attn",
            (Self::Gguf, Part::Embedding) => "token_embd",
            (Self::Gguf, Part::FinalNorm) => "output_norm",
            (Self::Gguf, Part::Output) => "output",
            (Self::Gguf, Part::AttentionNorm) => "attn_norm",
            (Self::Gguf, Part::QueryKeyValue) => "attn_qkv",
            (Self::Gguf, Part::Query) => "attn_q",
            (Self::Gguf, Part::Key) => "attn_k",
            (Self::Gguf, Part::Value) => "attn_v",
            (Self::Gguf, Part::AttentionOutput) => "attn_output",
            (Self::Gguf, Part::QueryNorm) => "attn_q_norm",
            (Self::Gguf, Part::KeyNorm) => "attn_k_norm",
            (Self::Gguf, Part::PostAttentionNorm) => "post_attention_norm",
            (Self::Gguf, Part::FeedForwardNorm | Part::PreFeedForwardNorm) => "ffn_norm",
            (Self::Gguf, Part::Gate) => "ffn_gate",
            (Self::Gguf, Part::Up | Part::GateUp) => "ffn_up",
            (Self::Gguf, Part::Down) => "ffn_down",
            (Self::Gguf, Part::PostFeedForwardNorm) => "post_ffw_norm",
            (Self::Gguf, Part::Router | Part::MixtralRouter | Part::BiasedRouter) => "ffn_gate_inp",
            (Self::Gguf, Part::FusedExperts) => "ffn_exps",
            (Self::Gguf, Part::Sinks) => "attn_sinks",
            (Self::Gguf, Part::LinearQueryKeyValue) => "attn_qkv",
            (Self::Gguf, Part::LinearGate) => "attn_gate",
            (Self::Gguf, Part::LinearAlpha) => "ssm_alpha",
            (Self::Gguf, Part::LinearAlphaBias) => "ssm_dt",
            (Self::Gguf, Part::LinearRate) => "ssm_a",
            (Self::Gguf, Part::LinearBeta) => "ssm_beta",
            (Self::Gguf, Part::LinearConv) => "ssm_conv1d",
            (Self::Gguf, Part::LinearNorm) => "ssm_norm",
            (Self::Gguf, Part::LinearOutput) => "ssm_out",
            // Apart in these files.
            (Self::Gguf, Part::LinearFused) => "attn_qkv",
            (Self::Gguf, Part::LinearBetaAlpha) => "ssm_ba",
            (Self::Gguf, Part::SharedGate) => "ffn_gate_shexp",
            (Self::Gguf, Part::SharedUp) => "ffn_up_shexp",
            (Self::Gguf, Part::SharedDown) => "ffn_down_shexp",
            (Self::Gguf, Part::SharedExpertGate) => "ffn_gate_inp_shexp",
            // All experts are one tensor.
            (Self::Gguf, Part::ExpertGate(_) | Part::MixtralGate(_)) => "ffn_gate_exps",
            (Self::Gguf, Part::ExpertUp(_) | Part::MixtralUp(_)) => "ffn_up_exps",
            (Self::Gguf, Part::ExpertDown(_) | Part::MixtralDown(_)) => "ffn_down_exps",
        };
        let name = match part.expert() {
            Some(expert) => &name.replace("{}", &expert.to_string()),
            None => name,
        };
        match (self, part) {
            (_, Part::Embedding | Part::FinalNorm | Part::Output) => format!("{name}.{kind}"),
            (Self::HuggingFace, _) => format!("model.layers.{layer}.{name}.{kind}"),
            // The only one without a kind.
            (Self::Gguf, Part::LinearRate) => format!("blk.{layer}.{name}"),
            (Self::Gguf, _) => format!("blk.{layer}.{name}.{kind}"),
        }
    }
}

/// All tensors of a model, in mapped files.
pub(crate) struct Weights {
    naming: Naming,
    /// Whether the files hold a model of images too.
    multimodal: bool,
    files: Vec<MappedFile>,
    /// By name: which file, and where in it.
    tensors: BTreeMap<String, (usize, TensorInfo)>,
}

impl Weights {
    pub(crate) fn new(naming: Naming, multimodal: bool) -> Self {
        Self { naming, multimodal, files: Vec::new(), tensors: BTreeMap::new() }
    }

    /// What a tensor of the files is called here: of a model that sees images too, those of the text
    /// model are under the names that a text model has, and the others are left out (`None`).
    pub(crate) fn own_name(&self, name: &str) -> Option<String> {
        // Qwen's layers that guess several tokens at once, which transformers leaves out too.
        if name.starts_with("mtp.") {
            return None;
        }
        if !self.multimodal {
            return Some(name.to_owned());
        }
        let name = name.strip_prefix("model.").unwrap_or(name);
        if ["vision_tower.", "multi_modal_projector.", "visual."]
            .iter()
            .any(|p| name.starts_with(p))
        {
            return None;
        }
        // "language_model.model.norm" in published files, "model.language_model.norm" in new ones.
        let text = name.strip_prefix("language_model.").unwrap_or(name);
        let text = text.strip_prefix("model.").unwrap_or(text);
        Some(if text.starts_with("lm_head.") { text.to_owned() } else { format!("model.{text}") })
    }

    /// Adds a file and the tensors found in it.
    pub(crate) fn add(
        &mut self,
        file: MappedFile,
        tensors: Vec<TensorInfo>,
    ) -> Result<(), ModelError> {
        for mut tensor in tensors {
            let Some(name) = self.own_name(&tensor.name) else { continue };
            tensor.name.clone_from(&name);
            if let Some((other, _)) = self.tensors.insert(name.clone(), (self.files.len(), tensor))
            {
                let other = self.files[other].path().display();
                let fault = Malformed::new(name, format!("is in {other} too"));
                return Err(fault.in_file(file.path()));
            }
        }
        self.files.push(file);
        Ok(())
    }

    /// The file that holds tensor `name`.
    pub(crate) fn file_of(&self, name: &str) -> Option<&Path> {
        self.tensors.get(name).map(|(file, _)| self.files[*file].path())
    }

    pub(crate) fn files(&self) -> &[MappedFile] {
        &self.files
    }

    /// The mapped file of that number.
    pub(crate) fn into_file(mut self, number: usize) -> MappedFile {
        self.files.swap_remove(number)
    }
}

/// A tensor of any type.
#[derive(Clone, Copy)]
pub(crate) struct Raw<'w> {
    pub(crate) info: &'w TensorInfo,
    /// Which of [`Weights::files`].
    pub(crate) file: usize,
    pub(crate) bytes: &'w [u8],
}

/// A tensor of weights lent out, its shape checked, or some rows of one.
#[derive(Clone, Copy)]
pub(crate) struct Lent<'w> {
    pub(crate) info: &'w TensorInfo,
    pub(crate) format: Format,
    /// Which of [`Weights::files`].
    pub(crate) file: usize,
    /// Where in it `bytes` begin.
    pub(crate) start: usize,
    pub(crate) bytes: &'w [u8],
    /// Rows of a matrix; a vector is one.
    pub(crate) rows: usize,
}

impl Lent<'_> {
    /// Values of a row.
    pub(crate) fn cols(&self) -> usize {
        self.info.shape.last().copied().unwrap_or(1)
    }

    /// Rows `rows` of a matrix, as one of their own.
    pub(crate) fn slice(self, rows: Range<usize>) -> Self {
        let row_bytes = self.bytes.len() / self.rows.max(1);
        let bytes = &self.bytes[rows.start * row_bytes..rows.end * row_bytes];
        Self { start: self.start + rows.start * row_bytes, bytes, rows: rows.len(), ..self }
    }

    /// The bytes of some of its rows, in this order.
    pub(crate) fn gather(&self, rows: &[usize]) -> Vec<u8> {
        let row_bytes = self.bytes.len() / self.rows.max(1);
        rows.iter().flat_map(|row| &self.bytes[row * row_bytes..][..row_bytes]).copied().collect()
    }

    /// Its weights as f32 (norms and biases: a few thousand of them).
    pub(crate) fn decode(&self) -> Vec<f32> {
        let mut values = vec![0.0; self.rows * self.cols()];
        dequantize(self.format, self.bytes, &mut values);
        values
    }
}

/// Hands out tensors and remembers which.
pub(crate) struct Inventory<'w> {
    weights: &'w Weights,
    stored_quantization: Option<StoredQuantization>,
    taken: BTreeSet<&'w str>,
}

impl<'w> Inventory<'w> {
    pub(crate) fn new(
        weights: &'w Weights,
        stored_quantization: Option<StoredQuantization>,
    ) -> Self {
        Self { weights, stored_quantization, taken: BTreeSet::new() }
    }

    /// How linear layers are stored.
    pub(crate) fn stored_quantization(&self) -> Option<StoredQuantization> {
        self.stored_quantization
    }

    pub(crate) fn naming(&self) -> Naming {
        self.weights.naming
    }

    /// A fault that names a file: the tensor's, or the first.
    pub(crate) fn fault(&self, field: &str, reason: impl Into<String>) -> ModelError {
        let file = self.weights.file_of(field).or_else(|| {
            let first = self.weights.files.first();
            first.map(MappedFile::path)
        });
        Malformed::new(field, reason).in_file(file.unwrap_or(Path::new("weights")))
    }

    fn find(&mut self, name: &str) -> Option<Raw<'w>> {
        let (key, (file, info)) = self.weights.tensors.get_key_value(name)?;
        self.taken.insert(key);
        let bytes = &self.weights.files[*file].bytes()[info.bytes.clone()];
        Some(Raw { info, file: *file, bytes })
    }

    /// A part's tensor of this kind ("qweight"), if it is there.
    pub(crate) fn raw(&mut self, part: Part, layer: usize, kind: &str) -> Option<Raw<'w>> {
        self.find(&self.weights.naming.of(part, layer, kind))
    }

    /// `raw`, if it is of this type and shape.
    pub(crate) fn check_raw(
        &self,
        raw: Raw<'w>,
        dtype: Dtype,
        shape: &[usize],
    ) -> Result<Raw<'w>, ModelError> {
        let info = raw.info;
        if info.dtype != dtype {
            let reason = format!("is of {} where it must be of {dtype}", info.dtype);
            return Err(self.fault(&info.name, reason));
        }
        if info.shape == shape {
            return Ok(raw);
        }
        let reason = format!("has shape {:?} where the config makes it {shape:?}", info.shape);
        Err(self.fault(&info.name, reason))
    }

    /// `raw`, if it is of plain weights.
    pub(crate) fn weights_of(&self, raw: Raw<'w>) -> Result<Lent<'w>, ModelError> {
        let Raw { info, file, bytes } = raw;
        let Dtype::Weights(format) = info.dtype else {
            let reason = match (info.dtype, self.stored_quantization) {
                (dtype, None) => format!("{dtype} is not supported without quantization_config"),
                (dtype, Some(_)) => format!("is of {dtype}, which is not supported here"),
            };
            return Err(self.fault(&info.name, reason));
        };
        let rows = info.shape.split_last().map_or(1, |(_, outer)| outer.iter().product());
        Ok(Lent { info, format, file, start: info.bytes.start, bytes, rows })
    }

    /// That a part's tensor is.
    pub(crate) fn missing(&self, part: Part, layer: usize, kind: &str) -> ModelError {
        self.fault(&self.weights.naming.of(part, layer, kind), "is missing")
    }

    fn shaped(&self, raw: Raw<'w>, shape: &[usize]) -> Result<Lent<'w>, ModelError> {
        let lent = self.weights_of(raw)?;
        if lent.info.shape == shape {
            return Ok(lent);
        }
        let reason = format!("has shape {:?} where the config makes it {shape:?}", lent.info.shape);
        Err(self.fault(&lent.info.name, reason))
    }

    /// A part's tensor of this kind and shape, `None` if it is not there.
    pub(crate) fn tensor_if_there(
        &mut self,
        part: Part,
        layer: usize,
        kind: &str,
        shape: &[usize],
    ) -> Result<Option<Lent<'w>>, ModelError> {
        self.raw(part, layer, kind).map(|raw| self.shaped(raw, shape)).transpose()
    }

    /// As [`Inventory::tensor_if_there`], of one that must be there.
    pub(crate) fn tensor(
        &mut self,
        part: Part,
        layer: usize,
        kind: &str,
        shape: &[usize],
    ) -> Result<Lent<'w>, ModelError> {
        match self.tensor_if_there(part, layer, kind, shape)? {
            Some(lent) => Ok(lent),
            None => Err(self.missing(part, layer, kind)),
        }
    }

    /// A part's weight, `[rows, cols]` or `[len]`, which must be there.
    pub(crate) fn weight(
        &mut self,
        part: Part,
        layer: usize,
        shape: &[usize],
    ) -> Result<Lent<'w>, ModelError> {
        self.tensor(part, layer, "weight", shape)
    }

    /// As [`Inventory::weight`], `None` if it is not there.
    pub(crate) fn weight_if_there(
        &mut self,
        part: Part,
        layer: usize,
        shape: &[usize],
    ) -> Result<Option<Lent<'w>>, ModelError> {
        self.tensor_if_there(part, layer, "weight", shape)
    }

    /// A part's bias, `[len]`, if it has one.
    pub(crate) fn bias_if_there(
        &mut self,
        part: Part,
        layer: usize,
        len: usize,
    ) -> Result<Option<Lent<'w>>, ModelError> {
        self.tensor_if_there(part, layer, "bias", &[len])
    }

    /// The frequency divisors, `[rotary_dim / 2]`, that GGUF keeps as a tensor of this name.
    pub(crate) fn rope_factors(
        &mut self,
        name: &str,
        len: usize,
    ) -> Result<Option<Lent<'w>>, ModelError> {
        let lent = self.find(name).map(|raw| self.shaped(raw, &[len])).transpose()?;
        match lent {
            Some(lent) if lent.format != Format::F32 => {
                Err(self.fault(&lent.info.name, "must be F32"))
            }
            lent => Ok(lent),
        }
    }

    /// Rows of the embedding as the file has it, for a config that does not say.
    pub(crate) fn embedding_rows(&self) -> Option<usize> {
        let name = self.weights.naming.of(Part::Embedding, 0, "weight");
        let (_, info) = self.weights.tensors.get(&name)?;
        info.shape.first().copied()
    }

    /// Refuses what nobody took: the network we run would not be the one in the file.
    pub(crate) fn refuse_others(&self, config: &Config) -> Result<(), ModelError> {
        let output = self.weights.naming.of(Part::Output, 0, "weight");
        for name in self.weights.tensors.keys() {
            // Old Llama checkpoints store RoPE's frequencies, which are computed; and a tied model may
            // store the embedding a second time.
            let known = name.ends_with(".rotary_emb.inv_freq")
                || (config.tied == Some(true) && *name == output);
            if !known && !self.taken.contains(name.as_str()) {
                let reason = format!("is not a tensor of {}", config.architecture.name());
                return Err(self.fault(name, reason));
            }
        }
        Ok(())
    }
}
