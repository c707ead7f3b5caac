//! Templates as transformers renders them, and hostile ones.

use super::*;
use proptest::prelude::*;
use serde_json::json;
use std::time::{Duration, Instant};

fn template(source: &str) -> ChatTemplate {
    ChatTemplate::new(source, Some("<s>"), Some("</s>")).unwrap()
}

fn input(messages: Json) -> RenderInput {
    RenderInput { messages: messages.as_array().unwrap().clone(), ..RenderInput::default() }
}

fn render(source: &str, messages: Json) -> Result<String, TemplateError> {
    template(source).render(&input(messages))
}

/// The rendering of a template that reads no messages.
fn evaluate(source: &str) -> Result<String, TemplateError> {
    render(source, json!([]))
}

/// Role and content of each message, as most small models have it.
const CHATML: &str = "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// Content as a list of parts only.
const PARTS_ONLY: &str = "{% for message in messages %}{% for part in message.content %}[{{ part.text }}]{% endfor %}{% endfor %}";

#[test]
fn a_conversation_becomes_the_prompt() {
    let mut input = input(json!([{"role": "user", "content": "<b>&\"é\""}]));
    input.add_generation_prompt = true;
    assert_eq!(
        template(CHATML).render(&input).unwrap(),
        "<|im_start|>user\n<b>&\"é\"<|im_end|>\n<|im_start|>assistant\n"
    );
}

#[test]
fn special_tokens_and_kwargs_are_variables() {
    let template =
        template("{{ bos_token }}{{ unk_token }}{{ enable_thinking }}{{ absent }}{{ eos_token }}");
    let template = template.with_variable("unk_token", "<unk>");
    let mut input = input(json!([]));
    input.kwargs.insert("enable_thinking".to_owned(), json!(false));
    assert_eq!(template.render(&input).unwrap(), "<s><unk>False</s>");
    input.kwargs.insert("messages".to_owned(), json!([]));
    let error = template.render(&input).unwrap_err().to_string();
    assert!(error.contains("\"messages\""), "{error}");
}

#[test]
fn absent_tools_and_documents_are_none() {
    assert_eq!(evaluate("{{ tools is none }} {{ documents is none }}").unwrap(), "True True");
}

#[test]
fn strftime_now_reads_the_clock() {
    let noon = jiff::civil::date(2025, 1, 5).at(12, 30, 0, 0).to_zoned(jiff::tz::TimeZone::UTC);
    let noon = noon.unwrap();
    let template = template("{{ strftime_now('%d %b %Y, %H:%M %-d') }}");
    let template = template.with_clock(Arc::new(move || noon.clone()));
    assert_eq!(template.render(&input(json!([]))).unwrap(), "05 Jan 2025, 12:30 5");
}

#[test]
fn raise_exception_gives_its_own_words() {
    let error = evaluate("{{ raise_exception('Roles must alternate!') }}").unwrap_err();
    assert!(matches!(&error, TemplateError::Raised(text) if text == "Roles must alternate!"));
    let error = evaluate("{% macro m() %}{{ raise_exception('no') }}{% endmacro %}{{ m() }}");
    assert!(matches!(error.unwrap_err(), TemplateError::Raised(text) if text == "no"));
    assert!(matches!(evaluate("{{ 1 // 0 }}"), Err(TemplateError::Render(_))));
    assert!(matches!(ChatTemplate::new("{% if %}", None, None), Err(TemplateError::Syntax(_))));
}

#[test]
fn python_habits() {
    for (source, want) in [
        ("{{ [1, 'a', none, true, 1e20] }}", "[1, 'a', None, True, 1e+20]"),
        ("{{ 'a' ~ 1.0 ~ true ~ none }}", "a1.0TrueNone"),
        ("{{ {'a': 'é<'}|tojson }}", "{\"a\": \"é<\"}"),
        (
            "{{ {'b': 1, 'a': [2]}|tojson(indent=1, sort_keys=true) }}",
            "{\n \"a\": [\n  2\n ],\n \"b\": 1\n}",
        ),
        ("{{ [1, 2]|tojson(separators=(',', ':')) }}", "[1,2]"),
        ("{{ 'é'|tojson(ensure_ascii=true) }}", "\"\\u00e9\""),
        ("{{ none is iterable }}{{ [] is iterable }}", "FalseTrue"),
        ("{% for c in 'ab' %}{{ c }}{% if not loop.last %},{% endif %}{% endfor %}", "a,b"),
        (
            "{% for i in range(9) %}{% if i == 2 %}{% continue %}{% elif i == 4 %}{% break %}{% endif %}{{ i }}{% endfor %}",
            "013",
        ),
        ("{% set g = [1, 2]|map('string') %}{{ g|join('-') }}{{ g|join('-') }}", "1-2"),
        ("{{ ('<b>'|safe + '<') }}", "<b>&lt;"),
        ("{{ 'xay'.replace('a', 'b').upper().removeprefix('X') }}", "BY"),
        ("a\n  {% if true %}\nb\n  {% endif %}\nc\n", "a\nb\nc"),
        ("{% generation %}{% set x = 1 %}in{% endgeneration %}{{ x }}", "in"),
        (
            "{{ 1 + 2 }} {{ 1.5 + 1 }} {{ [1] + [2] }} {{ 'ab' * 2 }} {{ 7 * 6 }}",
            "3 2.5 [1, 2] abab 42",
        ),
    ] {
        assert_eq!(evaluate(source).unwrap(), want, "{source}");
    }
    for source in [
        "{% for x in none %}{% endfor %}",
        "{{ absent.x }}",
        "{{ absent|tojson }}",
        "{{ ([1]|map('string'))|tojson }}",
        "{{ 'a' + 1 }}",
    ] {
        assert!(evaluate(source).is_err(), "{source}");
    }
}

