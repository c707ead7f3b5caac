//! The state machine of one instance, as a pure function: `(state, event) -> (state, effects)`.
//!
//! Stopped → starting → ready → draining → stopping, and failed in between. Everything that takes
//! time or touches the world is an [`Effect`] that `instance` performs and answers with an
//! [`Event`], so that each transition is tested without processes, sockets or clocks. Nothing here
//! may read a clock, log, or know what an engine is.

use std::{sync::Arc, time::Duration};

/// Why an engine is not running, for people; shared by every request that is refused meanwhile.
pub(crate) type Reason = Arc<str>;

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum State {
    /// No engine runs, and none is wanted.
    Stopped,
    /// An engine was launched and has not yet said that it is ready.
    Starting(History),
    /// The engine serves.
    Ready(History),
    /// The engine runs for the requests it has; new ones are refused.
    Draining,
    /// The engine was told to exit.
    Stopping(Then),
    /// The engine is gone though it is wanted.
    Failed { history: History, reason: Reason, retry: bool },
}

/// What an instance went through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct History {
    /// Failures since the engine was last healthy for a while.
    pub(crate) failures: u32,
    /// Whether an engine ever became ready: the command is right, so it is worth trying again for ever.
    pub(crate) proven: bool,
}

/// What follows once the engine has exited.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Then {
    Stop,
    Fail { history: History, reason: Reason },
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Event {
    /// The instance shall serve.
    Start,
    /// The instance shall end.
    Stop,
    /// The starting engine answered that it is ready.
    Healthy,
    /// The ready engine no longer answers as it should.
    Unhealthy(Reason),
    /// The engine's process is gone, or could not be launched.
    Exited(Reason),
    /// No request is in flight.
    Idle,
    /// The state's timer ran out.
    Timeout,
}

/// What to do. A probe, an idle watch or a timer lasts until the phase changes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Effect {
    Launch,
    /// Ask until the engine is ready: answered by `Healthy`.
    AwaitReady,
    /// Ask now and then: answered by `Unhealthy`.
    WatchHealth,
    /// Answered by `Idle`.
    AwaitIdle,
    /// End the requests in flight with an error.
    CutRelays,
    /// SIGTERM.
    Terminate,
    /// SIGKILL.
    Kill,
    /// `Timeout` after this long.
    Timer(Duration),
    /// `Timeout` after about this long: jitter keeps instances that failed together apart.
    JitteredTimer(Duration),
}

/// The times and limits of the machine.
#[derive(Debug, Clone)]
pub(crate) struct Policy {
    /// An engine that is not ready after this long is stopped, and counts as failed.
    pub(crate) start_limit: Duration,
    /// How long requests in flight may go on once the instance shall end.
    pub(crate) drain_limit: Duration,
    /// From SIGTERM to SIGKILL.
    pub(crate) kill_after: Duration,
    /// The first wait before a restart; doubled by each further failure.
    pub(crate) backoff_base: Duration,
    /// The longest wait before a restart.
    pub(crate) backoff_cap: Duration,
    /// Ready for this long, and earlier failures are forgotten.
    pub(crate) settle: Duration,
    /// An engine that was never ready is given up after this many failures.
    pub(crate) first_starts: u32,
}

impl Policy {
    pub(crate) fn new(drain_limit: Duration) -> Self {
        Self {
            // Loading tens of gigabytes from a slow disk takes minutes.
            start_limit: Duration::from_secs(600),
            drain_limit,
            kill_after: Duration::from_secs(5),
            backoff_base: Duration::from_millis(250),
            backoff_cap: Duration::from_secs(30),
            settle: Duration::from_secs(60),
            first_starts: 3,
        }
    }

    /// The wait after the `failures`-th failure in a row (counted from 1), before jitter.
    fn backoff(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        self.backoff_base.saturating_mul(1 << doublings).min(self.backoff_cap)
    }
}

