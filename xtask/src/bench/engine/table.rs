//! The table, as Markdown: the same text on the terminal and in docs/performance.md.

use super::{contest::Side, outcome::Outcome};

/// `outcomes` as a table, with a line for each kind of share below it.
pub(super) fn render(outcomes: &[Outcome], peer: Option<&str>) -> String {
    let peer = peer.unwrap_or("peer");
    let heading =
        ["model", "cell", "", "wharf", peer, "ratio", "wharf's share", "peer's share", "load"];
    let mut rows = vec![heading.map(str::to_owned)];
    for outcome in outcomes {
        rows.push(row(outcome));
        rows.extend(outcome.without_server.map(|value| row_of_llama_bench(outcome, value)));
    }
    let mut text = aligned(&rows);
    let mut told = Vec::new();
    for cell in outcomes.iter().map(|outcome| outcome.cell) {
        if let Some(share) = cell.measure_of_share().filter(|_| !told.contains(&cell)) {
            let lead = if told.is_empty() { "\nShares: " } else { "; " };
            text.push_str(&format!("{lead}{} {share}", cell.title()));
            told.push(cell);
        }
    }
    text.push_str(if told.is_empty() { "" } else { ".\n" });
    text
}

fn row(outcome: &Outcome) -> [String; 9] {
    let better = if outcome.cell.lower_is_better() { " ↓" } else { "" };
    [
        outcome.subject.clone(),
        outcome.cell.title().to_owned(),
        format!("{}{better}", outcome.cell.unit()),
        figure(outcome.value(Side::Ours)),
        figure(outcome.value(Side::Peer)),
        figure(outcome.ratio()),
        percent(outcome.share(Side::Ours)),
        percent(outcome.share(Side::Peer)),
        outcome.loads(),
    ]
}

/// Our server beside llama-bench, which has none.
fn row_of_llama_bench(outcome: &Outcome, value: f64) -> [String; 9] {
    let ours = outcome.value(Side::Ours);
    let mut row = row(outcome);
    row[1].push_str(" (llama-bench)");
    row[4] = figure(Some(value));
    row[5] = figure(ours.map(|ours| ours / value));
    row[7] = percent(None);
    row
}

/// Three figures that count.
pub(super) fn figure(value: Option<f64>) -> String {
    match value {
        None => "–".to_owned(),
        Some(value) if value >= 99.95 => format!("{value:.0}"),
        Some(value) if value >= 9.995 => format!("{value:.1}"),
        Some(value) if value >= 0.0995 => format!("{value:.2}"),
        Some(value) => format!("{value:.4}"),
    }
}

/// A percentage, or past 200 of them how many times.
fn percent(share: Option<f64>) -> String {
    match share {
        None => "–".to_owned(),
        Some(share) if share < 2.0 => format!("{:.0}%", 100.0 * share),
        Some(share) => format!("{share:.1}×"),
    }
}

/// Texts to the left, figures to the right.
fn aligned<const N: usize>(rows: &[[String; N]]) -> String {
    const TEXTS: usize = 3;
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: [usize; N] = std::array::from_fn(|column| width(column).unwrap_or(0).max(3));
    let line = |row: &[String; N]| {
        let cells =
            row.iter().zip(widths).enumerate().map(|(column, (text, width))| match column {
                ..TEXTS => format!("{text:<width$}"),
                _ => format!("{text:>width$}"),
            });
        format!("| {} |\n", cells.collect::<Vec<_>>().join(" | "))
    };
    let rule = widths.iter().enumerate().map(|(column, width)| match column {
        ..TEXTS => "-".repeat(*width),
        _ => format!("{}:", "-".repeat(width - 1)),
    });
    let rule = format!("| {} |\n", rule.collect::<Vec<_>>().join(" | "));
    let mut lines = rows.iter().map(line);
    lines.next().into_iter().chain([rule]).chain(lines).collect()
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::bench::engine::tests::outcomes;

    #[test]
    fn the_table_reads_well() {
        expect![[r#"
            | model           | cell                           |       | wharf | llama.cpp | ratio | wharf's share | peer's share |    load |
            | --------------- | ------------------------------ | ----- | ----: | --------: | ----: | ------------: | -----------: | ------: |
            | smollm2 q4_1    | decode, 1 stream               | tok/s |  60.5 |      41.0 |  1.48 |           80% |          56% | 0.5–1.1 |
            | smollm2 q4_1    | decode, 1 stream (llama-bench) | tok/s |  60.5 |      44.0 |  1.38 |           80% |            – | 0.5–1.1 |
            | smollm2 q4_1    | start                          | s ↓   |  0.23 |         – |     – |             – |            – |     1.1 |
            | qwen3-0.6b q4_0 | decode, 1 stream               | tok/s |  20.0 |         – |     – |             – |            – |     1.1 |

            Shares: decode, 1 stream of the memory's bandwidth.
        "#]].assert_eq(&render(&outcomes(), Some("llama.cpp")));
    }

    #[test]
    fn figures_keep_three_digits() {
        let figures = [1234.5, 99.96, 12.34, 9.996, 0.0123].map(|value| figure(Some(value)));
        assert_eq!(figures, ["1234", "100", "12.3", "10.0", "0.0123"]);
        assert_eq!([0.456, 1.999, 6.43].map(|share| percent(Some(share))), ["46%", "200%", "6.4×"]);
    }
}
