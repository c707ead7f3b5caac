//! The part of docs/performance.md that a run writes, and its plots; the rest is written by people.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use serde_json::Value;

use super::{cell::Cell, write_plots};

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

/// Replaces what stands between the marks in performance.md, and the plots beside it, in `performance`.
pub(super) fn update(
    docs: &Path,
    setting: &str,
    table: &str,
    plots: &[(Cell, String)],
) -> Result<()> {
    let path = docs.join("performance.md");
    let named = || path.display().to_string();
    let page = fs::read_to_string(&path).with_context(named)?;
    let section = section(setting, table, plots.iter().map(|(cell, _)| *cell));
    let page = replaced(&page, &section).with_context(|| format!("{}: no marks", named()))?;
    let dir = docs.join("performance");
    if dir.exists() {
        fs::remove_dir_all(&dir)?; // plots of cells that are measured no more
    }
    write_plots(&dir, plots)?;
    fs::write(&path, page).with_context(named)
}

fn section(setting: &str, table: &str, plotted: impl Iterator<Item = Cell>) -> String {
    let mut section = format!("\n{setting}\n\n{table}\n");
    for cell in plotted {
        section += &format!("![{}](performance/{}.svg)\n", cell.title(), cell.name());
    }
    section + "\n"
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

    #[test]
    fn the_page_shows_the_plots_that_lie_beside_it() {
        let docs = tempfile::tempdir().unwrap();
        let file = |name: &str| docs.path().join(name);
        fs::write(file("performance.md"), format!("a\n{BEGIN}old\n{END}b\n")).unwrap();
        fs::create_dir(file("performance")).unwrap();
        fs::write(file("performance/gone.svg"), "").unwrap();
        let plots = [(Cell::Decode, "<svg/>".to_owned())];
        update(docs.path(), "today", "| table |", &plots).unwrap();
        let page = fs::read_to_string(file("performance.md")).unwrap();
        assert!(page.contains("\ntoday\n\n| table |\n"), "{page}");
        assert!(page.contains("](performance/decode.svg)\n"), "{page}");
        assert_eq!(fs::read_to_string(file("performance/decode.svg")).unwrap(), "<svg/>");
        assert!(!file("performance/gone.svg").exists());
    }
}
