//! generation_config.json: how the model's author would sample from it.
//!
//! The fields are the ones vLLM takes defaults from. One thing differs: vLLM passes over `do_sample`,
//! so that a model whose author says `do_sample: false` is sampled at temperature 1. Here that is
//! temperature 0, which is what the author's own code does. A file without `do_sample` is silent about
//! it (transformers would take false), and OpenAI's default holds.

use serde_json::Value;

use crate::{config::Fields, error::Malformed, info::GenerationDefaults};

/// Reads generation_config.json: the defaults, and the ids that end a generation.
pub(crate) fn parse(json: &[u8]) -> Result<(GenerationDefaults, Vec<u32>), Malformed> {
    let value: Value =
        serde_json::from_slice(json).map_err(|e| Malformed::new("file", e.to_string()))?;
    let fields = Fields::new(&value)?;
    let ranged = |name: &str, least: f64, most: f64| -> Result<Option<f32>, Malformed> {
        match fields.number(name)? {
            Some(number) if number < least || number > most => {
                Err(fields.fault(name, format!("{number} is not within {least} to {most}")))
            }
            number => Ok(number.map(|number| number as f32)),
        }
    };
    // -1 and 0 both say "no limit".
    let top_k = fields.number("top_k")?.map(|k| {
        if k.fract() == 0.0 && k <= f64::from(u32::MAX) {
            return Ok(k.max(0.0) as u32);
        }
        Err(fields.fault("top_k", format!("{k} is not a whole number")))
    });
    let greedy = fields.flag("do_sample")? == Some(false);
    let temperature = ranged("temperature", 0.0, f64::from(f32::MAX))?;
    let defaults = GenerationDefaults {
        temperature: if greedy { Some(0.0) } else { temperature },
        top_p: ranged("top_p", f64::MIN_POSITIVE, 1.0)?,
        top_k: top_k.transpose()?,
        min_p: ranged("min_p", 0.0, 1.0)?,
        repetition_penalty: ranged(
            "repetition_penalty",
            f64::from(f32::MIN_POSITIVE),
            f64::from(f32::MAX),
        )?,
        max_new_tokens: fields.count("max_new_tokens", u32::MAX as usize)?.map(|n| n as u32),
    };
    Ok((defaults, fields.token_ids("eos_token_id")?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_what_is_there() {
        let json = br#"{"temperature": 0.7, "top_p": 0.8, "top_k": 20, "do_sample": true,
            "repetition_penalty": 1.05, "max_new_tokens": 2048, "eos_token_id": [5, 6],
            "transformers_version": "4.51.0", "min_p": null}"#;
        let (defaults, eos) = parse(json).unwrap();
        assert_eq!(defaults.temperature, Some(0.7));
        assert_eq!((defaults.top_p, defaults.top_k, defaults.min_p), (Some(0.8), Some(20), None));
        assert_eq!(
            (defaults.repetition_penalty, defaults.max_new_tokens),
            (Some(1.05), Some(2048))
        );
        assert_eq!(eos, [5, 6]);
    }

    #[test]
    fn silence_stays_silence() {
        assert_eq!(parse(b"{}").unwrap(), (GenerationDefaults::default(), vec![]));
    }

    #[test]
    fn do_sample_false_is_greedy() {
        let (defaults, _) = parse(br#"{"do_sample": false, "temperature": 0.6}"#).unwrap();
        assert_eq!(defaults.temperature, Some(0.0));
    }

    #[test]
    fn no_top_k_is_zero_and_a_wrong_value_is_named() {
        assert_eq!(parse(br#"{"top_k": -1}"#).unwrap().0.top_k, Some(0));
        for (json, field) in [
            (r#"{"top_k": 1.5}"#, "top_k"),
            (r#"{"temperature": -1}"#, "temperature"),
            (r#"{"top_p": 0}"#, "top_p"),
            (r#"{"min_p": 2}"#, "min_p"),
            (r#"{"repetition_penalty": 0}"#, "repetition_penalty"),
            (r#"{"max_new_tokens": -5}"#, "max_new_tokens"),
            (r#"{"eos_token_id": -5}"#, "eos_token_id"),
            ("[]", "file"),
        ] {
            assert_eq!(parse(json.as_bytes()).unwrap_err().field, field, "{json}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_give_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }
    }
}
