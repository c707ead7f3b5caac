//! How large the cache of keys and values is, and how long a sequence can be with it.
//!
//! Wanted is room for every answer at full length. Given, unless the user says otherwise, is at
//! most a quarter of the free memory: the rest is for the page cache that holds the weights, and
//! for everybody else. If not even one sequence of the model's full length fits, sequences get
//! shorter, unless their length was asked for: then it is an error that says what would help.

use anyhow::{Result, bail};
use wharf_model::BLOCK_TOKENS;

use crate::cli::EngineOptions;

/// Part of the free memory that the cache takes without being told.
const SHARE_OF_MEMORY: usize = 4;

/// What the plan depends on.
pub(super) struct Request<'a> {
    /// Longest sequence the model was made for, in tokens.
    pub(super) trained_len: usize,
    /// Bytes of one block over all layers.
    pub(super) block_bytes: usize,
    /// Free memory in bytes.
    pub(super) available: usize,
    /// What the user said.
    pub(super) options: &'a EngineOptions,
}

/// What was decided.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// Blocks of [`BLOCK_TOKENS`] tokens.
    pub(super) num_blocks: usize,
    /// Longest sequence in tokens; fits the blocks.
    pub(super) max_model_len: usize,
}

/// Decides.
pub(super) fn plan(request: &Request<'_>) -> Result<Plan> {
    let Request { trained_len, block_bytes, available, options } = *request;
    let asked = options.max_model_len.map(std::num::NonZeroUsize::get);
    if let Some(asked) = asked.filter(|&asked| asked > trained_len) {
        bail!(
            "--max-model-len {asked} is longer than the {trained_len} tokens the model was made for"
        );
    }
    if options.num_blocks.is_some() && options.kv_cache_memory.is_some() {
        bail!("--num-blocks and --kv-cache-memory say the same thing: give one of them");
    }
    let length = asked.unwrap_or(trained_len);
    let per_sequence = length.div_ceil(BLOCK_TOKENS);
    let wanted = per_sequence.saturating_mul(options.max_num_seqs.get());
    let affordable = |bytes: usize| bytes / block_bytes.max(1);
    let num_blocks = match (options.num_blocks, options.kv_cache_memory) {
        (Some(blocks), _) => blocks.get(),
        (None, Some(memory)) => affordable(memory.0),
        (None, None) => wanted.min(affordable(available / SHARE_OF_MEMORY)),
    };
    if num_blocks == 0 {
        bail!(
            "there is no room for keys and values: one block of {BLOCK_TOKENS} tokens takes \
             {block_bytes} bytes; give more with --kv-cache-memory"
        );
    }
    if num_blocks >= per_sequence {
        return Ok(Plan { num_blocks, max_model_len: length });
    }
    let fits = num_blocks * BLOCK_TOKENS;
    if asked.is_some() {
        bail!(
            "--max-model-len {length} needs {} MB for keys and values, but there is room for {fits} \
             tokens: give more with --kv-cache-memory, or see --kv-cache-dtype",
            per_sequence.saturating_mul(block_bytes) / 1_000_000
        );
    }
    tracing::warn!(
        "sequences are limited to {fits} of the model's {trained_len} tokens, for want of memory: \
         see --kv-cache-memory and --kv-cache-dtype"
    );
    Ok(Plan { num_blocks, max_model_len: fits })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    /// A model of 1000 tokens whose blocks take 1000 bytes.
    fn plan_with(flags: &[&str], available: usize) -> Result<Plan> {
        let arguments = ["wharf", "engine"].iter().chain(flags);
        let Command::Engine(args) = Cli::parse_from(arguments).command else { unreachable!() };
        plan(&Request { trained_len: 1000, block_bytes: 1000, available, options: &args.engine })
    }

    #[test]
    fn room_for_all_at_full_length_within_a_quarter_of_memory() {
        let plenty = plan_with(&["--max-num-seqs", "2"], 1 << 30).unwrap();
        assert_eq!(plenty, Plan { num_blocks: 2 * 63, max_model_len: 1000 });
        let tight = plan_with(&[], 400_000).unwrap();
        assert_eq!(tight, Plan { num_blocks: 100, max_model_len: 1000 });
        let tiny = plan_with(&[], 40_000).unwrap();
        assert_eq!(tiny, Plan { num_blocks: 10, max_model_len: 160 });
        assert!(plan_with(&[], 100).is_err());
    }

    #[test]
    fn what_is_asked_for_is_given_or_refused() {
        let plan = plan_with(&["--max-model-len", "100", "--max-num-seqs", "1"], 1 << 30).unwrap();
        assert_eq!(plan, Plan { num_blocks: 7, max_model_len: 100 });
        assert_eq!(plan_with(&["--num-blocks", "70"], 0).unwrap().num_blocks, 70);
        assert_eq!(plan_with(&["--kv-cache-memory", "70000"], 0).unwrap().num_blocks, 70);
        for flags in [["--max-model-len", "1001"], ["--kv-cache-memory", "999"]] {
            assert!(plan_with(&flags, 1 << 30).is_err(), "{flags:?}");
        }
        assert!(plan_with(&["--num-blocks", "70", "--kv-cache-memory", "70000"], 0).is_err());
        let error = plan_with(&["--max-model-len", "1000"], 40_000).unwrap_err().to_string();
        assert!(error.contains("--kv-cache-memory"), "{error}");
    }
}
