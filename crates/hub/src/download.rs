//! One file over HTTP: continued where an earlier attempt stopped, verified, put in place.
//!
//! Beside `<file>.partial` lies `<file>.partial.etag`, which says which version of the file the
//! bytes belong to. They are continued only when the hub still names that version; otherwise the
//! download begins anew.

use std::io::SeekFrom;
use std::path::{Path, PathBuf};

use reqwest::header::{
    CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderMap, HeaderName, HeaderValue, IF_RANGE, RANGE,
};
use reqwest::{StatusCode, Url};
use sha2::{Digest, Sha256};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};

use crate::cache::{put_in_place, with_suffix};
use crate::client::{Answer, Client, Failure, with_causes};
use crate::{HubError, Progress};

const X_LINKED_ETAG: HeaderName = HeaderName::from_static("x-linked-etag");
const X_LINKED_SIZE: HeaderName = HeaderName::from_static("x-linked-size");

/// What to fetch, and where to.
#[derive(Debug)]
pub(crate) struct Job<'a> {
    /// Where the hub says it is.
    pub(crate) url: Url,
    /// Its name, for people.
    pub(crate) name: &'a str,
    /// Its final place; the folder exists.
    pub(crate) place: &'a Path,
    /// Refuse to take more than this many bytes, if given.
    pub(crate) limit: Option<u64>,
}

/// What the hub says of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Version {
    /// Names the version; of a large file it is the SHA-256.
    etag: Option<String>,
    /// Whole length in bytes.
    length: Option<u64>,
}

impl Version {
    /// From the hub's own answer, and the length the final answer implies.
    fn read(answer: &Answer) -> Self {
        let text = |name: &HeaderName| answer.first.get(name).and_then(|v| v.to_str().ok());
        let etag = text(&X_LINKED_ETAG).or_else(|| text(&ETAG)).map(plain_etag);
        let linked = text(&X_LINKED_SIZE).and_then(|t| t.parse().ok());
        Self { etag, length: linked.or_else(|| whole_length(&answer.response)) }
    }

    /// The SHA-256 the hub promises, in lower case.
    fn sha256(&self) -> Option<String> {
        let etag = self.etag.as_ref()?;
        let is_hash = etag.len() == 64 && etag.bytes().all(|b| b.is_ascii_hexdigit());
        is_hash.then(|| etag.to_ascii_lowercase())
    }
}

/// Fetches one file. If it is in place already, nothing is done.
pub(crate) async fn download(
    client: &Client,
    job: &Job<'_>,
    progress: &dyn Progress,
) -> Result<(), HubError> {
    if job.place.exists() {
        return Ok(());
    }
    let partial = with_suffix(job.place, ".partial");
    client
        .retry(&job.url, async || {
            let before = length_of(&partial);
            attempt(client, job, &partial, progress).await.map_err(|failure| {
                let progressed = length_of(&partial) > before;
                (failure, progressed)
            })
        })
        .await?;
    put_in_place(&partial, job.place)?;
    let _ = std::fs::remove_file(etag_file(&partial));
    progress.finish();
    Ok(())
}

/// One request; leaves a verified `.partial`, or as much of it as came.
async fn attempt(
    client: &Client,
    job: &Job<'_>,
    partial: &Path,
    progress: &dyn Progress,
) -> Result<(), Failure> {
    let have = length_of(partial);
    let held = std::fs::read_to_string(etag_file(partial)).ok().filter(|_| have > 0);
    let answer = client.get(&job.url, |hub| range_headers(hub, have, held.as_deref())).await?;
    let version = Version::read(&answer);
    let status = answer.response.status();
    if status == StatusCode::RANGE_NOT_SATISFIABLE {
        // Nothing is left to send: either all is here, or what is here is of no use.
        if version.etag != held || version.length.is_some_and(|length| length != have) {
            discard(partial);
            return Err(Failure::transient("the half-fetched file was of no use"));
        }
        return verify(job, partial, &version).await;
    }
    let continues = status == StatusCode::PARTIAL_CONTENT
        && version.etag == held
        && range_start(&answer.response) == Some(have);
    if status == StatusCode::PARTIAL_CONTENT && !continues {
        discard(partial);
        return Err(Failure::transient("the hub sent another part than was asked for"));
    }
    let from = if continues { have } else { 0 };
    if let (Some(limit), Some(length)) = (job.limit, version.length)
        && length > limit
    {
        return Err(too_large(job, limit));
    }
    progress.start(job.name, from, version.length);
    receive(job, partial, from, &version, answer, progress).await?;
    verify(job, partial, &version).await
}

