//! An instance: the task that owns its state machine, and the handle through which requests see it.
//!
//! The task is the only one that changes anything: it waits for the next event (the engine's exit,
//! a health check, a timer, a command), lets [`lifecycle::step`] decide, and performs the effects.
//! Everybody else reads the [`Status`] it publishes. Dropping the handle ends the task, and with it
//! the engine.

use std::{
    future::Future,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use futures_util::future::{BoxFuture, FutureExt as _};
use serde::Serialize;
use tokio::sync::{mpsc, watch};
use uuid::Uuid;

use crate::{
    child::{Launched, Launcher, Signal},
    error::RequestError,
    health,
    lifecycle::{self, Effect, Event, Policy, Reason, State},
    upstream::{Passage, Upstream},
};

/// The states of [`lifecycle::State`] without what they carry, as the API shows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Phase {
    Stopped,
    Starting,
    Ready,
    Draining,
    Stopping,
    Failed,
}

/// What others may know of an instance.
#[derive(Debug, Clone)]
pub(crate) struct Status {
    pub(crate) phase: Phase,
    /// The engine that runs, if one does.
    upstream: Option<Arc<Upstream>>,
    /// Why the engine last ended, while another is not yet ready. With the engine's own words in
    /// it: paths, addresses, panics. For the operator, not for those who send requests.
    pub(crate) reason: Option<Reason>,
    /// No further start will be tried.
    given_up: bool,
    /// When a failed engine is started again.
    retry_at: Option<Instant>,
}

impl Status {
    fn new() -> Self {
        let (phase, given_up) = (Phase::Stopped, false);
        Self { phase, upstream: None, reason: None, given_up, retry_at: None }
    }

    /// Requests that are with the engine.
    pub(crate) fn in_flight(&self) -> usize {
        self.upstream.as_ref().map_or(0, |upstream| upstream.in_flight())
    }

    /// Why a request cannot be served now.
    pub(crate) fn refusal(&self) -> RequestError {
        let not_ready = |what: &str, retry_after| {
            let what = what.to_owned();
            RequestError::NotReady { what, retry_after }
        };
        match self.phase {
            Phase::Failed if self.given_up => RequestError::GivenUp,
            Phase::Failed => {
                let now = Instant::now();
                let wait = self.retry_at.map_or(Duration::ZERO, |at| at.duration_since(now));
                not_ready("The engine ended and will be restarted.", wait)
            }
            Phase::Starting | Phase::Ready => {
                not_ready("The model is being loaded.", Duration::from_secs(1))
            }
            Phase::Draining | Phase::Stopping | Phase::Stopped => {
                not_ready("The instance is shutting down.", Duration::from_secs(5))
            }
        }
    }
}

/// A running instance.
#[derive(Debug)]
pub(crate) struct Instance {
    pub(crate) id: Uuid,
    status: watch::Receiver<Status>,
    commands: mpsc::UnboundedSender<Event>,
}

impl Instance {
    /// Starts the instance's task, which starts the engine.
    pub(crate) fn start(id: Uuid, launcher: impl Launcher, policy: Policy) -> Self {
        let (publisher, status) = watch::channel(Status::new());
        let (commands, inbox) = mpsc::unbounded_channel();
        let supervisor = Supervisor {
            id,
            launcher,
            policy,
            state: State::Stopped,
            engine: None,
            sources: Sources { inbox, exit: None, probe: None, idle: None, timer: None },
            retry_at: None,
            publisher,
        };
        tokio::spawn(supervisor.run());
        Self { id, status, commands }
    }

    pub(crate) fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// Lets a request in, if the engine is ready.
    pub(crate) fn enter(&self) -> Result<Passage, RequestError> {
        let upstream = self.status.borrow().upstream.clone();
        let passage = upstream.map(|upstream| upstream.enter());
        // Counted first, checked after: a drain that begins in between either sees the count or is
        // seen here.
        let status = self.status.borrow();
        match passage {
            Some(passage) if status.phase == Phase::Ready => Ok(passage),
            _ => Err(status.refusal()),
        }
    }

