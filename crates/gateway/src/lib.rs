//! Instances: registry, lifecycle, health, relay.
use std::{future::Future, path::PathBuf, time::Duration};

/// Settings of the gateway.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct GatewayConfig {
    /// Where instance ids and sockets live.
    pub state_dir: PathBuf,
    pub max_body_bytes: usize,
    pub drain_timeout: Duration,
}

/// How the default instance's engine is started: program and arguments; `--uds PATH` is appended.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct EngineCommand {
    pub program: PathBuf,
    pub args: Vec<String>,
}

/// A gateway that is ready to serve.
pub struct Gateway {}

impl Gateway {
    /// Reads (or makes) the default instance's UUID and starts supervising its engine.
    pub async fn start(config: GatewayConfig, engine: EngineCommand) -> std::io::Result<Self> {
        let _ = (config, engine);
        todo!()
    }
    /// The default instance.
    pub fn default_instance(&self) -> uuid::Uuid {
        todo!()
    }
    /// Completes when the default instance is ready, or with the reason why it cannot be.
    pub async fn ready(&self) -> Result<(), String> {
        todo!()
    }
    /// Serves until `shutdown` completes, then drains and ends the engine.
    pub async fn serve(
        self,
        listener: tokio::net::TcpListener,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> std::io::Result<()> {
        let _ = (listener, shutdown);
        todo!()
    }
}
