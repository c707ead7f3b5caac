//! Outcomes that the tests of table and plots share.

use serde_json::Value;

use super::*;
use crate::bench::engine::measure::Measured;

fn run(side: Side, value: f64, share: Option<f64>) -> Run {
    let measured = Measured { value, share, details: Value::Null };
    Run { side, measured, load_average: if value > 50.0 { "0.52" } else { "1.07" }.to_owned() }
}

pub(super) fn outcomes() -> Vec<Outcome> {
    let outcome = |subject: &str, cell, runs, without_server| Outcome {
        subject: subject.to_owned(),
        cell,
        limits: Limits::default(),
        runs,
        without_server,
        failures: Vec::new(),
    };
    let (ours, peer) = (Side::Ours, Side::Peer);
    let decode = vec![
        run(ours, 60.0, Some(0.8)),
        run(peer, 40.0, Some(0.55)),
        run(ours, 61.0, Some(0.81)),
        run(peer, 42.0, Some(0.57)),
    ];
    vec![
        outcome("smollm2 q4_1", Cell::Decode, decode, Some(44.0)),
        outcome("smollm2 q4_1", Cell::Start, vec![run(ours, 0.234, None)], None),
        outcome("qwen3-0.6b q4_0", Cell::Decode, vec![run(ours, 20.0, None)], None),
    ]
}
