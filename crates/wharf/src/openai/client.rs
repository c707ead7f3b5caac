//! Requests to `/chat/completions` and `/models`, and their answers.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use reqwest::Response;
use reqwest::header::CONTENT_TYPE;
use serde::Deserialize;
use serde_json::Value;

use super::sse::SseParser;

/// Longest answer that is no stream, in bytes.
const MAX_ANSWER: usize = 16 << 20;
/// Longest part of an answer that is repeated in an error, in characters.
const MAX_QUOTE: usize = 500;

/// Talks to one endpoint.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    base_url: String,
    api_key: Option<String>,
}

/// Why a request failed. The kind is what `bench` counts by.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum RequestError {
    /// No connection, or it broke.
    #[error("no connection: {0}")]
    Connection(String),
    /// Longer than the time allowed.
    #[error("timed out")]
    Timeout,
    /// The server refused.
    #[error("HTTP {status}: {message}")]
    Status {
        /// HTTP status.
        status: u16,
        /// The server's words.
        message: String,
    },
    /// An error event within the stream.
    #[error("the server ended the stream: {0}")]
    Stream(String),
    /// The answer is none.
    #[error("not an answer: {0}")]
    Protocol(String),
}

impl RequestError {
    /// A short name to count by.
    pub(crate) fn kind(&self) -> String {
        match self {
            Self::Connection(_) => "connection".into(),
            Self::Timeout => "timeout".into(),
            Self::Status { status, .. } => format!("http {status}"),
            Self::Stream(_) => "stream error".into(),
            Self::Protocol(_) => "protocol".into(),
        }
    }

    fn from_reqwest(error: &reqwest::Error) -> Self {
        if error.is_timeout() {
            return Self::Timeout;
        }
        // The innermost cause is the one that says something ("connection refused").
        let mut cause: &dyn std::error::Error = error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        Self::Connection(cause.to_string())
    }
}

/// Token counts, as the server tells them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Usage {
    #[serde(default)]
    pub(crate) prompt_tokens: u64,
    #[serde(default)]
    pub(crate) completion_tokens: u64,
}

/// What a stream brings.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum StreamEvent {
    /// More of the answer (or of the reasoning before it); never empty.
    Text(String),
    /// The answer is complete: `stop`, `length`, ...
    Finish(String),
    /// Token counts.
    Usage(Usage),
}

