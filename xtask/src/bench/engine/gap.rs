//! How long running streams wait for their next tokens while a long prompt is computed beside them.
//!
//! `wharf bench` can't tell: what counts is the time between two moments of another request.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::{
    cell::{GAP_PROMPT, GAP_STREAMS},
    measure::{Measured, milliseconds},
};
use crate::bench::{http::Endpoint, statistics::percentile, words};

/// Words of each stream's prompt.
const PROMPT: usize = 32;
/// Tokens of each stream before anything counts.
const WARMUP: usize = 8;
/// Tokens of each stream without the prefill.
const QUIET: usize = 64;
/// More than are generated in the time: the answers are hung up on.
const ENDLESS: usize = 4096;
/// Longest wait for the streams to get that far.
const PATIENCE: Duration = Duration::from_secs(300);

/// The 99th percentile of the gaps that the prefill fell into; the share is of that without it.
pub(super) fn measure(endpoint: &Endpoint, run: usize) -> Result<Measured> {
    let model = endpoint.model()?;
    let seed = 10_000 * (1 + run as u64);
    let watch = Watch::new();
    let (times, windows) = thread::scope(|scope| -> Result<_> {
        let streams: Vec<_> = (0..GAP_STREAMS)
            .map(|number| {
                let body = body(&model, seed + number as u64, PROMPT, ENDLESS);
                let (endpoint, watch) = (&endpoint, &watch);
                scope.spawn(move || watch.follow(endpoint, &body, number))
            })
            .collect();
        let windows = conduct(endpoint, &model, seed, &watch);
        // Whatever came of it, the streams must end.
        watch.enough.store(true, Ordering::Relaxed);
        let times = streams.into_iter().map(|stream| match stream.join() {
            Ok(times) => times,
            Err(_) => bail!("a stream's thread has failed"),
        });
        Ok((times.collect::<Result<Vec<_>>>()?, windows?))
    })?;
    let gaps = |window| times.iter().flat_map(|times| gaps_within(times, window)).collect();
    let p99 = |window| percentile(gaps(window), 0.99).context("no gap was seen");
    let (quiet, busy) = (p99(windows.quiet)?, p99(windows.busy)?);
    let prefill = milliseconds(windows.busy.1 - windows.busy.0);
    let details = json!({"quiet_p99_ms": quiet, "busy_p99_ms": busy, "prefill_ms": prefill,
        "prompt_tokens": windows.prompt_tokens});
    Ok(Measured { value: busy, share: Some(busy / quiet), details })
}

type Window = (Instant, Instant);

struct Windows {
    quiet: Window,
    /// From sending the long prompt to its first token.
    busy: Window,
    prompt_tokens: u64,
}

/// Waits, measures without and with the prefill.
fn conduct(endpoint: &Endpoint, model: &str, seed: u64, watch: &Watch) -> Result<Windows> {
    watch.wait_for(WARMUP)?;
    let begun = Instant::now();
    watch.wait_for(watch.most() + QUIET)?;
    let sent = Instant::now();
    let mut prompt_tokens = 0;
    for event in endpoint.complete(&body(model, seed + 99, GAP_PROMPT, 1))? {
        prompt_tokens = event?.prompt_tokens.unwrap_or(prompt_tokens);
    }
    let busy = (sent, Instant::now());
    ensure!(!watch.ended.load(Ordering::Relaxed), "a stream ended before the prefill did");
    Ok(Windows { quiet: (begun, sent), busy, prompt_tokens })
}

fn body(model: &str, seed: u64, words: usize, max_tokens: usize) -> Value {
    json!({"model": model, "prompt": words::prompt(seed, words), "max_tokens": max_tokens,
        "min_tokens": max_tokens, "ignore_eos": true, "temperature": 0, "stream": true,
        "stream_options": {"include_usage": true}})
}

/// What the streams' threads and the conductor tell each other.
struct Watch {
    /// Tokens of each stream so far.
    tokens: [AtomicUsize; GAP_STREAMS],
    /// The streams may end.
    enough: AtomicBool,
    /// One ended, or failed, before that.
    ended: AtomicBool,
}

impl Watch {
    fn new() -> Self {
        let tokens = std::array::from_fn(|_| AtomicUsize::new(0));
        Self { tokens, enough: AtomicBool::new(false), ended: AtomicBool::new(false) }
    }

    /// The times of a stream's tokens, until there are enough.
    fn follow(&self, endpoint: &Endpoint, body: &Value, number: usize) -> Result<Vec<Instant>> {
        let mut times = Vec::new();
        let mut read = || -> Result<()> {
            for event in endpoint.complete(body)? {
                if self.enough.load(Ordering::Relaxed) {
                    break;
                }
                if event?.has_text {
                    times.push(Instant::now());
                    self.tokens[number].fetch_add(1, Ordering::Relaxed);
                }
            }
            Ok(())
        };
        let read = read();
        if !self.enough.load(Ordering::Relaxed) {
            self.ended.store(true, Ordering::Relaxed);
        }
        read.map(|()| times)
    }

    fn most(&self) -> usize {
        self.tokens.iter().map(|tokens| tokens.load(Ordering::Relaxed)).max().unwrap_or(0)
    }

    /// Until every stream has `tokens`.
    fn wait_for(&self, tokens: usize) -> Result<()> {
        let begun = Instant::now();
        while self.tokens.iter().any(|count| count.load(Ordering::Relaxed) < tokens) {
            ensure!(!self.ended.load(Ordering::Relaxed), "a stream ended too soon");
            ensure!(begun.elapsed() < PATIENCE, "the streams are too slow");
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

/// Milliseconds of the gaps of which some part lies in `window`.
fn gaps_within(times: &[Instant], (begin, end): Window) -> impl Iterator<Item = f64> {
    let gaps = times.windows(2).map(|pair| (pair[0], pair[1]));
    let within = gaps.filter(move |(last, next)| *next > begin && *last < end);
    within.map(|(last, next)| milliseconds(next - last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_that_reach_into_the_window_count() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let times = [0, 10, 25, 100, 110].map(at);
        let gaps: Vec<f64> = gaps_within(&times, (at(12), at(90))).collect();
        assert_eq!(gaps, [15.0, 75.0]);
    }
}
