//! What a request's path names: the one thing the gateway reads of a relayed request.
//!
//! The path is taken apart as it was sent. Nothing is percent-decoded or normalised, because what
//! follows `/{instance_id}/{port}` belongs to the engine, byte for byte; and an instance id has one
//! spelling (hyphenated), so that one endpoint has one URL.

use std::ops::RangeInclusive;

use uuid::Uuid;

/// The ports an instance may serve.
pub(crate) const PORTS: RangeInclusive<u16> = 3000..=4000;

/// The port of an instance's model server.
pub(crate) const MODEL_PORT: u16 = 3900;

/// Paths of the model server outside `/v1` that also work without an instance.
/// `/health` is not among them: without an instance it is the gateway's own.
const MODEL_SERVER_PATHS: [&str; 5] = ["/detokenize", "/metrics", "/ping", "/tokenize", "/version"];

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Route<'a> {
    /// `/`
    Index,
    /// `/health`
    Health,
    /// `/{id}/{port}{rest}`; the rest is empty or starts with a slash.
    Instance { id: Uuid, port: u16, rest: &'a str },
    /// A path of the default instance's model server.
    Default { path: &'a str },
}

/// Why a path names nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RouteError {
    #[error(
        "There is nothing at `{0}`. The API is at /v1/... (default instance) and \
         /{{instance_id}}/{{port}}/v1/..."
    )]
    UnknownPath(String),
    #[error(
        "`{0}` is not an instance id: that is a UUID such as 0b9c3f6e-1d1f-4c55-9a3c-5d2f0a7f1e42."
    )]
    NotAnInstance(String),
    #[error("`{0}` is not a port: that is a number from {start} to {end}.", start = PORTS.start(), end = PORTS.end())]
    NotAPort(String),
    #[error(
        "There is no port after the instance id; the model server's is {MODEL_PORT}: /{0}/{MODEL_PORT}/v1/..."
    )]
    NoPort(Uuid),
}

/// Reads a request's path (without the query).
pub(crate) fn parse(path: &str) -> Result<Route<'_>, RouteError> {
    match path {
        "/" => return Ok(Route::Index),
        "/health" => return Ok(Route::Health),
        _ if MODEL_SERVER_PATHS.contains(&path) => return Ok(Route::Default { path }),
        _ => {}
    }
    let unknown = || RouteError::UnknownPath(excerpt(path));
    let (first, rest) = split_segment(path).ok_or_else(unknown)?;
    if first == "v1" {
        return Ok(Route::Default { path });
    }
    let second = split_segment(rest);
    let Some(id) = parse_id(first) else {
        // `/something/3900/...` was meant for an instance; `/something/else` was not.
        let meant = second.is_some_and(|(port, _)| port.parse::<u16>().is_ok());
        return Err(if meant { RouteError::NotAnInstance(excerpt(first)) } else { unknown() });
    };
    let (port, rest) = second.filter(|(port, _)| !port.is_empty()).ok_or(RouteError::NoPort(id))?;
    let port = parse_port(port).ok_or_else(|| RouteError::NotAPort(excerpt(port)))?;
    Ok(Route::Instance { id, port, rest })
}

/// Splits `/first/rest` into `first` and `/rest`.
fn split_segment(path: &str) -> Option<(&str, &str)> {
    let path = path.strip_prefix('/')?;
    Some(path.split_at(path.find('/').unwrap_or(path.len())))
}

fn parse_id(text: &str) -> Option<Uuid> {
    // `Uuid` reads other spellings too; 36 characters leave the hyphenated one.
    if text.len() == 36 { Uuid::try_parse(text).ok() } else { None }
}

fn parse_port(text: &str) -> Option<u16> {
    let digits = text.len() == 4 && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|port| digits && PORTS.contains(port))
}

/// As much of a client's text as an error message needs to repeat.
fn excerpt(text: &str) -> String {
    const LIMIT: usize = 100;
    match text.char_indices().nth(LIMIT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "0b9c3f6e-1d1f-4c55-9a3c-5d2f0a7f1e42";

    #[test]
    fn an_instance_path_keeps_its_rest_as_it_was_sent() {
        for rest in ["", "/", "/v1/chat/completions", "/a%2Fb//c/../%zz", "/ä"] {
            let path = format!("/{ID}/3900{rest}");
            let id = Uuid::parse_str(ID).unwrap();
            assert_eq!(parse(&path), Ok(Route::Instance { id, port: 3900, rest }));
        }
    }

    #[test]
    fn paths_without_an_instance_belong_to_the_default_one_or_to_the_gateway() {
        for path in ["/v1", "/v1/models", "/v1/health", "/metrics", "/tokenize", "/version"] {
            assert_eq!(parse(path), Ok(Route::Default { path }));
        }
        assert_eq!(parse("/"), Ok(Route::Index));
        assert_eq!(parse("/health"), Ok(Route::Health));
    }

    #[test]
    fn what_names_nothing_is_told_why() {
        let simple = ID.replace('-', "");
        let not_an_instance = |text: &str| RouteError::NotAnInstance(text.to_owned());
        assert_eq!(parse("/mine/3900/v1/models"), Err(not_an_instance("mine")));
        assert_eq!(parse(&format!("/{simple}/3900/v1")), Err(not_an_instance(&simple)));
        for port in ["80", "2999", "4001", "+3900", "03900", "3900x", "99999999999"] {
            let wrong = Err(RouteError::NotAPort(port.to_owned()));
            assert_eq!(parse(&format!("/{ID}/{port}/v1/models")), wrong);
        }
        let id = Uuid::parse_str(ID).unwrap();
        for path in [format!("/{ID}"), format!("/{ID}/"), format!("/{ID}//v1")] {
            assert_eq!(parse(&path), Err(RouteError::NoPort(id)), "{path}");
        }
        for path in ["/v2/models", "/favicon.ico", "/v1x", "//", "", "*", "/metrics/"] {
            assert_eq!(parse(path), Err(RouteError::UnknownPath(path.to_owned())));
        }
    }

    #[test]
    fn a_long_path_is_not_repeated_in_full() {
        let path = format!("/{}", "ä".repeat(10_000));
        assert!(parse(&path).unwrap_err().to_string().len() < 500);
    }

    proptest! {
        #[test]
        fn never_panics(path in ".{0,80}") {
            let _ = parse(&path);
        }

        #[test]
        fn every_port_of_the_range_and_no_other(port in 0u32..70_000) {
            let path = format!("/{ID}/{port}/x");
            let known = matches!(parse(&path), Ok(Route::Instance { .. }));
            prop_assert_eq!(known, (3000..=4000).contains(&port));
        }
    }
}
