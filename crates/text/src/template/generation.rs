//! `{% generation %}` blocks, with which training code marks the assistant's own text.
//!
//! transformers' tag renders its body unchanged, in a scope of its own. So does an empty
//! `{% with %}` block, which minijinja knows: the tag's name is rewritten, its whitespace
//! marks stay.

/// The template with `generation` tags as `with` tags.
pub(super) fn rewrite(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at);
        out.push_str(before);
        // Behind the mark: in `{%}` the percent sign can't open and close the tag at once.
        let Some(end) = tag[2..].find("%}").map(|end| end + 2) else {
            rest = tag;
            break;
        };
        let (tag, after) = tag.split_at(end + 2);
        let name = tag[2..end].trim_matches(|c: char| matches!(c, '-' | '+')).trim();
        match name {
            "generation" => out.push_str(&tag.replacen("generation", "with", 1)),
            "endgeneration" => out.push_str(&tag.replacen("endgeneration", "endwith", 1)),
            _ => {
                // Go on right behind the mark: this "tag" may be text that holds another.
                out.push_str("{%");
                rest = &rest[at + 2..];
                continue;
            }
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::rewrite;

    #[test]
    fn only_the_tags_own_name_changes() {
        assert_eq!(
            rewrite("a{%- generation -%}{{ generation }}{% endgeneration %}b"),
            "a{%- with -%}{{ generation }}{% endwith %}b"
        );
        assert_eq!(
            rewrite("{% set generation = 1 %}{% if x %}"),
            "{% set generation = 1 %}{% if x %}"
        );
        assert_eq!(rewrite("{{ '{%' }}{%generation%}{%"), "{{ '{%' }}{%with%}{%");
        assert_eq!(rewrite("é{% unclosed"), "é{% unclosed");
    }

    /// Found by fuzzing.
    #[test]
    fn a_mark_that_shares_its_percent_sign_is_no_tag() {
        assert_eq!(rewrite("{%}"), "{%}");
        assert_eq!(rewrite("{%}{%generation%}"), "{%}{%with%}");
    }
}
