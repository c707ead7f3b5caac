//! What a run was like: as a table for people, as JSON for programs. The names of the JSON's fields
//! are read by other programs and stay.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use serde::Serialize;

use super::load::Run;
use crate::cli::BenchArgs;

/// What was run.
pub(super) struct Setting<'a> {
    pub(super) args: &'a BenchArgs,
    pub(super) model: &'a str,
    /// Of the machine, when the measured part began.
    pub(super) load_before: Option<f64>,
}

/// The results.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    base_url: String,
    model: String,
    /// Streams of a closed loop.
    concurrency: Option<usize>,
    /// Requests per second of an open one.
    rate: Option<f64>,
    seed: u64,
    requests: usize,
    succeeded: usize,
    failed: usize,
    /// Failures by kind.
    errors: BTreeMap<String, usize>,
    duration_s: f64,
    prompt_tokens: u64,
    output_tokens: u64,
    /// "usage": as the server counted; "chunks": pieces of text, for a server that does not tell.
    token_counts_from: &'static str,
    requests_per_second: f64,
    output_tokens_per_second: f64,
    time_to_first_token_ms: Option<Summary>,
    /// Between one piece of text and the next.
    inter_token_latency_ms: Option<Summary>,
    /// Of each request: the time after its first token, by the tokens that came in it.
    time_per_output_token_ms: Option<Summary>,
    end_to_end_ms: Option<Summary>,
    /// One-minute load average of this machine before and after: near or above the number of cores,
    /// something else was running too.
    load_average_before: Option<f64>,
    load_average_after: Option<f64>,
}

/// A set of durations in milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Summary {
    mean: f64,
    p50: f64,
    p90: f64,
    p99: f64,
    max: f64,
}

impl Summary {
    /// `None` of nothing.
    fn of(durations: impl Iterator<Item = Duration>) -> Option<Self> {
        let mut ms: Vec<f64> = durations.map(|d| d.as_secs_f64() * 1e3).collect();
        ms.sort_by(f64::total_cmp);
        let max = *ms.last()?;
        let mean = ms.iter().sum::<f64>() / ms.len() as f64;
        let at = |q| percentile(&ms, q);
        Some(Self { mean, p50: at(0.5), p90: at(0.9), p99: at(0.99), max })
    }
}

/// The value below which the share `q` of `sorted` lies, interpolated; `sorted` is not empty.
fn percentile(sorted: &[f64], q: f64) -> f64 {
    let position = q * (sorted.len() - 1) as f64;
    let (below, above) = (position.floor() as usize, position.ceil() as usize);
    sorted[below] + (sorted[above] - sorted[below]) * position.fract()
}

impl Report {
    /// Sums up `run`.
    pub(super) fn new(setting: &Setting<'_>, run: &Run) -> Self {
        let args = setting.args;
        let samples = &run.samples;
        let mut errors = BTreeMap::new();
        for failure in &run.failures {
            *errors.entry(failure.kind()).or_insert(0) += 1;
        }
        let output_tokens: u64 = samples.iter().map(|s| s.output_tokens).sum();
        let seconds = run.duration.as_secs_f64().max(f64::MIN_POSITIVE);
        let per_token = samples.iter().filter(|s| s.output_tokens > 1).map(|s| {
            let after_first = s.whole.saturating_sub(s.first_token);
            after_first.div_f64((s.output_tokens - 1) as f64)
        });
        Self {
            base_url: args.base_url.clone(),
            model: setting.model.to_owned(),
            concurrency: args.rate.is_none().then_some(args.concurrency.get()),
            rate: args.rate,
            seed: args.seed,
            requests: samples.len() + run.failures.len(),
            succeeded: samples.len(),
            failed: run.failures.len(),
            errors,
            duration_s: seconds,
            prompt_tokens: samples.iter().map(|s| s.prompt_tokens).sum(),
            output_tokens,
            token_counts_from: match samples.iter().all(|s| s.has_usage) {
                true => "usage",
                false => "chunks",
            },
            requests_per_second: samples.len() as f64 / seconds,
            output_tokens_per_second: output_tokens as f64 / seconds,
            time_to_first_token_ms: Summary::of(samples.iter().map(|s| s.first_token)),
            inter_token_latency_ms: Summary::of(
                samples.iter().flat_map(|s| s.gaps.iter().copied()),
            ),
            time_per_output_token_ms: Summary::of(per_token),
            end_to_end_ms: Summary::of(samples.iter().map(|s| s.whole)),
            load_average_before: setting.load_before,
            load_average_after: load_average(),
        }
    }

    /// The table.
    pub(super) fn table(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: String| {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{name:<26}{value}");
        };
        line("server", self.base_url.clone());
        line("model", self.model.clone());
        match (self.rate, self.concurrency) {
            (Some(rate), _) => line("load", format!("{rate} requests/s, at random")),
            (None, streams) => line("load", format!("{} streams", streams.unwrap_or(1))),
        }
        line("requests", format!("{} answered, {} failed", self.succeeded, self.failed));
        for (kind, count) in &self.errors {
            line(&format!("  {kind}"), count.to_string());
        }
        let tokens = format!(
            "{} in, {} out (counted from {})",
            self.prompt_tokens, self.output_tokens, self.token_counts_from
        );
        line("tokens", tokens);
        line("duration", format!("{:.2} s", self.duration_s));
        line(
            "throughput",
            format!(
                "{:.2} output tokens/s, {:.3} requests/s",
                self.output_tokens_per_second, self.requests_per_second
            ),
        );
        let load = |value: Option<f64>| value.map_or("unknown".to_owned(), |v| format!("{v:.2}"));
        line(
            "load average",
            format!(
                "{} before, {} after",
                load(self.load_average_before),
                load(self.load_average_after)
            ),
        );
        let _ = writeln!(
            text,
            "\n{:<26}{:>10}{:>10}{:>10}{:>10}{:>10}",
            "milliseconds", "mean", "p50", "p90", "p99", "max"
        );
        for (name, summary) in [
            ("time to first token", &self.time_to_first_token_ms),
            ("inter-token latency", &self.inter_token_latency_ms),
            ("time per output token", &self.time_per_output_token_ms),
            ("end to end", &self.end_to_end_ms),
        ] {
            let _ = match summary {
                Some(Summary { mean, p50, p90, p99, max }) => writeln!(
                    text,
                    "{name:<26}{mean:>10.2}{p50:>10.2}{p90:>10.2}{p99:>10.2}{max:>10.2}"
                ),
                None => writeln!(text, "{name:<26}{:>10}", "–"),
            };
        }
        text
    }
}

/// The machine's one-minute load average, where there is one.
pub(super) fn load_average() -> Option<f64> {
    std::fs::read_to_string("/proc/loadavg").ok()?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_interpolated() {
        let ms = (1..=101).map(Duration::from_millis);
        let summary = Summary::of(ms).unwrap();
        let expected = Summary { mean: 51.0, p50: 51.0, p90: 91.0, p99: 100.0, max: 101.0 };
        for (found, expected) in [
            (summary.mean, expected.mean),
            (summary.p50, expected.p50),
            (summary.p90, expected.p90),
            (summary.p99, expected.p99),
            (summary.max, expected.max),
        ] {
            assert!((found - expected).abs() < 1e-9, "{found} is not {expected}");
        }
        assert_eq!(Summary::of(std::iter::empty()), None);
        assert_eq!(percentile(&[1.0], 0.99), 1.0);
        assert_eq!(percentile(&[1.0, 2.0], 0.5), 1.5);
    }
}
