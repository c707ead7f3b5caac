//! One HTTP client for one hub: who gets the token, which redirects are followed, what a refusal
//! means, and when to try again.
//!
//! Redirects are followed here and not by the HTTP library, for two reasons: a hub tells the hash
//! of a large file on the redirect itself (`X-Linked-Etag`), and the token must go to the hub's own
//! origin only, wherever the redirects lead.

use std::sync::Once;
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderMap, LOCATION, RETRY_AFTER};
use reqwest::{Response, StatusCode, Url};

use crate::{HubError, HubOptions};

/// Time to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest silence in the middle of an answer.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest way from one redirect to the next.
const MAX_REDIRECTS: usize = 8;
/// Failures in a row, without a byte gained between, before giving up.
const MAX_FAILURES: u32 = 5;
/// Longest pause a hub can ask for with `Retry-After`.
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// Longest explanation of a refusal that is repeated to the user, in bytes.
const MAX_EXPLANATION: usize = 300;

/// Talks to one hub.
#[derive(Debug)]
pub(crate) struct Client {
    http: reqwest::Client,
    endpoint: Url,
    token: Option<String>,
    backoff: Duration,
}

/// Why one attempt failed, and whether another may succeed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Try again, not before the pause the hub asked for.
    Transient { reason: String, pause: Option<Duration> },
    /// It would fail again.
    Final(HubError),
}

impl From<HubError> for Failure {
    fn from(error: HubError) -> Self {
        Self::Final(error)
    }
}

impl Failure {
    /// A failure that another attempt may not meet.
    pub(crate) fn transient(reason: impl Into<String>) -> Self {
        Self::Transient { reason: reason.into(), pause: None }
    }
}

/// The answer at the end of the redirects.
#[derive(Debug)]
pub(crate) struct Answer {
    /// 2xx, or 416.
    pub(crate) response: Response,
    /// Headers of the hub's own answer: the redirect, if it redirected.
    pub(crate) first: HeaderMap,
}

