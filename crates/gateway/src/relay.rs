//! Passing one request on to an engine, and its answer back, as they are.
//!
//! What is changed: hop-by-hop headers stay on their hop, and the path loses `/{id}/{port}`. What
//! is not: everything else. No body is parsed, re-encoded, merged or buffered; each frame of an
//! answer goes on as it came, when the client is ready for it, so a slow reader slows the engine.
//!
//! A client that leaves makes the server drop the future or the body here, at any point from the
//! prefill to the last token, and dropping them closes the connection to the engine, which then
//! stops generating. Nothing may be spawned here that would outlive the client.
//!
//! There is no retry once any of the request was sent: two answers to one request are worse than an
//! error.

use std::{
    error::Error as StdError,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::{
    HeaderMap, Request, Uri, Version,
    body::{Body as HttpBody, Frame, Incoming, SizeHint},
    header,
};

use crate::{
    error::{RequestError, error_body},
    upstream::Passage,
};

/// Headers that concern one connection (RFC 9110, section 7.6.1), beside those that `Connection`
/// names. `Expect` is here because this hop has answered it.
const HOP_BY_HOP: [header::HeaderName; 8] = [
    header::CONNECTION,
    header::HeaderName::from_static("keep-alive"),
    header::HeaderName::from_static("proxy-connection"),
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::EXPECT,
];

/// Relays `request` to the engine, which sees the path `rest` (as sent, with or without slash).
pub(crate) async fn relay(
    passage: Passage,
    request: Request<Body>,
    rest: &str,
    max_body_bytes: usize,
) -> Result<Response, RequestError> {
    if declared_length(request.headers()).is_some_and(|length| length > max_body_bytes as u64) {
        return Err(RequestError::BodyTooLarge { limit: max_body_bytes });
    }
    let request = outbound(request, rest, max_body_bytes)?;
    let answer = tokio::select! {
        biased;
        answer = passage.upstream.request(request) => answer,
        () = passage.cut() => {
            return Err(RequestError::EngineLost("it was stopped".to_owned()));
        }
    };
    let (mut parts, body) = match answer {
        Ok(answer) => answer.into_parts(),
        Err(error) => return Err(classify(&error, max_body_bytes)),
    };
    strip_hop_by_hop(&mut parts.headers);
    parts.version = Version::HTTP_11;
    let can_end_with_event = is_open_ended_sse(&parts.headers);
    let body = RelayBody {
        inner: Some(body),
        cut: Box::pin(passage.cut()),
        _passage: passage,
        tail: can_end_with_event.then(Tail::default),
    };
    Ok(Response::from_parts(parts, Body::new(body)))
}

fn declared_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn outbound(
    request: Request<Body>,
    rest: &str,
    max_body_bytes: usize,
) -> Result<Request<Body>, RequestError> {
    let (mut parts, body) = request.into_parts();
    let slash = if rest.starts_with('/') { "" } else { "/" };
    let query = parts.uri.query().map_or(String::new(), |query| format!("?{query}"));
    // The authority is for the client's pool; the engine sees the path alone.
    parts.uri = format!("http://engine{slash}{rest}{query}")
        .parse::<Uri>()
        .map_err(|error| RequestError::BadAnswer(error.to_string()))?;
    parts.version = Version::HTTP_11;
    parts.extensions.clear();
    strip_hop_by_hop(&mut parts.headers);
    let body = Limited::new(body, max_body_bytes).map_err(BrokenBody);
    Ok(Request::from_parts(parts, Body::new(body)))
}

/// Marks what went wrong while reading the client's body: it comes back from the engine's side of
/// the relay, among the engine's own failures.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct BrokenBody(BoxError);

fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<header::HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        // How long the body is belongs to the message, whatever a `Connection` header says.
        .filter(|name| name != header::CONTENT_LENGTH)
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// What a failure before the first byte of the engine's answer means for the client.
fn classify(error: &hyper_util::client::legacy::Error, max_body_bytes: usize) -> RequestError {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(BrokenBody(fault)) = error.downcast_ref() {
            return match fault.is::<LengthLimitError>() {
                true => RequestError::BodyTooLarge { limit: max_body_bytes },
                false => RequestError::BrokenBody,
            };
        }
        if error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse) {
            return RequestError::BadAnswer(error.to_string());
        }
        text = format!("{text}: {error}");
        cause = error.source();
    }
    RequestError::EngineLost(text)
}

/// Whether an answer is a stream of events to which one may be added at the end.
fn is_open_ended_sse(headers: &HeaderMap) -> bool {
    let event_stream = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.trim_start().starts_with("text/event-stream"));
    event_stream
        && !headers.contains_key(header::CONTENT_LENGTH)
        && !headers.contains_key(header::CONTENT_ENCODING)
}

/// An engine's answer on its way to the client.
struct RelayBody {
    /// `None` once the answer has ended.
    inner: Option<Incoming>,
    cut: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// Counts the request as in flight until the body is dropped.
    _passage: Passage,
    /// The end of what was sent, if the answer is a stream of events.
    tail: Option<Tail>,
}

impl RelayBody {
    /// The answer cannot be finished. A stream of events says so in an event; clients take that as
    /// an API error with a message. Any other body is broken off, as it is not whole.
    fn fail(&mut self, reason: String) -> Option<Result<Frame<Bytes>, BoxError>> {
        self.inner = None;
        match &self.tail {
            Some(tail) if tail.is_done() => None,
            // In the middle of an event another one would only be appended to it.
            Some(tail) if tail.is_between_events() => {
                tracing::warn!(%reason, "a stream ended with an error event");
                Some(Ok(Frame::data(error_event(&reason))))
            }
            _ => {
                tracing::warn!(%reason, "an answer was broken off");
                Some(Err(reason.into()))
            }
        }
    }
}

