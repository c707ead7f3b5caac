//! What came of a cell: both sides' figures, their medians, and the JSON of it all.

use serde_json::{Value, json};

use super::{
    cell::Cell,
    contest::Side,
    measure::{Limits, Measured},
};
use crate::bench::statistics::median;

/// A side's figure in one run.
#[derive(Debug, Clone)]
pub(super) struct Run {
    pub(super) side: Side,
    pub(super) measured: Measured,
    /// Of the machine, before it.
    pub(super) load_average: String,
}

/// A cell of the table for one model.
#[derive(Debug, Clone)]
pub(super) struct Outcome {
    pub(super) subject: String,
    pub(super) cell: Cell,
    pub(super) limits: Limits,
    pub(super) runs: Vec<Run>,
    /// llama-bench's figure of the same, without a server.
    pub(super) without_server: Option<f64>,
    /// What could not be measured, and why.
    pub(super) failures: Vec<String>,
}

impl Outcome {
    /// Notes and tells a failure.
    pub(super) fn fail(&mut self, side: Side, error: &anyhow::Error) {
        let failure = format!("{}, {side:?}: {error:#}", self.cell.title());
        eprintln!("failed: {failure}");
        self.failures.push(failure);
    }

    fn median(&self, side: Side, figure: impl Fn(&Measured) -> Option<f64>) -> Option<f64> {
        let runs = self.runs.iter().filter(|run| run.side == side);
        median(runs.filter_map(|run| figure(&run.measured)).collect())
    }

    pub(super) fn value(&self, side: Side) -> Option<f64> {
        self.median(side, |measured| Some(measured.value))
    }

    pub(super) fn share(&self, side: Side) -> Option<f64> {
        self.median(side, |measured| measured.share)
    }

    /// Ours over the peer's.
    pub(super) fn ratio(&self) -> Option<f64> {
        self.value(Side::Ours).zip(self.value(Side::Peer)).map(|(ours, theirs)| ours / theirs)
    }

    /// The least and the largest load average of its runs.
    pub(super) fn loads(&self) -> String {
        let mut loads: Vec<f64> =
            self.runs.iter().filter_map(|run| run.load_average.parse().ok()).collect();
        loads.sort_by(f64::total_cmp);
        match loads[..] {
            [] => "–".to_owned(),
            [first, .., last] if first != last => format!("{first:.1}–{last:.1}"),
            [first, ..] => format!("{first:.1}"),
        }
    }

    pub(super) fn json(&self, peer: &str) -> Value {
        let runs = self.runs.iter().map(|run| {
            json!({
                "server": match run.side { Side::Ours => "wharf", Side::Peer => peer },
                "value": run.measured.value,
                "share": run.measured.share,
                "load_average_before": run.load_average,
                "details": run.measured.details,
            })
        });
        json!({
            "model": self.subject,
            "cell": self.cell.title(),
            "unit": self.cell.unit(),
            "lower_is_better": self.cell.lower_is_better(),
            "share_is": self.cell.measure_of_share(),
            "wharf": self.value(Side::Ours),
            "peer": self.value(Side::Peer),
            "ratio": self.ratio(),
            "bandwidth_bytes_per_second": self.limits.bandwidth,
            "multiplication_operations_per_second": self.limits.multiplication,
            "llama_bench": self.without_server,
            "failures": self.failures,
            "runs": runs.collect::<Vec<_>>(),
        })
    }
}
