//! Sends requests and takes the time, the way a client would feel it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use indicatif::ProgressBar;
use serde_json::Value;

use super::random::Random;
use crate::openai::{Client, RequestError, StreamEvent, Usage};

/// Arrivals are drawn from a stream that no prompt uses.
const ARRIVALS: u64 = u64::MAX - 1;

/// One answered request.
#[derive(Debug, Clone)]
pub(super) struct Sample {
    /// From sending to the first text.
    pub(super) first_token: Duration,
    /// From sending to the end.
    pub(super) whole: Duration,
    /// Between one piece of text and the next.
    pub(super) gaps: Vec<Duration>,
    /// Prompt tokens, as the server tells; 0 if it does not.
    pub(super) prompt_tokens: u64,
    /// Tokens of the answer; pieces of text where the server does not tell.
    pub(super) output_tokens: u64,
    /// Whether the server told.
    pub(super) has_usage: bool,
}

/// What a run brought.
#[derive(Debug, Default)]
pub(super) struct Run {
    pub(super) samples: Vec<Sample>,
    pub(super) failures: Vec<RequestError>,
    /// From the first request to the last answer.
    pub(super) duration: Duration,
}

impl Run {
    fn gather(outcomes: Vec<Result<Sample, RequestError>>, began: Instant) -> Self {
        let mut run = Self { duration: began.elapsed(), ..Self::default() };
        for outcome in outcomes {
            match outcome {
                Ok(sample) => run.samples.push(sample),
                Err(error) => run.failures.push(error),
            }
        }
        run
    }
}

/// `streams` at once, each sending the next request when one is answered.
pub(super) async fn closed_loop(
    client: &Client,
    bodies: &[Value],
    streams: usize,
    bar: &ProgressBar,
) -> Run {
    let began = Instant::now();
    let next = AtomicUsize::new(0);
    let stream = async || {
        let mut outcomes = Vec::new();
        while let Some(body) = bodies.get(next.fetch_add(1, Ordering::Relaxed)) {
            outcomes.push(send(client, body).await);
            bar.inc(1);
        }
        outcomes
    };
    let outcomes = join_all((0..streams).map(|_| stream())).await;
    Run::gather(outcomes.into_iter().flatten().collect(), began)
}

/// Seconds as a time that the clock can be set to, however small a rate they come from.
fn arrival_after(seconds: f64) -> Duration {
    // Longer than any run lasts.
    const FAR: Duration = Duration::from_secs(100 * 365 * 86_400);
    Duration::try_from_secs_f64(seconds).map_or(FAR, |wait| wait.min(FAR))
}

/// Arrivals at random, `rate` per second, whatever has become of those before.
pub(super) async fn open_loop(
    client: &Client,
    bodies: &[Value],
    rate: f64,
    seed: u64,
    bar: &ProgressBar,
) -> Run {
    let began = Instant::now();
    let mut random = Random::new(seed, ARRIVALS);
    let mut at = 0.0;
    let requests = bodies.iter().map(|body| {
        let arrival = arrival_after(at);
        at += random.exponential(rate);
        async move {
            tokio::time::sleep_until((began + arrival).into()).await;
            let outcome = send(client, body).await;
            bar.inc(1);
            outcome
        }
    });
    let outcomes = join_all(requests).await;
    Run::gather(outcomes, began)
}

/// One request, timed.
async fn send(client: &Client, body: &Value) -> Result<Sample, RequestError> {
    let began = Instant::now();
    let mut stream = client.stream(body).await?;
    let mut first_token = None;
    let mut last = began;
    let mut gaps = Vec::new();
    let mut usage: Option<Usage> = None;
    while let Some(event) = stream.next().await? {
        match event {
            StreamEvent::Text(_) => {
                let now = Instant::now();
                match first_token {
                    None => first_token = Some(now - began),
                    Some(_) => gaps.push(now - last),
                }
                last = now;
            }
            StreamEvent::Usage(told) => usage = Some(told),
            StreamEvent::Finish(_) => {}
        }
    }
    let whole = began.elapsed();
    let pieces = gaps.len() as u64 + u64::from(first_token.is_some());
    Ok(Sample {
        // An answer without text was answered when it ended.
        first_token: first_token.unwrap_or(whole),
        whole,
        gaps,
        prompt_tokens: usage.map_or(0, |u| u.prompt_tokens),
        output_tokens: usage.map_or(pieces, |u| u.completion_tokens),
        has_usage: usage.is_some(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tiny_rate_is_a_long_wait_and_no_panic() {
        assert_eq!(arrival_after(1.5), Duration::from_millis(1500));
        for seconds in [1e30, f64::INFINITY] {
            let _ = Instant::now() + arrival_after(seconds);
        }
    }
}
