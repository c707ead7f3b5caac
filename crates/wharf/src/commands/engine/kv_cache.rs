//! How large the cache of keys and values is, and how long a sequence can be with it.
//!
//! Wanted is room for every answer at full length. Given, unless the user says otherwise, is at
//! most a quarter of the free memory: the rest is for the page cache that holds the weights, and
//! for everybody else. If not even one sequence of the model's full length fits, sequences get
//! shorter, unless their length was asked for: then it is an error that says what would help.
//!
//! A model with recurrent layers keeps a state of each sequence too, of one size whatever its length.
//! These, and as many copies of states for prefixes to be reused from, come out of the same memory: up
//! to half of it, the copies last. Where that is too little for `--max-num-seqs` states, fewer sequences
//! run at once.

use anyhow::{Result, bail};
use wharf_model::BLOCK_TOKENS;

use crate::cli::EngineOptions;

/// Part of the free memory that the cache takes without being told.
const SHARE_OF_MEMORY: usize = 4;

/// Part of the cache's memory that states may take.
const SHARE_OF_STATES: usize = 2;

/// What the plan depends on.
pub(super) struct Request<'a> {
    /// Longest sequence the model was made for, in tokens.
    pub(super) trained_len: usize,
    /// Bytes of one block over all layers.
    pub(super) block_bytes: usize,
    /// Bytes of a sequence's recurrent state; 0: the model has none.
    pub(super) state_bytes: usize,
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
    /// Most sequences at once.
    pub(super) max_running: usize,
    /// Copies of recurrent states; `None`: the model has none.
    pub(super) num_state_snapshots: Option<usize>,
}

impl Plan {
    /// Recurrent states, copies among them.
    pub(super) fn num_slots(&self) -> usize {
        self.num_state_snapshots.map_or(0, |snapshots| self.max_running + snapshots)
    }
}

/// Decides.
pub(super) fn plan(request: &Request<'_>) -> Result<Plan> {
    let Request { trained_len, block_bytes, available, options, .. } = *request;
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
    let memory = options.kv_cache_memory.map_or(available / SHARE_OF_MEMORY, |memory| memory.0);
    let states = States::plan(request, memory)?;
    let wanted = per_sequence.saturating_mul(states.max_running);
    let affordable = memory.saturating_sub(states.bytes) / block_bytes.max(1);
    let num_blocks = match (options.num_blocks, options.kv_cache_memory) {
        (Some(blocks), _) => blocks.get(),
        (None, Some(_)) => affordable,
        (None, None) => wanted.min(affordable),
    };
    if num_blocks == 0 {
        bail!(
            "there is no room for keys and values: one block of {BLOCK_TOKENS} tokens takes \
             {block_bytes} bytes; give more with --kv-cache-memory"
        );
    }
    let States { max_running, num_snapshots, .. } = states;
    let plan = |max_model_len| Plan {
        num_blocks,
        max_model_len,
        max_running,
        num_state_snapshots: num_snapshots,
    };
    if num_blocks >= per_sequence {
        return Ok(plan(length));
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
    Ok(plan(fits))
}

/// What recurrent states take.
struct States {
    max_running: usize,
    num_snapshots: Option<usize>,
    bytes: usize,
}

impl States {
    fn plan(request: &Request<'_>, memory: usize) -> Result<Self> {
        let wanted = request.options.max_num_seqs.get();
        let of_one = request.state_bytes;
        if of_one == 0 {
            return Ok(Self { max_running: wanted, num_snapshots: None, bytes: 0 });
        }
        // With a number of blocks nothing is said of the memory for states: they get what they want.
        let slots = match request.options.num_blocks {
            Some(_) => usize::MAX,
            None => memory / SHARE_OF_STATES / of_one,
        };
        if slots == 0 {
            bail!(
                "there is no room for recurrent states: one sequence's takes {} MB, and half of the \
                 cache's memory is {} MB; give more with --kv-cache-memory",
                of_one.div_ceil(1_000_000),
                memory / SHARE_OF_STATES / 1_000_000
            );
        }
        let max_running = wanted.min(slots);
        if max_running < wanted {
            tracing::warn!(
                "{max_running} sequences run at once, not {wanted}, for want of memory for recurrent \
                 states: see --kv-cache-memory and --max-num-seqs"
            );
        }
        let copies = if request.options.no_prefix_caching { 1 } else { max_running };
        let num_snapshots = copies.min(slots - max_running);
        let bytes = (max_running + num_snapshots).saturating_mul(of_one);
        Ok(Self { max_running, num_snapshots: Some(num_snapshots), bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    /// A model of 1000 tokens whose blocks take 1000 bytes.
    fn plan_with(flags: &[&str], available: usize) -> Result<Plan> {
        plan_for(0, flags, available)
    }

    /// The same with a state of 10,000 bytes for each sequence.
    fn recurrent_plan_with(flags: &[&str], available: usize) -> Result<Plan> {
        plan_for(10_000, flags, available)
    }

    fn plan_for(state_bytes: usize, flags: &[&str], available: usize) -> Result<Plan> {
        let arguments = ["wharf", "engine"].iter().chain(flags);
        let Command::Engine(args) = Cli::parse_from(arguments).command else { unreachable!() };
        plan(&Request {
            trained_len: 1000,
            block_bytes: 1000,
            state_bytes,
            available,
            options: &args.engine,
        })
    }

    /// Of a model without states.
    fn plain(num_blocks: usize, max_model_len: usize, max_running: usize) -> Plan {
        Plan { num_blocks, max_model_len, max_running, num_state_snapshots: None }
    }

    #[test]
    fn states_and_their_copies_come_out_of_the_same_memory() {
        let plenty = recurrent_plan_with(&["--max-num-seqs", "2"], 1 << 30).unwrap();
        let states = Some(2);
        assert_eq!(plenty, Plan { num_state_snapshots: states, ..plain(126, 1000, 2) });
        assert_eq!(plenty.num_slots(), 4);
        let of = |memory| recurrent_plan_with(&["--kv-cache-memory", memory], 0);
        // Of 100 kB half is for 5 states: no copies, and fewer sequences.
        let tight = of("100000").unwrap();
        assert_eq!(tight, Plan { num_state_snapshots: Some(0), ..plain(50, 800, 5) });
        assert_eq!(of("20000").unwrap().max_running, 1);
        let refused = of("19999").unwrap_err().to_string();
        assert!(refused.contains("recurrent states") && refused.contains("--kv-cache-memory"));
        let few = recurrent_plan_with(&["--num-blocks", "70", "--no-prefix-caching"], 0).unwrap();
        assert_eq!(few, Plan { num_state_snapshots: Some(1), ..plain(70, 1000, 32) });
    }

    #[test]
    fn room_for_all_at_full_length_within_a_quarter_of_memory() {
        let plenty = plan_with(&["--max-num-seqs", "2"], 1 << 30).unwrap();
        assert_eq!(plenty, plain(2 * 63, 1000, 2));
        let tight = plan_with(&[], 400_000).unwrap();
        assert_eq!(tight, plain(100, 1000, 32));
        let tiny = plan_with(&[], 40_000).unwrap();
        assert_eq!(tiny, plain(10, 160, 32));
        assert!(plan_with(&[], 100).is_err());
    }

    #[test]
    fn what_is_asked_for_is_given_or_refused() {
        let plan = plan_with(&["--max-model-len", "100", "--max-num-seqs", "1"], 1 << 30).unwrap();
        assert_eq!(plan, plain(7, 100, 1));
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
