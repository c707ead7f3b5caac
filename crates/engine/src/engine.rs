//! The handle, the thread behind it, and the step that the thread repeats.
//!
//! The thread `wharf-engine` owns everything that changes. It sleeps while it has no sequence, and
//! looks for new requests between steps. A panic of the runner or the sampler is caught and fails
//! the sequences it concerns; should the thread end all the same, every receiver gets `Failed`, and
//! every submitter `Stopped`.

use std::{
    any::Any,
    hash::{BuildHasher, Hasher, RandomState},
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use wharf_model::{BLOCK_TOKENS, Batch, BatchSequence, StateSlots};

use crate::{
    EngineConfig, EngineStats, Event, Failure, FinishReason, GenerateRequest, Receiver, Runner,
    SubmitError,
    block_cache::Salt,
    constrained::{Allowed, Constrained},
    draft::{Draft, DraftModel, Drafts, Step},
    events::{EventSink, Letter},
    masks::MaskPool,
    pace::Pace,
    sampler::{Context, Sample, Sampler},
    scheduler::{Plan, Scheduled, Scheduler},
    sequence::{Rank, Request, Sequence},
    speculation::Speculation,
    stats::{QueueSlot, Shared},
};

/// Handle to a running engine. Clone freely. When the last one is dropped, the thread finishes what
/// it has taken (dropping the receivers cancels that) and ends.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    config: EngineConfig,
    vocab_size: usize,
    shared: Arc<Shared>,
    submissions: mpsc::Sender<Submission>,
}

/// A request on its way to the thread.
struct Submission {
    request: GenerateRequest,
    slot: QueueSlot,
    arrived: Instant,
    // [n]
    sinks: Vec<EventSink>,
}

impl Submission {
    fn open(request: GenerateRequest, slot: QueueSlot) -> (Self, Vec<Receiver>) {
        let (sinks, receivers) = (0..request.n).map(|_| EventSink::channel()).unzip();
        (Self { request, slot, arrived: Instant::now(), sinks }, receivers)
    }
}

impl Engine {
    /// Starts the engine's thread. The runner has room for `config.num_blocks` KV blocks, and for the
    /// recurrent states that `config.num_state_snapshots` speaks of.
    ///
    /// Fails with `InvalidInput` where the configuration contradicts itself, and where the system
    /// gives no thread.
    pub fn start(runner: Box<dyn Runner>, config: EngineConfig) -> io::Result<Self> {
        Self::start_with_draft(runner, None, config)
    }

    /// [`Self::start`] with a model that guesses what the other one goes on with. Neither of them may
    /// have recurrent states.
    pub fn start_with_draft(
        runner: Box<dyn Runner>,
        draft: Option<DraftModel>,
        config: EngineConfig,
    ) -> io::Result<Self> {
        config.validate()?;
        if draft.is_some() && config.num_state_snapshots.is_some() {
            let reason = "a draft model cannot guess for a model with recurrent states";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
        }
        let shared = Arc::new(Shared::default());
        let (submissions, incoming) = mpsc::channel();
        let vocab_size = runner.vocab_size();
        let state = (config.clone(), Arc::clone(&shared));
        thread::Builder::new().name("wharf-engine".into()).spawn(move || {
            let (config, shared) = state;
            let mut core = Core::new(runner, draft, config, Arc::clone(&shared));
            // Declared last, so dropped first: who sees `Failed` sees `is_alive() == false`.
            let _stopped = StopOnDrop(shared);
            core.run(&incoming);
        })?;
        Ok(Self { inner: Arc::new(Inner { config, vocab_size, shared, submissions }) })
    }

    /// Queues a request; one receiver per choice, in order. Never blocks.
    pub fn submit(&self, request: GenerateRequest) -> Result<Vec<Receiver>, SubmitError> {
        let Inner { config, vocab_size, shared, submissions } = &*self.inner;
        if shared.is_stopped() {
            return Err(SubmitError::Stopped);
        }
        request.validate(config, *vocab_size)?;
        let slot = QueueSlot::take(shared, config.max_waiting)
            .ok_or(SubmitError::QueueFull { limit: config.max_waiting })?;
        let (submission, receivers) = Submission::open(request, slot);
        submissions.send(submission).map_err(|_| SubmitError::Stopped)?;
        Ok(receivers)
    }

