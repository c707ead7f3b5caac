//! The network: a decoder of normalised attention and gated feed-forward layers (Llama's, and with
//! options those of the other architectures; `config::Architecture` lists them).
//!
//! Activations are f32; weights stay in the format they were stored in, packed. Every operator works on
//! rows independently, so a row's result does not depend on what else is in the step. Nothing here
//! knows files, names or requests; a step's indices have been checked before it gets here.

use wharf_kernels::{
    activation::Activation,
    attention::{AttentionScratch, AttentionShape, KvCache, SequenceRows, attention as attend},
    delta_rule::{RecurrentStates, StateShape},
    isa::Isa,
    matmul::{PackedMatrix, matmul},
    norm,
    team::Team,
};

use crate::{
    batch::Batch,
    delta_net::{DeltaNet, DeltaNetScratch, StateRows},
    embedding::Embedding,
    feed_forward::{FeedForward, FeedForwardScratch},
    linear::{Linear, forward_all},
    rope::Rope,
    rows::{self, Rotations, sized},
};

/// One decoder layer.
pub(crate) struct Layer {
    /// Of what goes into attention, `[hidden_size]`.
    pub(crate) attention_norm: Option<Vec<f32>>,
    pub(crate) mixer: Mixer,
    /// Of what comes out of attention, `[hidden_size]`.
    pub(crate) post_attention_norm: Option<Vec<f32>>,
    /// Of what goes into the feed-forward layer, `[hidden_size]`.
    pub(crate) feed_forward_norm: Option<Vec<f32>>,
    pub(crate) feed_forward: FeedForward,
    /// Of what comes out of the feed-forward layer, `[hidden_size]`.
    pub(crate) post_feed_forward_norm: Option<Vec<f32>>,
}

/// How a layer mixes a token with those before it.
pub(crate) enum Mixer {
    Attention(Box<Attention>),
    DeltaNet(Box<DeltaNet>),
}

/// Attention over all that came before, or over a window.
pub(crate) struct Attention {
    /// `[num_heads * head_dim, hidden_size]`
    pub(crate) query: Linear,
    /// `[num_kv_heads * head_dim, hidden_size]`
    pub(crate) key: Linear,
    /// `[num_kv_heads * head_dim, hidden_size]`
    pub(crate) value: Linear,
    /// Norms of queries and keys: `[head_dim]` each, for each head, or as long as a row of them.
    pub(crate) query_key_norms: Option<(Vec<f32>, Vec<f32>)>,
    /// What comes out of attention is multiplied by its sigmoid, `[num_heads * head_dim, hidden_size]`.
    pub(crate) gate: Option<Linear>,
    /// `[hidden_size, num_heads * head_dim]`
    pub(crate) output: Linear,
    /// A score for each head that gives no value, `[num_heads]`.
    pub(crate) sinks: Option<Vec<f32>>,
    /// Which of the decoder's `ropes` rotates queries and keys; `None`: they are not rotated.
    pub(crate) rope: Option<usize>,
    /// A token sees itself and the `window - 1` before it.
    pub(crate) window: Option<usize>,
    /// Which layer of the KV cache is its.
    pub(crate) cache_layer: usize,
}

/// The whole network.
pub(crate) struct Decoder {
    pub(crate) hidden_size: usize,
    pub(crate) num_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) rms_norm_eps: f32,
    /// Of embeddings.
    pub(crate) embedding_multiplier: f32,
    /// Of what is added to the residual stream.
    pub(crate) residual_multiplier: f32,
    /// Of attention's scores.
    pub(crate) attention_multiplier: f32,
    /// What logits are divided by.
    pub(crate) logits_scaling: f32,
    /// Scores of attention and logits are held below these, softly.
    pub(crate) attn_logit_softcapping: Option<f32>,
    pub(crate) final_logit_softcapping: Option<f32>,
    /// What gates are put through.
    pub(crate) activation: Activation,
    /// The rotations that layers choose from.
    pub(crate) ropes: Vec<Rope>,
    pub(crate) embedding: Embedding,
    pub(crate) layers: Vec<Layer>,
    /// `[hidden_size]`
    pub(crate) final_norm: Vec<f32>,
    /// `[vocab_size, hidden_size]`
    pub(crate) output: PackedMatrix,
}

/// What kernels run on.
#[derive(Clone, Copy)]
pub(crate) struct Compute<'a> {
    pub(crate) isa: Isa,
    pub(crate) team: &'a Team,
}