/// One transition. An event that means nothing in a state leaves it as it is.
pub(crate) fn step(state: State, event: Event, policy: &Policy) -> (State, Vec<Effect>) {
    let terminate = || vec![Effect::Terminate, Effect::Timer(policy.kill_after)];
    match (state, event) {
        (State::Stopped, Event::Start) => launch(History::default(), policy),
        (State::Failed { history, retry: true, .. }, Event::Timeout) => launch(history, policy),

        (State::Starting(history), Event::Healthy) => (
            State::Ready(History { proven: true, ..history }),
            vec![Effect::WatchHealth, Effect::Timer(policy.settle)],
        ),
        (State::Starting(history), Event::Timeout) => {
            let seconds = policy.start_limit.as_secs();
            let reason = format!("the engine was not ready after {seconds} s").into();
            (State::Stopping(Then::Fail { history, reason }), terminate())
        }
        (State::Ready(history), Event::Timeout) => {
            (State::Ready(History { failures: 0, ..history }), vec![])
        }
        (State::Ready(history), Event::Unhealthy(reason)) => {
            let mut effects = vec![Effect::CutRelays];
            effects.extend(terminate());
            (State::Stopping(Then::Fail { history, reason }), effects)
        }

        (State::Starting(history) | State::Ready(history), Event::Exited(reason))
        | (State::Stopping(Then::Fail { history, reason }), Event::Exited(_)) => {
            fail(history, reason, policy)
        }
        (State::Draining | State::Stopping(Then::Stop), Event::Exited(_)) => {
            (State::Stopped, vec![])
        }

        (State::Ready(_), Event::Stop) => {
            (State::Draining, vec![Effect::AwaitIdle, Effect::Timer(policy.drain_limit)])
        }
        (State::Starting(_), Event::Stop) | (State::Draining, Event::Idle) => {
            (State::Stopping(Then::Stop), terminate())
        }
        (State::Stopping(_), Event::Stop) => (State::Stopping(Then::Stop), vec![]),
        (State::Failed { .. }, Event::Stop) => (State::Stopped, vec![]),
        (State::Draining, Event::Timeout) => {
            let mut effects = vec![Effect::CutRelays];
            effects.extend(terminate());
            (State::Stopping(Then::Stop), effects)
        }
        (State::Stopping(then), Event::Timeout) => (State::Stopping(then), vec![Effect::Kill]),

        (state, _) => (state, vec![]),
    }
}

fn launch(history: History, policy: &Policy) -> (State, Vec<Effect>) {
    let effects = vec![Effect::Launch, Effect::AwaitReady, Effect::Timer(policy.start_limit)];
    (State::Starting(history), effects)
}

