//! A local server that plays a Hugging Face hub: listings, files with ranges and hashes, redirects
//! to a storage of another origin, and faults on demand.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

/// What goes wrong with a file (or with `api`, the listing).
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    /// The connection breaks after so many bytes of the body.
    CutAfter(usize),
    /// Nothing more comes after so many bytes.
    StallAfter(usize),
    /// One byte is another.
    Corrupt,
    /// This status.
    Status(u16),
    /// Sent here again.
    RedirectToSelf,
    /// A body without end.
    Endless,
}

/// A request that was made.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) path: String,
    pub(crate) authorization: Option<String>,
    pub(crate) range: Option<String>,
    /// Asked of the storage, not of the hub.
    pub(crate) storage: bool,
}

#[derive(Default)]
struct Inner {
    commit: String,
    files: Vec<(String, Vec<u8>)>,
    redirect: bool,
    faults: HashMap<String, (Fault, usize)>,
    seen: Vec<Seen>,
    storage_url: String,
}

/// A running hub and its storage; they end with the test's runtime.
pub(crate) struct FakeHub {
    url: String,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Clone)]
struct Side {
    inner: Arc<Mutex<Inner>>,
    storage: bool,
}

impl FakeHub {
    pub(crate) async fn start(files: &[(&str, Vec<u8>)]) -> Self {
        let inner = Arc::new(Mutex::new(Inner {
            commit: "0123456789abcdef".into(),
            files: files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.clone())).collect(),
            ..Inner::default()
        }));
        let storage_url = serve(Side { inner: inner.clone(), storage: true }).await;
        inner.lock().unwrap().storage_url = storage_url;
        let url = serve(Side { inner: inner.clone(), storage: false }).await;
        Self { url, inner }
    }

    pub(crate) fn url(&self) -> String {
        self.url.clone()
    }

    pub(crate) fn set_commit(&self, commit: &str) {
        self.inner.lock().unwrap().commit = commit.into();
    }

    /// Whether files are kept in a storage of another origin.
    pub(crate) fn set_redirect(&self, redirect: bool) {
        self.inner.lock().unwrap().redirect = redirect;
    }

    pub(crate) fn set_file(&self, name: &str, bytes: Vec<u8>) {
        let mut inner = self.inner.lock().unwrap();
        inner.files.iter_mut().find(|(n, _)| n == name).unwrap().1 = bytes;
    }

    /// The next `times` requests for `name` (or for `api`) meet `fault`.
    pub(crate) fn fail(&self, name: &str, fault: Fault, times: usize) {
        self.inner.lock().unwrap().faults.insert(name.into(), (fault, times));
    }

    pub(crate) fn requests(&self) -> Vec<Seen> {
        self.inner.lock().unwrap().seen.clone()
    }

    /// First bytes asked for in each request that was sent the file `name`.
    pub(crate) fn ranges(&self, name: &str) -> Vec<u64> {
        let redirected = self.inner.lock().unwrap().redirect;
        let requests = self.requests();
        let asked = requests.iter().filter(|r| r.path.ends_with(name) && r.storage == redirected);
        asked.map(|r| r.range.as_deref().map_or(0, first_byte)).collect()
    }
}

async fn serve(side: Side) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let app = Router::new().fallback(answer).with_state(side);
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    url
}

async fn answer(State(side): State<Side>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let headers = request.headers().clone();
    let text = |name| headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
    let mut inner = side.inner.lock().unwrap();
    inner.seen.push(Seen {
        path: path.clone(),
        authorization: text(header::AUTHORIZATION),
        range: text(header::RANGE),
        storage: side.storage,
    });
    if path.starts_with("/api/models/") {
        let fault = inner.take_fault("api");
        return listing(&inner, &path, fault);
    }
    let Some((name, bytes)) = inner.files.iter().find(|(n, _)| path.ends_with(n.as_str())).cloned()
    else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let hash = hex(&Sha256::digest(&bytes));
    if inner.redirect && !side.storage {
        let location = format!("{}{path}", inner.storage_url);
        let linked =
            [("x-linked-etag", format!("\"{hash}\"")), ("x-linked-size", bytes.len().to_string())];
        return (StatusCode::FOUND, linked, [(header::LOCATION, location)]).into_response();
    }
    let fault = inner.take_fault(&name);
    // A storage names its objects in its own way.
    let etag = if side.storage { "\"storage\"".to_owned() } else { format!("\"{hash}\"") };
    file(&headers, bytes, &etag, fault)
}

