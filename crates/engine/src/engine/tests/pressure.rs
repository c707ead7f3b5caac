//! Caches too small for what runs: what that costs is counted, in tokens computed again.

use super::*;

/// A closed loop: `streams` requests at a time, three times over.
struct Load {
    streams: usize,
    prompt: u32,
    answer: usize,
    /// Blocks, in percent of what all streams need at full length.
    room: usize,
}

impl Load {
    fn run(&self) -> EngineStats {
        let length = self.prompt as usize + self.answer;
        let full = self.streams * length.div_ceil(BLOCK_TOKENS);
        let config = EngineConfig {
            max_running: self.streams,
            max_batched_tokens: 256,
            max_model_len: length,
            num_blocks: (full * self.room / 100).max(length.div_ceil(BLOCK_TOKENS)),
            ..config()
        };
        let mut bench = Bench::new(config);
        bench.core.step_time = Some(|_| Duration::from_millis(10));
        let mut kinds = 0..3 * self.streams as u32;
        let mut receivers: Vec<Receiver> = Vec::new();
        loop {
            receivers.retain_mut(|receiver| {
                let mut events = std::iter::from_fn(|| receiver.try_recv().ok());
                !events.any(|event| matches!(event, Event::Finished(_)))
            });
            while receivers.len() < self.streams
                && let Some(kind) = kinds.next()
            {
                receivers.push(bench.submit_one(self.request(kind)));
            }
            if receivers.is_empty() {
                return bench.stats();
            }
            bench.step();
        }
    }

    /// One that shares no beginning with another.
    fn request(&self, kind: u32) -> GenerateRequest {
        let own = [kind % VOCAB as u32, kind / VOCAB as u32];
        let prompt = [own.as_slice(), &prompt(kind, self.prompt - 2)].concat();
        let mut request = request(prompt, self.answer);
        (request.params.temperature, request.params.seed) = (1.0, Some(kind.into()));
        request
    }
}

#[test]
fn preemption_recomputes_less_than_half_a_token_for_each_token_generated() {
    for (streams, prompt, answer) in [(8, 16, 240), (8, 60, 190), (16, 30, 100), (6, 200, 60)] {
        for (room, most) in [(100, 0.0), (75, 0.25), (50, 0.35), (25, 0.5)] {
            let stats = Load { streams, prompt, answer, room }.run();
            assert_eq!(stats.generation_tokens, (3 * streams * answer) as u64);
            let ratio = stats.recomputed_tokens as f64 / stats.generation_tokens as f64;
            let name = format!("{streams} streams, {prompt} in, {answer} out, {room}%");
            println!(
                "{name}: {} steps, {} preemptions, {ratio:.3} recomputed per token",
                stats.steps, stats.preemptions
            );
            assert!(ratio <= most, "{name}: {ratio}");
            assert_eq!(stats.recomputed_tokens > 0, stats.preemptions > 0, "{name}");
            // An answer loses its place three times at the most, all taken together.
            assert!(stats.preemptions <= 9 * streams as u64, "{name}: {}", stats.preemptions);
        }
    }
}

/// What cannot be needed is not kept free: short answers run side by side to the last block.
#[test]
fn no_more_is_kept_free_than_answers_can_grow() {
    let mut bench = Bench::new(EngineConfig { num_blocks: 8, ..config() });
    let receivers: Vec<_> =
        (0..4).map(|kind| bench.submit_one(request(prompt(kind, 20), 12))).collect();
    bench.step();
    bench.step();
    assert_eq!((bench.stats().running, bench.stats().blocks_used), (4, 8));
    bench.finish();
    assert_eq!(bench.stats().preemptions, 0);
    for receiver in receivers {
        assert_eq!(Answer::of(receiver).tokens.len(), 12);
    }
}
