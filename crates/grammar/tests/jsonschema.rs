//! Real-world JSON schemas and their instances: what is valid can be written, what is not cannot.
//!
//! The schemas lie beside the checkout (`<repo>/../shared/fixtures/jsonschema`); where they are
//! not, there is nothing to do. The validator is an independent one.

#![allow(clippy::expect_used, clippy::panic, reason = "tests may panic, helpers included")]

mod instances;

use std::{collections::BTreeMap, fs, time::Duration, time::Instant};

use instances::{folder, in_style};
use serde_json::Value;
use wharf_grammar::{Compiler, Constraint, Grammar, GrammarError, JsonStyle, Limits, Vocabulary};

const END: u32 = 256;

/// Valid instances that cannot be written, by group and text; everything else is a fault.
const OTHERWISE_WRITTEN: &[&str] = &[
    // The members of a constant object stand in its own order.
    "const const with object: {\"baz\": \"bax\", \"foo\": \"bar\"}",
    // A number is written as the schema writes it, and an integer without a fraction.
    "const const with 0 does not match other zero-like types: 0.0",
    "const const with 1 does not match true: 1.0",
    "const const with -2.0 matches integer and float types: -2.0",
    "const float and integers are equal up to 64-bit representation limits: 9007199254740992.0",
    "enum enum with 0 does not match false: 0.0",
    "enum enum with [0] does not match [false]: [0.0]",
    "enum enum with 1 does not match true: 1.0",
    "enum enum with [1] does not match [true]: [1.0]",
    "type integer type matches integers: 1.0",
    // The suite takes `format` for a remark; here it is enforced.
    "format email format: \"2962\"",
    "format ipv4 format: \"127.0.0.0.1\"",
    "format ipv6 format: \"12345::\"",
    "format hostname format: \"-a-host-name-that-starts-with--\"",
    "format date format: \"06/19/1963\"",
    "format date-time format: \"1990-02-31T15:59:60.123-08:00\"",
    "format time format: \"08:30:06 PST\"",
    "format uri format: \"//foo.bar/?baz=qux#quux\"",
    "format uuid format: \"2eb8aa08-aa98-11ea-b4aa-73b441d1638\"",
    "format duration format: \"PT1D\"",
];

/// Bytes, and an end.
fn compiler() -> Compiler {
    let mut tokens: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
    tokens.push(b"<end>".to_vec());
    let vocabulary = Vocabulary {
        special: (0..tokens.len()).map(|id| id == END as usize).collect(),
        tokens,
        eos_token_ids: vec![END],
        tokenize: Box::new(|text| text.bytes().map(u32::from).collect()),
    };
    Compiler::new(vocabulary, Limits::default()).expect("a sound vocabulary")
}

fn grammar(schema: &Value) -> Grammar {
    Grammar::Json { schema: schema.clone(), style: JsonStyle::spaced() }
}

/// Whether `text` can be written token by token, and be all.
fn accepts(constraint: &Constraint, text: &str, masks: &mut Vec<Duration>) -> bool {
    let mut matcher = constraint.matcher();
    for byte in text.bytes() {
        let began = Instant::now();
        let Ok(mask) = matcher.mask() else { return false };
        masks.push(began.elapsed());
        if !mask.contains(u32::from(byte)) || matcher.consume(u32::from(byte)).is_err() {
            return false;
        }
    }
    matcher.is_complete()
}

/// An answer drawn from the masks, ended as soon as it may once it is long; `None` if it did not.
fn drawn(constraint: &Constraint, seed: u64) -> Option<String> {
    let (mut matcher, mut bytes, mut state) = (constraint.matcher(), Vec::new(), seed | 1);
    for length in 0..3000 {
        if matcher.is_finished() || (matcher.is_complete() && length > 40) {
            break;
        }
        let mask = matcher.mask().ok()?;
        let mut allowed: Vec<u32> = (0..256).filter(|&byte| mask.contains(byte)).collect();
        if length > 60 {
            // Towards an end: closing characters, where there are some.
            let closing: Vec<u32> =
                allowed.iter().copied().filter(|&b| b"\"}]".contains(&(b as u8))).collect();
            if !closing.is_empty() {
                allowed = closing;
            }
        }
        if allowed.is_empty() {
            break;
        }
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let byte = allowed[(state >> 33) as usize % allowed.len()];
        matcher.consume(byte).ok()?;
        bytes.push(byte as u8);
    }
    matcher.is_complete().then(|| String::from_utf8(bytes).ok())?
}

/// What became of the schemas and instances of a corpus.
#[derive(Debug, Default)]
struct Tally {
    schemas: usize,
    refused: BTreeMap<String, usize>,
    valid: usize,
    invalid: usize,
    wrongly_rejected: Vec<String>,
    wrongly_accepted: Vec<String>,
    drawn: usize,
    compile: Vec<Duration>,
    masks: Vec<Duration>,
}

