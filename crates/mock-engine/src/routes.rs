//! The HTTP face of the simulation: the little of the OpenAI API that its users need.

use std::{
    convert::Infallible,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::{any, get, post},
};
use futures_util::{Stream, StreamExt as _, stream};
use serde::Deserialize;
use serde_json::{Value, json};
use wharf_api::error::{ErrorBody, ErrorObject};

use crate::{
    FAULT_HEADER, Fault,
    simulation::{Cut, Job, Piece, Simulation},
};

pub(crate) fn router(simulation: Arc<Simulation>) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(chat))
        .route("/v1/models", get(models))
        .route("/health", get(|| async { Json(json!({"status": "ok"})) }))
        .route("/metrics", get(metrics))
        .route(
            "/mock/stats",
            get(|State(s): State<Arc<Simulation>>| async move { Json(s.stats()) }),
        )
        .route("/mock/echo", any(echo))
        .route("/mock/echo/{*rest}", any(echo))
        .fallback(|| async { error(StatusCode::NOT_FOUND, "the mock engine has no such path") })
        .layer(axum::extract::DefaultBodyLimit::max(64 << 20))
        .with_state(simulation)
}

#[derive(Deserialize)]
struct ChatRequest {
    messages: Vec<Value>,
    #[serde(default)]
    stream: bool,
    stream_options: Option<StreamOptions>,
    max_completion_tokens: Option<u32>,
    max_tokens: Option<u32>,
    n: Option<u32>,
}

#[derive(Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

/// An answer's identity and size, the same in every chunk.
#[derive(Clone)]
struct Reply {
    id: String,
    created: u64,
    model: String,
    /// Decides the text.
    seed: u64,
    prompt_tokens: u32,
    /// Tokens of each choice.
    reply_tokens: u32,
    finish_reason: &'static str,
    choices: u32,
    include_usage: bool,
}

async fn chat(
    State(simulation): State<Arc<Simulation>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let fault = match headers.get(FAULT_HEADER).map(|v| v.to_str().unwrap_or("?").parse::<Fault>())
    {
        Some(Err(unknown)) => return error(StatusCode::BAD_REQUEST, &unknown.to_string()),
        Some(Ok(fault)) => Some(fault),
        None => None,
    };
    let request: ChatRequest = match serde_json::from_slice(&body) {
        Ok(request) => request,
        Err(wrong) => return error(StatusCode::BAD_REQUEST, &wrong.to_string()),
    };
    let reply = reply(&simulation, &request, &body);
    let job = Job {
        prompt_tokens: reply.prompt_tokens,
        reply_tokens: reply.reply_tokens,
        choices: reply.choices,
        fault,
    };
    if job.kv_tokens() > simulation.config.kv_tokens {
        let message = format!(
            "the request needs {} tokens, the engine holds {}",
            job.kv_tokens(),
            simulation.config.kv_tokens
        );
        return error(StatusCode::BAD_REQUEST, &message);
    }
    // Counted from here, so that a client that leaves during a fault shows as an abort.
    let pieces = simulation.run(job);
    match fault {
        Some(Fault::Status(code)) => {
            let status = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            return error(status, "a fault was asked for");
        }
        Some(Fault::Hang) => std::future::pending().await,
        Some(Fault::SlowHeader(time)) => tokio::time::sleep(time).await,
        Some(Fault::Malformed) => {
            return ([(header::CONTENT_TYPE, "application/json")], "{\"id\":").into_response();
        }
        Some(Fault::Die) => std::process::exit(70),
        _ => {}
    }
    if request.stream { streamed(reply, pieces) } else { whole(reply, pieces).await }
}

fn reply(simulation: &Simulation, request: &ChatRequest, body: &[u8]) -> Reply {
    static NEXT_ID: AtomicU64 = AtomicU64::new(0);
    let config = &simulation.config;
    let prompt_tokens: u32 = request.messages.iter().map(message_tokens).sum();
    let limit = request.max_completion_tokens.or(request.max_tokens).unwrap_or(u32::MAX);
    let mut hasher = DefaultHasher::new();
    body.hash(&mut hasher);
    Reply {
        id: format!("chatcmpl-mock-{}", NEXT_ID.fetch_add(1, Ordering::Relaxed)),
        created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs()),
        model: config.model.clone(),
        seed: hasher.finish(),
        prompt_tokens,
        reply_tokens: limit.min(config.reply_tokens),
        finish_reason: if limit < config.reply_tokens { "length" } else { "stop" },
        choices: request.n.unwrap_or(1).clamp(1, 128),
        include_usage: request.stream_options.as_ref().is_some_and(|o| o.include_usage),
    }
}

/// One token per word and four per message: near enough to a real template for timing.
fn message_tokens(message: &Value) -> u32 {
    let words = match message.get("content") {
        Some(Value::String(text)) => text.split_whitespace().count(),
        Some(other) => other.to_string().split_whitespace().count(),
        None => 0,
    };
    u32::try_from(words).unwrap_or(u32::MAX / 2).saturating_add(4)
}