fn fail(history: History, reason: Reason, policy: &Policy) -> (State, Vec<Effect>) {
    let history = History { failures: history.failures.saturating_add(1), ..history };
    let retry = history.proven || history.failures < policy.first_starts;
    let effects =
        if retry { vec![Effect::JitteredTimer(policy.backoff(history.failures))] } else { vec![] };
    (State::Failed { history, reason, retry }, effects)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn policy() -> Policy {
        Policy::new(Duration::from_secs(30))
    }

    /// Runs the events from `Stopped`; returns the last state and the last event's effects.
    fn run(events: &[Event]) -> (State, Vec<Effect>) {
        events.iter().fold((State::Stopped, vec![]), |(state, _), event| {
            step(state, event.clone(), &policy())
        })
    }

    fn exited() -> Event {
        Event::Exited("exited with status 1".into())
    }

    #[test]
    fn a_start_launches_and_asks_for_readiness() {
        let (state, effects) = run(&[Event::Start]);
        assert_eq!(state, State::Starting(History::default()));
        assert_eq!(effects[..2], [Effect::Launch, Effect::AwaitReady]);
        let (state, effects) = run(&[Event::Start, Event::Healthy]);
        assert_eq!(state, State::Ready(History { failures: 0, proven: true }));
        assert_eq!(effects[0], Effect::WatchHealth);
    }

    #[test]
    fn an_engine_that_was_never_ready_is_given_up_after_three_failures() {
        let once = [Event::Start, exited()];
        let (state, effects) = run(&once);
        assert!(matches!(state, State::Failed { retry: true, .. }));
        assert_eq!(effects, [Effect::JitteredTimer(Duration::from_millis(250))]);
        let thrice = [Event::Start, exited(), Event::Timeout, exited(), Event::Timeout, exited()];
        let (state, effects) = run(&thrice);
        assert!(matches!(state, State::Failed { retry: false, .. }));
        assert_eq!(effects, []);
        let (state, effects) = step(state, Event::Timeout, &policy());
        assert!(matches!(state, State::Failed { retry: false, .. }) && effects.is_empty());
    }

    #[test]
    fn an_engine_that_was_ready_once_is_restarted_for_ever_and_ever_later() {
        let (mut state, _) = run(&[Event::Start, Event::Healthy]);
        let mut waits = Vec::new();
        for _ in 0..10 {
            let (failed, effects) = step(state, exited(), &policy());
            match effects[..] {
                [Effect::JitteredTimer(wait)] => waits.push(wait.as_millis()),
                _ => panic!("{effects:?}"),
            }
            state = step(failed, Event::Timeout, &policy()).0;
            assert!(matches!(state, State::Starting(_)));
        }
        assert_eq!(
            waits,
            [250, 500, 1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000],
            "doubled, up to the cap"
        );
    }

    #[test]
    fn a_time_of_health_forgets_the_failures() {
        let crashed = [Event::Start, Event::Healthy, exited(), Event::Timeout, Event::Healthy];
        let (state, _) = run(&crashed);
        assert_eq!(state, State::Ready(History { failures: 1, proven: true }));
        let (state, effects) = step(state, Event::Timeout, &policy());
        assert_eq!(state, State::Ready(History { failures: 0, proven: true }));
        assert_eq!(effects, []);
    }

    #[test]
    fn a_stop_drains_then_terminates_then_kills() {
        let (state, effects) = run(&[Event::Start, Event::Healthy, Event::Stop]);
        assert_eq!(state, State::Draining);
        assert_eq!(effects, [Effect::AwaitIdle, Effect::Timer(Duration::from_secs(30))]);
        let (state, effects) = step(state, Event::Idle, &policy());
        assert_eq!(state, State::Stopping(Then::Stop));
        assert_eq!(effects[0], Effect::Terminate);
        let (state, effects) = step(state, Event::Timeout, &policy());
        assert_eq!(effects, [Effect::Kill]);
        assert_eq!(step(state, exited(), &policy()), (State::Stopped, vec![]));
    }

    #[test]
    fn requests_that_outlast_the_drain_are_cut_before_the_engine_is_terminated() {
        let (_, effects) = run(&[Event::Start, Event::Healthy, Event::Stop, Event::Timeout]);
        assert_eq!(effects[..2], [Effect::CutRelays, Effect::Terminate]);
    }

    #[test]
    fn an_unhealthy_engine_is_stopped_and_restarted_for_that_reason() {
        let sick = Event::Unhealthy("no answer".into());
        let (state, effects) = run(&[Event::Start, Event::Healthy, sick]);
        assert_eq!(effects[..2], [Effect::CutRelays, Effect::Terminate]);
        match step(state, exited(), &policy()).0 {
            State::Failed { reason, retry: true, .. } => assert_eq!(&*reason, "no answer"),
            state => panic!("{state:?}"),
        }
    }

    #[test]
    fn a_stop_while_a_sick_engine_is_stopped_does_not_restart_it() {
        let sick = Event::Unhealthy("no answer".into());
        let (state, _) = run(&[Event::Start, Event::Healthy, sick, Event::Stop, exited()]);
        assert_eq!(state, State::Stopped);
    }

    #[test]
    fn a_stop_while_waiting_for_a_restart_stops_at_once() {
        assert_eq!(run(&[Event::Start, exited(), Event::Stop]).0, State::Stopped);
    }

    proptest! {
        /// Whatever happens in whatever order: an engine is launched only when none runs, and
        /// once a stop was asked for, none is launched again.
        #[test]
        fn never_two_engines_and_none_after_a_stop(choices in prop::collection::vec(0..7, 0..60)) {
            let (mut state, mut running, mut stopped) = (State::Stopped, false, false);
            for choice in choices {
                let event = match choice {
                    0 if !stopped => Event::Start,
                    1 => Event::Stop,
                    2 => Event::Healthy,
                    3 => Event::Unhealthy("sick".into()),
                    4 if running => exited(),
                    5 => Event::Idle,
                    _ => Event::Timeout,
                };
                running &= !matches!(event, Event::Exited(_));
                stopped |= event == Event::Stop && state != State::Stopped;
                let (next, effects) = step(state, event, &policy());
                state = next;
                for effect in effects {
                    if effect == Effect::Launch {
                        prop_assert!(!running && !stopped);
                        running = true;
                    }
                    if matches!(effect, Effect::Terminate | Effect::Kill) {
                        prop_assert!(running, "a signal for nobody");
                    }
                }
                prop_assert_eq!(running, !matches!(state, State::Stopped | State::Failed { .. }));
            }
        }
    }
}
