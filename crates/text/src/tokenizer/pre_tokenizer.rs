//! How byte-level BPE vocabularies cut a text into words before merging, by the name that
//! GGUF files write in `tokenizer.ggml.pre`.
//!
//! A GGUF file names the pre-tokenizer but does not spell it, so the spelling has to be
//! known here: it is part of the format. Each is the list of patterns that the original
//! model's `tokenizer.json` applies, one after the other, each cutting the pieces the one
//! before it left; llama.cpp's vocabulary loader (`src/llama-vocab.cpp`) is the reference
//! for the names. A name that is not in this table is an error: another model's pattern
//! would give ids that look right and are wrong.

use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{NormalizerWrapper, SplitDelimiterBehavior};

use super::TokenizerError;

/// GPT-2's words.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// One digit at a time.
const DIGIT: &str = r"\p{N}";

/// Digits in groups of up to three, from the left.
const THREE_DIGITS: &str = r"\p{N}{1,3}";

/// Llama 3's words.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Qwen 2's words: Llama 3's with single digits.
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Qwen 3.5's words: combining marks belong to their letters.
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// MiniCPM 5's words, after its digits.
const MINICPM5: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Qwen 2's words without the English contractions.
const UFAKZEKA: &str =
    r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Seed-Coder's words: line ends do not cling to punctuation.
const SEED_CODER: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Bailing's words.
const BAILING: &str = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+";

/// Mistral's Tekken: words end where lower case turns to upper case.
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// GPT-4o's words.
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// DeepSeek V3's Chinese and Japanese runs.
const DEEPSEEK3_CJK: &str = "[\u{4E00}-\u{9FA5}\u{3040}-\u{309F}\u{30A0}-\u{30FF}]+";

/// DeepSeek V3's words.
const DEEPSEEK3: &str = "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

/// DeepSeek's line ends, alone.
const LINE_END: &str = r"[\r\n]";

/// DeepSeek's Chinese and Hangul runs.
const DEEPSEEK_CJK: &str = "[\u{4E00}-\u{9FA5}\u{0800}-\u{4E00}\u{AC00}-\u{D7FF}]+";

/// DeepSeek LLM's letters of scripts with case.
const DEEPSEEK_LLM_LETTERS: &str = concat!(
    "\\s?[",
    "A-Za-z\u{B5}\u{C0}-\u{D6}\u{D8}-\u{F6}\u{F8}-\u{1BA}\u{1BC}-\u{1BF}\u{1C4}-\u{293}",
    "\u{295}-\u{2AF}\u{370}-\u{373}\u{376}\u{377}\u{37B}-\u{37D}\u{37F}\u{386}\u{388}-\u{38A}",
    "\u{38C}\u{38E}-\u{3A1}\u{3A3}-\u{3F5}\u{3F7}-\u{481}\u{48A}-\u{52F}\u{531}-\u{556}",
    "\u{10A0}-\u{10C5}\u{13A0}-\u{13F5}\u{13F8}-\u{13FD}\u{1C90}-\u{1CBA}\u{1CBD}-\u{1CBF}",
    "\u{1D00}-\u{1D2B}\u{1D6B}-\u{1D77}\u{1D79}-\u{1D9A}\u{1E00}-\u{1F15}\u{1F18}-\u{1F1D}",
    "\u{1F20}-\u{1F45}\u{1F48}-\u{1F4D}\u{1F50}-\u{1F57}\u{1F59}\u{1F5B}\u{1F5D}\u{1F5F}-\u{1F7D}",
    "\u{1F80}-\u{1FB4}\u{1FB6}-\u{1FBC}\u{1FBE}\u{1FC2}-\u{1FC4}\u{1FC6}-\u{1FCC}",
    "\u{1FD0}-\u{1FD3}\u{1FD6}-\u{1FDB}\u{1FE0}-\u{1FEC}\u{1FF2}-\u{1FF4}\u{1FF6}-\u{1FFC}",
    "\u{2102}\u{2107}\u{210A}-\u{2113}\u{2115}\u{2119}-\u{211D}\u{2124}\u{2126}\u{2128}",
    "\u{212A}-\u{212D}\u{212F}-\u{2134}\u{2139}\u{213C}-\u{213F}\u{2145}-\u{2149}\u{214E}\u{2183}",
    "\u{2184}\u{2C00}-\u{2C7B}\u{2C7E}-\u{2CE4}\u{2CEB}-\u{2CEE}\u{2CF2}\u{2CF3}\u{A640}-\u{A66D}",
    "\u{A680}-\u{A69B}\u{A722}-\u{A76F}\u{A771}-\u{A787}\u{A78B}-\u{A78E}\u{AB70}-\u{ABBF}",
    "\u{FB00}-\u{FB06}\u{FB13}-\u{FB17}\u{FF21}-\u{FF3A}\u{FF41}-\u{FF5A}\u{10400}-\u{1044F}",
    "\u{104B0}-\u{104D3}\u{104D8}-\u{104FB}\u{10C80}-\u{10CB2}\u{10CC0}-\u{10CF2}",
    "\u{118A0}-\u{118DF}\u{1E900}-\u{1E943}",
    "]+"
);

