//! As much of an HTTP client as a benchmark needs: one request per connection to a server on this
//! machine or in this network, and its answer as a stream of events with their times.

use std::{
    io::{BufRead, BufReader, Lines, Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// Longest wait for the next byte: a prefill of many tokens comes without any.
const SILENCE: Duration = Duration::from_secs(600);

/// Where a server is.
#[derive(Debug, Clone)]
pub(super) struct Endpoint {
    /// `host:port`
    authority: String,
    /// What comes before `/completions`.
    prefix: String,
}

impl Endpoint {
    /// `http://host:port/v1`.
    pub(super) fn parse(url: &str) -> Result<Self> {
        let rest = url.strip_prefix("http://").with_context(|| format!("{url}: not http://"))?;
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let authority = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
        Ok(Self { authority, prefix: format!("/{path}").trim_end_matches('/').to_owned() })
    }

    pub(super) fn local(port: u16) -> Self {
        Self { authority: format!("127.0.0.1:{port}"), prefix: "/v1".to_owned() }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}{}", self.authority, self.prefix)
    }

    /// The first model that the server lists.
    pub(super) fn model(&self) -> Result<String> {
        let mut text = String::new();
        self.send("GET", "/models", "")?.read_to_string(&mut text)?;
        let list: Value = serde_json::from_str(&text)?;
        let id = list["data"][0]["id"].as_str().context("the server lists no model")?;
        Ok(id.to_owned())
    }

    /// Asks for a completion as a stream.
    pub(super) fn complete(&self, body: &Value) -> Result<Events> {
        let sent = Instant::now();
        let lines = self.send("POST", "/completions", &body.to_string())?.lines();
        Ok(Events { sent, lines })
    }

    fn send(&self, method: &str, path: &str, body: &str) -> Result<BufReader<Body>> {
        let mut socket = TcpStream::connect(&self.authority)
            .with_context(|| format!("cannot reach {}", self.authority))?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(SILENCE))?;
        let (authority, prefix, length) = (&self.authority, &self.prefix, body.len());
        let request = format!(
            "{method} {prefix}{path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        socket.write_all(request.as_bytes())?;
        Body::begin(BufReader::new(socket))
    }
}

/// Whether `GET /health` answers 200.
pub(super) fn is_healthy(port: u16) -> bool {
    let server = Endpoint { authority: format!("127.0.0.1:{port}"), prefix: String::new() };
    server.send("GET", "/health", "").is_ok()
}

/// The text of `GET /metrics`.
pub(super) fn metrics(port: u16) -> Result<String> {
    let server = Endpoint { authority: format!("127.0.0.1:{port}"), prefix: String::new() };
    let mut text = String::new();
    server.send("GET", "/metrics", "")?.read_to_string(&mut text)?;
    Ok(text)
}

/// A piece of an answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Event {
    /// Since the request was sent.
    pub(super) at: Duration,
    /// Tokens of the prompt, where the event tells.
    pub(super) prompt_tokens: Option<u64>,
    /// Whether it brought text.
    pub(super) has_text: bool,
}

/// The events of an answer, as they come.
pub(super) struct Events {
    pub(super) sent: Instant,
    lines: Lines<BufReader<Body>>,
}

impl Iterator for Events {
    type Item = Result<Event>;

    fn next(&mut self) -> Option<Result<Event>> {
        loop {
            let line = match self.lines.next()? {
                Ok(line) => line,
                Err(error) => return Some(Err(error.into())),
            };
            match line.strip_prefix("data:").map(str::trim_start) {
                Some("[DONE]") => return None,
                Some(data) => return Some(event(data, self.sent.elapsed())),
                None => {}
            }
        }
    }
}

fn event(data: &str, at: Duration) -> Result<Event> {
    let value: Value = serde_json::from_str(data).with_context(|| data.to_owned())?;
    ensure!(value.get("error").is_none(), "{data}");
    let text = value["choices"][0]["text"].as_str().unwrap_or_default();
    let prompt_tokens = value["usage"]["prompt_tokens"].as_u64();
    Ok(Event { at, prompt_tokens, has_text: !text.is_empty() })
}