impl Client {
    /// A client for `options.hf_endpoint`.
    pub(crate) fn new(options: &HubOptions) -> Result<Self, HubError> {
        install_crypto();
        let bad = |reason: String| HubError::BadAnswer { url: options.hf_endpoint.clone(), reason };
        let endpoint = Url::parse(options.hf_endpoint.trim_end_matches('/'))
            .map_err(|e| bad(format!("the hub's endpoint is not a URL: {e}")))?;
        if !matches!(endpoint.scheme(), "http" | "https") {
            return Err(bad("the hub's endpoint must begin with http:// or https://".into()));
        }
        let http = reqwest::Client::builder()
            .user_agent(concat!("wharf/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|e| bad(with_causes(&e)))?;
        let token = options.hf_token.clone().filter(|t| !t.is_empty());
        Ok(Self { http, endpoint, token, backoff: options.backoff })
    }

    /// The URL of `path`, whose segments are plain (see `name`), under the endpoint.
    pub(crate) fn url(&self, path: &str) -> Result<Url, HubError> {
        let text = format!("{}/{path}", self.endpoint.as_str().trim_end_matches('/'));
        Url::parse(&text)
            .map_err(|e| HubError::BadAnswer { url: text.clone(), reason: e.to_string() })
    }

    /// One GET, redirects followed. `headers` are asked for the hub's headers before each request,
    /// so that a range can depend on what the redirect told.
    pub(crate) async fn get(
        &self,
        url: &Url,
        mut headers: impl FnMut(&HeaderMap) -> HeaderMap,
    ) -> Result<Answer, Failure> {
        let mut url = url.clone();
        let mut first: Option<HeaderMap> = None;
        for _ in 0..=MAX_REDIRECTS {
            let known = first.clone().unwrap_or_default();
            let mut request = self.http.get(url.clone()).headers(headers(&known));
            if let Some(token) =
                self.token.as_ref().filter(|_| url.origin() == self.endpoint.origin())
            {
                request = request.header(AUTHORIZATION, format!("Bearer {token}"));
            }
            let response = request.send().await.map_err(|e| Failure::transient(with_causes(&e)))?;
            let status = response.status();
            if status.is_redirection() && status != StatusCode::NOT_MODIFIED {
                url = redirect_target(&url, response.headers())?;
                // The first answer that names a hash is the one to keep: a renamed repository
                // redirects within the hub before the file redirects to its storage.
                if first.as_ref().is_none_or(|h| !h.contains_key("x-linked-etag")) {
                    first = Some(response.headers().clone());
                }
                continue;
            }
            if status.is_success() || status == StatusCode::RANGE_NOT_SATISFIABLE {
                let first = first.unwrap_or_else(|| response.headers().clone());
                return Ok(Answer { response, first });
            }
            return Err(self.refusal(url, response).await);
        }
        let reason = format!("more than {MAX_REDIRECTS} redirects");
        Err(Failure::Final(HubError::BadAnswer { url: url.into(), reason }))
    }

    /// What a status that is no success means.
    async fn refusal(&self, url: Url, response: Response) -> Failure {
        let status = response.status();
        let pause = retry_after(response.headers());
        let hub_says =
            response.headers().get("x-error-message").and_then(|v| v.to_str().ok()).map(|text| {
                text.chars().filter(|c| !c.is_control()).take(MAX_EXPLANATION).collect::<String>()
            });
        if status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429) {
            return Failure::Transient { reason: format!("the hub answered {status}"), pause };
        }
        let token = match self.token {
            Some(_) => "the token in HF_TOKEN does not allow it",
            None => "set HF_TOKEN to a token that may read it",
        };
        let mut explanation = match status.as_u16() {
            401 => format!("unauthorised: no such repository, or it is private: {token}"),
            403 => format!("forbidden: a gated model asks you to accept its terms first; {token}"),
            404 => {
                "not found: check the spelling of the repository, the revision and the file".into()
            }
            _ => status.canonical_reason().unwrap_or("refused").to_owned(),
        };
        if let Some(text) = hub_says.filter(|t| !t.is_empty()) {
            explanation.push_str(&format!(" (the hub says: {text})"));
        }
        Failure::Final(HubError::Status { url: url.into(), status: status.as_u16(), explanation })
    }

    /// Calls `attempt` until it succeeds, fails for good, or has failed [`MAX_FAILURES`] times
    /// without progress. `attempt` returns its failure and whether it got any further.
    pub(crate) async fn retry<T>(
        &self,
        url: &Url,
        mut attempt: impl AsyncFnMut() -> Result<T, (Failure, bool)>,
    ) -> Result<T, HubError> {
        let mut failures = 0;
        loop {
            let (reason, pause) = match attempt().await {
                Ok(value) => return Ok(value),
                Err((Failure::Final(error), _)) => return Err(error),
                Err((Failure::Transient { reason, pause }, progressed)) => {
                    failures = if progressed { 1 } else { failures + 1 };
                    (reason, pause)
                }
            };
            if failures >= MAX_FAILURES {
                let reason = format!("{reason} (tried {failures} times)");
                return Err(HubError::Network { url: url.to_string(), reason });
            }
            let pause = pause.unwrap_or(self.backoff * (1 << (failures - 1))).min(MAX_PAUSE);
            tracing::info!("{url}: {reason}; trying again in {pause:?}");
            tokio::time::sleep(pause).await;
        }
    }

    /// A small answer's body, whole; more than `limit` bytes are an error.
    pub(crate) async fn body(&self, url: &Url, limit: usize) -> Result<Vec<u8>, HubError> {
        self.retry(url, async || {
            let answer = self.get(url, |_| HeaderMap::new()).await.map_err(|f| (f, false))?;
            let mut response = answer.response;
            let mut body = Vec::new();
            loop {
                match response.chunk().await {
                    Ok(Some(chunk)) if body.len() + chunk.len() > limit => {
                        let reason = format!("the answer is larger than {limit} bytes");
                        let error = HubError::BadAnswer { url: url.to_string(), reason };
                        return Err((Failure::Final(error), false));
                    }
                    Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                    Ok(None) => return Ok(body),
                    Err(e) => return Err((Failure::transient(with_causes(&e)), false)),
                }
            }
        })
        .await
    }
}

/// Where a redirect leads. Never from https to http.
fn redirect_target(from: &Url, headers: &HeaderMap) -> Result<Url, Failure> {
    let bad = |reason: &str| {
        Failure::Final(HubError::BadAnswer { url: from.to_string(), reason: reason.to_owned() })
    };
    let to = headers
        .get(LOCATION)
        .and_then(|v| v.to_str().ok())
        .and_then(|location| from.join(location).ok())
        .ok_or_else(|| bad("a redirect without a usable Location"))?;
    match (from.scheme(), to.scheme()) {
        (_, "https") | ("http", "http") => Ok(to),
        _ => Err(bad("a redirect from https to something weaker")),
    }
}

/// `Retry-After` in seconds; its date form is not worth a date parser.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds: f64 = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

/// An error of the HTTP library with its causes: the last one is what helps ("connection refused").
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let words = cause.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        source = cause.source();
    }
    text
}

/// Chooses ring for TLS, once per process; whoever was first keeps their choice.
fn install_crypto() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if rustls::crypto::ring::default_provider().install_default().is_err() {
            tracing::debug!("a TLS provider was chosen before");
        }
    });
}
