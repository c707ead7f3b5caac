//! The request fields that `/v1/chat/completions` and `/v1/completions` share.
//!
//! Each is documented as *type and range; default*. "Refused" fields belong to features a server
//! may lack: they are parsed so that it can say so, instead of ignoring what was asked.
use crate::chat::StreamOptions;
use crate::fields::request_fields;
use crate::number::Integer;
use crate::response_format::ResponseFormat;
use crate::string_list::StringList;
use serde_json::Value;
use std::collections::BTreeMap;

request_fields! {
    /// How to generate, whatever the prompt. `null` and absent are the same for every field.
    pub struct GenerationFields {
        // OpenAI.
        /// Name of the model; default: the first one served.
        pub model: Option<String>,
        /// Integer ≥ 1: most tokens of each choice; default: what fits (chat), 16 (completions).
        pub max_tokens: Option<Integer>,
        /// [0, 2], 0 is greedy; default: the model's, else 1.
        pub temperature: Option<f64>,
        /// (0, 1]; default: the model's, else 1.
        pub top_p: Option<f64>,
        /// [-2, 2]; default 0.
        pub frequency_penalty: Option<f64>,
        /// [-2, 2]; default 0.
        pub presence_penalty: Option<f64>,
        /// 1..=128 choices; default 1. With temperature 0 they are all equal.
        pub n: Option<Integer>,
        /// Up to 4 strings, none empty, that end a choice; default none.
        pub stop: StringList,
        /// Any 64-bit integer; default: drawn at random.
        pub seed: Option<Integer>,
        /// Token id (as a string, in its shortest form) to [-100, 100], added to its logit; default
        /// none.
        pub logit_bias: Option<BTreeMap<String, f64>>,
        /// Answer as server-sent events; default false.
        pub stream: Option<bool>,
        /// Only with `stream`; default none.
        pub stream_options: Option<StreamOptions>,
        /// The form of the answer; default text.
        pub response_format: Option<ResponseFormat>,
        /// Who asks; without meaning locally.
        pub user: Option<String>,

        // vLLM: sampling.
        /// Integer ≥ -1; 0 and -1 are off; default: the model's, else off.
        pub top_k: Option<Integer>,
        /// [0, 1]; default: the model's, else 0.
        pub min_p: Option<f64>,
        /// [0.01, 100]; default: the model's, else 1.
        pub repetition_penalty: Option<f64>,
        /// Integer in 0..=max_tokens: no end before so many tokens; default 0.
        pub min_tokens: Option<Integer>,
        /// Go on past the end-of-sequence token; default false.
        pub ignore_eos: Option<bool>,
        /// Ids that end a choice; default none.
        pub stop_token_ids: Option<Vec<Integer>>,
        /// Leave the matched stop string in the text; default false.
        pub include_stop_str_in_output: Option<bool>,
        /// Hide special tokens from the text; default true.
        pub skip_special_tokens: Option<bool>,
        /// Spaces between special tokens that are shown; only true (the default) makes sense.
        pub spaces_between_special_tokens: Option<bool>,
        /// Up to 128 texts, of up to 1024 bytes each, that must not appear; default none.
        pub bad_words: Option<Vec<String>>,
        /// The only ids that may be drawn, not empty, the same again counts once; default: all.
        pub allowed_token_ids: Option<Vec<Integer>>,
        /// Ids whose log-probability is wanted at each position. Refused.
        pub logprob_token_ids: Option<Value>,
        /// Log-probabilities of the prompt. Refused.
        pub prompt_logprobs: Option<Integer>,
        /// Integer ≥ -1: keep so many prompt tokens; -1: as many as fit; default: all.
        pub truncate_prompt_tokens: Option<Integer>,
        /// `left` (drop the first tokens, the default) or `right`.
        pub truncation_side: Option<String>,
        /// Beam search; default false; true is refused.
        pub use_beam_search: Option<bool>,
        /// For beam search; default 1; others are refused.
        pub length_penalty: Option<f64>,
        /// For beam search; default false; true is refused.
        pub early_stopping: Option<bool>,
        /// Draw more choices than are returned; only `n` itself (or 1) is not refused.
        pub best_of: Option<Integer>,
        /// Most tokens of reasoning, at least 0; only for models that are known to reason.
        pub thinking_token_budget: Option<Integer>,
        /// Ends a choice that repeats itself. Refused.
        pub repetition_detection: Option<Value>,
        /// Watermarks the text. Refused unless false.
        pub watermarking: Option<Value>,
        /// Tokens for each chunk; default 1; others are refused.
        pub stream_interval: Option<Integer>,
        /// Python code that changes logits. Refused.
        pub logits_processors: Option<Value>,

        // vLLM: prompt and answer.
        /// Put the prompt's text before the answer's; default false. Refused in chat.
        pub echo: Option<bool>,
        /// BOS and EOS as the tokenizer adds them; default false (chat), true (completions).
        pub add_special_tokens: Option<bool>,
        /// Also answer with token ids; default false.
        pub return_token_ids: Option<bool>,
        /// Write tokens in log-probabilities as `token_id:N`; default false.
        pub return_tokens_as_token_ids: Option<bool>,
        /// Refused unless false.
        pub return_token_offsets: Option<bool>,
        /// Refused unless false.
        pub return_prompt_text: Option<bool>,
        /// Refused unless 0.
        pub routed_experts_prompt_start: Option<Integer>,

        // vLLM: structured outputs, by their names of today and of before.
        /// Exactly one of json, regex, choice, grammar and json_object; how it is written beside it.
        pub structured_outputs: Option<Value>,
        /// A JSON schema, or text of one.
        pub guided_json: Option<Value>,
        /// A regular expression that the whole answer matches.
        pub guided_regex: Option<Value>,
        /// A list of texts, one of which is the answer.
        pub guided_choice: Option<Value>,
        /// A grammar in Lark or GBNF.
        pub guided_grammar: Option<Value>,
        /// White space between JSON tokens, a regular expression; only with a JSON constraint.
        pub guided_whitespace_pattern: Option<Value>,
        /// A name, without effect.
        pub guided_decoding_backend: Option<Value>,
        /// vLLM's tags that hold a form, and text between them.
        pub structural_tag: Option<Value>,

        // vLLM: infrastructure.
        /// Becomes part of the answer's id; the `X-Request-Id` header beats it.
        pub request_id: Option<String>,
        /// Routes a conversation to one replica; without meaning for one model server.
        pub session_id: Option<String>,
        /// Lower runs first; default 0. Others are refused unless the server schedules by priority.
        pub priority: Option<Integer>,
        /// 1..=1024 characters; prefix-cache hits only between equal salts; default none.
        pub cache_salt: Option<String>,
        /// Disaggregated prefill. Refused.
        pub kv_transfer_params: Option<Value>,
        /// Disaggregated encoder. Refused.
        pub ec_transfer_params: Option<Value>,
        /// Arguments of vLLM's plugins. Refused.
        pub vllm_xargs: Option<Value>,
    }
}