#[test]
fn argument_strings_become_objects() {
    let source = "{% for m in messages %}{% for c in m.tool_calls %}{{ c.function.arguments|tojson }};{% endfor %}{% endfor %}";
    let call = |arguments: Json| json!({"type": "function", "function": {"name": "f", "arguments": arguments}});
    let messages = json!([{"role": "assistant", "content": "", "tool_calls":
        [call(json!("{\"b\": 1, \"a\": 2}")), call(json!("")), call(json!("not json")), call(json!({"x": 1}))]}]);
    assert_eq!(
        render(source, messages.clone()).unwrap(),
        "{\"b\": 1, \"a\": 2};{};\"not json\";{\"x\": 1};"
    );
    let verbatim = RenderInput { verbatim: true, ..input(messages) };
    assert!(template(source).render(&verbatim).unwrap().starts_with("\"{\\\"b\\\""));
}

#[test]
fn parts_of_every_role_are_rendered() {
    let parts = json!([{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]);
    for role in ["user", "system", "assistant", "developer"] {
        let text = render(CHATML, json!([{"role": role, "content": parts}])).unwrap();
        let shown = if role == "developer" { "system" } else { role };
        assert_eq!(text, format!("<|im_start|>{shown}\none\ntwo<|im_end|>\n"));
    }
    // This template knows no tools, so results come from the user.
    let result = render(CHATML, json!([{"role": "tool", "content": parts}])).unwrap();
    let response = "<tool_response>\none\ntwo\n</tool_response>";
    assert_eq!(result, format!("<|im_start|>user\n{response}<|im_end|>\n"));
    let image =
        json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]);
    let error = render(CHATML, image).unwrap_err().to_string();
    assert!(error.contains("messages[0].content[0]"), "{error}");
    // A template that reads parts gets them, and strings as one part.
    let messages =
        json!([{"role": "user", "content": parts}, {"role": "user", "content": "three"}]);
    assert_eq!(render(PARTS_ONLY, messages).unwrap(), "[one][two][three]");
}