impl Inner {
    fn take_fault(&mut self, name: &str) -> Option<Fault> {
        let (fault, times) = self.faults.get_mut(name)?;
        *times = times.checked_sub(1)?;
        Some(*fault)
    }
}

fn listing(inner: &Inner, path: &str, fault: Option<Fault>) -> Response {
    match fault {
        Some(Fault::Status(status)) => StatusCode::from_u16(status).unwrap().into_response(),
        Some(Fault::RedirectToSelf) => {
            (StatusCode::FOUND, [(header::LOCATION, path.to_owned())]).into_response()
        }
        Some(Fault::Endless) => {
            let piece = Bytes::from(vec![b' '; 1 << 20]);
            let pieces = std::iter::repeat(Ok::<_, Infallible>(piece));
            Body::from_stream(futures_util::stream::iter(pieces)).into_response()
        }
        _ => {
            let names = inner.files.iter().map(|(name, _)| serde_json::json!({"rfilename": name}));
            let body = serde_json::json!({
                "sha": inner.commit,
                "siblings": names.collect::<Vec<_>>(),
            });
            body.to_string().into_response()
        }
    }
}

/// A file, or the part of it that was asked for.
fn file(headers: &HeaderMap, mut bytes: Vec<u8>, etag: &str, fault: Option<Fault>) -> Response {
    let total = bytes.len();
    if let Some(Fault::Status(status)) = fault {
        return StatusCode::from_u16(status).unwrap().into_response();
    }
    if matches!(fault, Some(Fault::Corrupt)) {
        bytes[total / 2] ^= 1;
    }
    let unchanged = headers.get(header::IF_RANGE).is_none_or(|v| v.to_str().unwrap() == etag);
    let range = headers.get(header::RANGE).filter(|_| unchanged);
    let from = range.map_or(0, |v| first_byte(v.to_str().unwrap()) as usize);
    if from >= total {
        return StatusCode::RANGE_NOT_SATISFIABLE.into_response();
    }
    let body = Bytes::from(bytes.split_off(from));
    let length = body.len();
    let body = match fault {
        Some(Fault::CutAfter(n)) => cut(body.slice(..n.min(length)), false),
        Some(Fault::StallAfter(n)) => cut(body.slice(..n.min(length)), true),
        _ => Body::from(body),
    };
    let status = if range.is_some() { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
    let mut response = (status, body).into_response();
    let headers = response.headers_mut();
    headers.insert(header::ETAG, etag.parse().unwrap());
    headers.insert(header::CONTENT_LENGTH, length.into());
    if range.is_some() {
        let text = format!("bytes {from}-{}/{total}", total - 1);
        headers.insert(header::CONTENT_RANGE, text.parse().unwrap());
    }
    response
}

/// A body that ends too early: by an error, or by silence.
fn cut(bytes: Bytes, stall: bool) -> Body {
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Bytes, std::io::Error>>(1);
    tokio::spawn(async move {
        let _ = sender.send(Ok(bytes)).await;
        // So that what was sent has left before the connection breaks.
        tokio::time::sleep(std::time::Duration::from_millis(if stall { 60_000 } else { 50 })).await;
        let _ = sender.send(Err(std::io::Error::other("cut"))).await;
    });
    Body::from_stream(futures_util::stream::unfold(receiver, async |mut receiver| {
        receiver.recv().await.map(|piece| (piece, receiver))
    }))
}

fn first_byte(range: &str) -> u64 {
    range.strip_prefix("bytes=").unwrap().split('-').next().unwrap().parse().unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