    /// A snapshot. Each number is current as of the last step; together they may be a step apart.
    pub fn stats(&self) -> EngineStats {
        self.inner.shared.snapshot()
    }

    /// False when the thread has ended.
    pub fn is_alive(&self) -> bool {
        !self.inner.shared.is_stopped()
    }

    /// The configuration it runs with.
    pub fn config(&self) -> &EngineConfig {
        &self.inner.config
    }
}

struct StopOnDrop(Arc<Shared>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.set_stopped();
    }
}

/// How long a step waits for masks, all together, before it goes on without those that are late. A
/// late mask costs its own sequence a step; waiting costs all of them.
const MASK_PATIENCE: Duration = Duration::from_millis(2);

/// Rows of the step from which the engine first learns what a row of prefill takes: some, for weights
/// are read for many at once, and few, for it keeps the first request waiting.
const MEASURED_ROWS: usize = 16;

/// What a step made of one scheduled sequence.
enum Outcome {
    /// A part of its prompt is computed, or its mask is late.
    Computed,
    Sampled(Sample),
    /// Tokens that its constraint forced; a log-probability with the first only, and only where it
    /// is alone.
    Forced(Vec<Sample>),
    Failed(Failure),
}

/// All state of an engine. Single-threaded; the tests drive it step by step.
struct Core {
    runner: Box<dyn Runner>,
    config: EngineConfig,
    vocab_size: usize,
    scheduler: Scheduler,
    pace: Pace,
    speculation: Speculation,
    draft: Option<Draft>,
    sampler: Sampler,
    masks: MaskPool,
    /// [`MASK_PATIENCE`], but in tests.
    mask_patience: Duration,
    /// What steps of so many rows take, instead of the clock's word.
    #[cfg(test)]
    step_time: Option<fn(usize) -> Duration>,
    // [batch.logits_rows.len(), vocab_size]
    logits: Vec<f32>,
    stats: EngineStats,
    shared: Arc<Shared>,
    num_requests: u64,
    /// Events not yet sent: they go out after the statistics that tell of them.
    outbox: Vec<Letter>,
}

impl Core {
    fn new(
        runner: Box<dyn Runner>,
        draft: Option<DraftModel>,
        config: EngineConfig,
        shared: Arc<Shared>,
    ) -> Self {
        let vocab_size = runner.vocab_size();
        let mut core = Self {
            vocab_size,
            draft: draft.map(|model| Draft::new(model, &config, vocab_size)),
            runner,
            scheduler: Scheduler::new(&config),
            pace: Pace::default(),
            speculation: Speculation::new(match config.num_state_snapshots {
                Some(_) => 0,
                None => config.num_speculative_tokens,
            }),
            #[cfg(test)]
            step_time: None,
            config,
            sampler: Sampler::default(),
            masks: MaskPool::default(),
            mask_patience: MASK_PATIENCE,
            logits: Vec::new(),
            stats: EngineStats::default(),
            shared,
            num_requests: 0,
            outbox: Vec::new(),
        };
        core.publish();
        core
    }

    /// Works until all handles are gone and all is done.
    fn run(&mut self, incoming: &mpsc::Receiver<Submission>) {
        self.measure_pace(incoming);
        loop {
            if self.scheduler.is_empty() {
                match incoming.recv() {
                    Ok(submission) => self.accept(submission),
                    Err(mpsc::RecvError) => return,
                }
            }
            while let Ok(submission) = incoming.try_recv() {
                self.accept(submission);
            }
            self.step();
        }
    }