#[derive(Debug, Deserialize)]
struct Chunk {
    #[serde(default)]
    choices: Vec<Choice>,
    #[serde(default)]
    usage: Option<Usage>,
    #[serde(default)]
    error: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct Choice {
    #[serde(default)]
    delta: Delta,
    #[serde(default)]
    finish_reason: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct Delta {
    #[serde(default)]
    content: Option<String>,
    #[serde(default)]
    reasoning: Option<String>,
    #[serde(default)]
    reasoning_content: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Models {
    data: Vec<ModelEntry>,
}

#[derive(Debug, Deserialize)]
struct ModelEntry {
    id: String,
}

impl Client {
    /// A client for `base_url` (`http://host:port/v1`). `timeout` bounds a whole answer.
    pub(crate) fn new(
        base_url: &str,
        api_key: Option<String>,
        timeout: Option<Duration>,
    ) -> Result<Self> {
        // Fails when a provider was chosen before, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let url = reqwest::Url::parse(base_url)
            .with_context(|| format!("--base-url {base_url:?} is not a URL"))?;
        if !matches!(url.scheme(), "http" | "https") {
            bail!("--base-url {base_url:?} must begin with http:// or https://");
        }
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("wharf/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(10))
            // A bench measures the server: a connection it has must not be given up between requests.
            .pool_max_idle_per_host(usize::MAX)
            .tcp_nodelay(true);
        if let Some(timeout) = timeout {
            builder = builder.timeout(timeout);
        }
        Ok(Self {
            http: builder.build().context("cannot make an HTTP client")?,
            base_url: base_url.trim_end_matches('/').to_owned(),
            api_key: api_key.filter(|key| !key.is_empty()),
        })
    }

    /// The first model that the endpoint lists.
    pub(crate) async fn first_model(&self) -> Result<String> {
        let url = format!("{}/models", self.base_url);
        let help = || {
            format!(
                "cannot ask {url} which models there are; is the server running? (`wharf serve`)"
            )
        };
        let response = self.send(self.http.get(&url)).await.with_context(help)?;
        let body = read_capped(response).await.with_context(help)?;
        let models: Models = serde_json::from_slice(&body).with_context(help)?;
        let first = models.data.into_iter().next().context("the endpoint lists no model")?;
        Ok(first.id)
    }

    /// Sends a chat request with `"stream": true` in it.
    pub(crate) async fn stream(&self, body: &Value) -> Result<ChatStream, RequestError> {
        let url = format!("{}/chat/completions", self.base_url);
        let response = self.send(self.http.post(url).json(body)).await?;
        let content_type = response.headers().get(CONTENT_TYPE).and_then(|v| v.to_str().ok());
        if !content_type.is_some_and(|t| t.starts_with("text/event-stream")) {
            let what = content_type.unwrap_or("no content type").to_owned();
            return Err(RequestError::Protocol(format!("a stream was asked for, not {what}")));
        }
        Ok(ChatStream { response, parser: SseParser::default(), ready: Vec::new(), done: false })
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<Response, RequestError> {
        let request = match &self.api_key {
            Some(key) => request.bearer_auth(key),
            None => request,
        };
        // A server may close a connection after an answer without a word (llama.cpp's does after a
        // stream, having promised to keep it), and a request may cross that on its way: it is sent
        // again, once, on a new one.
        let again = request.try_clone();
        let response = match (request.send().await, again) {
            (Err(error), Some(again))
                if error.is_request() && !error.is_connect() && !error.is_timeout() =>
            {
                again.send().await
            }
            (sent, _) => sent,
        };
        let response = response.map_err(|e| RequestError::from_reqwest(&e))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status().as_u16();
        let body = read_capped(response).await.unwrap_or_default();
        Err(RequestError::Status { status, message: error_message(&body) })
    }
}

/// A streamed answer. Dropping it closes the connection, which stops the server's work.
#[derive(Debug)]
pub(crate) struct ChatStream {
    response: Response,
    parser: SseParser,
    /// Events of the last piece, last first.
    ready: Vec<StreamEvent>,
    done: bool,
}

impl ChatStream {
    /// The next event; `None` when the answer has ended well.
    pub(crate) async fn next(&mut self) -> Result<Option<StreamEvent>, RequestError> {
        loop {
            if let Some(event) = self.ready.pop() {
                return Ok(Some(event));
            }
            let piece = match self.response.chunk().await {
                Ok(Some(piece)) => piece,
                Ok(None) if self.done => return Ok(None),
                Ok(None) => return Err(RequestError::Protocol("it ended without [DONE]".into())),
                Err(_) if self.done => return Ok(None),
                Err(e) => return Err(RequestError::from_reqwest(&e)),
            };
            let mut texts = Vec::new();
            self.parser
                .push(&piece, &mut texts)
                .map_err(|_| RequestError::Protocol("an endless event".into()))?;
            for text in texts {
                self.read_event(&text)?;
            }
            self.ready.reverse();
        }
    }

    fn read_event(&mut self, text: &str) -> Result<(), RequestError> {
        if text == "[DONE]" {
            self.done = true;
            return Ok(());
        }
        if self.done || text.is_empty() {
            return Ok(());
        }
        let chunk: Chunk = serde_json::from_str(text)
            .map_err(|e| RequestError::Protocol(format!("{e} in {}", quote(text))))?;
        if chunk.error.is_some() {
            return Err(RequestError::Stream(error_message(text.as_bytes())));
        }
        for choice in chunk.choices {
            let Delta { content, reasoning, reasoning_content } = choice.delta;
            // Some servers send the reasoning under both names; it is one text.
            let texts = [reasoning.or(reasoning_content), content];
            let texts = texts.into_iter().flatten().filter(|text| !text.is_empty());
            self.ready.extend(texts.map(StreamEvent::Text));
            self.ready.extend(choice.finish_reason.map(StreamEvent::Finish));
        }
        self.ready.extend(chunk.usage.map(StreamEvent::Usage));
        Ok(())
    }
}

/// The body of an answer that is no stream.
async fn read_capped(mut response: Response) -> Result<Vec<u8>, RequestError> {
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(|e| RequestError::from_reqwest(&e))? {
        if body.len() + piece.len() > MAX_ANSWER {
            return Err(RequestError::Protocol(format!("more than {MAX_ANSWER} bytes")));
        }
        body.extend_from_slice(&piece);
    }
    Ok(body)
}

/// The message of an error object, or the text itself.
fn error_message(body: &[u8]) -> String {
    let value: Option<Value> = serde_json::from_slice(body).ok();
    let error = value.as_ref().and_then(|v| v.get("error"));
    let message = error.and_then(|e| e.get("message").or(Some(e))).and_then(Value::as_str);
    match message {
        Some(message) => quote(message),
        None => quote(String::from_utf8_lossy(body).trim()),
    }
}

/// A server's words, fit for a terminal: control characters could do anything there.
fn quote(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_QUOTE).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_any_shape_are_told() {
        for (body, expected) in [
            (r#"{"error": {"message": "no such model"}}"#, "no such model"),
            (r#"{"error": "Unauthorized"}"#, "Unauthorized"),
            ("<html>bad gateway</html>\n", "<html>bad gateway</html>"),
            (r#"{"error": {"message": "a\u001b[31mb"}}"#, "a[31mb"),
            ("", ""),
        ] {
            assert_eq!(error_message(body.as_bytes()), expected);
        }
    }

    #[test]
    fn chunks_of_other_servers_are_read() {
        let chunk: Chunk = serde_json::from_str(
            r#"{"choices": [{"index": 0, "delta": {"role": "assistant", "content": null}, "finish_reason": null}],
                "usage": null, "timings": {"x": 1}}"#,
        )
        .unwrap();
        assert!(chunk.choices[0].delta.content.is_none() && chunk.usage.is_none());
    }

    /// Answers one request on each of two connections, and closes the first only when a second request
    /// has come on it.
    fn serve_and_close(listener: &std::net::TcpListener) {
        use std::io::{BufRead, BufReader, Write};
        for is_last in [false, true] {
            let (mut socket, _) = listener.accept().unwrap();
            let mut lines = BufReader::new(socket.try_clone().unwrap()).lines();
            let mut read_head = || while lines.next().is_some_and(|line| line.unwrap() != "") {};
            read_head();
            let body = r#"{"data": [{"id": "m"}]}"#;
            let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length";
            socket.write_all(format!("{head}: {}\r\n\r\n{body}", body.len()).as_bytes()).unwrap();
            if !is_last {
                read_head();
            }
        }
    }

    #[tokio::test]
    async fn a_request_that_crosses_the_end_of_its_connection_is_sent_again() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let server = std::thread::spawn(move || serve_and_close(&listener));
        let client = Client::new(&url, None, None).unwrap();
        for _ in 0..2 {
            assert_eq!(client.first_model().await.unwrap(), "m");
        }
        server.join().unwrap();
    }
}
