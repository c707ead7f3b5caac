//! What Prometheus reads: vLLM's names where the meaning is vLLM's, `wharf:` for the rest.
//!
//! A "request" here is one choice, as in vLLM, where each of a request's `n` choices is a request
//! of the engine's. Every choice that the engine takes gets a [`ChoiceRecord`], whose end (however
//! it comes) is counted exactly once; so accepted = stop + length + abort + error, always.
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};
use wharf_engine::Engine;

/// Seconds; from a fast token to a long answer.
const LATENCIES: [f64; 16] =
    [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0];
/// Seconds between tokens.
const GAPS: [f64; 13] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.2, 0.4, 0.8, 2.0, 10.0];
/// Tokens.
const TOKENS: [f64; 17] =
    [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 1e6];

/// How a choice ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Outcome {
    Stop,
    Length,
    /// The client left.
    Abort,
    Error,
}

impl Outcome {
    const fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Abort => "abort",
            Self::Error => "error",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FinishedLabels {
    finished_reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RejectedLabels {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ModelLabels {
    model_name: String,
    max_model_len: u64,
}

/// All metrics of a server.
pub(crate) struct Metrics {
    registry: Registry,
    accepted: Counter,
    finished: Family<FinishedLabels, Counter>,
    rejected: Family<RejectedLabels, Counter>,
    times: Times,
    sizes: Sizes,
}

/// Histograms in seconds.
struct Times {
    first_token: Histogram,
    between_tokens: Histogram,
    per_token: Histogram,
    end_to_end: Histogram,
    queue: Histogram,
    inference: Histogram,
    prefill: Histogram,
    decode: Histogram,
}

impl Times {
    fn register(registry: &mut Registry) -> Self {
        let mut time = |name: &str, help: &str, buckets: &[f64]| {
            histogram(registry, &format!("{name}_seconds"), help, buckets)
        };
        Self {
            first_token: time("time_to_first_token", "Arrival to first token", &LATENCIES),
            between_tokens: time("inter_token_latency", "One token to the next", &GAPS),
            per_token: time("request_time_per_output_token", "Mean after the first", &GAPS),
            end_to_end: time("e2e_request_latency", "Arrival to the end", &LATENCIES),
            queue: time("request_queue_time", "In the queue", &LATENCIES),
            inference: time("request_inference_time", "Start to end", &LATENCIES),
            prefill: time("request_prefill_time", "Start to first token", &LATENCIES),
            decode: time("request_decode_time", "First token to last", &LATENCIES),
        }
    }
}

/// Histograms of counts.
struct Sizes {
    prompt_tokens: Histogram,
    generated_tokens: Histogram,
    params_n: Histogram,
    params_max_tokens: Histogram,
}

impl Sizes {
    fn register(registry: &mut Registry) -> Self {
        let mut size = |name: &str, help: &str| histogram(registry, name, help, &TOKENS);
        Self {
            prompt_tokens: size("request_prompt_tokens", "Tokens of prompts"),
            generated_tokens: size("request_generation_tokens", "Tokens generated"),
            params_n: size("request_params_n", "Choices asked for"),
            params_max_tokens: size("request_params_max_tokens", "Most tokens of the answer"),
        }
    }
}

/// A histogram by vLLM's name for it.
fn histogram(registry: &mut Registry, name: &str, help: &str, buckets: &[f64]) -> Histogram {
    let histogram = Histogram::new(buckets.iter().copied());
    registry.register(format!("vllm:{name}"), help, histogram.clone());
    histogram
}

impl Metrics {
    pub(crate) fn new(engine: Engine, model_name: &str, max_model_len: usize) -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(EngineCollector(engine)));
        let info = Family::<ModelLabels, Gauge>::default();
        registry.register("wharf:model_info", "The model that is served", info.clone());
        let labels =
            ModelLabels { model_name: model_name.to_owned(), max_model_len: max_model_len as u64 };
        info.get_or_create(&labels).set(1);
        let accepted = Counter::default();
        registry.register(
            "wharf:requests_accepted",
            "Choices that the engine took; each ends as one vllm:request_success",
            accepted.clone(),
        );
        let finished = Family::<FinishedLabels, Counter>::default();
        registry.register("vllm:request_success", "Choices ended, by reason", finished.clone());
        // All reasons are there from the start, so that rates can be computed.
        for outcome in [Outcome::Stop, Outcome::Length, Outcome::Abort, Outcome::Error] {
            let labels = FinishedLabels { finished_reason: outcome.name() };
            drop(finished.get_or_create(&labels));
        }
        let rejected = Family::<RejectedLabels, Counter>::default();
        registry.register("vllm:admission_rejections", "Requests not let in", rejected.clone());
        let times = Times::register(&mut registry);
        let sizes = Sizes::register(&mut registry);
        Self { registry, accepted, finished, rejected, times, sizes }
    }

    /// The text of `GET /metrics`.
    pub(crate) fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }

    /// Counts a request that was not let in: `queue_full`, `draining`, ...
    pub(crate) fn reject(&self, reason: &'static str) {
        self.rejected.get_or_create(&RejectedLabels { reason }).inc();
    }

