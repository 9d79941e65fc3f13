//! Who may ask: with a token, whoever has it; without one, programs of this machine, and only to look.
//!
//! Browsers of this machine are kept out too: a page of somebody else reaches a loopback address under a name of its own (DNS
//! rebinding), which the header `Host` then shows.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use secrecy::{ExposeSecret, SecretString};

use super::{AdminError, api::ApiError};
use crate::{
    config::{AdminConfig, TOKEN_CHARS_MIN},
    setup,
};

/// What is demanded of a request.
#[derive(Debug)]
pub struct Guard {
    token: Option<SecretString>,
}

impl Guard {
    /// Reads the token.
    ///
    /// # Errors
    /// When its file cannot be read or holds too little.
    pub fn new(config: &AdminConfig) -> Result<Self, AdminError> {
        let Some(file) = &config.token_file else { return Ok(Self { token: config.token.clone() }) };
        let token = setup::file_or_value("[admin]", "token_file", None, Some(file))?;
        if token.expose_secret().chars().count() < TOKEN_CHARS_MIN {
            return Err(AdminError::ShortToken { file: file.display().to_string() });
        }
        Ok(Self { token: Some(token) })
    }

    fn refuses(&self, method: &Method, headers: &HeaderMap) -> Option<ApiError> {
        match &self.token {
            Some(token) if shows(headers, token) => None,
            Some(_) => Some(ApiError::new(
                StatusCode::UNAUTHORIZED,
                "this needs the token of [admin]: Authorization: Bearer TOKEN",
            )),
            None if !is_named_locally(headers) => Some(ApiError::new(
                StatusCode::FORBIDDEN,
                "without a token only this machine may ask, under a name like localhost or 127.0.0.1",
            )),
            None if *method != Method::GET => Some(ApiError::new(
                StatusCode::FORBIDDEN,
                "without a token nothing can be changed over HTTP: set token_file in [admin], or use the command line",
            )),
            None => None,
        }
    }
}

/// Lets a request through, or answers why not.
pub async fn check(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    match guard.refuses(request.method(), request.headers()) {
        None => next.run(request).await,
        Some(refusal) => refusal.into_response(),
    }
}

fn shows(headers: &HeaderMap, token: &SecretString) -> bool {
    let shown = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let shown = shown.and_then(|value| value.split_once(' '));
    let shown = shown.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    shown.is_some_and(|(_, shown)| same(shown.trim().as_bytes(), token.expose_secret().as_bytes()))
}

/// Takes as long for a wrong first letter as for a wrong last one.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |different, (a, b)| different | (a ^ b)) == 0
}

fn is_named_locally(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST).and_then(|value| value.to_str().ok()) else { return false };
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(all: &[(header::HeaderName, &str)]) -> HeaderMap {
        all.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
    }

    #[test]
    fn without_a_token_this_machine_may_look() {
        let guard = Guard { token: None };
        let status = |method: Method, host: &str| {
            guard.refuses(&method, &headers(&[(header::HOST, host)])).map(|error| error.status())
        };
        for host in ["localhost", "LOCALHOST:7118", "127.0.0.1:7118", "127.8.8.8", "[::1]:7118"] {
            assert_eq!(status(Method::GET, host), None, "{host}");
            assert_eq!(status(Method::POST, host), Some(StatusCode::FORBIDDEN), "{host}");
        }
        for host in ["evil.example", "localhost.evil.example:7118", "192.168.0.7:7118", "127.0.0.1.evil", ""]
        {
            assert_eq!(status(Method::GET, host), Some(StatusCode::FORBIDDEN), "{host}");
        }
        assert!(guard.refuses(&Method::GET, &HeaderMap::new()).is_some(), "no Host at all");
    }

    #[test]
    fn with_a_token_only_the_token_counts() {
        let guard = Guard { token: Some("0123456789abcdef".to_owned().into()) };
        let status = |shown: &str| {
            let all = [(header::HOST, "relay.example"), (header::AUTHORIZATION, shown)];
            guard.refuses(&Method::POST, &headers(&all)).map(|error| error.status())
        };
        assert_eq!(status("Bearer 0123456789abcdef"), None);
        assert_eq!(status("bearer  0123456789abcdef"), None);
        for shown in
            ["Bearer 0123456789abcdeX", "Bearer ", "Bearer 0123456789abcdef0", "0123456789abcdef", "Basic x"]
        {
            assert_eq!(status(shown), Some(StatusCode::UNAUTHORIZED), "{shown}");
        }
        assert!(guard.refuses(&Method::GET, &headers(&[(header::HOST, "localhost")])).is_some());
    }
}
