//! Vocabularies made here, as a GGUF file would give them.

use super::*;

/// A byte-level vocabulary: all 256 bytes, a few words, two special tokens.
fn byte_level() -> GgufVocabulary {
    let mut tokens: Vec<String> = (0..256_u32)
        .map(|byte| match byte {
            0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF => byte,
            0..=0x20 => 0x100 + byte,
            0x7F..=0xA0 => 0x121 + byte - 0x7F,
            _ => 0x143,
        })
        .map(|code| char::from_u32(code).unwrap().to_string())
        .collect();
    let merges = ["h i", "Ġ hi", "Ã ©"];
    tokens.extend(["hi", "Ġhi", "Ã©", "<|end|>", "<think>"].map(str::to_owned));
    let mut token_types = vec![1; tokens.len()];
    token_types[259] = 3;
    token_types[260] = 4;
    GgufVocabulary {
        model: "gpt2".to_owned(),
        pre: Some("gpt-2".to_owned()),
        tokens,
        token_types,
        merges: merges.map(str::to_owned).to_vec(),
        bos: Some(259),
        eos: Some(259),
        ..GgufVocabulary::default()
    }
}

/// A SentencePiece vocabulary: unknown, BOS, EOS, all bytes, a few pieces with scores.
fn sentence_piece() -> GgufVocabulary {
    let mut tokens = vec!["<unk>".to_owned(), "<s>".to_owned(), "</s>".to_owned()];
    let mut token_types = vec![2, 3, 3];
    for byte in 0..=255_u32 {
        tokens.push(format!("<0x{byte:02X}>"));
        token_types.push(6);
    }
    let mut scores = vec![0.0; tokens.len()];
    for (piece, score) in [
        ("ab", -1.0),
        ("▁ab", -2.0),
        ("bc", -3.0),
        ("▁", -4.0),
        ("a", -5.0),
        ("b", -6.0),
        ("c", -7.0),
    ] {
        tokens.push(piece.to_owned());
        token_types.push(1);
        scores.push(score);
    }
    GgufVocabulary {
        model: "llama".to_owned(),
        tokens,
        scores,
        token_types,
        bos: Some(1),
        eos: Some(2),
        unk: Some(0),
        ..GgufVocabulary::default()
    }
}

fn texts(tokenizer: &dyn Tokenizer, text: &str, special: bool) -> Vec<String> {
    let ids = tokenizer.encode(text, special).unwrap();
    ids.into_iter().map(|id| tokenizer.id_to_token(id).unwrap()).collect()
}

#[test]
fn byte_level_merges_words_and_finds_special_tokens() {
    let tokenizer = from_gguf(byte_level()).unwrap();
    assert_eq!(
        texts(&*tokenizer, "hi hié<|end|><think>", true),
        ["hi", "Ġhi", "Ã©", "<|end|>", "<think>"]
    );
    let ids = tokenizer.encode("hi<|end|> hi<think>😀\n", false).unwrap();
    assert_eq!(tokenizer.decode(&ids, false), "hi<|end|> hi<think>😀\n");
    assert_eq!(tokenizer.decode(&ids, true), "hi hi<think>😀\n");
    assert!(tokenizer.is_special(259) && !tokenizer.is_special(260));
    assert_eq!(tokenizer.bos_token(), Some("<|end|>"));
    assert_eq!(tokenizer.vocab_size(), 261);
}

#[test]
fn bos_and_eos_are_added_when_the_file_says_so() {
    let tokenizer =
        from_gguf(GgufVocabulary { add_bos: Some(true), add_eos: Some(true), ..byte_level() });
    assert_eq!(texts(&*tokenizer.unwrap(), "hi", true), ["<|end|>", "hi", "<|end|>"]);
    let llama3 = GgufVocabulary { pre: Some("llama-bpe".to_owned()), ..byte_level() };
    assert_eq!(texts(&*from_gguf(llama3).unwrap(), "hi", true), ["<|end|>", "hi"]);
    let missing = GgufVocabulary { add_bos: Some(true), bos: None, ..byte_level() };
    assert!(from_gguf(missing).err().unwrap().to_string().contains("bos_token_id"));
}

#[test]
fn sentence_piece_merges_by_score_and_falls_back_to_bytes() {
    let tokenizer = from_gguf(sentence_piece()).unwrap();
    assert_eq!(texts(&*tokenizer, "abc", true), ["<s>", "▁ab", "c"]);
    assert_eq!(texts(&*tokenizer, "bc é", false), ["▁", "bc", "▁", "<0xC3>", "<0xA9>"]);
    let ids = tokenizer.encode("abc é\n", true).unwrap();
    assert_eq!(tokenizer.decode(&ids, true), "abc é\n");
    assert_eq!(tokenizer.token_bytes(ids[1]), b" ab");
}

#[test]
fn without_a_space_prefix_nothing_is_dropped() {
    let vocabulary = GgufVocabulary { add_space_prefix: Some(false), ..sentence_piece() };
    let tokenizer = from_gguf(vocabulary).unwrap();
    assert_eq!(texts(&*tokenizer, "abc", false), ["ab", "c"]);
    let ids = tokenizer.encode(" abc", false).unwrap();
    assert_eq!(tokenizer.decode(&ids, true), " abc");
}

#[test]
fn broken_vocabularies_are_refused_by_field() {
    let message = |vocabulary| from_gguf(vocabulary).err().unwrap().to_string();
    let broken = [
        ("model", GgufVocabulary { model: "t5".to_owned(), ..byte_level() }),
        ("pre", GgufVocabulary { pre: Some("new".to_owned()), ..byte_level() }),
        ("tokens", GgufVocabulary { tokens: vec![], token_types: vec![], ..byte_level() }),
        ("token_type", GgufVocabulary { token_types: vec![1], ..byte_level() }),
        ("merges", GgufVocabulary { merges: vec!["h".to_owned()], ..byte_level() }),
        ("merges", GgufVocabulary { merges: vec!["i h".to_owned()], ..byte_level() }),
        ("eos_token_id", GgufVocabulary { eos: Some(1_000), ..byte_level() }),
        ("scores", GgufVocabulary { scores: vec![], ..sentence_piece() }),
    ];
    for (field, vocabulary) in broken {
        let message = message(vocabulary);
        assert!(message.contains(&format!("tokenizer.ggml.{field}")), "{field}: {message}");
    }
    let mut twice = byte_level();
    twice.tokens[257] = "hi".to_owned();
    assert!(message(twice).contains("both 256 and 257"));
}