/// DeepSeek LLM's punctuation.
const DEEPSEEK_LLM_PUNCTUATION: &str =
    "\\s?[!-/:-~\u{FF01}-\u{FF0F}\u{FF1A}-\u{FF5E}\u{2018}-\u{201F}\u{3000}-\u{3002}]+";

/// Falcon's punctuation, cut off first.
const FALCON_PUNCTUATION: &str = r"[\p{P}\$\+<=>\^~\|`]+";

/// llama.cpp's own punctuation for files that name no pre-tokenizer.
const DEFAULT_PUNCTUATION: &str = r"[\p{P}\$\+<=>\^~\|]+";

/// Exactly three ASCII digits.
const DIGIT_TRIPLE: &str = "[0-9][0-9][0-9]";

/// Bloom's words: runs without spaces or the commonest punctuation.
const BLOOM: &str = " ?[^(\\s|.,!?…。，、।۔،)]+";

/// What a pre-tokenizer name stands for.
pub(super) struct PreTokenizerKind {
    /// Patterns, applied one after the other.
    patterns: &'static [&'static str],
    /// Whether the original tokenizer brings text to Unicode NFC first.
    nfc: bool,
    /// Whether a word that is a token as a whole is taken as it is, without merging.
    pub(super) ignore_merges: bool,
    /// Whether BOS is added where the file does not say.
    pub(super) adds_bos: bool,
}

