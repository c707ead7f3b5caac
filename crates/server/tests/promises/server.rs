//! A server under test.
use crate::client::{Answer, Call};
use crate::script::{Controls, END, ScriptRunner, tokenizer};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use wharf_engine::{Engine, EngineConfig};
use wharf_server::{Listener, SamplingDefaults, ServedModel, ServerConfig, serve};
use wharf_text::template::ChatTemplate;

/// ChatML, with an exception to raise.
const TEMPLATE: &str = "{% for message in messages %}\
    {% if message.content == 'raise' %}{{ raise_exception('Only good roles, please!') }}{% endif %}\
    <|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n\
    {% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// The same for tools, which it shows and so the model may call several of.
const TOOL_TEMPLATE: &str = "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}\
    {% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}\
    {% for call in message.tool_calls or [] %}{{ call.function | tojson }}{% endfor %}<|im_end|>\n\
    {% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// The longest sequence of the model under test.
pub(crate) const MAX_MODEL_LEN: usize = 512;

/// What a test may change.
pub(crate) struct Setup {
    pub(crate) engine: EngineConfig,
    pub(crate) config: ServerConfig,
    pub(crate) defaults: SamplingDefaults,
    pub(crate) template: bool,
    /// How the model marks its reasoning.
    pub(crate) reasoning: Option<&'static str>,
    /// How it writes calls.
    pub(crate) tool_format: &'static str,
    /// Whether its template knows tools.
    pub(crate) knows_tools: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            engine: EngineConfig {
                max_batched_tokens: 256,
                max_running: 16,
                max_waiting: 256,
                max_model_len: MAX_MODEL_LEN,
                num_blocks: 1024,
                prefix_caching: true,
                num_state_snapshots: None,
                num_speculative_tokens: 4,
                ngram_lookup: true,
                eos_token_ids: vec![END],
            },
            config: ServerConfig {
                api_key: None,
                max_body_bytes: 1 << 20,
                sse_keep_alive: Duration::from_secs(15),
                drain_timeout: Duration::from_secs(10),
                priority_scheduling: false,
                cors_origins: Vec::new(),
            },
            defaults: SamplingDefaults { temperature: Some(0.0), ..SamplingDefaults::default() },
            template: true,
            reasoning: None,
            tool_format: "hermes",
            knows_tools: false,
        }
    }
}

/// A running server; it ends when dropped.
pub(crate) struct TestServer {
    pub(crate) address: SocketAddr,
    pub(crate) engine: Engine,
    pub(crate) controls: Arc<Controls>,
    shutdown: Option<oneshot::Sender<()>>,
    pub(crate) task: JoinHandle<std::io::Result<()>>,
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.controls.hold.store(false, Ordering::SeqCst);
        self.task.abort();
    }
}

impl TestServer {
    pub(crate) async fn start() -> Self {
        Self::with(Setup::default()).await
    }

    pub(crate) async fn with(setup: Setup) -> Self {
        let controls = Arc::new(Controls::default());
        let runner = ScriptRunner::new(setup.engine.num_blocks, Arc::clone(&controls));
        let max_model_len = setup.engine.max_model_len;
        let engine = Engine::start(Box::new(runner), setup.engine).expect("starts");
        let source = if setup.knows_tools { TOOL_TEMPLATE } else { TEMPLATE };
        let template = ChatTemplate::new(source, Some("<|im_start|>"), Some("<|im_end|>"));
        let model = ServedModel {
            names: vec!["script".into(), "org/other".into()],
            tokenizer: tokenizer(),
            template: setup.template.then(|| template.expect("a template")),
            tool_format: wharf_text::tool_calls::by_name(setup.tool_format).expect("a format"),
            reasoning_format: setup.reasoning.and_then(wharf_text::reasoning::by_name),
            defaults: setup.defaults,
            max_model_len,
            engine: engine.clone(),
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("an address");
        let (shutdown, ended) = oneshot::channel();
        let ended = async {
            let _ = ended.await;
        };
        let task = tokio::spawn(serve(Listener::Tcp(listener), model, setup.config, ended));
        Self { address, engine, controls, shutdown: Some(shutdown), task }
    }

    /// The signal to end.
    pub(crate) fn shut_down(&mut self) {
        drop(self.shutdown.take());
    }

    /// Sends a request with these headers (each ending in CRLF).
    pub(crate) async fn call(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> Call {
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\n{headers}Content-Length: {length}");
        Call::send(self.address, &head, body).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        Call::send(self.address, &format!("GET {path} HTTP/1.1"), b"").await.finish().await
    }

    pub(crate) async fn start_post(&self, path: &str, body: &Value) -> Call {
        let body = body.to_string();
        self.call("POST", path, "Content-Type: application/json\r\n", body.as_bytes()).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.start_post(path, body).await.finish().await
    }

    /// A chat completion of `request`, whatever becomes of it.
    pub(crate) async fn chat(&self, request: Value) -> Answer {
        self.post("/v1/chat/completions", &request).await
    }

    /// The answer to the script, plain and streamed, which must be equal; then the plain one.
    pub(crate) async fn both(&self, request: Value) -> (Answer, Answer) {
        let plain = self.chat(request.clone()).await;
        assert_eq!(plain.status, 200, "{}", plain.text());
        let mut streamed = request;
        streamed["stream"] = json!(true);
        let stream = self.chat(streamed).await;
        let count = plain.json()["choices"].as_array().expect("choices").len();
        for index in 0..count {
            assert_eq!(plain.content(index), stream.content(index));
            assert_eq!(plain.finish(index), stream.finish(index));
        }
        (plain, stream)
    }

    /// Waits until the engine has nothing to do.
    pub(crate) async fn idle(&self) {
        let idle = async {
            loop {
                let stats = self.engine.stats();
                if stats.running + stats.waiting + stats.waiting_started + stats.blocks_used == 0 {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let stats = || self.engine.stats();
        tokio::time::timeout(crate::client::PATIENCE, idle)
            .await
            .unwrap_or_else(|_| panic!("never idle: {:?}", stats()));
    }

    /// Still of use: a plain request gets its answer.
    pub(crate) async fn assert_serving(&self) {
        let answer = self.chat(say("fine")).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.content(0), "fine");
    }
}

/// A request whose answer is `text`.
pub(crate) fn say(text: &str) -> Value {
    json!({"model": "script", "messages": [{"role": "user", "content": format!("[{text}]")}]})
}

/// `request` with more fields.
pub(crate) fn with(mut request: Value, more: Value) -> Value {
    for (key, value) in more.as_object().expect("an object") {
        request[key] = value.clone();
    }
    request
}
