//! The accept loop: `axum::serve` with limits, which it has none of.
//!
//! A connection costs a file descriptor before it has said anything, so both their number and the
//! time that they may say nothing are bounded; otherwise whoever opens a thousand of them and
//! waits keeps everybody else out, health checks included.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{Router, serve::Listener};
use hyper::{
    body::Incoming,
    server::conn::http1,
    service::{Service as _, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
};

/// How long a new connection may take for the head of its first request.
const FIRST_REQUEST: Duration = Duration::from_secs(15);
/// How long the head of any later one may take, from the end of the answer before: so also how long
/// a connection is kept for it. Longer than the 60 s for which common proxies keep theirs, since the
/// side that sends requests should be the one to close.
const NEXT_REQUEST: Duration = Duration::from_secs(75);
/// Most connections at once, however many files the system allows: each holds some kilobytes.
/// More wait in the system's queue until one of them ends.
const MOST_CONNECTIONS: usize = 8192;
/// Files that are left for everything but connections.
const OTHER_FILES: u64 = 128;

/// Serves `router` until `drained` completes. From then on nothing is accepted, idle connections
/// are closed, and those with a request have as long as `drained` said to write their answers
/// out; what is left then is broken off.
pub async fn serve<L: Listener>(
    mut listener: L,
    router: Router,
    drained: impl Future<Output = Duration>,
) {
    let room = Arc::new(Semaphore::new(most_connections()));
    let (closing, is_closing) = watch::channel(false);
    // Dropped with this future, and with it every connection.
    let mut connections = JoinSet::new();
    tokio::pin!(drained);
    let linger = loop {
        let next = async {
            let place = Arc::clone(&room).acquire_owned().await;
            (place, listener.accept().await.0)
        };
        tokio::select! {
            biased;
            linger = &mut drained => break linger,
            Some(_) = connections.join_next() => {}
            (place, io) = next => {
                let connection = connection(TokioIo::new(io), router.clone(), is_closing.clone());
                connections.spawn(async move {
                    connection.await;
                    drop(place);
                });
            }
        }
    };
    drop(listener);
    closing.send_replace(true);
    let ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(linger, ended).await.is_err() {
        tracing::warn!(connections = connections.len(), "connections are broken off");
    }
}

/// One connection, until it ends, says nothing for too long, or is idle when the end has come.
async fn connection<I>(io: TokioIo<I>, router: Router, mut is_closing: watch::Receiver<bool>)
where
    I: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let heard = Arc::new(AtomicBool::new(false));
    let service = TowerToHyperService::new(router);
    let service = service_fn(|request: hyper::Request<Incoming>| {
        heard.store(true, Ordering::Relaxed);
        service.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(NEXT_REQUEST)
        .serve_connection(io, service);
    tokio::pin!(connection);
    let silent = async {
        tokio::time::sleep(FIRST_REQUEST).await;
        if heard.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    };
    tokio::pin!(silent);
    let mut closing = false;
    loop {
        tokio::select! {
            result = &mut connection => {
                if let Err(error) = result {
                    tracing::debug!(%error, "connection");
                }
                return;
            }
            () = &mut silent => return,
            // An error means that the server is gone, and we with it.
            _ = is_closing.wait_for(|closing| *closing), if !closing => {
                if !heard.load(Ordering::Relaxed) {
                    return;
                }
                closing = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

/// As many as the files allow: a relayed request takes two, its client's and its engine's.
fn most_connections() -> usize {
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let room = files.saturating_sub(OTHER_FILES) / 2;
    usize::try_from(room).map_or(MOST_CONNECTIONS, |room| room.clamp(1, MOST_CONNECTIONS))
}

/// Raises this process's soft limit on open files to what [`serve`] can use, as far as the hard
/// limit allows: the usual 1024 is there for programs that use `select`, and would keep out all
/// but some hundred clients. To be called before [`serve`], by a program that may change limits.
pub fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = 2 * MOST_CONNECTIONS as u64 + OTHER_FILES;
    let wanted = limit.maximum.map_or(wanted, |most| wanted.min(most));
    if limit.current.is_some_and(|current| current < wanted) {
        let raised = Rlimit { current: Some(wanted), maximum: limit.maximum };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::warn!(%error, "the limit on open files stays as it is");
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, routing::get};
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
        sync::oneshot,
        task::JoinHandle,
    };

    use super::*;

    const LARGE: usize = 32 << 20;

    /// A server with a small page and a large one; ends, with the linger sent, when told.
    async fn server() -> (std::net::SocketAddr, oneshot::Sender<Duration>, JoinHandle<()>) {
        let router = Router::new()
            .route("/", get(|| async { "here" }))
            .route("/large", get(|| async { Body::from(vec![b'x'; LARGE]) }));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (end, ended) = oneshot::channel();
        let drained = async { ended.await.expect("the test says when") };
        (address, end, tokio::spawn(serve(listener, router, drained)))
    }

    async fn ask(address: std::net::SocketAddr, request: &str) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.expect("a connection");
        stream.write_all(request.as_bytes()).await.expect("written");
        stream
    }

    /// What comes until the server closes.
    async fn rest(mut stream: TcpStream) -> Vec<u8> {
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.expect("no reset");
        answer
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_says_nothing_or_half_a_request_is_closed() {
        let (address, _end, _server) = server().await;
        for words in ["", "GET / HTTP/1.1\r\nHost: h\r\n"] {
            let mut stream = ask(address, words).await;
            let mut byte = [0];
            let read = tokio::time::timeout(2 * FIRST_REQUEST, stream.read(&mut byte)).await;
            assert_eq!(read.expect("in time").expect("no reset"), 0, "{words:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_kept_for_another_request_but_not_for_ever() {
        let (address, _end, _server) = server().await;
        let mut stream = ask(address, "GET / HTTP/1.1\r\nHost: h\r\n\r\n").await;
        let mut answer = [0; 1024];
        assert!(stream.read(&mut answer).await.expect("an answer") > 0);
        let closed = tokio::time::timeout(4 * FIRST_REQUEST, stream.read(&mut answer)).await;
        assert!(closed.is_err(), "closed too early");
        let closed = tokio::time::timeout(NEXT_REQUEST, stream.read(&mut answer)).await;
        assert_eq!(closed.expect("in time").expect("no reset"), 0);
    }

    #[tokio::test]
    async fn idle_and_silent_connections_do_not_hold_the_end() {
        let (address, end, server) = server().await;
        let silent = ask(address, "").await;
        let half = ask(address, "GET / HT").await;
        let mut idle = ask(address, "GET / HTTP/1.1\r\nHost: h\r\n\r\n").await;
        assert!(idle.read(&mut [0; 1024]).await.expect("an answer") > 0);
        end.send(Duration::from_secs(600)).expect("the server waits");
        let ended = tokio::time::timeout(Duration::from_secs(30), server).await;
        ended.expect("ended").expect("no panic");
        drop((silent, half, idle));
    }

    #[tokio::test]
    async fn a_slow_reader_has_the_linger_to_read_all() {
        let (address, end, server) = server().await;
        let stream = ask(address, "GET /large HTTP/1.1\r\nHost: h\r\n\r\n").await;
        stream.readable().await.expect("an answer");
        end.send(Duration::from_secs(600)).expect("the server waits");
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(rest(stream).await.len() > LARGE);
        server.await.expect("no panic");
    }

    #[tokio::test]
    async fn a_reader_that_never_reads_is_broken_off() {
        let (address, end, server) = server().await;
        let stream = ask(address, "GET /large HTTP/1.1\r\nHost: h\r\n\r\n").await;
        stream.readable().await.expect("an answer");
        end.send(Duration::from_millis(100)).expect("the server waits");
        let ended = tokio::time::timeout(Duration::from_secs(30), server).await;
        ended.expect("ended").expect("no panic");
    }

    #[test]
    fn some_files_are_left() {
        let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        assert!((most_connections() as u64) < files / 2);
    }
}
