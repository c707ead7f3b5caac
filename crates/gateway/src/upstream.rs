//! The gateway's side of one running engine: a pooled HTTP client over its socket, and the count of
//! requests that are with it.
//!
//! Each launch gets a new `Upstream`, so nothing pooled or counted outlives the process it was for.

use std::{
    future::Future,
    io,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::body::Body;
use hyper::{Request, Response, Uri, body::Incoming};
use hyper_util::{
    client::legacy::{Client, Error},
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use tokio::{net::UnixStream, sync::watch};

/// One engine, as requests see it.
#[derive(Debug)]
pub(crate) struct Upstream {
    client: Client<UnixConnector, Body>,
    in_flight: watch::Sender<usize>,
    cut: watch::Sender<bool>,
}

impl Upstream {
    pub(crate) fn new(socket: PathBuf) -> Arc<Self> {
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(60))
            // The client's own Host header goes on to the engine.
            .set_host(false)
            .build(UnixConnector { path: socket.into() });
        let (in_flight, _) = watch::channel(0);
        let (cut, _) = watch::channel(false);
        Arc::new(Self { client, in_flight, cut })
    }

    /// Sends a request. Dropping the future or the answer's body closes the connection, which is
    /// how the engine learns that the client left. A request that met a stale pooled connection
    /// is sent again on another one by the client, if nothing of it was sent.
    pub(crate) async fn request(
        &self,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, Error> {
        self.client.request(request).await
    }

    /// Counts one more request, until the passage is dropped.
    pub(crate) fn enter(self: &Arc<Self>) -> Passage {
        self.in_flight.send_modify(|count| *count += 1);
        Passage { upstream: Arc::clone(self) }
    }

    /// Requests that are with the engine.
    pub(crate) fn in_flight(&self) -> usize {
        *self.in_flight.borrow()
    }

    /// Completes when no request is with the engine.
    pub(crate) async fn idle(self: Arc<Self>) {
        // An error would mean that the sender is gone; we hold it.
        let _ = self.in_flight.subscribe().wait_for(|count| *count == 0).await;
    }

    /// Ends every request that is with the engine.
    pub(crate) fn cut(&self) {
        self.cut.send_replace(true);
    }
}

/// A request's stay with an engine. Held from before it is sent until its body has ended.
#[derive(Debug)]
pub(crate) struct Passage {
    pub(crate) upstream: Arc<Upstream>,
}

impl Passage {
    /// Completes when the request has to end though the engine has not finished it.
    pub(crate) fn cut(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut cut = self.upstream.cut.subscribe();
        async move {
            if cut.wait_for(|cut| *cut).await.is_err() {
                // The upstream is gone, which the request notices by itself.
                std::future::pending().await
            }
        }
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        self.upstream.in_flight.send_modify(|count| *count -= 1);
    }
}

/// Connects to the engine's socket, whatever the request's authority.
#[derive(Debug, Clone)]
struct UnixConnector {
    path: Arc<Path>,
}

impl tower::Service<Uri> for UnixConnector {
    type Response = TokioIo<UnixStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let path = Arc::clone(&self.path);
        Box::pin(async move { UnixStream::connect(path).await.map(TokioIo::new) })
    }
}
