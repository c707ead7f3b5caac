//! The part of docs/performance.md that a run writes; the rest is written by people.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use serde_json::Value;

const BEGIN: &str = "<!-- written by `cargo xtask bench engine --docs` -->\n";
const END: &str = "<!-- end -->\n";

/// Where and when the figures were taken.
pub(super) fn setting(machine: &Value, runs: usize) -> String {
    let text = |name: &str| machine[name].as_str().unwrap_or("unknown").to_owned();
    let (cores, threads) = (&machine["cores"], &machine["threads"]);
    let medians = if runs == 1 { "one run".to_owned() } else { format!("medians of {runs} runs") };
    format!(
        "{}: {}, {cores} cores, {threads} threads, {}; {medians}.",
        text("date"),
        text("cpu"),
        text("isa"),
    )
}

/// Replaces what stands between the marks.
pub(super) fn update(path: &Path, machine: &Value, runs: usize, table: &str) -> Result<()> {
    let named = || path.display().to_string();
    let page = fs::read_to_string(path).with_context(named)?;
    let section = format!("\n{}\n\n{table}\n", setting(machine, runs));
    let page = replaced(&page, &section).with_context(|| format!("{}: no marks", named()))?;
    fs::write(path, page).with_context(named)
}

fn replaced(page: &str, section: &str) -> Option<String> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some([before, BEGIN, section, END, after].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_marks_changes() {
        let page = format!("a\n{BEGIN}old\n{END}b\n");
        let new = replaced(&page, "new\n").unwrap();
        assert_eq!(new, format!("a\n{BEGIN}new\n{END}b\n"));
        assert_eq!(replaced("a\n", "new\n"), None);
    }
}