    /// Completes when the instance is ready, or with the reason why it will not be.
    pub(crate) fn ready(&self) -> impl Future<Output = Result<(), String>> + Send + use<> {
        let mut status = self.status.clone();
        async move {
            // Stopped is also how it begins, before the task has run.
            let settled = |status: &Status| status.phase == Phase::Ready || status.given_up;
            match status.wait_for(settled).await {
                Ok(status) if status.phase == Phase::Ready => Ok(()),
                Ok(status) => Err(status.reason.as_deref().unwrap_or("it failed").to_owned()),
                Err(_) => Err("the instance was stopped".to_owned()),
            }
        }
    }

    /// Drains and ends the engine; completes when it has exited.
    pub(crate) async fn stop(&self) {
        // An error means that the task, and so the engine, is gone already.
        let _ = self.commands.send(Event::Stop);
        self.commands.closed().await;
    }
}

/// The engine that runs now.
struct Engine {
    upstream: Arc<Upstream>,
    signals: mpsc::UnboundedSender<Signal>,
}

/// Where the next event comes from.
struct Sources {
    inbox: mpsc::UnboundedReceiver<Event>,
    /// Owns the engine's process.
    exit: Option<BoxFuture<'static, Event>>,
    probe: Option<BoxFuture<'static, Event>>,
    idle: Option<BoxFuture<'static, Event>>,
    timer: Option<BoxFuture<'static, Event>>,
}

impl Sources {
    /// The next event; `None` when the handle is gone.
    async fn next(&mut self) -> Option<Event> {
        std::future::poll_fn(|context| {
            // The exit first: it makes what a probe or timer would say meaningless.
            for slot in [&mut self.exit, &mut self.idle, &mut self.probe, &mut self.timer] {
                let polled = slot.as_mut().map_or(Poll::Pending, |f| f.poll_unpin(context));
                if let Poll::Ready(event) = polled {
                    *slot = None;
                    return Poll::Ready(Some(event));
                }
            }
            self.inbox.poll_recv(context)
        })
        .await
    }

    fn forget_phase(&mut self) {
        (self.probe, self.idle, self.timer) = (None, None, None);
    }
}

struct Supervisor<L> {
    id: Uuid,
    launcher: L,
    policy: Policy,
    state: State,
    engine: Option<Engine>,
    sources: Sources,
    retry_at: Option<Instant>,
    publisher: watch::Sender<Status>,
}

impl<L: Launcher> Supervisor<L> {
    async fn run(mut self) {
        self.handle(Event::Start);
        while self.state != State::Stopped {
            match self.sources.next().await {
                Some(event) => self.handle(event),
                None => return,
            }
        }
    }

    /// One event, and the events that its effects cause at once.
    fn handle(&mut self, event: Event) {
        let mut next = Some(event);
        while let Some(event) = next.take() {
            if matches!(event, Event::Exited(_)) {
                self.engine = None;
            }
            let before = phase(&self.state);
            let state = std::mem::replace(&mut self.state, State::Stopped);
            let (state, effects) = lifecycle::step(state, event, &self.policy);
            self.state = state;
            if phase(&self.state) != before {
                self.sources.forget_phase();
                self.retry_at = None;
                self.log();
            }
            for effect in effects {
                next = self.perform(effect).or(next);
            }
            self.publish();
        }
    }

