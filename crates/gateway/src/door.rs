//! The gateway's one handler: which instance does a request mean, and is it there?
//!
//! It looks at the path alone. Methods, bodies and everything else are the engine's business, and
//! new paths of the engine work without a change here.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Request, State},
    http::{HeaderName, Method, StatusCode, header},
    middleware::from_fn,
    response::{IntoResponse as _, Response},
};
use serde_json::json;
use uuid::Uuid;

use crate::{
    cors,
    error::RequestError,
    instance::{Instance, Phase},
    relay,
    route::{self, MODEL_PORT, Route},
    upstream::Passage,
};

pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What the handler needs.
pub(crate) struct Door {
    pub(crate) default_instance: Arc<Instance>,
    pub(crate) max_body_bytes: usize,
}

/// What a path leads to.
enum Opened<'a> {
    /// A page of the gateway's own.
    Page(Response),
    /// An engine that is ready, and the path it shall see.
    Engine { passage: Passage, rest: &'a str },
}

pub(crate) fn router(door: Door) -> Router {
    Router::new()
        .fallback(handle)
        .layer(from_fn(wharf_http::discard_unread))
        .with_state(Arc::new(door))
}

async fn handle(State(door): State<Arc<Door>>, request: Request) -> Response {
    let request_id = request.headers().get(REQUEST_ID).cloned();
    match door.answer(request).await {
        Ok(response) => response,
        Err(error) => {
            tracing::debug!(%error, "refused");
            let mut response = error.into_response();
            // An id for the user to quote; an engine's answers have one of the engine's.
            let id = request_id.or_else(|| Uuid::new_v4().to_string().try_into().ok());
            if let Some(id) = id {
                response.headers_mut().insert(REQUEST_ID, id);
            }
            response
        }
    }
}

impl Door {
    async fn answer(&self, request: Request) -> Result<Response, RequestError> {
        // The path is needed after the request was taken apart.
        let path = request.uri().path().to_owned();
        let opened = self.open(&request, &path);
        if opened.is_err() && cors::is_preflight(&request) {
            return Ok(cors::preflight(&request));
        }
        match opened {
            Ok(Opened::Page(page)) => Ok(page),
            Ok(Opened::Engine { passage, rest }) => {
                relay::relay(passage, request, rest, self.max_body_bytes).await
            }
            Err(error) => Err(error),
        }
    }

    fn open<'a>(&self, request: &Request, path: &'a str) -> Result<Opened<'a>, RequestError> {
        let (instance, rest) = match route::parse(path)? {
            Route::Index => return self.own(request, Self::index),
            Route::Health => return self.own(request, Self::health),
            Route::Default { path } => (&self.default_instance, path),
            Route::Instance { id, port, rest } => (self.find(id, port)?, rest),
        };
        Ok(Opened::Engine { passage: instance.enter()?, rest })
    }

    /// Only registered pairs of instance and port are reachable.
    fn find(&self, id: Uuid, port: u16) -> Result<&Arc<Instance>, RequestError> {
        let instance = &self.default_instance;
        if id != instance.id {
            return Err(RequestError::UnknownInstance(id));
        }
        if port != MODEL_PORT {
            return Err(RequestError::UnknownPort { id, port });
        }
        Ok(instance)
    }

    /// A page of the gateway itself.
    fn own<'a>(
        &self,
        request: &Request,
        page: impl FnOnce(&Self, &Request) -> Response,
    ) -> Result<Opened<'a>, RequestError> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return Err(RequestError::MethodNotAllowed);
        }
        let mut response = page(self, request);
        cors::open(response.headers_mut());
        Ok(Opened::Page(response))
    }

    /// What this is, and where its API is.
    fn index(&self, request: &Request) -> Response {
        let id = self.default_instance.id;
        let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
        let origin = host.map_or(String::new(), |host| format!("http://{host}"));
        Json(json!({
            "name": "wharf",
            "version": env!("CARGO_PKG_VERSION"),
            "default_instance": id,
            "base_url": format!("{origin}/{id}/{MODEL_PORT}/v1"),
            "health": format!("{origin}/health"),
        }))
        .into_response()
    }

    /// 200 when the default instance can serve, 503 when it cannot: load balancers read the status,
    /// people the body.
    fn health(&self, _: &Request) -> Response {
        let status = self.default_instance.status();
        let body = Json(json!({
            "status": if status.phase == Phase::Ready { "ok" } else { "unavailable" },
            "default_instance": {
                "id": self.default_instance.id,
                "state": status.phase,
                // What the engine said on its end is for the log: anyone can read this page.
                "reason": status.reason.as_ref().map(|_| "the engine failed; the log says why"),
                "requests_in_flight": status.in_flight(),
            },
        }));
        if status.phase == Phase::Ready {
            return body.into_response();
        }
        // The refusal knows when to ask again.
        let mut response = status.refusal().into_response();
        let retry_after = response.headers_mut().remove(header::RETRY_AFTER);
        let mut response = (StatusCode::SERVICE_UNAVAILABLE, body).into_response();
        if let Some(seconds) = retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        response
    }
}
