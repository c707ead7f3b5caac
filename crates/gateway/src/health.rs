//! Asking an engine how it is, by `GET /health` over its socket.
//!
//! Two questions with different patience. While it starts: is it ready yet, asked often, because a
//! user waits. Once it serves: is it stuck, asked rarely and believed only after several bad
//! answers in a row, because restarting a healthy engine that is merely busy loses every stream on
//! it. A process that has ended is noticed by its exit, not here.

use std::{sync::Arc, time::Duration};

use axum::body::Body;
use hyper::Request;

use crate::{lifecycle::Reason, upstream::Upstream};

/// Between two questions while the engine starts; a refused connection costs microseconds.
const READY_INTERVAL: Duration = Duration::from_millis(25);
const READY_TIMEOUT: Duration = Duration::from_secs(2);
/// Between two questions once it serves.
const WATCH_INTERVAL: Duration = Duration::from_secs(5);
const WATCH_TIMEOUT: Duration = Duration::from_secs(10);
/// Bad answers in a row that make an engine unhealthy: 15 s if it answers badly, 45 s if not at all.
const STRIKES: u32 = 3;

/// Completes when the engine is ready.
pub(crate) async fn until_ready(upstream: Arc<Upstream>) {
    while ask(&upstream, READY_TIMEOUT).await.is_err() {
        tokio::time::sleep(READY_INTERVAL).await;
    }
}

/// Completes when the engine is unhealthy, with the reason.
pub(crate) async fn until_unhealthy(upstream: Arc<Upstream>) -> Reason {
    let mut strikes = 0;
    loop {
        tokio::time::sleep(WATCH_INTERVAL).await;
        match ask(&upstream, WATCH_TIMEOUT).await {
            Ok(()) => strikes = 0,
            Err(reason) => {
                strikes += 1;
                tracing::warn!(strikes, %reason, "the engine failed a health check");
                if strikes == STRIKES {
                    return reason;
                }
            }
        }
    }
}

async fn ask(upstream: &Upstream, timeout: Duration) -> Result<(), Reason> {
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = hyper::Uri::from_static("http://engine/health");
    match tokio::time::timeout(timeout, upstream.request(request)).await {
        Ok(Ok(answer)) if answer.status().is_success() => Ok(()),
        Ok(Ok(answer)) => Err(format!("its health check answers {}", answer.status()).into()),
        Ok(Err(error)) => Err(format!("its health check fails: {error}").into()),
        Err(_) => Err(format!("no answer to its health check in {} s", timeout.as_secs()).into()),
    }
}

#[cfg(test)]
mod tests {
    use tokio::{net::UnixListener, time::Instant};

    use super::*;

    // The clock is paused: it jumps ahead whenever nothing else is left to do.

    #[tokio::test(start_paused = true)]
    async fn an_engine_that_never_answers_is_unhealthy_after_three_questions() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("s");
        // Connections are queued by the system and never served.
        let _silent = UnixListener::bind(&socket).unwrap();
        let start = Instant::now();
        let reason = until_unhealthy(Upstream::new(socket)).await;
        assert_eq!(&*reason, "no answer to its health check in 10 s");
        assert_eq!(start.elapsed().as_secs(), 45);
    }

    #[tokio::test(start_paused = true)]
    async fn an_engine_that_refuses_connections_is_unhealthy_sooner() {
        let start = Instant::now();
        let reason = until_unhealthy(Upstream::new("/nonexistent/socket".into())).await;
        assert!(reason.contains("health check fails"), "{reason}");
        assert_eq!(start.elapsed().as_secs(), 15);
    }

    #[tokio::test]
    async fn an_engine_is_ready_once_it_answers() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("s");
        let ready = tokio::spawn(until_ready(Upstream::new(socket.clone())));
        tokio::time::sleep(2 * READY_INTERVAL).await;
        assert!(!ready.is_finished());
        let listener = UnixListener::bind(&socket).unwrap();
        let engine = wharf_mock_engine::MockEngine::new(wharf_mock_engine::MockConfig::default());
        tokio::select! {
            _ = engine.serve(listener, std::future::pending()) => panic!("ended"),
            ready = ready => ready.unwrap(),
        }
    }
}
