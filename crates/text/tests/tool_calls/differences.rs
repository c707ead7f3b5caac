//! Recorded answers that we read otherwise, each with the reason. The list is exact: one that
//! agrees after all fails the test.

/// The case, and why it differs.
pub(super) const DIFFERENCES: &[(&str, &str)] = &[
    (
        "complete.jsonl: test_deepseekv32::TestExtractToolCalls::test_arguments_wrapper_repaired",
        REPAIR,
    ),
    ("complete.jsonl: test_deepseekv32::TestExtractToolCalls::test_input_wrapper_repaired", REPAIR),
    (
        "complete.jsonl: test_deepseekv32::TestExtractToolCalls::test_null_coerced_back_to_string_by_schema",
        SCHEMA,
    ),
    (
        "complete.jsonl: test_deepseekv32::TestExtractToolCalls::test_number_param",
        "numbers are passed on as written: `5.0`",
    ),
    (
        "complete.jsonl: test_deepseekv32::TestExtractToolCalls::test_string_attr_true_coerced_by_composed_schema",
        SCHEMA,
    ),
    (
        "complete.jsonl: test_deepseekv32::TestExtractToolCalls::test_string_attr_true_coerced_by_schema",
        SCHEMA,
    ),
    (
        "complete.jsonl: test_deepseekv32::TestExtractToolCallsStreaming::test_streaming_matches_non_streaming_conversion_fallbacks",
        SCHEMA,
    ),
    (
        "complete.jsonl: test_lfm2::test_empty_tool_call_block[]",
        "the recording of the same text in pieces agrees with ours: no calls, and no content",
    ),
    ("complete.jsonl: test_minicpm5xml::test_alias_enable_roaming", REPAIR),
    ("complete.jsonl: test_minicpm5xml::test_alias_get_details_by_phone", REPAIR),
    ("complete.jsonl: test_minicpm5xml::test_extra_arguments_do_not_satisfy_required", UNCHECKED),
    (
        "complete.jsonl: test_minicpm5xml::test_extra_arguments_ignored_when_required_present",
        UNCHECKED,
    ),
    ("complete.jsonl: test_minicpm5xml::test_multiple_calls_interleaved_text", CONTENT),
    (
        "complete.jsonl: test_minicpm5xml::test_param_missing_name_invalid",
        "malformed: the parameter without a name is content, the rest is a call",
    ),
    ("complete.jsonl: test_minicpm5xml::test_single_call_with_surrounding_text", CONTENT),
    ("complete.jsonl: test_minicpm5xml::test_unknown_tool_block_preserved", UNCHECKED),
    ("complete.jsonl: test_minicpm5xml::test_zero_arg_tool_ignores_extra_arguments", UNCHECKED),
    (
        "complete.jsonl: test_qwen3coder::test_malformed_xml_no_gt_delimiter[chat_completion]",
        "malformed: the name ends where a name cannot go on",
    ),
    (
        "complete.jsonl: test_step3p5::test_extract_tool_calls_missing_closing_parameter_tag",
        "malformed: a value goes on to its closing tag, whatever else it holds",
    ),
    (
        "complete.jsonl: test_step3p5::test_extract_tool_calls_non_streaming_mixed_content_and_multiple_tool_calls",
        CONTENT,
    ),
    ("streaming.jsonl: test_llama4_pythonic::test_tool_call[python_tag_streaming]", FAULT),
    (
        "streaming.jsonl: test_minicpm5xml::test_extract_tool_calls_streaming_collapsed_tags_weather",
        FAULT,
    ),
    ("streaming.jsonl: test_minicpm5xml::test_extract_tool_calls_streaming_multiple", FAULT),
    ("streaming.jsonl: test_minicpm5xml::test_extract_tool_calls_streaming_single", FAULT),
    (
        "streaming.jsonl: test_step3p5::test_extract_tool_calls_streaming_full_input_mixed_content_and_multiple_tool_calls",
        CONTENT,
    ),
];

const SCHEMA: &str = "the recording lacks the tools, and so the types";
const REPAIR: &str = "a guess at what the model meant: names are passed on as written";
const UNCHECKED: &str =
    "a parser tells calls apart; checking them is the grammar's, or the client's";
const CONTENT: &str = "text after or between calls is content, and is not dropped";
const FAULT: &str = "the recorded content holds markup";