/// Memory of a step, kept from one to the next. Each holds as many rows as the largest step so far.
#[derive(Default)]
pub(crate) struct Scratch {
    /// The residual stream, `[rows, hidden_size]`.
    hidden: Vec<f32>,
    /// What goes into a layer, and comes out to be added, `[rows, hidden_size]`.
    normed: Vec<f32>,
    /// `[rows, num_heads, head_dim]`
    query: Vec<f32>,
    /// `[rows, num_kv_heads, head_dim]`
    key: Vec<f32>,
    /// `[rows, num_kv_heads, head_dim]`
    value: Vec<f32>,
    /// `[rows, num_heads, head_dim]`
    attended: Vec<f32>,
    /// Of attention's output, as `attended`.
    gate: Vec<f32>,
    delta_net: DeltaNetScratch,
    feed_forward: FeedForwardScratch,
    /// Of each row.
    positions: Vec<usize>,
    /// Of each of the decoder's `ropes`: see [`Rotations::angles`].
    angles: Vec<Vec<f32>>,
    attention: AttentionScratch,
}

/// What a model keeps of its sequences.
pub(crate) struct Caches {
    /// Keys and values of the layers with attention.
    pub(crate) kv: KvCache,
    /// States of the others, if there are any.
    pub(crate) states: Option<RecurrentStates>,
}

/// A step under way.
struct Step<'a> {
    compute: Compute<'a>,
    rows: usize,
    sequences: &'a [SequenceRows<'a>],
    states: &'a StateRows,
}

impl Attention {
    /// Bytes held by its matrices.
    fn bytes(&self) -> usize {
        let linears = [&self.query, &self.key, &self.value, &self.output];
        linears.into_iter().chain(&self.gate).map(Linear::bytes).sum()
    }
}

impl Decoder {
    /// Runs a checked batch; `logits` becomes `[logits_rows.len(), vocab_size]`.
    pub(crate) fn forward(
        &self,
        compute: Compute<'_>,
        caches: &mut Caches,
        scratch: &mut Scratch,
        batch: &Batch,
        logits: &mut Vec<f32>,
    ) {
        let wanted = batch.logits_rows.len();
        logits.resize(wanted * self.output.rows(), 0.0);
        if batch.tokens.is_empty() {
            return;
        }
        // The allocations of a step: a few words per sequence.
        let sequences: Vec<SequenceRows<'_>> = batch
            .sequences
            .iter()
            .map(|sequence| SequenceRows {
                first_row: sequence.first_row,
                num_rows: sequence.num_rows,
                start: sequence.start,
                block_table: &sequence.block_table,
            })
            .collect();
        let states = StateRows::of(batch);
        if let Some(memory) = &mut caches.states {
            states.begin(compute.team, memory);
        }
        let step =
            Step { compute, rows: batch.tokens.len(), sequences: &sequences, states: &states };
        self.embed(&step, scratch, &batch.tokens);
        self.rotations(&step, scratch);
        for layer in &self.layers {
            self.mix(&step, layer, caches, scratch);
            self.feed_forward(&step, layer, scratch);
        }
        if wanted > 0 {
            self.logits(compute, scratch, &batch.logits_rows, logits);
        }
    }

    /// hidden = the tokens' embeddings.
    fn embed(&self, step: &Step<'_>, scratch: &mut Scratch, tokens: &[u32]) {
        let width = self.hidden_size;
        let hidden = sized(&mut scratch.hidden, step.rows * width);
        rows::in_tasks(step.compute, width, hidden, |first, hidden| {
            self.embedding.read(&tokens[first..][..hidden.len() / width], hidden);
            if self.embedding_multiplier != 1.0 {
                hidden.iter_mut().for_each(|value| *value *= self.embedding_multiplier);
            }
        });
    }

    /// Cosines and sines of every row's position, the same for all heads, and layers of one rotation.
    fn rotations(&self, step: &Step<'_>, scratch: &mut Scratch) {
        let Scratch { positions, angles, .. } = scratch;
        positions.clear();
        for sequence in step.sequences {
            positions.extend(sequence.start..sequence.start + sequence.num_rows);
        }
        angles.resize_with(self.ropes.len(), Vec::new);
        for (rope, angles) in self.ropes.iter().zip(angles) {
            let width = 2 * rope.half_dim();
            rows::angles(
                step.compute,
                width,
                sized(angles, positions.len() * width),
                |row, out| {
                    rope.write_row(positions[row], out);
                },
            );
        }
    }