type BoxError = Box<dyn StdError + Send + Sync>;

impl HttpBody for RelayBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let Some(inner) = &mut this.inner else { return Poll::Ready(None) };
        match Pin::new(inner).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                if let (Some(tail), Some(data)) = (&mut this.tail, frame.data_ref()) {
                    tail.push(data);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                Poll::Ready(this.fail(format!("The engine ended before its answer did: {error}.")))
            }
            Poll::Ready(None) => {
                this.inner = None;
                Poll::Ready(None)
            }
            Poll::Pending => match this.cut.as_mut().poll(context) {
                Poll::Ready(()) => Poll::Ready(
                    this.fail("The engine was stopped before its answer ended.".to_owned()),
                ),
                Poll::Pending => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or(SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

/// The last event of a stream that failed, and the end mark.
fn error_event(reason: &str) -> Bytes {
    let body = error_body(reason.to_owned(), "engine_lost", true);
    // An object of strings always has a JSON form.
    let json = serde_json::to_string(&body).unwrap_or_default();
    Bytes::from(format!("data: {json}\n\ndata: [DONE]\n\n"))
}

/// The last bytes of a stream of events.
#[derive(Debug, Default)]
struct Tail {
    bytes: Vec<u8>,
}

impl Tail {
    const DONE: [&[u8]; 2] = [b"data: [DONE]\n\n", b"data: [DONE]\r\n\r\n"];
    const KEPT: usize = Self::DONE[1].len();

    fn push(&mut self, data: &[u8]) {
        let data = &data[data.len().saturating_sub(Self::KEPT)..];
        self.bytes.extend_from_slice(data);
        self.bytes.drain(..self.bytes.len().saturating_sub(Self::KEPT));
    }

    fn is_between_events(&self) -> bool {
        self.bytes.is_empty() || self.bytes.ends_with(b"\n\n") || self.bytes.ends_with(b"\r\n\r\n")
    }

    fn is_done(&self) -> bool {
        Self::DONE.iter().any(|done| self.bytes.ends_with(done))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hop_by_hop_headers_stay_on_their_hop() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Private, content-length"),
            ("x-private", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("te", "trailers"),
            ("content-length", "5"),
            ("authorization", "Bearer key"),
            ("x-request-id", "7"),
        ] {
            headers.insert(name, value.parse().unwrap());
        }
        strip_hop_by_hop(&mut headers);
        let mut left: Vec<_> = headers.keys().map(header::HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["authorization", "content-length", "x-request-id"]);
    }

    #[test]
    fn the_engine_sees_the_path_and_query_as_they_were_sent() {
        for (sent, rest, seen) in [
            ("/v1/a%2Fb?x=%20&y", "/v1/a%2Fb", "/v1/a%2Fb?x=%20&y"),
            ("/id/3900", "", "/"),
            ("/id/3900?q", "", "/?q"),
            ("/id/3900//a/../b", "//a/../b", "//a/../b"),
        ] {
            let request = Request::get(sent).body(Body::empty()).unwrap();
            let request = outbound(request, rest, 10).unwrap();
            assert_eq!(request.uri().path_and_query().unwrap().as_str(), seen);
        }
    }

    #[test]
    fn an_error_event_is_one_that_sdks_read() {
        let event = error_event("It \"died\".\nBadly.");
        let text = std::str::from_utf8(&event).unwrap();
        let (first, rest) = text.split_once("\n\n").unwrap();
        assert_eq!(rest, "data: [DONE]\n\n");
        let json: serde_json::Value =
            serde_json::from_str(first.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(json["error"]["message"], "It \"died\".\nBadly.");
        assert_eq!(json["error"]["type"], "server_error");
    }

    #[test]
    fn only_open_ended_event_streams_get_an_event() {
        let with = |pairs: &[(&'static str, &str)]| {
            let pairs = pairs.iter().map(|(name, value)| {
                (header::HeaderName::from_static(name), value.parse().unwrap())
            });
            is_open_ended_sse(&pairs.collect())
        };
        assert!(with(&[("content-type", "text/event-stream; charset=utf-8")]));
        assert!(!with(&[("content-type", "application/json")]));
        assert!(!with(&[("content-type", "text/event-stream"), ("content-length", "9")]));
        assert!(!with(&[("content-type", "text/event-stream"), ("content-encoding", "gzip")]));
        assert!(!with(&[]));
    }

    proptest! {
        /// However a stream is split into frames, its end is judged as if it came in one.
        #[test]
        fn the_tail_does_not_depend_on_frames(
            text in "(data: |\\[DONE\\]|\n|\r|x){0,12}",
            cuts in prop::collection::vec(0usize..60, 0..6),
        ) {
            let mut tail = Tail::default();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.sort_unstable();
            let mut from = 0;
            for cut in cuts.into_iter().chain([text.len()]) {
                tail.push(&text.as_bytes()[from..cut]);
                from = cut;
            }
            let between = text.is_empty() || text.ends_with("\n\n") || text.ends_with("\r\n\r\n");
            prop_assert_eq!(tail.is_between_events(), between);
            let done = text.ends_with("data: [DONE]\n\n") || text.ends_with("data: [DONE]\r\n\r\n");
            prop_assert_eq!(tail.is_done(), done);
            prop_assert!(tail.bytes.len() <= Tail::KEPT);
        }
    }
}
