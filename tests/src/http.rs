//! One request over HTTP/1.1, written by hand: a test sees the bytes, and can send what no client would.

#![allow(clippy::unwrap_used)] // what a test needs, a test may insist on

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// What came back.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The head, status line included.
    pub head: String,
    /// The body.
    pub body: String,
}

impl Answer {
    /// The body as JSON.
    ///
    /// # Panics
    /// When it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Where a server is, and what every request shows.
#[derive(Clone, Debug)]
pub struct Client {
    /// Where to connect to.
    pub address: SocketAddr,
    /// The header `Host`.
    pub host: String,
    /// The token, if any.
    pub token: Option<String>,
}

impl Client {
    /// Of a server on this machine, without a token.
    #[must_use]
    pub fn new(address: SocketAddr) -> Self {
        Self { address, host: address.to_string(), token: None }
    }

    /// `GET path`.
    pub async fn get(&self, path: &str) -> Answer {
        self.raw(&self.head("GET", path, "")).await
    }

    /// `POST path` with a JSON body.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        let body = body.to_string();
        let more = format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
        self.raw(&(self.head("POST", path, &more) + &body)).await
    }

    /// The head of a request.
    #[must_use]
    pub fn head(&self, method: &str, path: &str, more: &str) -> String {
        let token = self.token.iter().map(|token| format!("Authorization: Bearer {token}\r\n"));
        let token: String = token.collect();
        format!("{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{token}{more}\r\n", self.host)
    }

    /// Sends these bytes and reads up to the end.
    ///
    /// # Panics
    /// When the server cannot be reached, answers no HTTP, or does not end in time.
    pub async fn raw(&self, request: &str) -> Answer {
        let answered = tokio::time::timeout(PATIENCE, async {
            let mut stream = TcpStream::connect(self.address).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            // A server that refuses a body closes the connection before it was read.
            let ended = stream.read_to_end(&mut answer).await;
            (String::from_utf8_lossy(&answer).into_owned(), ended)
        });
        let (answer, ended) = answered.await.expect("the server answers in time");
        let (head, body) =
            answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no HTTP: {answer:?} {ended:?}"));
        let status = head.split_whitespace().nth(1).and_then(|status| status.parse().ok());
        Answer { status: status.unwrap(), head: head.to_owned(), body: body.to_owned() }
    }
}
