//! The compute pool: parsing, templates and tokenising, and writing whole answers, off the async
//! runtime.
//!
//! A long prompt takes milliseconds to tokenise and a hostile template far longer; on the runtime's
//! own threads that would stall every stream. Work runs on Tokio's blocking threads, at most as
//! many at once as there are permits, each under a time limit. A thread cannot be stopped from
//! outside: work past its limit keeps its permit until it ends, so it can slow but not multiply.
//! Answers have permits of their own: those are of a known size, and what has been generated is not
//! thrown away because somebody's template never ends. Compilations of grammars have their own,
//! too: they may take seconds, and requests without one do not stand in that line.
use crate::error::ApiError;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// One grammar is compiled at once for so many threads: the model's step needs them all.
const COMPILING_SHARE: usize = 4;

/// Where work runs.
#[derive(Debug)]
pub(crate) struct Compute {
    permits: Arc<Semaphore>,
    answers: Arc<Semaphore>,
    grammars: Arc<Semaphore>,
    limit: Duration,
    waiting: AtomicUsize,
    max_waiting: usize,
}

/// A place among those that wait for a permit.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Compute {
    /// A pool of `threads` that gives up on a piece of work after `limit` (and so long may it wait,
    /// with at most `max_waiting` others).
    pub(crate) fn new(threads: usize, max_waiting: usize, limit: Duration) -> Self {
        let permits = |count: usize| Arc::new(Semaphore::new(count.max(1)));
        Self {
            permits: permits(threads),
            answers: permits(threads),
            grammars: permits(threads / COMPILING_SHARE),
            limit,
            waiting: AtomicUsize::new(0),
            max_waiting,
        }
    }

    /// Runs `work`.
    ///
    /// # Errors
    /// What `work` says; [`ApiError::Busy`] where no thread became free in time, or too many pieces
    /// of work wait for one already; an error on the
    /// body where it took too long; [`ApiError::Internal`] where it panicked.
    pub(crate) async fn run<T, F>(&self, work: F) -> Result<T, ApiError>
    where
        T: Send + 'static,
        F: FnOnce() -> Result<T, ApiError> + Send + 'static,
    {
        self.run_with(&self.permits, work).await
    }

    /// [`Compute::run`] for work that compiles grammars.
    ///
    /// # Errors
    /// As [`Compute::run`].
    pub(crate) async fn compile<T, F>(&self, work: F) -> Result<T, ApiError>
    where
        T: Send + 'static,
        F: FnOnce() -> Result<T, ApiError> + Send + 'static,
    {
        self.run_with(&self.grammars, work).await
    }

    async fn run_with<T, F>(&self, permits: &Arc<Semaphore>, work: F) -> Result<T, ApiError>
    where
        T: Send + 'static,
        F: FnOnce() -> Result<T, ApiError> + Send + 'static,
    {
        let permit = self.permit(permits).await?;
        let work = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work()
        });
        match timeout(self.limit, work).await {
            Ok(Ok(result)) => result,
            Ok(Err(panic)) => {
                tracing::error!(%panic, "preparing a request panicked");
                Err(ApiError::Internal)
            }
            Err(_) => Err(ApiError::Body {
                message: format!(
                    "rendering and tokenising this request took more than {} s",
                    self.limit.as_secs_f32()
                ),
                param: None,
            }),
        }
    }
}

impl Compute {
    /// A permit, where one becomes free in time.
    async fn permit(&self, permits: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, ApiError> {
        if let Ok(permit) = Arc::clone(permits).try_acquire_owned() {
            return Ok(permit);
        }
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let _place = Waiting(&self.waiting);
        if before >= self.max_waiting {
            return Err(ApiError::Busy);
        }
        let permit = timeout(self.limit, Arc::clone(permits).acquire_owned()).await;
        permit.ok().and_then(Result::ok).ok_or(ApiError::Busy)
    }

    /// Runs the last work on an answer, however long it has to wait and takes.
    ///
    /// # Errors
    /// [`ApiError::Internal`] where it panicked.
    pub(crate) async fn finish<T, F>(&self, work: F) -> Result<T, ApiError>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let permit = Arc::clone(&self.answers).acquire_owned().await;
        // The semaphore is never closed.
        let permit = permit.map_err(|_| ApiError::Internal)?;
        let work = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work()
        });
        work.await.map_err(|panic| {
            tracing::error!(%panic, "writing an answer panicked");
            ApiError::Internal
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_past_its_limit_is_refused_and_keeps_its_thread() {
        let compute = Compute::new(1, 9, Duration::from_millis(50));
        let (release, wait) = std::sync::mpsc::channel::<()>();
        let endless = compute.run(move || {
            let _ = wait.recv();
            Ok(())
        });
        assert!(matches!(endless.await, Err(ApiError::Body { .. })));
        assert_eq!(compute.run(|| Ok(())).await, Err(ApiError::Busy));
        assert_eq!(compute.finish(|| 7).await, Ok(7), "answers have threads of their own");
        drop(release);
    }

    #[tokio::test]
    async fn a_compilation_that_does_not_end_holds_up_no_other_work() {
        let compute = Compute::new(1, 9, Duration::from_millis(50));
        let (release, wait) = std::sync::mpsc::channel::<()>();
        let endless = compute.compile(move || {
            let _ = wait.recv();
            Ok(())
        });
        assert!(matches!(endless.await, Err(ApiError::Body { .. })));
        assert_eq!(compute.compile(|| Ok(())).await, Err(ApiError::Busy));
        assert_eq!(compute.run(|| Ok(7)).await, Ok(7));
        drop(release);
    }

    #[tokio::test]
    async fn one_more_than_may_wait_is_refused_at_once() {
        let compute = Arc::new(Compute::new(1, 1, Duration::from_secs(60)));
        let (release, wait) = std::sync::mpsc::channel::<()>();
        let work = |work: Box<dyn FnOnce() + Send>| {
            let compute = Arc::clone(&compute);
            let work = move || {
                work();
                Ok(())
            };
            tokio::spawn(async move { compute.run(work).await })
        };
        let running = work(Box::new(move || {
            let _ = wait.recv();
        }));
        while compute.permits.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let waiting = work(Box::new(|| {}));
        while compute.waiting.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(compute.run(|| Ok(())).await, Err(ApiError::Busy));
        // Who gives up waiting gives up the place too.
        waiting.abort();
        assert!(waiting.await.is_err());
        assert_eq!(compute.waiting.load(Ordering::Relaxed), 0);
        drop(release);
        assert_eq!(running.await.expect("no panic"), Ok(()));
    }

    #[tokio::test]
    async fn a_panic_is_an_error_and_leaves_the_pool_whole() {
        let compute = Compute::new(1, 9, Duration::from_secs(60));
        let panic = compute.run(|| -> Result<(), _> { panic!("on purpose") });
        assert_eq!(panic.await, Err(ApiError::Internal));
        let panic = compute.finish(|| -> () { panic!("on purpose") });
        assert_eq!(panic.await, Err(ApiError::Internal));
        assert_eq!(compute.run(|| Ok(7)).await, Ok(7));
    }
}
