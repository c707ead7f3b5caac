//! The engine through its handle and its thread.

use std::thread;

use super::*;

fn start(config: EngineConfig) -> Engine {
    Engine::start(Box::new(FakeRunner::new(&config, VOCAB)), config).unwrap()
}

fn wait(mut receiver: Receiver) -> Answer {
    let mut answer = Answer::default();
    while let Some(event) = receiver.blocking_recv() {
        answer.add(event);
    }
    answer
}

#[test]
fn the_thread_serves_many_submitters() {
    let engine = start(config());
    let expected = Bench::alone(engine.config(), request(prompt(3, 30), 20)).remove(0);
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let engine = engine.clone();
            thread::spawn(move || {
                wait(engine.submit(request(prompt(3, 30), 20)).unwrap().remove(0))
            })
        })
        .collect();
    for thread in threads {
        assert_eq!(thread.join().unwrap().essence(), expected.essence());
    }
    // Statistics are published before the event that they count.
    let stats = engine.stats();
    assert_eq!((stats.blocks_used, stats.running, stats.generation_tokens), (0, 0, 80));
    assert!(engine.is_alive());
}

#[test]
fn the_thread_survives_a_panicking_runner() {
    let config = config();
    let runner = FakeRunner::with_faults(&config, VOCAB, fault_in_step(1, Fault::Panic));
    let engine = Engine::start(Box::new(runner), config).unwrap();
    let first = wait(engine.submit(request(prompt(0, 9), 3)).unwrap().remove(0));
    assert!(first.failed.unwrap().contains("a panic on demand"));
    let second = wait(engine.submit(request(prompt(0, 9), 3)).unwrap().remove(0));
    assert_eq!(second.tokens.len(), 3);
    assert!(engine.is_alive());
    assert_eq!(engine.stats().failed_steps, 1);
}

#[test]
fn the_thread_finishes_what_it_has_taken_after_the_last_handle_is_gone() {
    let engine = start(config());
    let shared = Arc::clone(&engine.inner.shared);
    let receiver = engine.submit(request(prompt(0, 30), 20)).unwrap().remove(0);
    drop(engine);
    assert_eq!(wait(receiver).tokens.len(), 20);
    // Only the thread and this test hold it: the thread ends by itself.
    while !shared.is_stopped() {
        thread::yield_now();
    }
}

#[test]
fn a_stopped_engine_takes_nothing() {
    let engine = start(config());
    engine.inner.shared.set_stopped();
    assert!(!engine.is_alive());
    assert_eq!(engine.submit(request(prompt(0, 9), 3)).unwrap_err(), SubmitError::Stopped);
}

#[test]
fn a_configuration_that_contradicts_itself_is_refused() {
    let refused = |config: EngineConfig| {
        let runner = FakeRunner::new(&config, VOCAB);
        assert!(Engine::start(Box::new(runner), config).is_err());
    };
    refused(EngineConfig { max_running: 0, ..config() });
    refused(EngineConfig { max_batched_tokens: 3, ..config() });
    refused(EngineConfig { num_blocks: 0, ..config() });
    refused(EngineConfig { max_model_len: 1, ..config() });
}

#[test]
fn an_idle_engine_learns_its_pace_before_the_first_request() {
    for num_state_snapshots in [None, Some(2)] {
        let mut bench = Bench::new(EngineConfig { num_state_snapshots, ..config() });
        assert_eq!(bench.core.pace.rows_beside(usize::MAX, 1), usize::MAX);
        let (_submissions, incoming) = mpsc::channel();
        bench.core.measure_pace(&incoming);
        assert!(bench.core.pace.rows_beside(usize::MAX, 1) < usize::MAX);
        let rows: Vec<_> = bench.log().iter().map(|batch| batch.tokens.len()).collect();
        assert_eq!(rows, [1, 1, 16]);
        assert_eq!((bench.stats().steps, bench.stats().blocks_used), (0, 0));
        let wanted = request(prompt(0, 40), 5);
        let answer = bench.submit_one(wanted.clone());
        bench.finish();
        let alone = Bench::alone(&bench.core.config, wanted);
        assert_eq!(Answer::of(answer).essence(), alone[0].essence());
    }
}

#[test]
fn a_small_engine_learns_its_pace_within_its_limits() {
    let small = EngineConfig { max_batched_tokens: 4, max_model_len: 3, num_blocks: 1, ..config() };
    let mut bench = Bench::new(small);
    let (_submissions, incoming) = mpsc::channel();
    bench.core.measure_pace(&incoming);
    let rows: Vec<_> = bench.log().iter().map(|batch| batch.tokens.len()).collect();
    assert_eq!(rows, [1, 1, 3]);
}

#[test]
fn the_first_request_does_not_wait_for_a_pace_to_be_learnt() {
    let mut bench = Bench::new(config());
    let (submissions, incoming) = mpsc::channel();
    let slot = QueueSlot::take(&bench.core.shared, 1).unwrap();
    let (submission, mut receivers) = Submission::open(request(prompt(0, 9), 3), slot);
    submissions.send(submission).unwrap();
    bench.core.measure_pace(&incoming);
    assert_eq!(bench.log().len(), 0);
    bench.finish();
    assert_eq!(Answer::of(receivers.remove(0)).finish, Some(FinishReason::Length));
}