    fn perform(&mut self, effect: Effect) -> Option<Event> {
        let upstream = self.engine.as_ref().map(|engine| Arc::clone(&engine.upstream));
        match (effect, upstream) {
            (Effect::Launch, _) => return self.launch(),
            (Effect::AwaitReady, Some(upstream)) => {
                let ready = health::until_ready(upstream).map(|()| Event::Healthy);
                self.sources.probe = Some(ready.boxed());
            }
            (Effect::WatchHealth, Some(upstream)) => {
                let sick = health::until_unhealthy(upstream).map(Event::Unhealthy);
                self.sources.probe = Some(sick.boxed());
            }
            (Effect::AwaitIdle, Some(upstream)) => {
                self.sources.idle = Some(upstream.idle().map(|()| Event::Idle).boxed());
            }
            (Effect::CutRelays, Some(upstream)) => upstream.cut(),
            (Effect::Terminate, _) => self.signal(Signal::Terminate),
            (Effect::Kill, _) => self.signal(Signal::Kill),
            (Effect::Timer(wait), _) => self.set_timer(wait),
            (Effect::JitteredTimer(wait), _) => {
                let wait = jittered(wait, Uuid::new_v4().as_u128() as u32);
                self.retry_at = Some(Instant::now() + wait);
                self.set_timer(wait);
            }
            // The launch before it failed, and its `Exited` comes next.
            (
                Effect::AwaitReady | Effect::WatchHealth | Effect::AwaitIdle | Effect::CutRelays,
                None,
            ) => {}
        }
        None
    }

    fn launch(&mut self) -> Option<Event> {
        match self.launcher.launch() {
            Ok(Launched { socket, signals, exited }) => {
                self.engine = Some(Engine { upstream: Upstream::new(socket), signals });
                self.sources.exit = Some(exited.map(Event::Exited).boxed());
                None
            }
            Err(reason) => Some(Event::Exited(reason)),
        }
    }

    fn signal(&self, signal: Signal) {
        if let Some(engine) = &self.engine {
            // An error means that it has exited, of which the event is on its way.
            let _ = engine.signals.send(signal);
        }
    }

    fn set_timer(&mut self, wait: Duration) {
        self.sources.timer = Some(tokio::time::sleep(wait).map(|()| Event::Timeout).boxed());
    }

    fn publish(&self) {
        let (reason, given_up) = match &self.state {
            State::Failed { reason, retry, .. } => (Some(reason.clone()), !retry),
            _ => (None, false),
        };
        self.publisher.send_replace(Status {
            phase: phase(&self.state),
            upstream: self.engine.as_ref().map(|engine| Arc::clone(&engine.upstream)),
            reason,
            given_up,
            retry_at: self.retry_at,
        });
    }

    fn log(&self) {
        let instance = tracing::field::display(self.id);
        match &self.state {
            State::Failed { reason, retry, history } => {
                tracing::error!(instance, failures = history.failures, retry, %reason, "failed");
            }
            state => tracing::info!(instance, state = ?phase(state), "instance"),
        }
    }
}

fn phase(state: &State) -> Phase {
    match state {
        State::Stopped => Phase::Stopped,
        State::Starting(_) => Phase::Starting,
        State::Ready(_) => Phase::Ready,
        State::Draining => Phase::Draining,
        State::Stopping(_) => Phase::Stopping,
        State::Failed { .. } => Phase::Failed,
    }
}

