//! One gateway with its engine and a client.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, body::Incoming, http::request::Builder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};
use uuid::Uuid;
use wharf_gateway::{EngineCommand, Gateway, GatewayConfig};

/// The variable with the engine's arguments, one per line.
pub(crate) const ENGINE_ARGUMENTS: &str = "WHARF_TEST_ENGINE_ARGUMENTS";
/// The variable with the state directory of the gateway process.
pub(crate) const GATEWAY_STATE: &str = "WHARF_TEST_GATEWAY_STATE";

pub(crate) const MAX_BODY: usize = 4 << 20;

/// Waits for things to happen in other processes are given up after this.
const PATIENCE: Duration = Duration::from_secs(20);

/// The mock engine as a command. The test harness would not understand the engine's arguments, so a
/// shell moves them into a variable; and the harness's own report of that run would be taken for one
/// of ours.
pub(crate) fn engine(arguments: &[&str]) -> EngineCommand {
    let script = format!(
        "IFS='\n'; export {ENGINE_ARGUMENTS}=\"$*\"; \
         exec \"$0\" --exact engine_process --ignored --nocapture --test-threads=1 >/dev/null"
    );
    let this = std::env::current_exe().unwrap().to_str().unwrap().to_owned();
    let mut args = vec!["-c".to_owned(), script, this];
    args.extend(arguments.iter().map(|&argument| argument.to_owned()));
    EngineCommand { program: "/bin/sh".into(), args }
}

pub(crate) fn config(state_dir: PathBuf) -> GatewayConfig {
    GatewayConfig { state_dir, max_body_bytes: MAX_BODY, drain_timeout: Duration::from_secs(10) }
}

pub(crate) struct Rig {
    pub(crate) address: SocketAddr,
    pub(crate) id: Uuid,
    pub(crate) state: tempfile::TempDir,
    client: Client<HttpConnector, Full<Bytes>>,
    shutdown: Option<oneshot::Sender<()>>,
    served: JoinHandle<std::io::Result<()>>,
}

impl Rig {
    /// A gateway whose engine is ready.
    pub(crate) async fn start(engine_arguments: &[&str]) -> Self {
        let (rig, ready) = Self::launch(engine_arguments, |_| {}).await;
        ready.unwrap();
        rig
    }

    /// A gateway whose engine is ready or has failed.
    pub(crate) async fn launch(
        engine_arguments: &[&str],
        adjust: impl FnOnce(&mut GatewayConfig),
    ) -> (Self, Result<(), String>) {
        let (rig, readiness) = Self::begin(engine_arguments, adjust).await;
        let ready = tokio::time::timeout(PATIENCE, readiness).await.unwrap();
        (rig, ready)
    }

    /// A gateway that serves, whatever its engine does.
    pub(crate) async fn begin(
        engine_arguments: &[&str],
        adjust: impl FnOnce(&mut GatewayConfig),
    ) -> (Self, impl Future<Output = Result<(), String>>) {
        let state = tempfile::tempdir().unwrap();
        let mut config = config(state.path().to_owned());
        adjust(&mut config);
        let gateway = Gateway::start(config, engine(engine_arguments)).await.unwrap();
        let readiness = gateway.readiness();
        let id = gateway.default_instance();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (shutdown, signal) = oneshot::channel::<()>();
        let served = tokio::spawn(gateway.serve(listener, async {
            let _ = signal.await;
        }));
        let client = Client::builder(TokioExecutor::new()).build_http();
        (Self { address, id, state, client, shutdown: Some(shutdown), served }, readiness)
    }

    /// The path of the default instance's model server.
    pub(crate) fn path(&self, rest: &str) -> String {
        format!("/{}/3900{rest}", self.id)
    }

    pub(crate) fn request(&self, method: &str, path: &str) -> Builder {
        Request::builder().method(method).uri(format!("http://{}{path}", self.address))
    }

    pub(crate) async fn send(
        &self,
        request: Builder,
        body: impl Into<Bytes>,
    ) -> Response<Incoming> {
        self.try_send(request, body).await.unwrap()
    }

    pub(crate) async fn try_send(
        &self,
        request: Builder,
        body: impl Into<Bytes>,
    ) -> Result<Response<Incoming>, hyper_util::client::legacy::Error> {
        self.client.request(request.body(Full::new(body.into())).unwrap()).await
    }

    pub(crate) async fn get(&self, path: &str) -> Response<Incoming> {
        self.send(self.request("GET", path), "").await
    }

    /// A chat completion of the default instance.
    pub(crate) async fn chat(&self, stream: bool, fault: &str) -> Response<Incoming> {
        self.send(self.chat_request(fault), chat_body(stream)).await
    }

    pub(crate) fn chat_request(&self, fault: &str) -> Builder {
        let request = self.request("POST", &self.path("/v1/chat/completions"));
        let request = request.header("content-type", "application/json");
        if fault.is_empty() { request } else { request.header("x-mock-fault", fault) }
    }

    /// The engine's counters.
    pub(crate) async fn stats(&self) -> Value {
        json(self.get(&self.path("/mock/stats")).await).await
    }

    /// Asks until the engine's counters are as wanted.
    pub(crate) async fn until(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let stats = self.stats().await;
            if wanted(&stats) {
                return stats;
            }
            assert!(tokio::time::Instant::now() < deadline, "never {what}: {stats}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Tells the gateway to drain.
    pub(crate) fn signal(&mut self) {
        self.shutdown.take().unwrap().send(()).unwrap();
    }

    /// Waits for the gateway's end.
    pub(crate) async fn ended(&mut self) {
        tokio::time::timeout(PATIENCE, &mut self.served).await.unwrap().unwrap().unwrap();
    }

    pub(crate) async fn stop(mut self) {
        self.signal();
        self.ended().await;
    }
}

pub(crate) fn chat_body(stream: bool) -> String {
    json!({
        "model": "mock", "stream": stream, "messages": [{"role": "user", "content": "hello there"}],
    })
    .to_string()
}

pub(crate) async fn text(response: Response<Incoming>) -> String {
    let body = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

pub(crate) async fn json(response: Response<Incoming>) -> Value {
    serde_json::from_str(&text(response).await).unwrap()
}

/// The body has OpenAI's error shape; returns the message and the code.
pub(crate) async fn error(response: Response<Incoming>) -> (String, String) {
    assert_eq!(response.headers()["content-type"], "application/json");
    assert!(response.headers().contains_key("x-request-id"), "{:?}", response.headers());
    let body = json(response).await;
    let error = &body["error"];
    assert!(error["type"].is_string() && error.get("param").is_some(), "{body}");
    (error["message"].as_str().unwrap().to_owned(), error["code"].as_str().unwrap().to_owned())
}
