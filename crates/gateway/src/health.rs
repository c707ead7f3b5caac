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
