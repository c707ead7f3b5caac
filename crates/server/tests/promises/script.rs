//! A runner whose answers the prompt itself dictates, and the small vocabulary it speaks.
//!
//! It keeps the tokens where a model keeps keys and values, in the engine's blocks; so it reads its
//! history through the block table, and a block that the engine mixed up would be a wrong answer.
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use wharf_engine::Runner;
use wharf_engine::model::{BLOCK_TOKENS, Batch};
use wharf_text::tokenizer::{GgufVocabulary, Tokenizer, from_gguf};

/// `<|im_start|>`; bytes are ids 0 to 255.
pub(crate) const START: u32 = 256;
/// `<|im_end|>`, which ends an answer.
pub(crate) const END: u32 = 257;
/// The first merged token.
const FIRST_MERGED: u32 = 258;
/// Merged tokens, each of two others.
const MERGES: [(&str, &str); 8] = [
    ("h", "e"),
    ("l", "l"),
    ("he", "ll"),
    ("hell", "o"),
    ("E", "N"),
    ("x", "E"),
    ("D", "y"),
    ("S", "T"),
];
/// Ids there are.
pub(crate) const VOCABULARY: usize = FIRST_MERGED as usize + MERGES.len();

/// What tests turn while the engine runs.
#[derive(Default)]
pub(crate) struct Controls {
    /// Steps wait while this is set.
    pub(crate) hold: AtomicBool,
    /// Milliseconds that each step takes.
    pub(crate) delay: AtomicU64,
    /// Steps run.
    pub(crate) steps: AtomicU64,
}

/// The text between the last `[` and `]` of a prompt is the answer. Special scripts:
/// `random` (all tokens but the specials equally likely), `forever` (no end), `fail`, `panic`.
pub(crate) struct ScriptRunner {
    pub(crate) controls: Arc<Controls>,
    /// `[num_blocks * BLOCK_TOKENS]`
    pub(crate) tokens: Vec<u32>,
}

impl ScriptRunner {
    pub(crate) fn new(num_blocks: usize, controls: Arc<Controls>) -> Self {
        Self { controls, tokens: vec![0; num_blocks * BLOCK_TOKENS] }
    }
}

impl Runner for ScriptRunner {
    fn vocab_size(&self) -> usize {
        VOCABULARY
    }

    fn forward(&mut self, batch: &Batch, logits: &mut Vec<f32>) -> Result<(), String> {
        while self.controls.hold.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(self.controls.delay.load(Ordering::SeqCst)));
        self.controls.steps.fetch_add(1, Ordering::SeqCst);
        logits.clear();
        let slot = |table: &[u32], at: usize| {
            table[at / BLOCK_TOKENS] as usize * BLOCK_TOKENS + at % BLOCK_TOKENS
        };
        for sequence in &batch.sequences {
            for row in 0..sequence.num_rows {
                let token = batch.tokens[sequence.first_row + row];
                self.tokens[slot(&sequence.block_table, sequence.start + row)] = token;
            }
        }
        for &row in &batch.logits_rows {
            let owner = batch.sequences.iter().find(|sequence| {
                (sequence.first_row..sequence.first_row + sequence.num_rows).contains(&row)
            });
            let owner = owner.expect("every row has an owner");
            let last = owner.start + row - owner.first_row;
            let history: Vec<u32> =
                (0..=last).map(|at| self.tokens[slot(&owner.block_table, at)]).collect();
            logits.extend(next_logits(&history)?);
        }
        Ok(())
    }
}

/// `[VOCABULARY]`: 10 for the scripted token, and small distinct values for the others.
fn next_logits(history: &[u32]) -> Result<Vec<f32>, String> {
    let close = u32::from(b']');
    // In chat the answer begins after the header `<|im_start|>assistant\n`.
    let begin = match history.iter().rposition(|&id| id == START) {
        Some(start) => start + 1 + "assistant\n".len(),
        None => history.iter().position(|&id| id == close).map_or(history.len(), |at| at + 1),
    };
    let begin = begin.min(history.len());
    let (prompt, answer) = history.split_at(begin);
    let open = prompt.iter().rposition(|&id| id == u32::from(b'['));
    let script = open.map_or(&[][..], |open| {
        let rest = &prompt[open + 1..];
        &rest[..rest.iter().position(|&id| id == close).unwrap_or(rest.len())]
    });
    let text: String =
        script.iter().filter_map(|&id| char::from_u32(id).filter(char::is_ascii)).collect();
    let mut logits: Vec<f32> =
        (0..VOCABULARY).map(|id| -((id * 7919 % VOCABULARY) as f32) / 1000.0).collect();
    let next = match text.as_str() {
        "random" => {
            logits.fill(0.0);
            logits[START as usize] = -100.0;
            logits[END as usize] = -100.0;
            return Ok(logits);
        }
        "fail" => return Err("the script says so".to_owned()),
        "panic" => panic!("the script says so"),
        "forever" => u32::from(b'a'),
        _ => script.get(answer.len()).copied().unwrap_or(END),
    };
    logits[next as usize] = 10.0;
    Ok(logits)
}

/// GPT-2's printable stand-in for a byte.
fn stand_in(byte: u8) -> char {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    if printable(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|&other| !printable(other)).count();
    char::from_u32(256 + before as u32).expect("below the surrogates")
}

/// Bytes, two specials and a few merges.
pub(crate) fn tokenizer() -> Arc<dyn Tokenizer> {
    let mut tokens: Vec<String> = (0..=255).map(|byte| stand_in(byte).to_string()).collect();
    let mut token_types = vec![1; 256];
    tokens.extend(["<|im_start|>".to_owned(), "<|im_end|>".to_owned()]);
    token_types.extend([3, 3]);
    for (left, right) in MERGES {
        tokens.push(format!("{left}{right}"));
        token_types.push(1);
    }
    from_gguf(GgufVocabulary {
        model: "gpt2".into(),
        pre: Some("gpt-2".into()),
        tokens,
        token_types,
        merges: MERGES.iter().map(|(left, right)| format!("{left} {right}")).collect(),
        bos: Some(START),
        eos: Some(END),
        add_bos: Some(false),
        ..GgufVocabulary::default()
    })
    .expect("a sound vocabulary")
}
