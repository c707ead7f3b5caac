//! Who is let in, and how the server ends: serving, then draining, then over.
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
}

impl Admission {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { phase: watch::Sender::new(Phase::Serving), running: watch::Sender::new(0) })
    }

    /// Lets a request in. The ticket lives until the last byte of the answer is written.
    pub(crate) fn admit(self: &Arc<Self>) -> Result<Ticket, ApiError> {
        // Counted before the phase is looked at: a drain that begins in between sees the count.
        self.running.send_modify(|running| *running += 1);
        let ticket = Ticket { admission: Arc::clone(self), phase: self.phase.subscribe() };
        if self.is_draining() { Err(ApiError::Draining) } else { Ok(ticket) }
    }

    pub(crate) fn is_draining(&self) -> bool {
        *self.phase.borrow() != Phase::Serving
    }

    /// Completes when the server is so far.
    pub(crate) async fn reached(&self, phase: Phase) {
        // An error would mean that the gate is gone, which `self` prevents.
        let _ = self.phase.subscribe().wait_for(|now| *now == phase).await;
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
        let admission = Admission::new();
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

    #[tokio::test]
    async fn the_deadline_tells_the_tickets() {
        let admission = Admission::new();
        let mut ticket = admission.admit().expect("serving");
        admission.drain(Duration::ZERO).await;
        ticket.over().await;
    }
}
