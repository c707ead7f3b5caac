//! What a constraint costs over real vocabularies: `cargo bench -p wharf-text --bench masks`.
//!
//! As MaskBench measures it (Guidance's JSONSchemaBench): each schema is compiled, each of its
//! instances is written token by token, and the mask is computed before every token. Nothing is
//! asserted; the corpus and the tokenizers lie beside the checkout.

#![allow(clippy::expect_used, reason = "a bench may panic")]

use std::{
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::Value;
use wharf_grammar::{Compiler, Constraint, Grammar, JsonStyle, Limits, Vocabulary};
use wharf_text::tokenizer::{Tokenizer, from_hugging_face};

#[path = "../../grammar/tests/instances/mod.rs"]
mod instances;

fn main() {
    let Some(corpus) = instances::folder() else {
        println!("skipped: no shared/fixtures/jsonschema beside the checkout");
        return;
    };
    let cases = fs::read_to_string(corpus.join("schemas.jsonl")).expect("readable");
    println!(
        "{:10} {:>7} {:22} {:>8} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "", "tokens", "µs", "count", "average", "p50", "p99", "p99.9", "max"
    );
    for name in ["smollm2", "qwen3"] {
        let tokenizer = tokenizer(&corpus.join("../tokenizers").join(name));
        let began = Instant::now();
        let compiler = compiler(&tokenizer);
        let row =
            |what: &str, times: Vec<Duration>| print_row(name, tokenizer.vocab_size(), what, times);
        row("vocabulary, once", vec![began.elapsed()]);
        let mut costs = Costs::default();
        for case in cases.lines() {
            costs.measure(&compiler, &*tokenizer, &serde_json::from_str(case).expect("a case"));
        }
        row("compile", costs.compile);
        row("matcher of a choice", costs.matcher);
        row("mask", costs.mask);
        row("forced tokens", costs.forced);
        row("one more token", costs.consume);
    }
}

fn tokenizer(folder: &Path) -> Arc<dyn Tokenizer> {
    let file = fs::read(folder.join("tokenizer.json")).expect("a tokenizer");
    from_hugging_face(&file, None).expect("a tokenizer")
}

fn compiler(tokenizer: &Arc<dyn Tokenizer>) -> Compiler {
    let count = u32::try_from(tokenizer.vocab_size()).expect("ids are 32 bits");
    let end = ["<|im_end|>", "<|endoftext|>"].map(|text| tokenizer.token_to_id(text));
    let encoder = Arc::clone(tokenizer);
    let vocabulary = Vocabulary {
        tokens: (0..count).map(|id| tokenizer.token_bytes(id).to_vec()).collect(),
        special: (0..count).map(|id| tokenizer.is_special(id)).collect(),
        eos_token_ids: end.into_iter().flatten().collect(),
        tokenize: Box::new(move |text| encoder.encode(text, false).unwrap_or_default()),
    };
    Compiler::new(vocabulary, Limits::default()).expect("a sound vocabulary")
}

#[derive(Default)]
struct Costs {
    compile: Vec<Duration>,
    matcher: Vec<Duration>,
    mask: Vec<Duration>,
    forced: Vec<Duration>,
    consume: Vec<Duration>,
}

impl Costs {
    /// One schema, and its instances as far as they may be written.
    fn measure(&mut self, compiler: &Compiler, tokenizer: &dyn Tokenizer, case: &Value) {
        let schema = &case["schema"];
        let grammar = Grammar::Json { schema: schema.clone(), style: JsonStyle::spaced() };
        let began = Instant::now();
        let Ok(constraint) = compiler.compile(&grammar) else { return };
        self.compile.push(began.elapsed());
        for test in case["tests"].as_array().into_iter().flatten() {
            let text = instances::in_style(&test["data"], schema);
            self.write(&constraint, &tokenizer.encode(&text, false).expect("a text"));
        }
    }

    fn write(&mut self, constraint: &Constraint, tokens: &[u32]) {
        let mut matcher = timed(&mut self.matcher, || constraint.matcher());
        for &token in tokens {
            let mask = timed(&mut self.mask, || matcher.mask());
            timed(&mut self.forced, || matcher.forced());
            if !mask.is_ok_and(|mask| mask.contains(token)) {
                return;
            }
            if timed(&mut self.consume, || matcher.consume(token)).is_err() {
                return;
            }
        }
    }
}

fn timed<T>(times: &mut Vec<Duration>, work: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let result = work();
    times.push(began.elapsed());
    result
}

fn print_row(name: &str, vocab_size: usize, what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    let at = |share: f64| micros(times[((times.len() - 1) as f64 * share) as usize]);
    let average = micros(times.iter().sum::<Duration>()) / times.len() as f64;
    println!(
        "{name:10} {vocab_size:>7} {what:22} {:>8} {average:>9.1} {:>9.1} {:>9.1} {:>9.1} {:>9.1}",
        times.len(),
        at(0.5),
        at(0.99),
        at(0.999),
        at(1.0)
    );
}