/// From three quarters of `wait` up to all of it, by a random number.
fn jittered(wait: Duration, random: u32) -> Duration {
    wait.mul_f64(0.75 + 0.25 * f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use std::{
        path::PathBuf,
        sync::atomic::{AtomicU32, Ordering},
    };

    use tokio::net::UnixListener;
    use wharf_mock_engine::{MockConfig, MockEngine};

    use super::*;

    /// Launches engines inside the test. Each exits when told to, or by a message to `crash`.
    struct FakeLauncher {
        directory: PathBuf,
        launches: Arc<AtomicU32>,
        /// `None`: engines exit as soon as they are launched.
        crash: Option<watch::Receiver<u32>>,
    }

    impl Launcher for FakeLauncher {
        fn launch(&mut self) -> Result<Launched, Reason> {
            let number = self.launches.fetch_add(1, Ordering::SeqCst) + 1;
            let (signals, mut inbox) = mpsc::unbounded_channel();
            let socket = self.directory.join(format!("{number}.sock"));
            let Some(mut crash) = self.crash.clone() else {
                let exited = async { Reason::from("no such model") }.boxed();
                return Ok(Launched { socket, signals, exited });
            };
            let listener = UnixListener::bind(&socket).map_err(|e| Reason::from(e.to_string()))?;
            let server = MockEngine::new(MockConfig::default());
            let exited = async move {
                tokio::select! {
                    _ = server.serve(listener, std::future::pending()) => "ended".into(),
                    _ = crash.wait_for(|crashed| *crashed >= number) => "crashed".into(),
                    Some(signal) = inbox.recv() => format!("{signal:?}").into(),
                }
            };
            Ok(Launched { socket, signals, exited: exited.boxed() })
        }
    }

    fn policy() -> Policy {
        Policy {
            backoff_base: Duration::from_millis(20),
            ..Policy::new(Duration::from_millis(200))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_engine_that_never_starts_is_given_up_with_its_reason() {
        let launches = Arc::new(AtomicU32::new(0));
        let launcher = FakeLauncher {
            directory: "/nonexistent".into(),
            launches: launches.clone(),
            crash: None,
        };
        let instance = Instance::start(Uuid::new_v4(), launcher, policy());
        assert_eq!(instance.ready().await, Err("no such model".to_owned()));
        assert_eq!(launches.load(Ordering::SeqCst), 3);
        let refusal = instance.enter().unwrap_err();
        assert!(matches!(refusal, RequestError::GivenUp), "{refusal}");
        instance.stop().await;
        assert_eq!(instance.status().phase, Phase::Stopped);
    }

    #[tokio::test]
    async fn an_engine_that_dies_is_replaced_and_requests_are_refused_meanwhile() {
        let directory = tempfile::tempdir().unwrap();
        let launches = Arc::new(AtomicU32::new(0));
        let (crasher, crash) = watch::channel(0);
        let launcher = FakeLauncher {
            directory: directory.path().to_owned(),
            launches: launches.clone(),
            crash: Some(crash),
        };
        let instance = Instance::start(Uuid::new_v4(), launcher, policy());
        instance.ready().await.unwrap();
        drop(instance.enter().unwrap());
        for round in 1..=3 {
            crasher.send_replace(round);
            let mut status = instance.status.clone();
            status.wait_for(|status| status.phase == Phase::Failed).await.unwrap();
            assert!(matches!(instance.status().refusal(), RequestError::NotReady { .. }));
            instance.ready().await.unwrap();
            drop(instance.enter().unwrap());
            assert_eq!(launches.load(Ordering::SeqCst), round + 1);
        }
        instance.stop().await;
        assert_eq!(instance.status().phase, Phase::Stopped);
    }

    #[tokio::test]
    async fn a_stop_waits_for_requests_and_refuses_new_ones() {
        let directory = tempfile::tempdir().unwrap();
        let (_crasher, crash) = watch::channel(0);
        let launcher = FakeLauncher {
            directory: directory.path().to_owned(),
            launches: Arc::default(),
            crash: Some(crash),
        };
        let policy = Policy { drain_limit: Duration::from_secs(60), ..policy() };
        let instance = Arc::new(Instance::start(Uuid::new_v4(), launcher, policy));
        instance.ready().await.unwrap();
        let running = instance.enter().unwrap();
        let stopping = tokio::spawn({
            let instance = Arc::clone(&instance);
            async move { instance.stop().await }
        });
        let mut status = instance.status.clone();
        status.wait_for(|status| status.phase == Phase::Draining).await.unwrap();
        assert_eq!(instance.status().in_flight(), 1);
        assert!(matches!(instance.enter(), Err(RequestError::NotReady { .. })));
        assert_eq!(instance.status().in_flight(), 1, "a refused request is not counted");
        drop(running);
        stopping.await.unwrap();
        assert_eq!(instance.status().phase, Phase::Stopped);
    }

    #[test]
    fn jitter_shortens_by_a_quarter_at_most() {
        let wait = Duration::from_secs(4);
        assert_eq!(jittered(wait, 0), Duration::from_secs(3));
        assert_eq!(jittered(wait, u32::MAX), wait);
    }
}