#[test]
fn null_and_empty_content_are_rendered() {
    let call =
        json!([{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]);
    let messages = json!([{"role": "assistant", "content": null, "tool_calls": call}, {"role": "user", "content": ""}]);
    assert_eq!(
        render(CHATML, messages.clone()).unwrap(),
        "<|im_start|>assistant\n<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>\
         <|im_end|>\n<|im_start|>user\n<|im_end|>\n"
    );
    let adds = "{% for m in messages %}{{ m.role + ':' + m.content }}{% endfor %}";
    assert_eq!(
        render(adds, messages).unwrap(),
        "assistant:<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>user:"
    );
}

#[test]
fn a_template_that_knows_developer_gets_it() {
    let source = "{% for m in messages %}{% if m.role == 'developer' %}D{% endif %}{{ m.content }}{% endfor %}";
    let messages = json!([{"role": "developer", "content": "x"}]);
    assert_eq!(render(source, messages).unwrap(), "Dx");
}

#[test]
fn reasoning_is_found_under_each_name() {
    let source = "{% for m in messages %}{{ m.reasoning_content }}{{ m.thinking }}{% endfor %}";
    let messages = json!([{"role": "assistant", "content": "", "reasoning": "r"}]);
    assert_eq!(render(source, messages).unwrap(), "rr");
}

#[test]
fn continue_final_message_leaves_the_turn_open() {
    let messages =
        json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Well "}]);
    let open = RenderInput { continue_final_message: true, ..input(messages) };
    let text = template(CHATML).render(&open).unwrap();
    assert!(text.ends_with("<|im_start|>assistant\nWell "), "{text:?}");
    let trimming = CHATML.replace("message.content", "message.content|trim");
    let text = template(&trimming).render(&open).unwrap();
    assert!(text.ends_with("<|im_start|>assistant\nWell"), "{text:?}");
    let none = RenderInput { continue_final_message: true, ..input(json!([])) };
    assert!(template(CHATML).render(&none).is_err());
}

/// Templates made to take all time, memory or stack there is.
#[test]
fn hostile_templates_end() {
    let chain = format!("{{{{ {}a }}}}", "a ~ ".repeat(1_900));
    let parens = "{{ ".to_owned() + &"(".repeat(3_900);
    let nested_loops = "{% for a in range(99999) %}".repeat(9) + &"{% endfor %}".repeat(9);
    let nested_ifs = "{% if true %}".repeat(15_000);
    let long = format!("{{{{ {}a }}}}", "a ~ ".repeat(60_000));
    let elifs = "{% if a %}".to_owned() + &"{% elif a %}".repeat(20_000) + "{% endif %}";
    let filters = format!("{{{{ 'aaaaaaaa'{} }}}}", "|replace('a', 'aaaa')".repeat(40));
    for source in [
        "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}",
        "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x }}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(99999) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(99999) %}{% set ns.x = ns.x|batch(1) %}{% endfor %}{{ ns.x }}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(99999) %}{% set ns.x = {'a': ns.x} %}{% endfor %}{{ ns.x|tojson }}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(99999) %}{% set ns.x = dict(a=ns.x) %}{% endfor %}",
        "{% set ns = namespace() %}{% set ns.x = [ns] %}{{ ns }}",
        "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns == ns }}",
        "{{ 'x' * 99999999999 }}",
        "{% for i in range(99999) %}{% set x = 'x' * 9999999 %}{% endfor %}",
        "{{ ([1] * 99999999)|list|length }}",
        "{% for i in range(99999) %}{% for j in range(99999) %}0123456789012345678901234567890123456789{% endfor %}{% endfor %}",
        "{% macro m(x) %}{{ m(x ~ x) }}{% endmacro %}{{ m('ab') }}",
        "{% macro m(x) %}{{ m(x) }}{{ m(x) }}{% endmacro %}{{ m('ab') }}",
        "{{ '%999999999d'|format(1) }}",
        "{{ '{:999999999}'.format(1) }}",
        "{{ 'a\nb'|indent(999999999) }}",
        "{{ [1]|tojson(indent=999999999) }}",
        "{{ range(99999)|join('x' * 9999999) }}",
        "{{ ('x' * 9999999).replace('x', 'x' * 9999999) }}",
        "{{ [1]|batch(999999999, 0) }}",
        "{% set x = 'x' * 9999999 %}{% for i in range(99999) %}{% if 'y' in x %}{% endif %}{% endfor %}",
        "{% include 'x' %}",
        &chain,
        &long,
        &elifs,
        &parens,
        &nested_loops,
        &nested_ifs,
        &filters,
    ] {
        let start = Instant::now();
        let shown = &source[..source.len().min(90)];
        // A refusal is the usual end, but a small enough result is none the worse.
        if let Ok(template) = ChatTemplate::new(source, None, None) {
            let result = template.render(&input(json!([])));
            assert!(
                result.as_ref().is_err() || result.is_ok_and(|text| text.len() < 200_000_000),
                "{shown}"
            );
        }
        // One probe and one rendering, each within its time; far below in fact.
        assert!(start.elapsed() < Duration::from_secs(60), "{shown}: {:?}", start.elapsed());
        println!("{:?} {shown:?}", start.elapsed());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_a_template_or_an_error(source in "\\PC{0,60}") {
        if let Ok(template) = ChatTemplate::new(&source, None, None) {
            let _ = template.render(&input(json!([{"role": "user", "content": "x"}])));
        }
    }

    #[test]
    fn any_program_renders_or_fails(
        pieces in prop::collection::vec(prop::sample::select(vec![
            "{% for m in messages %}", "{% endfor %}", "{% if m %}", "{% endif %}", "{{ m }}",
            "{{ messages|tojson }}", "{% set x = [m, x] %}", "{{ x ~ x }}", "{% generation %}",
            "{% endgeneration %}", "{% raw %}", "{% endraw %}", "{{ loop.last }}", "{% set",
            "{{ messages[0].content[::-1] }}", "{% macro a() %}", "{% endmacro %}", "{{ a() }}",
        ]), 0..12),
    ) {
        if let Ok(template) = ChatTemplate::new(&pieces.concat(), None, None) {
            let _ = template.render(&input(json!([{"role": "user", "content": "é"}])));
        }
    }

    #[test]
    fn message_text_is_rendered_as_it_is(content in "\\PC{0,40}") {
        let want = format!("<|im_start|>user\n{content}<|im_end|>\n");
        prop_assert_eq!(render(CHATML, json!([{"role": "user", "content": content}])).unwrap(), want);
    }
}
