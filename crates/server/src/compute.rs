//! The compute pool: parsing, templates and tokenising, off the async runtime.
//!
//! A long prompt takes milliseconds to tokenise and a hostile template far longer; on the runtime's
//! own threads that would stall every stream. Work runs on Tokio's blocking threads, at most as
//! many at once as there are permits, each under a time limit. A thread cannot be stopped from
//! outside: work past its limit keeps its permit until it ends, so it can slow but not multiply.
use crate::error::ApiError;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Where work runs.
#[derive(Debug)]
pub(crate) struct Compute {
    permits: Arc<Semaphore>,
    limit: Duration,
}

impl Compute {
    /// A pool of `threads` that gives up on a piece of work after `limit` (and so long may it wait).
    pub(crate) fn new(threads: usize, limit: Duration) -> Self {
        Self { permits: Arc::new(Semaphore::new(threads.max(1))), limit }
    }

    /// Runs `work`.
    ///
    /// # Errors
    /// What `work` says; [`ApiError::Busy`] where no thread became free in time; an error on the
    /// body where it took too long; [`ApiError::Internal`] where it panicked.
    pub(crate) async fn run<T, F>(&self, work: F) -> Result<T, ApiError>
    where
        T: Send + 'static,
        F: FnOnce() -> Result<T, ApiError> + Send + 'static,
    {
        let permit = match timeout(self.limit, Arc::clone(&self.permits).acquire_owned()).await {
            Ok(Ok(permit)) => permit,
            Ok(Err(_)) | Err(_) => return Err(ApiError::Busy),
        };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_past_its_limit_is_refused_and_keeps_its_thread() {
        let compute = Compute::new(1, Duration::from_millis(50));
        let (release, wait) = std::sync::mpsc::channel::<()>();
        let endless = compute.run(move || {
            let _ = wait.recv();
            Ok(())
        });
        assert!(matches!(endless.await, Err(ApiError::Body { .. })));
        assert_eq!(compute.run(|| Ok(())).await, Err(ApiError::Busy));
        drop(release);
    }

    #[tokio::test]
    async fn a_panic_is_an_error_and_leaves_the_pool_whole() {
        let compute = Compute::new(1, Duration::from_secs(60));
        let panic = compute.run(|| -> Result<(), _> { panic!("on purpose") });
        assert_eq!(panic.await, Err(ApiError::Internal));
        assert_eq!(compute.run(|| Ok(7)).await, Ok(7));
    }
}
