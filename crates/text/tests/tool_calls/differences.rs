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
    ("complete.jsonl: test_deepseekv31::test_extract_tool_calls_with_multiple_tools", CONTENT),
    (
        "complete.jsonl: test_gigachat3::test_tool_call[mixed_content_nonstreaming_with_eos_gigachat31]",
        END_TOKEN,
    ),
    ("complete.jsonl: test_granite::TestGraniteToolParser::test_malformed_input[False]", CUT),
    ("complete.jsonl: test_granite::TestGraniteToolParser::test_surrounding_text[False]", CONTENT),
    (
        "complete.jsonl: test_granite_20b_fc::TestGranite20bFcToolParser::test_malformed_input[False]",
        CUT,
    ),
    (
        "complete.jsonl: test_hermes::test_hermes_parser_non_streaming_tool_call_invalid_json[granite4]",
        CUT,
    ),
    (
        "complete.jsonl: test_hermes::test_hermes_parser_non_streaming_tool_call_invalid_json[llama]",
        CUT,
    ),
    ("complete.jsonl: tool_calls>\\nThank you!-expected_tool_calls4-None]", CONTENT),
    ("complete.jsonl: ifm|tool_call>-expected0]", COERCED),
    ("complete.jsonl: test_k2_horizon::test_auto_required_and_named_use_ifm_parser[auto]", COERCED),
    (
        "complete.jsonl: test_k2_horizon::test_auto_required_and_named_use_ifm_parser[required]",
        COERCED,
    ),
    ("complete.jsonl: test_k2_horizon::test_unknown_or_wrong_named_tool_fails_closed", UNCHECKED),
    ("complete.jsonl: ifm|tool_call>]", EITHER_FORM),
    ("complete.jsonl: ifm|tool_call>] #2", EITHER_FORM),
    (
        "complete.jsonl: test_k2_horizon::test_mismatched_formats_fail_closed[tool_request2-call2]",
        EITHER_FORM,
    ),
    (
        "complete.jsonl: test_k2_horizon::test_mismatched_formats_fail_closed[tool_request3-call3]",
        EITHER_FORM,
    ),
    ("complete.jsonl: test_dots::test_non_stream_unknown_tool_is_left_as_content", UNCHECKED),
    (
        "streaming.jsonl: test_dots::test_streaming_filters_unknown_tools_and_surfaces_content",
        UNCHECKED,
    ),
    (
        "complete.jsonl: test_minimax_m3::test_non_streaming_nested_tool_call",
        "the recording lacks the tools, and `018956` is no number in JSON: it stays a text",
    ),
    (
        "complete.jsonl: test_kimi_k2::TestExtractToolCalls::test_invalid_funcall_id_skipped",
        UNCHECKED,
    ),
    (
        "complete.jsonl: test_kimi_k2::TestExtractToolCalls::test_invalid_json_still_extracted",
        REPAIR,
    ),
    ("complete.jsonl: test_llama3_json::test_extract_tool_calls_invalid_json", CUT),
    (
        "complete.jsonl: test_llama3_json::test_extract_tool_calls_missing_parameters_and_arguments_key",
        NO_ARGUMENTS,
    ),
    (
        "complete.jsonl: test_llama3_json::test_extract_tool_calls_multiple_json_with_surrounding_text",
        CONTENT,
    ),
    ("complete.jsonl: test_longcat::TestLongCatToolParser::test_malformed_input[False]", CUT),
    ("complete.jsonl: test_tool_calls.py::test_extract_tool_calls[complex]", CUT),
    (
        "complete.jsonl: test_tool_calls.py::test_extract_tool_calls[trailing_text_after_json]",
        CONTENT,
    ),
    (
        "complete.jsonl: test_tool_calls.py::test_extract_tool_calls_empty_name_unparsable_args_no_crash",
        NAMELESS,
    ),
    (
        "complete.jsonl: test_tool_calls.py::test_extract_tool_calls_malformed_name_before_marker_emits_empty_name",
        NAMELESS,
    ),
    (
        "complete.jsonl: test_phi4mini::TestPhi4MiniToolParser::test_surrounding_text[False]",
        CONTENT,
    ),
    ("complete.jsonl: test_xlam::test_extract_tool_calls[single_tool_with_think_tag]", REASONING),
    (
        "streaming.jsonl: test_gigachat3::test_tool_call[mixed_content_streaming_with_eos_gigachat3]",
        END_TOKEN,
    ),
    (
        "streaming.jsonl: test_gigachat3::test_tool_call[mixed_content_streaming_with_eos_gigachat31]",
        END_TOKEN,
    ),
    (
        "streaming.jsonl: test_granite_20b_fc::TestGranite20bFcToolParser::test_malformed_input[True] #2",
        CUT,
    ),
    ("streaming.jsonl: test_longcat::TestLongCatToolParser::test_surrounding_text[True]", CONTENT),
    ("mistral_smg: 3", CONTENT),
    (
        "complete.jsonl: test_granite_20b_fc::TestGranite20bFcToolParser::test_malformed_input[False] #2",
        UNCHECKED,
    ),
    (
        "complete.jsonl: test_k2_horizon::test_unknown_or_wrong_named_tool_fails_closed #2",
        UNCHECKED,
    ),
    (
        "complete.jsonl: test_gemma4::TestBareAndMalformedOpeners::test_bare_malformed_then_well_formed",
        BRACELESS,
    ),
    (
        "complete.jsonl: test_gemma4::TestBareAndMalformedOpeners::test_malformed_then_well_formed",
        BRACELESS,
    ),
];

const SCHEMA: &str = "the recording lacks the tools, and so the types";
const REPAIR: &str = "a guess at what the model meant: names are passed on as written";
const UNCHECKED: &str =
    "a parser tells calls apart; checking them is the grammar's, or the client's";
const CONTENT: &str = "text after or between calls is content, and is not dropped";
const FAULT: &str = "the recorded content holds markup";
const CUT: &str = "a call that is cut or broken: what there is of it is no content, and no call";
const NAMELESS: &str = "an object without a name is no call";
const NO_ARGUMENTS: &str = "a call without arguments has none";
const REASONING: &str = "reasoning is another parser's";
const END_TOKEN: &str = "the end of sequence is never part of the text";
const COERCED: &str = "JSON values keep the types that they are written with";
const EITHER_FORM: &str =
    "the model's forms, tags and objects, are both read whichever was asked for";
const BRACELESS: &str = "malformed: a call without its arguments is content";