    /// Counts a request that the engine took (`n` choices of one prompt).
    pub(crate) fn observe_request(&self, prompt_tokens: usize, n: usize, max_tokens: usize) {
        self.sizes.prompt_tokens.observe(prompt_tokens as f64);
        self.sizes.params_n.observe(n as f64);
        self.sizes.params_max_tokens.observe(max_tokens as f64);
    }
}

/// One choice on its way. Dropped before it ended, it counts as aborted.
pub(crate) struct ChoiceRecord {
    metrics: Arc<Metrics>,
    arrived: Instant,
    started: Option<Instant>,
    first: Option<Instant>,
    last: Instant,
    tokens: usize,
    ended: bool,
}

impl ChoiceRecord {
    /// A choice that the engine has taken, of a request that arrived at `arrived`.
    pub(crate) fn new(metrics: &Arc<Metrics>, arrived: Instant) -> Self {
        metrics.accepted.inc();
        Self {
            metrics: Arc::clone(metrics),
            arrived,
            started: None,
            first: None,
            last: arrived,
            tokens: 0,
            ended: false,
        }
    }

    /// It left the queue.
    pub(crate) fn start(&mut self, queued: Duration) {
        self.started = Some(Instant::now());
        self.metrics.times.queue.observe(queued.as_secs_f64());
    }

    /// It got a token.
    pub(crate) fn token(&mut self) {
        let now = Instant::now();
        self.tokens += 1;
        if self.first.is_none() {
            self.first = Some(now);
            self.metrics.times.first_token.observe((now - self.arrived).as_secs_f64());
            if let Some(started) = self.started {
                self.metrics.times.prefill.observe((now - started).as_secs_f64());
            }
        } else {
            self.metrics.times.between_tokens.observe((now - self.last).as_secs_f64());
        }
        self.last = now;
    }

    /// It ended. Only the first call counts.
    pub(crate) fn end(&mut self, outcome: Outcome) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let metrics = &self.metrics;
        let labels = FinishedLabels { finished_reason: outcome.name() };
        metrics.finished.get_or_create(&labels).inc();
        let now = Instant::now();
        metrics.times.end_to_end.observe((now - self.arrived).as_secs_f64());
        metrics.sizes.generated_tokens.observe(self.tokens as f64);
        if let Some(started) = self.started {
            metrics.times.inference.observe((now - started).as_secs_f64());
        }
        if let Some(first) = self.first {
            let decode = (self.last - first).as_secs_f64();
            metrics.times.decode.observe(decode);
            if self.tokens > 1 {
                metrics.times.per_token.observe(decode / (self.tokens - 1) as f64);
            }
        }
    }
}

impl Drop for ChoiceRecord {
    fn drop(&mut self) {
        self.end(Outcome::Abort);
    }
}

/// Reads the engine's own counters when Prometheus asks.
struct EngineCollector(Engine);

impl fmt::Debug for EngineCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EngineCollector")
    }
}

impl Collector for EngineCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let stats = self.0.stats();
        let used = stats.blocks_used as f64 / stats.blocks_total.max(1) as f64;
        let gauges = [
            ("vllm:num_requests_running", "Choices running", stats.running as f64),
            ("vllm:num_requests_waiting", "Requests waiting", stats.waiting as f64),
            ("vllm:kv_cache_usage_perc", "KV blocks in use, 0 to 1", used),
        ];
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge_type())?)?;
        }
        let counters = [
            ("vllm:prefix_cache_queries", "Prompt tokens looked up", stats.prefix_cache_queries),
            ("vllm:prefix_cache_hits", "Prompt tokens found", stats.prefix_cache_hits),
            ("vllm:num_preemptions", "Preemptions", stats.preemptions),
            (
                "wharf:recomputed_tokens",
                "Tokens computed again after a preemption",
                stats.recomputed_tokens,
            ),
            ("vllm:prompt_tokens", "Prompt tokens", stats.prompt_tokens),
            ("vllm:generation_tokens", "Tokens generated", stats.generation_tokens),
            ("vllm:spec_decode_num_drafts", "Guesses of how a text goes on", stats.drafts),
            ("vllm:spec_decode_num_draft_tokens", "Tokens guessed", stats.draft_tokens),
            (
                "vllm:spec_decode_num_accepted_tokens",
                "Guesses that came true",
                stats.accepted_tokens,
            ),
            ("wharf:draft_model_passes", "Passes of the draft model", stats.draft_passes),
            ("wharf:forced_tokens", "Tokens that a constraint forced", stats.forced_tokens),
            ("wharf:late_masks", "Masks that came after their logits", stats.late_masks),
            ("wharf:engine_steps", "Steps of the engine", stats.steps),
            ("wharf:engine_failed_steps", "Steps that failed", stats.failed_steps),
        ];
        for (name, help, value) in counters {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, counter_type())?)?;
        }
        Ok(())
    }
}

const fn gauge_type() -> prometheus_client::metrics::MetricType {
    prometheus_client::metrics::MetricType::Gauge
}

const fn counter_type() -> prometheus_client::metrics::MetricType {
    prometheus_client::metrics::MetricType::Counter
}
