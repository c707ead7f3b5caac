//! Bodies that nobody read.
//!
//! A request can be refused before its body is read. Where the connection is then closed with
//! bytes still on their way, the client sees a reset in place of the answer, and tries again. So
//! the rest of a refused body is read and thrown away first, within bounds.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::Body,
    extract::Request,
    http::{StatusCode, header},
    middleware::Next,
    response::Response,
};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::oneshot;

/// How long the rest of a body is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// How many bytes of it are read.
const MOST: usize = 256 << 20;

/// Middleware: before an error is answered, what its request still sends is read and thrown away.
/// Not where the client asked first (`Expect`) and was not told to go on, nor where it had its time
/// already (408).
pub async fn discard_unread(request: Request, next: Next) -> Response {
    if request.body().is_end_stream() {
        return next.run(request).await;
    }
    let asks_first = request.headers().contains_key(header::EXPECT);
    let (owner, rest) = oneshot::channel();
    let request = request.map(|body| {
        Body::new(Lent { body: Some(body), begun: !asks_first, ended: false, owner: Some(owner) })
    });
    let response = next.run(request).await;
    let status = response.status();
    let is_error = status.is_client_error() || status.is_server_error();
    if is_error && status != StatusCode::REQUEST_TIMEOUT {
        let discard = async {
            // An error: it was read to its end, or has not begun.
            if let Ok(body) = rest.await {
                discard(body).await;
            }
        };
        // Whether it ran out of time makes no difference to the answer.
        let _ = tokio::time::timeout(PATIENCE, discard).await;
    }
    response
}

async fn discard(mut body: Body) {
    let mut read = 0;
    while let Some(Ok(frame)) = body.frame().await {
        read += frame.data_ref().map_or(0, Bytes::len);
        if read > MOST {
            return;
        }
    }
}

/// A body that goes back to its owner when it is dropped before its end.
struct Lent {
    /// There until dropped.
    body: Option<Body>,
    /// The client sends it: unasked, or because somebody began to read.
    begun: bool,
    ended: bool,
    owner: Option<oneshot::Sender<Body>>,
}

impl HttpBody for Lent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.begun = true;
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let polled = Pin::new(body).poll_frame(context);
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            self.ended = true;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or(SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let unread = self.begun && !self.ended && !self.is_end_stream();
        if let (true, Some(body), Some(owner)) = (unread, self.body.take(), self.owner.take()) {
            // An error means that the request was answered, or its client left.
            let _ = owner.send(body);
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::{Router, middleware::from_fn, routing::post};
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    /// The head that `request` is answered with, of a server that refuses all; `body` is written
    /// whole before anything is read.
    async fn refused(headers: &str, body: &[u8]) -> String {
        let router = Router::new()
            .route("/", post(|| async { StatusCode::UNAUTHORIZED }))
            .layer(from_fn(discard_unread));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let server = tokio::spawn(crate::serve(listener, router, std::future::pending()));
        let mut stream = TcpStream::connect(address).await.expect("a connection");
        let head = format!("POST / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{headers}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.expect("written");
        stream.write_all(body).await.expect("the server reads on");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("no reset");
        server.abort();
        answer
    }

    #[tokio::test]
    async fn a_large_body_that_is_refused_unread_does_not_break_the_connection() {
        let body = vec![b' '; 48 << 20];
        let answer = refused(&format!("Content-Length: {}", body.len()), &body).await;
        assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    }

    #[tokio::test]
    async fn a_client_that_asks_first_is_answered_at_once() {
        let asking = refused("Content-Length: 100\r\nExpect: 100-continue", b"");
        let answer = tokio::time::timeout(PATIENCE / 2, asking).await.expect("at once");
        assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    }

    #[tokio::test]
    async fn a_body_that_never_ends_is_waited_for_only_so_long() {
        let answer = refused("Content-Length: 100", b"half").await;
        assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    }
}