impl Reply {
    /// The text of one token: a word that depends on the request, the choice and the place alone.
    fn word(&self, choice: u32, index: u32) -> &'static str {
        const WORDS: [&str; 16] = [
            "anchor ", "berth ", "cargo ", "deck ", "ebb ", "foghorn ", "gull ", "harbour ",
            "island ", "jetty ", "keel ", "lantern ", "mast ", "näher ", "oar ", "pier ",
        ];
        let mut hasher = DefaultHasher::new();
        (self.seed, choice, index).hash(&mut hasher);
        WORDS[(hasher.finish() % 16) as usize]
    }

    fn usage(&self) -> Value {
        let completion_tokens = self.reply_tokens * self.choices;
        json!({
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": self.prompt_tokens + completion_tokens,
        })
    }

    fn chunk(&self, choices: Value) -> Value {
        json!({
            "id": self.id, "object": "chat.completion.chunk", "created": self.created,
            "model": self.model, "choices": choices,
        })
    }

    /// The events of one piece, as they go over the wire.
    fn events(&self, piece: Piece) -> String {
        let choice = |index: u32, delta: Value, finish_reason: Option<&str>| {
            let choices = json!([{
                "index": index, "delta": delta, "logprobs": null, "finish_reason": finish_reason,
            }]);
            format!("data: {}\n\n", self.chunk(choices))
        };
        match piece {
            Piece::Role { choice: index } => {
                choice(index, json!({"role": "assistant", "content": ""}), None)
            }
            Piece::Token { choice: index, index: token } => {
                choice(index, json!({"content": self.word(index, token)}), None)
            }
            Piece::Finish { choice: index } => choice(index, json!({}), Some(self.finish_reason)),
            Piece::Done if self.include_usage => {
                let mut chunk = self.chunk(json!([]));
                chunk["usage"] = self.usage();
                format!("data: {chunk}\n\ndata: [DONE]\n\n")
            }
            Piece::Done => "data: [DONE]\n\n".to_owned(),
        }
    }
}

/// A body's end that makes the server break the connection, after some last text.
fn break_off(last: &'static str) -> impl Stream<Item = Result<Bytes, std::io::Error>> + Send {
    let broken = async {
        // The error would overtake what is still in the server's write buffer: let that go first.
        tokio::time::sleep(Duration::from_millis(20)).await;
        Err(std::io::Error::new(std::io::ErrorKind::ConnectionAborted, "a fault was asked for"))
    };
    stream::iter([Ok(Bytes::from_static(last.as_bytes()))]).chain(stream::once(broken))
}

fn streamed(
    reply: Reply,
    pieces: impl Stream<Item = Result<Piece, Cut>> + Send + 'static,
) -> Response {
    let events = pieces.flat_map(move |piece| match piece {
        Ok(piece) => stream::iter([Ok(Bytes::from(reply.events(piece)))]).left_stream(),
        Err(Cut::Clean) => break_off("").right_stream(),
        Err(Cut::Inside) => break_off("data: {\"id\":\"ch").right_stream(),
    });
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    (headers, Body::from_stream(events)).into_response()
}

async fn whole(reply: Reply, pieces: impl Stream<Item = Result<Piece, Cut>>) -> Response {
    let mut texts = vec![String::new(); reply.choices as usize];
    let mut pieces = std::pin::pin!(pieces);
    while let Some(piece) = pieces.next().await {
        match piece {
            Ok(Piece::Token { choice, index }) => {
                texts[choice as usize].push_str(reply.word(choice, index));
            }
            Ok(_) => {}
            Err(_) => return Body::from_stream(break_off("{\"id\":")).into_response(),
        }
    }
    let choices: Vec<Value> = texts
        .iter()
        .enumerate()
        .map(|(index, text)| {
            json!({
                "index": index, "logprobs": null, "finish_reason": reply.finish_reason,
                "message": {"role": "assistant", "content": text, "refusal": null},
            })
        })
        .collect();
    Json(json!({
        "id": reply.id, "object": "chat.completion", "created": reply.created,
        "model": reply.model, "choices": choices, "usage": reply.usage(),
    }))
    .into_response()
}

async fn models(State(simulation): State<Arc<Simulation>>) -> Json<Value> {
    let model = json!({
        "id": simulation.config.model, "object": "model", "created": 0, "owned_by": "wharf",
    });
    Json(json!({"object": "list", "data": [model]}))
}

async fn metrics(State(simulation): State<Arc<Simulation>>) -> String {
    let stats = simulation.stats();
    format!(
        "# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running {}\n\
         # TYPE vllm:num_requests_waiting gauge\nvllm:num_requests_waiting {}\n\
         # TYPE vllm:generation_tokens counter\nvllm:generation_tokens_total {}\n",
        stats.running,
        stats.in_flight.saturating_sub(stats.running),
        stats.generated_tokens
    )
}

/// The request as it arrived: what a relay did to it is what differs.
async fn echo(
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Infallible> {
    let headers: Vec<_> = headers
        .iter()
        .map(|(name, value)| json!([name.as_str(), String::from_utf8_lossy(value.as_bytes())]))
        .collect();
    let seen = json!({
        "method": method.as_str(), "uri": uri.to_string(), "headers": headers,
        "body": String::from_utf8_lossy(&body),
    });
    Ok(([("x-mock-echo", "1")], Json(seen)).into_response())
}

fn error(status: StatusCode, message: &str) -> Response {
    let kind = if status.is_client_error() { "invalid_request_error" } else { "server_error" };
    let error =
        ErrorObject { message: message.to_owned(), kind: kind.to_owned(), param: None, code: None };
    (status, Json(ErrorBody { error })).into_response()
}