/// Writes the body to `.partial` from byte `from` on.
async fn receive(
    job: &Job<'_>,
    partial: &Path,
    from: u64,
    version: &Version,
    answer: Answer,
    progress: &dyn Progress,
) -> Result<(), Failure> {
    let mut file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(partial)
        .await
        .map_err(HubError::io(partial))?;
    file.set_len(from).await.map_err(HubError::io(partial))?;
    match &version.etag {
        Some(etag) => std::fs::write(etag_file(partial), etag).map_err(HubError::io(partial))?,
        None => drop(std::fs::remove_file(etag_file(partial))), // cannot be continued
    }
    file.seek(SeekFrom::Start(from)).await.map_err(HubError::io(partial))?;
    let limit = job.limit.unwrap_or(u64::MAX).min(version.length.unwrap_or(u64::MAX));
    let mut response = answer.response;
    let mut length = from;
    loop {
        let chunk = response.chunk().await;
        let chunk = match chunk {
            Ok(Some(chunk)) => chunk,
            Ok(None) => break,
            Err(e) => {
                file.flush().await.map_err(HubError::io(partial))?;
                return Err(Failure::transient(with_causes(&e)));
            }
        };
        length += chunk.len() as u64;
        if length > limit {
            discard(partial);
            return Err(too_large(job, limit));
        }
        file.write_all(&chunk).await.map_err(HubError::io(partial))?;
        progress.advance(chunk.len() as u64);
    }
    file.flush().await.map_err(HubError::io(partial))?;
    Ok(())
}

/// Checks length and hash; deletes what is wrong.
async fn verify(job: &Job<'_>, partial: &Path, version: &Version) -> Result<(), Failure> {
    let found = length_of(partial);
    if let Some(expected) = version.length
        && found < expected
    {
        return Err(Failure::transient(format!("the answer ended at {found} of {expected} bytes")));
    }
    let Some(expected) = version.sha256() else { return Ok(()) };
    let found = sha256_of(partial).await?;
    if found != expected {
        discard(partial);
        let file = job.name.to_owned();
        return Err(Failure::Final(HubError::Corrupt { file, what: "SHA-256", found, expected }));
    }
    Ok(())
}

/// Asks for the rest of what is here, if the hub still has that version of the file.
fn range_headers(hub: &HeaderMap, have: u64, held: Option<&str>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let Some(held) = held else { return headers };
    let linked = hub.get(X_LINKED_ETAG).and_then(|v| v.to_str().ok()).map(plain_etag);
    if linked.as_deref().is_some_and(|etag| etag != held) {
        return headers; // it changed: from the beginning
    }
    let (Ok(range), Ok(etag)) = (
        HeaderValue::from_str(&format!("bytes={have}-")),
        HeaderValue::from_str(&format!("\"{held}\"")),
    ) else {
        return headers;
    };
    headers.insert(RANGE, range);
    // A storage behind the hub has ETags of its own; there the comparison above has to do.
    if linked.is_none() {
        headers.insert(IF_RANGE, etag);
    }
    headers
}

/// The SHA-256 of a file, read off the async threads' way in pieces.
async fn sha256_of(path: &Path) -> Result<String, HubError> {
    let mut file = File::open(path).await.map_err(HubError::io(path))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let n = file.read(&mut buffer).await.map_err(HubError::io(path))?;
        if n == 0 {
            return Ok(hex(&hash.finalize()));
        }
        hash.update(&buffer[..n]);
    }
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Where the version of a half-fetched file is noted.
fn etag_file(partial: &Path) -> PathBuf {
    with_suffix(partial, ".etag")
}

/// Forgets a half-fetched file.
fn discard(partial: &Path) {
    let _ = std::fs::remove_file(partial);
    let _ = std::fs::remove_file(etag_file(partial));
}

fn length_of(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |m| m.len())
}

/// An ETag without quotes and the mark of weakness.
fn plain_etag(etag: &str) -> String {
    etag.trim_start_matches("W/").trim_matches('"').to_owned()
}

/// Length of the whole file: of a part, what stands after the slash.
fn whole_length(response: &reqwest::Response) -> Option<u64> {
    let text = |name| response.headers().get(name).and_then(|v| v.to_str().ok());
    match text(CONTENT_RANGE) {
        Some(range) => range.rsplit_once('/')?.1.parse().ok(),
        None => text(CONTENT_LENGTH)?.parse().ok(),
    }
}

/// First byte of the part that was sent.
fn range_start(response: &reqwest::Response) -> Option<u64> {
    let range = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok()
}

fn too_large(job: &Job<'_>, limit: u64) -> Failure {
    let reason = format!("{} is larger than {limit} bytes", job.name);
    Failure::Final(HubError::BadAnswer { url: job.url.to_string(), reason })
}