impl Tally {
    /// One schema with its instances, each with what the validator says.
    fn schema(&mut self, compiler: &Compiler, name: &str, schema: &Value, tests: &[(Value, bool)]) {
        self.schemas += 1;
        let began = Instant::now();
        let constraint = match compiler.compile(&grammar(schema)) {
            Ok(constraint) => constraint,
            Err(error) => {
                let reason = match error {
                    GrammarError::Unsupported { keyword, .. } => keyword,
                    GrammarError::Invalid { reason, .. } => reason.chars().take(60).collect(),
                    other => other.to_string().chars().take(60).collect(),
                };
                *self.refused.entry(reason).or_default() += 1;
                return;
            }
        };
        self.compile.push(began.elapsed());
        for (value, valid) in tests {
            let text = in_style(value, schema);
            let accepted = accepts(&constraint, &text, &mut self.masks);
            match valid {
                true => self.valid += 1,
                false => self.invalid += 1,
            }
            if accepted && !valid {
                self.wrongly_accepted.push(format!("{name}: {text}"));
            } else if !accepted && *valid {
                self.wrongly_rejected.push(format!("{name}: {text}"));
            }
        }
        let Ok(validator) = jsonschema::options().should_validate_formats(false).build(schema)
        else {
            return;
        };
        for seed in 0..4 {
            let Some(text) = drawn(&constraint, seed * 77 + 5) else { continue };
            // The validator reads numbers as 64 bits.
            if text.split(|c: char| !c.is_ascii_digit()).any(|digits| digits.len() > 15) {
                continue;
            }
            // Numbers may be larger than the reader takes.
            let Ok(value) = serde_json::from_str::<Value>(&text) else { continue };
            self.drawn += 1;
            // The validator's `\s` knows fewer spaces than ECMA-262 and Unicode do.
            if !validator.is_valid(&value) && !text.contains('\u{3000}') {
                self.wrongly_accepted.push(format!("{name}, drawn: {text}"));
            }
        }
    }

    fn print(&mut self) {
        let micros = |times: &mut Vec<Duration>, at: f64| {
            times.sort_unstable();
            let index = ((times.len() as f64 - 1.0) * at) as usize;
            times.get(index).map_or(0.0, |time| time.as_secs_f64() * 1e6)
        };
        let refused: usize = self.refused.values().sum();
        println!("{} schemas, {refused} refused: {:?}", self.schemas, self.refused);
        println!(
            "{} valid instances ({} wrongly rejected), {} invalid, {} drawn ({} wrongly accepted)",
            self.valid,
            self.wrongly_rejected.len(),
            self.invalid,
            self.drawn,
            self.wrongly_accepted.len()
        );
        println!(
            "compile p50 {:.0} µs, p99 {:.0} µs; mask (bytes) p50 {:.1} µs, p99 {:.1} µs",
            micros(&mut self.compile, 0.5),
            micros(&mut self.compile, 0.99),
            micros(&mut self.masks, 0.5),
            micros(&mut self.masks, 0.99)
        );
    }

    fn check(&mut self) {
        self.print();
        self.wrongly_rejected.retain(|case| !OTHERWISE_WRITTEN.contains(&case.as_str()));
        assert!(
            self.wrongly_accepted.is_empty(),
            "wrongly accepted:\n{}",
            self.wrongly_accepted.join("\n")
        );
        assert!(
            self.wrongly_rejected.is_empty(),
            "wrongly rejected:\n{}",
            self.wrongly_rejected.join("\n")
        );
    }
}

#[test]
fn real_world_schemas_are_enforced_or_refused() {
    let Some(folder) = folder() else {
        println!("skipped: no shared/fixtures/jsonschema beside the checkout");
        return;
    };
    let compiler = compiler();
    let mut tally = Tally::default();
    let lines = fs::read_to_string(folder.join("schemas.jsonl")).expect("readable");
    for line in lines.lines() {
        let case: Value = serde_json::from_str(line).expect("a case");
        let tests: Vec<(Value, bool)> = case["tests"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|test| (test["data"].clone(), test["valid"] == true))
            .collect();
        tally.schema(&compiler, case["id"].as_str().unwrap_or_default(), &case["schema"], &tests);
    }
    tally.check();
}

#[test]
fn the_draft_2020_12_suite_is_enforced_or_refused() {
    let Some(folder) = folder() else {
        println!("skipped: no shared/fixtures/jsonschema beside the checkout");
        return;
    };
    let compiler = compiler();
    let mut tally = Tally::default();
    let files = fs::read_dir(folder.join("draft2020-12")).expect("readable");
    let mut files: Vec<_> = files.map(|file| file.expect("readable").path()).collect();
    files.sort();
    for file in files.iter().filter(|file| file.extension().is_some_and(|end| end == "json")) {
        let groups: Value =
            serde_json::from_str(&fs::read_to_string(file).expect("readable")).expect("JSON");
        for group in groups.as_array().into_iter().flatten() {
            let tests: Vec<(Value, bool)> = group["tests"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|test| (test["data"].clone(), test["valid"] == true))
                .collect();
            let name = format!(
                "{} {}",
                file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default(),
                group["description"].as_str().unwrap_or_default()
            );
            tally.schema(&compiler, &name, &group["schema"], &tests);
        }
    }
    tally.check();
}