    /// Has a first idea of what steps take before requests come, or the first long prompt would hold
    /// up whoever decodes beside it. A request that does come is not made to wait for more than a
    /// step of this.
    fn measure_pace(&mut self, incoming: &mpsc::Receiver<Submission>) {
        let room = self.config.num_blocks * BLOCK_TOKENS;
        let most = self.config.max_batched_tokens.min(self.config.max_model_len).min(room);
        for (number, rows) in [1, 1, MEASURED_ROWS.min(most)].into_iter().enumerate() {
            match incoming.try_recv() {
                Ok(submission) => return self.accept(submission),
                Err(mpsc::TryRecvError::Disconnected) => return,
                Err(mpsc::TryRecvError::Empty) => {}
            }
            // Blocks and a slot that nobody has yet, and that are written again before they are read.
            let state = StateSlots { slot: 0, restore: None, save: None };
            let batch = Batch {
                tokens: vec![0; rows],
                sequences: vec![BatchSequence {
                    first_row: 0,
                    num_rows: rows,
                    start: 0,
                    block_table: (0..).take(rows.div_ceil(BLOCK_TOKENS)).collect(),
                    state: self.config.num_state_snapshots.map(|_| state),
                }],
                logits_rows: vec![rows - 1],
            };
            let began = Instant::now();
            // One that fails would fail for a request too, and say so then.
            if self.forward(&batch).is_err() {
                return;
            }
            // The first touches memory that no step has touched before: its time says nothing.
            if number > 0 {
                self.pace.observe(1, rows - 1, began.elapsed());
            }
        }
    }

    fn accept(&mut self, submission: Submission) {
        let Submission { request, slot, arrived, mut sinks } = submission;
        let id = self.num_requests;
        self.num_requests += 1;
        if request.params.max_tokens == 0 {
            drop(slot);
            for sink in &mut sinks {
                let started = Event::Started { cached_tokens: 0, queued: arrived.elapsed() };
                self.outbox.push(sink.letter(started));
                self.outbox.push(sink.letter(Event::Finished(FinishReason::Length)));
            }
            return self.publish();
        }
        let salt = match request.cache_salt {
            _ if !self.config.prefix_caching => Salt::Request(id),
            Some(salt) => Salt::Named(salt),
            None => Salt::None,
        };
        let constraint = request.constraint;
        let request = Rc::new(Request {
            id,
            priority: request.priority,
            prompt: request.prompt,
            seed: request.params.seed.unwrap_or_else(random_seed),
            params: request.params,
            salt,
            arrived,
            queue_slot: Some(slot).into(),
            started: false.into(),
            prompt_computed: false.into(),
        });
        for (choice, sink) in (0u32..).zip(sinks) {
            let constrained =
                constraint.as_ref().map(|c| Constrained::new(c.clone(), &request.params));
            let mut sequence = Sequence::new(Rc::clone(&request), choice, constrained, sink);
            sequence.drafter = self.speculation.drafter();
            self.scheduler.add(sequence);
        }
    }

    fn step(&mut self) {
        let (decoding, waiting) = self.scheduler.company();
        let most = self.config.max_batched_tokens;
        let prefill_rows = self.pace.prefill_rows(most, decoding, waiting);
        let drafts = self.draft(prefill_rows);
        let plan = self.plan(prefill_rows, drafts);
        let prepared = self.prepare_masks(&plan);
        let began = Instant::now();
        let computed = self.forward(&plan.batch);
        let step = self.observe(&plan, prefill_rows, began.elapsed());
        self.deliver(&plan, computed, prepared);
        self.catch_up(plan.scheduled.is_empty());
        self.with_draft(|draft, core| draft.catch_up(&core.scheduler, &step));
    }

    /// What the draft model guesses, up to `most` rows in all.
    fn draft(&mut self, most: usize) -> Drafts {
        let drafts = self.with_draft(|draft, core| {
            let config = &core.config;
            let decoding = core.scheduler.answering().len();
            let spare = config.max_batched_tokens.saturating_sub(decoding).min(most);
            draft.guess(&mut core.scheduler, &mut core.speculation, &config.eos_token_ids, spare)
        });
        drafts.unwrap_or_default()
    }