impl PreTokenizerKind {
    const fn new(patterns: &'static [&'static str]) -> Self {
        Self { patterns, nfc: false, ignore_merges: false, adds_bos: false }
    }

    const fn normalized(self) -> Self {
        Self { nfc: true, ..self }
    }

    const fn whole_words(self) -> Self {
        Self { ignore_merges: true, ..self }
    }

    const fn with_bos(self) -> Self {
        Self { adds_bos: true, ..self }
    }

    /// The kind that `name` (`tokenizer.ggml.pre`) stands for.
    ///
    /// # Errors
    /// When the name is not known here.
    pub(super) fn named(name: &str) -> Result<Self, TokenizerError> {
        Ok(match name {
            "default" => Self::new(&[DEFAULT_PUNCTUATION, GPT2, r"\p{N}+", DIGIT_TRIPLE]),
            "gpt-2" | "phi-2" | "gigachat" | "a.x-4.0" | "mellum" | "mpt" | "olmo" | "jais"
            | "trillion" | "granite-docling" | "exaone4" => Self::new(&[GPT2]),
            "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" | "exaone"
            | "minerva-7b" | "mellum2" => Self::new(&[DIGIT, GPT2]),
            "llama3" | "llama-v3" | "llama-bpe" | "falcon3" | "falcon-h1" | "pixtral"
            | "midm-2.0" | "lfm2" => Self::new(&[LLAMA3]).whole_words().with_bos(),
            "dbrx" | "smaug-bpe" | "glm4" | "chatglm-bpe" => Self::new(&[LLAMA3]),
            "qwen2" | "deepseek-r1-qwen" | "kormo" | "megrez" => Self::new(&[QWEN2]).normalized(),
            "stablelm2" | "hunyuan" | "grok-2" | "solar-open" => Self::new(&[QWEN2]),
            "qwen35" => Self::new(&[QWEN35]).normalized(),
            "laguna" => Self::new(&["[^\\n]+|[\\n]+", QWEN2]),
            "minicpm5" => Self::new(&[THREE_DIGITS, MINICPM5]).whole_words(),
            "ufakzeka" => Self::new(&[UFAKZEKA]),
            "seed-coder" => Self::new(&[SEED_CODER]),
            "bailingmoe" | "bailingmoe2" | "llada-moe" => Self::new(&[BAILING]),
            "tekken" => Self::new(&[TEKKEN]).whole_words().with_bos(),
            "gpt-4o" | "llama4" | "kanana2" | "talkie" | "minimax-m2" => Self::new(&[GPT4O]),
            "tiny_aya" | "cohere2moe" => Self::new(&[r"\d{1,3}(?=(?:\d{3})*\b)", GPT4O]),
            "deepseek-llm" => Self::new(&[
                LINE_END,
                DEEPSEEK_LLM_LETTERS,
                DEEPSEEK_LLM_PUNCTUATION,
                r"\s+$",
                DEEPSEEK_CJK,
                r"\p{N}+",
            ]),
            "deepseek-coder" => {
                Self::new(&[LINE_END, r"\s?\p{L}+", r"\s?\p{P}+", DEEPSEEK_CJK, DIGIT])
            }
            "deepseek-v3" | "hunyuan-dense" | "joyai-llm" | "hy_v4" => {
                Self::new(&[THREE_DIGITS, DEEPSEEK3_CJK, DEEPSEEK3])
            }
            "falcon" => Self::new(&[FALCON_PUNCTUATION, GPT2, DIGIT_TRIPLE]),
            "bloom" | "poro-chat" | "gpt3-finnish" => Self::new(&[BLOOM]),
            "viking" => Self::new(&[BLOOM, DIGIT]),
            unknown => {
                return Err(TokenizerError::Invalid(format!(
                    "tokenizer.ggml.pre is {unknown:?}, a pre-tokenizer that is not supported"
                )));
            }
        })
    }

    /// What is done to a text before it is cut.
    pub(super) fn normalizer(&self) -> Option<NormalizerWrapper> {
        self.nfc.then(|| NFC.into())
    }

    /// The cutting itself, which ends in GPT-2's alphabet of bytes.
    ///
    /// # Errors
    /// When a pattern does not compile; a test compiles them all.
    pub(super) fn pre_tokenizer(&self) -> Result<PreTokenizerWrapper, TokenizerError> {
        let mut steps: Vec<PreTokenizerWrapper> = Vec::with_capacity(self.patterns.len() + 1);
        for &pattern in self.patterns {
            let pattern = SplitPattern::Regex(pattern.to_owned());
            let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false)
                .map_err(|error| TokenizerError::Invalid(error.to_string()))?;
            steps.push(split.into());
        }
        steps.push(ByteLevel::new(false, true, false).into());
        Ok(Sequence::new(steps).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

    const NAMES: [&str; 25] = [
        "default",
        "gpt-2",
        "smollm",
        "llama-bpe",
        "dbrx",
        "qwen2",
        "stablelm2",
        "qwen35",
        "laguna",
        "minicpm5",
        "ufakzeka",
        "seed-coder",
        "bailingmoe",
        "tekken",
        "gpt-4o",
        "tiny_aya",
        "deepseek-llm",
        "deepseek-coder",
        "deepseek-v3",
        "falcon",
        "bloom",
        "viking",
        "command-r",
        "refact",
        "chatglm-bpe",
    ];

    /// The words that `name` cuts `text` into.
    fn words(name: &str, text: &str) -> Vec<String> {
        let kind = PreTokenizerKind::named(name).unwrap();
        let mut pieces = PreTokenizedString::from(text);
        kind.pre_tokenizer()
            .unwrap_or_else(|e| panic!("{name}: {e}"))
            .pre_tokenize(&mut pieces)
            .unwrap();
        pieces
            .get_splits(OffsetReferential::Original, OffsetType::Byte)
            .into_iter()
            .map(|(_, (start, end), _)| text[start..end].to_owned())
            .collect()
    }

    #[test]
    fn every_pattern_compiles_and_loses_nothing() {
        let text =
            "It's 12345 o'clock,\n\n  don't  WORRY你好 こんにちは — ÅngströmHTML£ ٣٤ a̐éö̲\t\r\n ";
        for name in NAMES {
            assert_eq!(words(name, text).concat(), text, "{name}");
        }
    }

    #[test]
    fn names_differ_where_the_models_do() {
        assert_eq!(words("gpt-2", "a 1234 's"), ["a", " 1234", " '", "s"]);
        assert_eq!(words("smollm", "a 1234"), ["a", " ", "1", "2", "3", "4"]);
        assert_eq!(words("llama-bpe", "a1234\n\nb"), ["a", "123", "4", "\n\n", "b"]);
        assert_eq!(words("qwen2", "a12"), ["a", "1", "2"]);
        assert_eq!(words("tekken", "helloWorld"), ["hello", "World"]);
        assert_eq!(words("deepseek-v3", "12345你好"), ["123", "45", "你好"]);
        assert_eq!(words("falcon", "1234,x"), ["123", "4", ",", "x"]);
    }

    #[test]
    fn an_unknown_name_is_named() {
        let error = PreTokenizerKind::named("tomorrow-bpe").err().unwrap().to_string();
        assert!(error.contains("\"tomorrow-bpe\""), "{error}");
    }
}
