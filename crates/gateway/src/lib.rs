//! Instances of models behind one address: `/{instance_id}/{port}/{path}` is relayed to the engine
//! of that instance, a child process that this crate starts, watches, restarts and ends.
//!
//! There is one instance, the default one; paths such as `/v1/...` without an instance mean it. Its
//! id is made once and kept in the state directory.
//!
//! One noun, one file: `route` says what a path names, `door` answers or hands on, `relay`
//! passes a request through, `upstream` is one engine's connections, `instance` owns the state
//! machine of `lifecycle` and performs its effects, with `child` for processes and `health` for
//! their state; `registry` and `sockets` are the files; `cors` is what web pages need of answers
//! that no engine gave.
//!
//! This crate never links an engine or a model: it knows HTTP, processes and files.

mod child;
mod cors;
mod door;
mod error;
mod health;
mod instance;
mod lifecycle;
mod registry;
mod relay;
mod route;
mod sockets;
mod upstream;

use std::{
    future::Future,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::serve::ListenerExt as _;
use uuid::Uuid;

pub use error::GatewayError;

use crate::{
    child::ChildLauncher, door::Door, instance::Instance, lifecycle::Policy, registry::Registry,
    sockets::SocketDirectory,
};

/// Settings of the gateway.
#[derive(Debug, Clone)]
pub struct GatewayConfig {
    /// Where instance ids and sockets live. Made for its owner only if it does not exist; used by
    /// one gateway at a time.
    pub state_dir: PathBuf,
    /// The largest request body, in bytes; a larger one is refused with 413.
    pub max_body_bytes: usize,
    /// How long requests in flight may go on after the shutdown signal.
    pub drain_timeout: Duration,
}

/// The least time that connections have, once the engine has ended, to write out what they hold.
const FAREWELL: Duration = Duration::from_secs(1);

/// How the default instance's engine is started: program and arguments, to which
/// `--uds PATH --exit-on-stdin-eof` is appended.
///
/// The engine listens for HTTP on that Unix socket, answers `GET /health` with 2xx once it is ready,
/// finishes its requests and exits on SIGTERM, and exits at once when its standard input ends,
/// because then this process is gone.
#[derive(Debug, Clone)]
pub struct EngineCommand {
    /// The program's path, or a name to look up in `PATH`.
    pub program: PathBuf,
    /// Arguments before the appended ones.
    pub args: Vec<String>,
}

/// A gateway whose default instance is starting, ready, or failed. Dropping it ends the engine.
#[derive(Debug)]
pub struct Gateway {
    default_instance: Arc<Instance>,
    max_body_bytes: usize,
    drain_timeout: Duration,
    /// Keeps the state directory ours.
    registry: Registry,
}

impl Gateway {
    /// Reads (or makes) the default instance's UUID and starts supervising its engine.
    ///
    /// # Errors
    /// When the state directory is another gateway's, broken, or cannot be written. That the engine
    /// does not start is not an error here but the answer of [`Self::ready`].
    pub async fn start(config: GatewayConfig, engine: EngineCommand) -> Result<Self, GatewayError> {
        let state_dir = config.state_dir.clone();
        let open = move || -> Result<_, GatewayError> {
            let registry = Registry::open(&state_dir)?;
            let sockets = SocketDirectory::make(&state_dir)?;
            Ok((registry, sockets))
        };
        let (registry, sockets) = tokio::task::spawn_blocking(open).await.map_err(|error| {
            GatewayError::Io { path: config.state_dir, source: std::io::Error::other(error) }
        })??;
        let launcher = ChildLauncher { command: engine, sockets };
        let GatewayConfig { max_body_bytes, drain_timeout, .. } = config;
        let policy = Policy::new(drain_timeout);
        let default_instance =
            Arc::new(Instance::start(registry.default_instance, launcher, policy));
        Ok(Self { default_instance, max_body_bytes, drain_timeout, registry })
    }

    /// The default instance.
    pub fn default_instance(&self) -> Uuid {
        self.default_instance.id
    }

    /// The port of an instance's model server, as in `/{instance_id}/{port}/v1/...`.
    pub const MODEL_PORT: u16 = route::MODEL_PORT;

    /// Completes when the default instance is ready, or with the reason why it cannot be: what the
    /// engine last said, once it has failed to start three times.
    pub async fn ready(&self) -> Result<(), String> {
        self.readiness().await
    }

    /// [`Self::ready`] as a future of its own, to wait for while [`Self::serve`] runs.
    pub fn readiness(&self) -> impl Future<Output = Result<(), String>> + Send + use<> {
        self.default_instance.ready()
    }

    /// Serves until `shutdown` completes, then drains and ends the engine.
    ///
    /// While it drains, new requests and `/health` are answered with 503, requests in flight go on
    /// until the drain timeout, and those left are ended: streams with an error event, other
    /// answers by a 503 or, if half sent, by closing the connection. Clients that read slowly have
    /// until the same deadline for what is left of their answers.
    ///
    /// # Errors
    /// None as yet: a listener that cannot accept now is asked again later.
    pub async fn serve(
        self,
        listener: tokio::net::TcpListener,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> std::io::Result<()> {
        let Self { default_instance, max_body_bytes, drain_timeout, registry } = self;
        let router =
            door::router(Door { default_instance: Arc::clone(&default_instance), max_body_bytes });
        // Connections are accepted until the engine has ended, so that clients are told.
        let drained = async move {
            shutdown.await;
            let begun = Instant::now();
            default_instance.stop().await;
            drain_timeout.saturating_sub(begun.elapsed()).max(FAREWELL)
        };
        let listener = listener.tap_io(|stream| {
            // Tokens are small and must not wait for one another.
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "TCP_NODELAY");
            }
        });
        wharf_http::serve(listener, router, drained).await;
        drop(registry);
        Ok(())
    }
}