    /// Lets the draft model work, if there is one. Where it fails, that is its end: guesses can be
    /// done without, and what it has computed can't be relied on.
    fn with_draft<T>(
        &mut self,
        work: impl FnOnce(&mut Draft, &mut Self) -> Result<T, String>,
    ) -> Option<T> {
        let mut draft = self.draft.take()?;
        let result = catch_unwind(AssertUnwindSafe(|| work(&mut draft, self)));
        let result = result.unwrap_or_else(|panic| {
            Err(format!("the draft model's step panicked: {}", panic_message(&*panic)))
        });
        self.stats.draft_passes = draft.num_passes;
        match result {
            Ok(done) => {
                self.draft = Some(draft);
                Some(done)
            }
            Err(reason) => {
                tracing::error!(%reason, "the draft model failed; from here on there is none");
                None
            }
        }
    }

    fn plan(&mut self, prefill_rows: usize, mut drafts: Drafts) -> Plan {
        let plan = self.scheduler.plan(prefill_rows, &self.speculation, &mut drafts);
        for started in &plan.started {
            let request = &started.request;
            drop(request.queue_slot.take());
            let (cached_tokens, queued) = (started.cached_tokens, request.arrived.elapsed());
            for sequence in self.scheduler.choices(request) {
                self.outbox.push(sequence.sink.letter(Event::Started { cached_tokens, queued }));
            }
        }
        let (decode_rows, prefill_rows) = self.rows_of(&plan);
        self.stats.decode_rows += decode_rows as u64;
        self.stats.prefill_rows += prefill_rows as u64;
        self.stats.steps += u64::from(!plan.batch.tokens.is_empty());
        if plan.scheduled.is_empty() && self.scheduler.late().is_empty() {
            self.fail_first();
        }
        self.publish();
        plan
    }

    /// Takes in the time of a step that might have had `most` rows of prefill.
    fn observe(&mut self, plan: &Plan, most: usize, took: Duration) -> Step {
        let rows = plan.batch.tokens.len();
        #[cfg(test)]
        let took = self.step_time.map_or(took, |step_time| step_time(rows));
        let (decode_rows, prefill_rows) = self.rows_of(plan);
        self.pace.observe(decode_rows, prefill_rows, took);
        if prefill_rows == 0 && rows > 0 {
            self.speculation.observe(rows, took);
        }
        Step { rows, prefill_rows, most, took }
    }

    /// Sequences that decode, and rows of the others.
    fn rows_of(&self, plan: &Plan) -> (usize, usize) {
        let decoding = |s: &Sequence| !s.output.is_empty() && s.is_decoding();
        let rows = plan.scheduled.iter().map(|scheduled| {
            match self.scheduler.get(scheduled.rank).is_some_and(decoding) {
                true => (1, 0),
                false => (0, scheduled.num_rows),
            }
        });
        rows.fold((0, 0), |(decode, prefill), (d, p)| (decode + d, prefill + p))
    }

    /// Nothing can run: the first in line fails, if there is one, for the thread would turn without
    /// end otherwise. See `scheduler` on why this can't be; it would be an error of ours.
    fn fail_first(&mut self) {
        let Some(mut sequence) = self.scheduler.take_first() else { return };
        let reason = "the scheduler found nothing that could run";
        tracing::error!(waiting_tokens = sequence.len(), reason, "a sequence failed");
        let failed = Event::Failed(Failure::Engine(reason.into()));
        self.outbox.push(sequence.sink.letter(failed));
    }

