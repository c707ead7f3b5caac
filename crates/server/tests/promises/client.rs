//! A small HTTP/1.1 client, so that tests see every byte and can hang up where they like.
use serde_json::Value;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// No answer takes this long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A whole answer.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("UTF-8")
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {:?}", String::from_utf8_lossy(&self.body)))
    }

    /// The error object, checked to have the whole shape.
    pub(crate) fn error(&self) -> Value {
        let body = self.json();
        let error = body.get("error").unwrap_or_else(|| panic!("no error: {body}")).clone();
        assert!(error["message"].is_string() && error["type"].is_string(), "{error}");
        for field in ["param", "code"] {
            let value = error.get(field).unwrap_or_else(|| panic!("{field} is missing: {error}"));
            assert!(value.is_null() || value.is_string(), "{error}");
        }
        error
    }

    /// The JSON of all events; the last event must be `[DONE]`.
    pub(crate) fn events(&self) -> Vec<Value> {
        assert_eq!(self.status, 200, "{}", self.text());
        let text = self.text();
        assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
        assert_eq!(text.matches("[DONE]").count(), 1);
        let data = text.split("\n\n").filter_map(|frame| frame.strip_prefix("data: "));
        data.filter(|data| *data != "[DONE]")
            .map(|data| serde_json::from_str(data).expect("an event is JSON"))
            .collect()
    }

    /// The content of choice `index`, streamed or not.
    pub(crate) fn content(&self, index: usize) -> String {
        if self.header("content-type").is_some_and(|kind| kind.starts_with("text/event-stream")) {
            let mut content = String::new();
            for choice in choices(&self.events(), index) {
                let delta = &choice["delta"]["content"];
                content.push_str(delta.as_str().or(choice["text"].as_str()).unwrap_or(""));
            }
            return content;
        }
        let choice = &self.json()["choices"][index];
        let content = choice["message"]["content"].as_str().or(choice["text"].as_str());
        content.unwrap_or_else(|| panic!("no content: {}", self.text())).to_owned()
    }

    /// The finish reason of choice `index`, streamed or not; there must be exactly one.
    pub(crate) fn finish(&self, index: usize) -> (String, Value) {
        let found: Vec<Value> =
            if self.header("content-type").is_some_and(|kind| kind.starts_with("text/event")) {
                choices(&self.events(), index)
            } else {
                vec![self.json()["choices"][index].clone()]
            };
        let mut found = found.iter().filter(|choice| !choice["finish_reason"].is_null());
        let finish = found.next().expect("a finish reason");
        assert!(found.next().is_none(), "more than one finish reason");
        (finish["finish_reason"].as_str().expect("text").to_owned(), finish["stop_reason"].clone())
    }
}

/// What all chunks say of choice `index`.
pub(crate) fn choices(events: &[Value], index: usize) -> Vec<Value> {
    let all = events.iter().flat_map(|event| event["choices"].as_array().expect("choices"));
    all.filter(|choice| choice["index"] == index).cloned().collect()
}

/// A connection with a request on its way.
pub(crate) struct Call {
    stream: TcpStream,
    seen: Vec<u8>,
}

impl Call {
    /// Sends `head` (request line and headers, without the end) and `body`.
    pub(crate) async fn send(address: std::net::SocketAddr, head: &str, body: &[u8]) -> Self {
        let mut stream = TcpStream::connect(address).await.expect("connects");
        let head = format!("{head}\r\nHost: test\r\nConnection: close\r\n\r\n");
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(body);
        // A server may refuse a body before all of it is there.
        let _ = stream.write_all(&bytes).await;
        Self { stream, seen: Vec::new() }
    }

    /// Reads until `needle` has come; says whether it did before the answer ended.
    pub(crate) async fn wait_for(&mut self, needle: &str) -> bool {
        let wait = async {
            loop {
                if find(&self.seen, needle.as_bytes()).is_some() {
                    return true;
                }
                if self.read_some().await == 0 {
                    return false;
                }
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("no {needle:?}"))
    }

    /// Everything that has come.
    pub(crate) fn seen(&self) -> String {
        String::from_utf8_lossy(&self.seen).into_owned()
    }

    async fn read_some(&mut self) -> usize {
        let mut buffer = [0; 16 * 1024];
        let count = self.stream.read(&mut buffer).await.unwrap_or(0);
        self.seen.extend_from_slice(&buffer[..count]);
        count
    }

    /// Reads to the end.
    pub(crate) async fn finish(mut self) -> Answer {
        let whole = async { while self.read_some().await > 0 {} };
        tokio::time::timeout(PATIENCE, whole).await.expect("the answer ends");
        parse(&self.seen)
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

fn parse(bytes: &[u8]) -> Answer {
    let end = find(bytes, b"\r\n\r\n").unwrap_or_else(|| panic!("no answer: {bytes:?}"));
    let head = std::str::from_utf8(&bytes[..end]).expect("a head");
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1));
    let status = status.and_then(|status| status.parse().ok()).expect("a status");
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let mut body = bytes[end + 4..].to_vec();
    if headers.iter().any(|(name, value)| name == "transfer-encoding" && value == "chunked") {
        body = dechunk(&body);
    }
    Answer { status, headers, body }
}

fn dechunk(mut bytes: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(line) = find(bytes, b"\r\n") {
        let size = std::str::from_utf8(&bytes[..line]).expect("a size");
        let size = usize::from_str_radix(size, 16).expect("a size");
        if size == 0 {
            return body;
        }
        body.extend_from_slice(&bytes[line + 2..line + 2 + size]);
        bytes = &bytes[line + 2 + size + 2..];
    }
    panic!("the body was cut off: {:?}", String::from_utf8_lossy(&body));
}