    /// norm(hidden), kept in `normed`; hidden itself where there is no norm. `[rows, hidden_size]`
    fn normed<'s>(
        &self,
        compute: Compute<'_>,
        norm: Option<&[f32]>,
        hidden: &'s [f32],
        normed: &'s mut [f32],
    ) -> &'s [f32] {
        let Some(norm) = norm else { return hidden };
        rows::rms_norm(compute, hidden, norm, self.rms_norm_eps, normed);
        normed
    }

    /// hidden += norm(mixer(norm(hidden))) * multiplier, with either norm or both.
    fn mix(&self, step: &Step<'_>, layer: &Layer, caches: &mut Caches, scratch: &mut Scratch) {
        match (&layer.mixer, &mut caches.states) {
            (Mixer::Attention(attention), _) => {
                self.attention(step, layer, attention, &mut caches.kv, scratch);
            }
            (Mixer::DeltaNet(delta_net), Some(states)) => {
                self.delta_net(step, layer, delta_net, states, scratch);
            }
            (Mixer::DeltaNet(_), None) => unreachable!("`Model::forward` asks for states"),
        }
        let hidden = sized(&mut scratch.hidden, step.rows * self.hidden_size);
        let normed = sized(&mut scratch.normed, step.rows * self.hidden_size);
        if let Some(norm) = &layer.post_attention_norm {
            rows::rms_norm_in_place(step.compute, normed, norm, self.rms_norm_eps);
        }
        rows::add_scaled(step.compute, self.hidden_size, hidden, normed, self.residual_multiplier);
    }

    /// normed = attention(norm(hidden)).
    fn attention(
        &self,
        step: &Step<'_>,
        layer: &Layer,
        attention: &Attention,
        cache: &mut KvCache,
        scratch: &mut Scratch,
    ) {
        let (compute, rows) = (step.compute, step.rows);
        let hidden = sized(&mut scratch.hidden, rows * self.hidden_size);
        let normed = sized(&mut scratch.normed, rows * self.hidden_size);
        let query = sized(&mut scratch.query, rows * attention.query.weight.rows());
        let key = sized(&mut scratch.key, rows * attention.key.weight.rows());
        let value = sized(&mut scratch.value, rows * attention.value.weight.rows());
        let attended = sized(&mut scratch.attended, query.len());

        let input = self.normed(compute, layer.attention_norm.as_deref(), hidden, normed);
        let of = attention;
        let projections =
            [(&of.query, &mut *query), (&of.key, &mut *key), (&of.value, &mut *value)];
        forward_all(compute, input, rows, projections);
        if let Some(gate) = &attention.gate {
            gate.forward(compute, input, rows, sized(&mut scratch.gate, attended.len()));
        }
        if let Some((query_norm, key_norm)) = &attention.query_key_norms {
            rows::rms_norm_in_place(compute, query, query_norm, self.rms_norm_eps);
            rows::rms_norm_in_place(compute, key, key_norm, self.rms_norm_eps);
        }
        if let Some(rope) = attention.rope {
            let rotations = Rotations {
                head_dim: self.head_dim,
                half_dim: self.ropes[rope].half_dim(),
                angles: &scratch.angles[rope],
            };
            rows::rotate(compute, attention.query.weight.rows(), query, rotations);
            rows::rotate(compute, attention.key.weight.rows(), key, rotations);
        }

        let cache_layer = attention.cache_layer;
        cache.write(compute.isa, compute.team, cache_layer, step.sequences, key, value);
        attend(
            compute.isa,
            compute.team,
            AttentionShape {
                num_heads: self.num_heads,
                scale: self.attention_multiplier,
                soft_cap: self.attn_logit_softcapping,
                window: attention.window,
                sinks: attention.sinks.as_deref(),
            },
            cache,
            cache_layer,
            step.sequences,
            query,
            &mut scratch.attention,
            attended,
        );
        if attention.gate.is_some() {
            let width = attention.query.weight.rows();
            rows::sigmoid_mul(compute, width, attended, &scratch.gate);
        }
        attention.output.forward(compute, attended, rows, normed);
    }

    /// normed = delta_net(norm(hidden)).
    fn delta_net(
        &self,
        step: &Step<'_>,
        layer: &Layer,
        delta_net: &DeltaNet,
        states: &mut RecurrentStates,
        scratch: &mut Scratch,
    ) {
        let (compute, rows) = (step.compute, step.rows);
        let hidden = sized(&mut scratch.hidden, rows * self.hidden_size);
        let normed = sized(&mut scratch.normed, rows * self.hidden_size);
        let input = self.normed(compute, layer.attention_norm.as_deref(), hidden, normed);
        delta_net.project(compute, input, rows, &mut scratch.delta_net);
        let eps = self.rms_norm_eps;
        delta_net.forward(compute, step.states, rows, states, eps, &mut scratch.delta_net, normed);
    }

    /// hidden += norm(feed_forward(norm(hidden))) * multiplier, likewise.
    fn feed_forward(&self, step: &Step<'_>, layer: &Layer, scratch: &mut Scratch) {
        let (compute, rows) = (step.compute, step.rows);
        let hidden = sized(&mut scratch.hidden, rows * self.hidden_size);
        let normed = sized(&mut scratch.normed, rows * self.hidden_size);

        let input = self.normed(compute, layer.feed_forward_norm.as_deref(), hidden, normed);
        let feed_forward = &mut scratch.feed_forward;
        let out = layer.feed_forward.forward(compute, self.activation, input, rows, feed_forward);
        if let Some(norm) = &layer.post_feed_forward_norm {
            rows::rms_norm_in_place(compute, out, norm, self.rms_norm_eps);
        }
        rows::add_scaled(compute, self.hidden_size, hidden, out, self.residual_multiplier);
    }

    /// `logits[i]` = cap(output(norm(hidden[wanted[i]])) / scaling).
    fn logits(
        &self,
        compute: Compute<'_>,
        scratch: &mut Scratch,
        wanted: &[usize],
        logits: &mut [f32],
    ) {
        let width = self.hidden_size;
        let normed = sized(&mut scratch.normed, wanted.len() * width);
        let hidden = &scratch.hidden;
        rows::in_tasks(compute, width, normed, |first, normed| {
            for (out, row) in normed.chunks_exact_mut(width).zip(&wanted[first..]) {
                let hidden = &hidden[row * width..(row + 1) * width];
                norm::rms_norm(compute.isa, hidden, &self.final_norm, self.rms_norm_eps, out);
            }
        });
        matmul(compute.isa, compute.team, normed, wanted.len(), &self.output, logits);
        if self.logits_scaling != 1.0 {
            rows::in_tasks(compute, self.output.rows(), logits, |_, logits| {
                logits.iter_mut().for_each(|logit| *logit /= self.logits_scaling);
            });
        }
        if let Some(cap) = self.final_logit_softcapping {
            rows::soft_cap(compute, self.output.rows(), logits, cap);
        }
    }

    /// How many layers keep keys and values.
    pub(crate) fn num_kv_layers(&self) -> usize {
        self.layers.iter().filter(|layer| matches!(layer.mixer, Mixer::Attention(_))).count()
    }

    /// How many layers keep a state, and its shape.
    pub(crate) fn states(&self) -> Option<(usize, StateShape)> {
        let delta_nets = self.layers.iter().filter_map(|layer| match &layer.mixer {
            Mixer::DeltaNet(delta_net) => Some(delta_net.state_shape()),
            Mixer::Attention(_) => None,
        });
        let mut delta_nets = delta_nets.peekable();
        let shape = *delta_nets.peek()?;
        Some((delta_nets.count(), shape))
    }

    /// Bytes of weights held; not the embedding, which stays in its file.
    pub(crate) fn bytes(&self) -> usize {
        let floats = |values: &[f32]| size_of_val(values);
        let layers = self.layers.iter().map(|layer| {
            let mixer = match &layer.mixer {
                Mixer::Attention(attention) => attention.bytes(),
                Mixer::DeltaNet(delta_net) => delta_net.bytes(),
            };
            let norms = [
                &layer.attention_norm,
                &layer.post_attention_norm,
                &layer.feed_forward_norm,
                &layer.post_feed_forward_norm,
            ];
            let norms = norms.into_iter().flatten().map(|norm| floats(norm)).sum::<usize>();
            mixer + layer.feed_forward.bytes() + norms
        });
        layers.sum::<usize>() + self.output.bytes() + floats(&self.final_norm)
    }
}