    /// Fills `self.logits`, `[batch.logits_rows.len(), vocab_size]`.
    fn forward(&mut self, batch: &Batch) -> Result<(), String> {
        if batch.tokens.is_empty() {
            return Ok(());
        }
        let run = || self.runner.forward(batch, &mut self.logits);
        let result = catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
            Err(format!("the model's step panicked: {}", panic_message(&*panic)))
        });
        let expected = batch.logits_rows.len() * self.vocab_size;
        let result = result.and_then(|()| match self.logits.len() {
            len if len == expected => Ok(()),
            len => Err(format!("the model gave {len} logits instead of {expected}")),
        });
        if let Err(reason) = &result {
            self.stats.failed_steps += 1;
            tracing::error!(sequences = batch.sequences.len(), %reason, "a step failed");
        }
        result
    }

    /// Begins to work out what may follow the sequences that this step samples; one result for each
    /// of `plan.scheduled`.
    fn prepare_masks(&mut self, plan: &Plan) -> Vec<Result<(), Failure>> {
        let mut prepare = |scheduled: &Scheduled| {
            let sequence = self.scheduler.get_mut(scheduled.rank).filter(|_| scheduled.samples);
            match sequence.and_then(|sequence| sequence.constrained.as_mut()) {
                Some(constrained) => constrained.prepare(&mut self.masks),
                None => Ok(()),
            }
        };
        plan.scheduled.iter().map(&mut prepare).collect()
    }

    /// Samples, moves the sequences on, gives back the blocks of those that end, and tells the
    /// receivers.
    fn deliver(
        &mut self,
        plan: &Plan,
        computed: Result<(), String>,
        prepared: Vec<Result<(), Failure>>,
    ) {
        let deadline = Instant::now() + self.mask_patience;
        let logits = std::mem::take(&mut self.logits);
        let mut row = 0;
        for (scheduled, prepared) in plan.scheduled.iter().zip(prepared) {
            let rows = if scheduled.samples { 1 + scheduled.guess.tokens.len() } else { 0 };
            let part = row * self.vocab_size..(row + rows) * self.vocab_size;
            row += rows;
            let rank = scheduled.rank;
            match computed.clone().map_err(Failure::Engine).and(prepared) {
                Err(failure) => self.advance(rank, Outcome::Failed(failure)),
                Ok(()) if rows > 0 => self.accept_rows(scheduled, &logits[part], deadline),
                Ok(()) => self.scheduler.commit(rank, scheduled.num_rows),
            }
        }
        self.logits = logits;
        self.publish();
    }

    /// Samples a sequence's rows, one after the other, exactly as if each had been computed after
    /// the token before it was sampled: a row of the guess counts if that token is the one guessed.
    /// `logits`: `[1 + guess.tokens.len(), vocab_size]`.
    fn accept_rows(&mut self, scheduled: &Scheduled, logits: &[f32], deadline: Instant) {
        let &Scheduled { rank, num_rows, ref guess, .. } = scheduled;
        let mut guessed = guess.tokens.iter().copied();
        let (mut new_rows, mut accepted) = (num_rows, 0);
        for row in logits.chunks_exact(self.vocab_size) {
            let patience = deadline.saturating_duration_since(Instant::now());
            let outcome = self.sample_row(rank, row, patience);
            // Not committed: what a failed step wrote is never found by others.
            if !matches!(outcome, Outcome::Failed(_)) {
                self.scheduler.commit(rank, new_rows);
            }
            let sampled = match &outcome {
                Outcome::Sampled(sample) => Some(sample.id),
                _ => None,
            };
            self.advance(rank, outcome);
            if sampled.is_none() || sampled != guessed.next() {
                break;
            }
            (new_rows, accepted) = (1, accepted + 1);
            // The token that came true was its last.
            if self.scheduler.get(rank).is_none() {
                break;
            }
        }
        if !guess.tokens.is_empty() {
            self.stats.drafts += 1;
            self.stats.draft_tokens += guess.tokens.len() as u64;
            self.stats.accepted_tokens += accepted as u64;
            if let Some(sequence) = self.scheduler.get_mut(rank) {
                let (drafter, guessed) = (&mut sequence.drafter, guess.tokens.len());
                self.speculation.observe_guess(drafter, guess.origin, guessed, accepted);
            }
        }
    }

    /// `logits`: `[vocab_size]`. Where the mask does not come within `patience`, the sequence keeps
    /// them.
    fn sample_row(&mut self, rank: Rank, logits: &[f32], patience: Duration) -> Outcome {
        let Some(sequence) = self.scheduler.get_mut(rank) else { return Outcome::Computed };
        let allowed = match sequence.constrained.as_mut().map(|c| c.allowed(patience)) {
            None => None,
            Some(Err(failure)) => return Outcome::Failed(failure),
            Some(Ok(Some(allowed))) => Some(allowed),
            Some(Ok(None)) => {
                self.stats.late_masks += 1;
                if let Some(constrained) = &mut sequence.constrained {
                    constrained.late_logits = Some(logits.to_vec());
                }
                return Outcome::Computed;
            }
        };
        let params = &sequence.request.params;
        let mask = match &allowed {
            Some(Allowed::Forced(tokens)) => {
                let samples = tokens.iter().map(|&id| Sampler::forced(logits, id, params));
                return Outcome::Forced(samples.collect());
            }
            Some(Allowed::OneOf(mask)) => Some((mask, sequence.is_complete())),
            None => None,
        };
        let context = Context {
            params,
            prompt: &sequence.request.prompt,
            output: &sequence.output,
            eos_token_ids: &self.config.eos_token_ids,
            seed: sequence.request.seed,
            choice: sequence.choice,
            mask,
        };
        match catch_unwind(AssertUnwindSafe(|| self.sampler.sample(logits, &context))) {
            Ok(Ok(sample)) => Outcome::Sampled(sample),
            Ok(Err(error)) => Outcome::Failed(error.into()),
            Err(panic) => {
                // Its scratch memory may be half-written.
                self.sampler = Sampler::default();
                let reason = format!("sampling panicked: {}", panic_message(&*panic));
                tracing::error!(%reason, "a sequence failed");
                Outcome::Failed(Failure::Engine(reason))
            }
        }
    }

    /// Samples the sequences whose masks were late and are there now. Where nothing else can run,
    /// waits a little for the first of them; not for long, for new requests may come.
    fn catch_up(&mut self, idle: bool) {
        let late = self.scheduler.late();
        let mut patience = if idle { MASK_PATIENCE } else { Duration::ZERO };
        for rank in late {
            let constrained = self.scheduler.get_mut(rank).and_then(|s| s.constrained.as_mut());
            let Some(logits) = constrained.and_then(|c| c.late_logits.take()) else { continue };
            let counted = self.stats.late_masks;
            let outcome = self.sample_row(rank, &logits, std::mem::take(&mut patience));
            // One mask is late once, however often it is asked for.
            self.stats.late_masks = counted;
            self.advance(rank, outcome);
        }
        if !self.outbox.is_empty() {
            self.publish();
        }
    }

    /// Appends what a step gave a sequence, and ends it where that ends it.
    fn advance(&mut self, rank: Rank, outcome: Outcome) {
        let last = match outcome {
            Outcome::Computed => None,
            Outcome::Sampled(sample) => self.append(rank, sample),
            Outcome::Forced(samples) => samples.into_iter().find_map(|sample| {
                self.stats.forced_tokens += 1;
                self.append(rank, sample)
            }),
            Outcome::Failed(failure) => Some(Event::Failed(failure)),
        };
        if let Some(event) = last
            && let Some(mut sequence) = self.scheduler.retire(rank)
        {
            self.outbox.push(sequence.sink.letter(event));
        }
    }

    /// Returns the sequence's last event, if it ends here.
    fn append(&mut self, rank: Rank, Sample { id, logprob }: Sample) -> Option<Event> {
        let sequence = self.scheduler.get_mut(rank)?;
        self.stats.generation_tokens += 1;
        let finish = match sequence.push(id, &self.config) {
            Ok(finish) => finish,
            Err(failure) => return Some(Event::Failed(failure)),
        };
        let is_end = matches!(finish, Some(FinishReason::Eos(_) | FinishReason::StopToken(_)));
        if !is_end {
            let complete = sequence.is_complete();
            self.outbox.push(sequence.sink.letter(Event::Token { id, logprob, complete }));
        }
        finish.map(Event::Finished)
    }

    /// Statistics first, then the events.
    fn publish(&mut self) {
        self.scheduler.count(&mut self.stats);
        self.shared.publish(&self.stats);
        for (receiver, event) in self.outbox.drain(..) {
            // An error means that the receiver is gone; the next plan drops the sequence.
            let _ = receiver.send(event);
        }
    }
}

/// For requests without a seed. The standard library's hash keys are the system's random numbers.
fn random_seed() -> u64 {
    RandomState::new().build_hasher().finish()
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("(no message)")
}

#[cfg(test)]
mod tests;
