//! Who is let in, and how the server ends: serving, then draining, then over.
//!
//! At most `limit` requests are in at once, wherever they are: reading their body, waiting to be
//! parsed, in the engine's queue, running, or being written. The engine's own queue counts only
//! those that have come so far.
//!
//! While it drains, running requests go on and new ones get 503. When the deadline passes, the
//! phase becomes [`Phase::Over`] and every request that still runs ends itself with an error.
use crate::error::ApiError;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How far the server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Takes requests.
    Serving,
    /// Finishes what runs, refuses what comes.
    Draining,
    /// The drain's deadline has passed: whatever still runs ends now.
    Over,
}

/// The gate. One per server.
#[derive(Debug)]
pub(crate) struct Admission {
    phase: watch::Sender<Phase>,
    /// Requests let in and not yet answered to the end.
    running: watch::Sender<usize>,
    limit: usize,
}

impl Admission {
    /// Lets at most `limit` requests in at once.
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        let (phase, running) = (watch::Sender::new(Phase::Serving), watch::Sender::new(0));
        Arc::new(Self { phase, running, limit })
    }

    /// Lets a request in. The ticket lives until the last byte of the answer is written.
    ///
    /// # Errors
    /// [`ApiError::Draining`], or [`ApiError::TooManyRequests`].
    pub(crate) fn admit(self: &Arc<Self>) -> Result<Ticket, ApiError> {
        // Counted before the phase is looked at: a drain that begins in between sees the count.
        let mut now = 0;
        self.running.send_modify(|running| {
            *running += 1;
            now = *running;
        });
        let ticket = Ticket { admission: Arc::clone(self), phase: self.phase.subscribe() };
        if self.is_draining() {
            return Err(ApiError::Draining);
        }
        if now > self.limit {
            return Err(ApiError::TooManyRequests { limit: self.limit });
        }
        Ok(ticket)
    }

    pub(crate) fn is_draining(&self) -> bool {
        *self.phase.borrow() != Phase::Serving
    }

    /// Requests let in and not yet answered to the end.
    pub(crate) fn running(&self) -> usize {
        *self.running.borrow()
    }

    /// Refuses new requests, waits until the running ones end or `deadline` passes, and then makes
    /// the rest end.
    pub(crate) async fn drain(&self, deadline: Duration) {
        self.phase.send_replace(Phase::Draining);
        let mut running = self.running.subscribe();
        let idle = running.wait_for(|running| *running == 0);
        if tokio::time::timeout(deadline, idle).await.is_err() {
            tracing::warn!(running = self.running(), "the drain's deadline has passed");
        }
        self.phase.send_replace(Phase::Over);
    }
}

/// One request's permission to run.
#[derive(Debug)]
pub(crate) struct Ticket {
    admission: Arc<Admission>,
    phase: watch::Receiver<Phase>,
}

impl Ticket {
    /// Completes when the request must end.
    pub(crate) async fn over(&mut self) {
        // An error would mean that the gate is gone, which the ticket itself prevents.
        let _ = self.phase.wait_for(|phase| *phase == Phase::Over).await;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.admission.running.send_modify(|running| *running -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_drain_ends_with_the_last_ticket() {
        let admission = Admission::new(9);
        let ticket = admission.admit().expect("serving");
        let draining = tokio::spawn({
            let admission = Arc::clone(&admission);
            async move { admission.drain(Duration::from_secs(60)).await }
        });
        while !admission.is_draining() {
            tokio::task::yield_now().await;
        }
        assert!(admission.admit().is_err());
        assert_eq!(admission.running(), 1);
        drop(ticket);
        draining.await.expect("no panic");
    }

    #[test]
    fn one_more_than_the_limit_is_refused_until_one_has_gone() {
        let admission = Admission::new(2);
        let first = admission.admit().expect("serving");
        let _second = admission.admit().expect("serving");
        for _ in 0..3 {
            assert_eq!(admission.admit().err(), Some(ApiError::TooManyRequests { limit: 2 }));
        }
        drop(first);
        assert!(admission.admit().is_ok());
    }

    #[tokio::test]
    async fn the_deadline_tells_the_tickets() {
        let admission = Admission::new(9);
        let mut ticket = admission.admit().expect("serving");
        admission.drain(Duration::ZERO).await;
        ticket.over().await;
    }
}
