//! Bar plots as SVG text: for each cell a file, for each model a bar of ours and one of the peer's.

use std::fmt::Write;

use super::{cell::Cell, contest::Side, outcome::Outcome, table::figure};

const LEFT: usize = 140;
const WIDEST: f64 = 360.0;
const BAR: usize = 14;
const GROUP: usize = 2 * BAR + 12;
const HEAD: usize = 44;
const FOOT: usize = 20;
const OURS: &str = "#1f77b4";
const THEIRS: &str = "#b0b0b0";

/// The cells that have figures, each with its plot; `setting` is the machine, and the date.
pub(super) fn all(outcomes: &[Outcome], peer: Option<&str>, setting: &str) -> Vec<(Cell, String)> {
    let mut plots: Vec<(Cell, String)> = Vec::new();
    for cell in outcomes.iter().map(|outcome| outcome.cell) {
        if !plots.iter().any(|(plotted, _)| *plotted == cell) {
            let of_cell: Vec<_> = outcomes.iter().filter(|o| o.cell == cell).collect();
            plots.push((cell, plot(cell, &of_cell, peer, setting)));
        }
    }
    plots
}

fn plot(cell: Cell, outcomes: &[&Outcome], peer: Option<&str>, setting: &str) -> String {
    let values = outcomes.iter().flat_map(|o| [o.value(Side::Ours), o.value(Side::Peer)]).flatten();
    let scale = WIDEST / values.fold(f64::MIN_POSITIVE, f64::max);
    let (width, height) = (LEFT + WIDEST as usize + 70, HEAD + GROUP * outcomes.len() + FOOT);
    let better = if cell.lower_is_better() { "less is better" } else { "more is better" };
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"8\" y=\"16\" font-size=\"13\">{}, {} ({better})</text>\n",
        cell.title(),
        cell.unit(),
    );
    legend(&mut svg, LEFT, OURS, "wharf");
    if let Some(peer) = peer {
        legend(&mut svg, LEFT + 80, THEIRS, peer);
    }
    for (number, outcome) in outcomes.iter().enumerate() {
        let top = HEAD + GROUP * number;
        let middle = top + BAR + 4;
        line(
            &mut svg,
            format_args!("<text x=\"8\" y=\"{middle}\">{}</text>", escaped(&outcome.subject)),
        );
        for (place, side, colour) in [(0, Side::Ours, OURS), (1, Side::Peer, THEIRS)] {
            if let Some(value) = outcome.value(side) {
                bar(&mut svg, top + BAR * place, value * scale, colour, &figure(Some(value)));
            }
        }
    }
    let bottom = height - 8;
    line(
        &mut svg,
        format_args!("<text x=\"8\" y=\"{bottom}\" font-size=\"9\">{}</text>", escaped(setting)),
    );
    svg + "</svg>\n"
}

fn legend(svg: &mut String, x: usize, colour: &str, name: &str) {
    let name = escaped(name);
    line(
        svg,
        format_args!("<rect x=\"{x}\" y=\"24\" width=\"10\" height=\"10\" fill=\"{colour}\"/>"),
    );
    line(svg, format_args!("<text x=\"{}\" y=\"33\">{name}</text>", x + 14));
}

fn bar(svg: &mut String, y: usize, width: f64, colour: &str, value: &str) {
    let height = BAR - 2;
    line(
        svg,
        format_args!(
            "<rect x=\"{LEFT}\" y=\"{y}\" width=\"{width:.1}\" height=\"{height}\" fill=\"{colour}\"/>"
        ),
    );
    let (x, y) = (LEFT as f64 + width + 4.0, y + BAR - 4);
    line(svg, format_args!("<text x=\"{x:.1}\" y=\"{y}\">{value}</text>"));
}

fn line(svg: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = writeln!(svg, "{text}");
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::bench::engine::tests::outcomes;

    #[test]
    fn a_plot_has_a_bar_for_each_side() {
        let plots = all(&outcomes(), Some("llama.cpp"), "2026-11-26: a CPU, 2 cores");
        assert_eq!(
            plots.iter().map(|(cell, _)| *cell).collect::<Vec<_>>(),
            [Cell::Decode, Cell::Start]
        );
        expect![[r##"
            <svg xmlns="http://www.w3.org/2000/svg" width="570" height="144" font-family="sans-serif" font-size="11">
            <rect width="100%" height="100%" fill="white"/>
            <text x="8" y="16" font-size="13">decode, 1 stream, tok/s (more is better)</text>
            <rect x="140" y="24" width="10" height="10" fill="#1f77b4"/>
            <text x="154" y="33">wharf</text>
            <rect x="220" y="24" width="10" height="10" fill="#b0b0b0"/>
            <text x="234" y="33">llama.cpp</text>
            <text x="8" y="62">smollm2 q4_1</text>
            <rect x="140" y="44" width="360.0" height="12" fill="#1f77b4"/>
            <text x="504.0" y="54">60.5</text>
            <rect x="140" y="58" width="244.0" height="12" fill="#b0b0b0"/>
            <text x="388.0" y="68">41.0</text>
            <text x="8" y="102">qwen3-0.6b q4_0</text>
            <rect x="140" y="84" width="119.0" height="12" fill="#1f77b4"/>
            <text x="263.0" y="94">20.0</text>
            <text x="8" y="136" font-size="9">2026-11-26: a CPU, 2 cores</text>
            </svg>
        "##]].assert_eq(&plots[0].1);
    }
}