/// The body of an answer.
struct Body {
    socket: BufReader<TcpStream>,
    /// Whether it comes in chunks; else it ends with the connection.
    chunked: bool,
    /// Of the chunk.
    left: u64,
    ended: bool,
}

impl Body {
    /// Reads the head; an answer that isn't 200 is an error.
    fn begin(mut socket: BufReader<TcpStream>) -> Result<BufReader<Body>> {
        let mut status = String::new();
        socket.read_line(&mut status)?;
        let mut chunked = false;
        loop {
            let mut header = String::new();
            ensure!(socket.read_line(&mut header)? > 0, "the answer ended in its head");
            if header.trim().is_empty() {
                break;
            }
            let header = header.to_ascii_lowercase();
            chunked |= header.starts_with("transfer-encoding:") && header.contains("chunked");
        }
        let mut body = BufReader::new(Self { socket, chunked, left: 0, ended: false });
        if status.split(' ').nth(1) != Some("200") {
            let mut reason = String::new();
            body.read_to_string(&mut reason)?;
            bail!("{}: {reason}", status.trim());
        }
        Ok(body)
    }

    /// Reads the line before a chunk.
    fn next_chunk(&mut self) -> std::io::Result<()> {
        let mut line = String::new();
        // Before all chunks but the first there is the end of the last one's.
        while line.trim().is_empty() {
            line.clear();
            if self.socket.read_line(&mut line)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
        let size = line.trim().split(';').next().unwrap_or_default();
        self.left = u64::from_str_radix(size, 16).map_err(std::io::Error::other)?;
        self.ended = self.left == 0;
        Ok(())
    }
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if !self.chunked {
            return self.socket.read(buffer);
        }
        if self.left == 0 && !self.ended {
            self.next_chunk()?;
        }
        let most = buffer.len().min(self.left as usize);
        let read = self.socket.read(&mut buffer[..most])?;
        self.left -= read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, thread};

    use super::*;

    /// Answers one request with `answer`, in the pieces given.
    fn serve(answer: &'static [&'static str]) -> Endpoint {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let mut request = BufReader::new(socket.try_clone().unwrap()).lines();
            while request.next().is_some_and(|line| !line.unwrap().is_empty()) {}
            answer.iter().for_each(|piece| socket.write_all(piece.as_bytes()).unwrap());
        });
        Endpoint::local(port)
    }

    #[test]
    fn events_are_found_across_chunks() {
        let server = serve(&[
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "10\r\ndata: {\"choices\"\r\n",
            "f;x=y\r\n:[{\"text\":\"a\"}]\r\n",
            "3\r\n}\n\n\r\n",
            "2b\r\ndata: {\"usage\": {\"prompt_tokens\":      7}}\n\n\r\n",
            "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n",
        ]);
        let events = server.complete(&Value::Null).unwrap();
        let events: Vec<_> = events.map(|e| e.unwrap()).collect();
        let told: Vec<_> = events.iter().map(|e| (e.has_text, e.prompt_tokens)).collect();
        assert_eq!(told, [(true, None), (false, Some(7))]);
    }

    #[test]
    fn an_error_says_what_the_server_said() {
        let server = serve(&["HTTP/1.1 400 Bad Request\r\n\r\n", "{\"error\": \"no\"}"]);
        let error = server.complete(&Value::Null).err().unwrap().to_string();
        assert!(error.contains("400") && error.contains("no"), "{error}");
    }

    #[test]
    fn urls_are_taken_apart() {
        let endpoint = Endpoint::parse("http://host:81/v1/").unwrap();
        assert_eq!((&*endpoint.authority, &*endpoint.prefix), ("host:81", "/v1"));
        assert_eq!(Endpoint::parse("http://host").unwrap().url(), "http://host:80");
        assert!(Endpoint::parse("https://host").is_err());
    }
}
