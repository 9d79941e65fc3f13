//! One proxied connection: passes bytes on, notes whose turn it is, and loses the answer when a fault says so.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::ReadHalf;

use super::fault::{Armed, Fault, Faults};
use super::statements::{Does, Statements};

/// How long a server may take to do a request whose answer is swallowed.
const SERVER_TIMEOUT: Duration = Duration::from_secs(60);

/// Enough for most bursts; longer ones take several reads.
const BUFFER_BYTES: usize = 64 * 1024;

/// The state of one connection.
#[derive(Debug)]
pub(super) struct Link<'a> {
    connection: usize,
    round_trips: Arc<AtomicU64>,
    faults: &'a Faults,
    latency_us: &'a AtomicU64,
    /// The client has sent something that was not answered yet.
    asked: bool,
    /// The end of the current burst, in case a needle lies across two reads.
    tail: Vec<u8>,
    /// The answer to the current request is to be lost.
    losing: Option<Armed>,
    /// The current request stays here.
    holding: bool,
    statements: Statements,
}

impl<'a> Link<'a> {
    pub(super) fn new(
        connection: usize,
        round_trips: Arc<AtomicU64>,
        faults: &'a Faults,
        latency_us: &'a AtomicU64,
    ) -> Self {
        Self {
            connection,
            round_trips,
            faults,
            latency_us,
            asked: false,
            tail: Vec::new(),
            losing: None,
            holding: false,
            statements: Statements::default(),
        }
    }

    /// Until one side closes or a fault strikes. Both sockets are closed on return.
    ///
    /// One task for both directions, so that "request, then answer" is an order and not a race. It does not read from a
    /// side while it writes to the other, which is fine for protocols of question and answer.
    pub(super) async fn run(mut self, mut client: TcpStream, mut server: TcpStream) -> io::Result<()> {
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let (mut from_client, mut to_client) = client.split();
        let (mut from_server, mut to_server) = server.split();
        let (mut request, mut answer) = (vec![0; BUFFER_BYTES], vec![0; BUFFER_BYTES]);
        let mut client_open = true;
        loop {
            tokio::select! {
                read = from_client.read(&mut request), if client_open => {
                    let request = &request[..read?];
                    self.delay().await;
                    if let Some(closing) = self.forgets(request) {
                        to_server.write_all(&closing).await?;
                    }
                    if request.is_empty() {
                        client_open = false;
                        to_server.shutdown().await?;
                    } else if self.passes(request) {
                        to_server.write_all(request).await?;
                    } else if self.holding {
                        // The client is gone when this is delivered: what it sent behind it comes along.
                        let mut rest = request.to_vec();
                        self.faults.deliver.notified().await;
                        from_client.read_to_end(&mut rest).await?;
                        to_server.write_all(&rest).await?;
                        to_server.shutdown().await?;
                        read_to_end(&mut from_server).await?;
                        self.faults.delivered.fetch_add(1, Ordering::SeqCst);
                        return Ok(());
                    } else {
                        return Ok(());
                    }
                }
                read = from_server.read(&mut answer) => {
                    let answer = &answer[..read?];
                    if let Some(armed) = self.losing.take() {
                        // The server answers only what it has got completely. Told that nothing more will come, it closes
                        // when it has done the rest of it: one text may hold several statements, each with an answer.
                        to_server.shutdown().await?;
                        let rest = read_to_end(&mut from_server).await?;
                        let holds = armed.holds;
                        self.faults.record(armed, self.connection, answer.len() + rest);
                        if holds {
                            // Until the client gives up.
                            from_client.read_to_end(&mut Vec::new()).await?;
                        }
                        return Ok(());
                    }
                    if answer.is_empty() {
                        return Ok(());
                    }
                    self.answered(answer);
                    to_client.write_all(answer).await?;
                }
            }
        }
    }

    /// Holds the first piece of a request: the rest of it travels right behind.
    async fn delay(&self) {
        let latency = Duration::from_micros(self.latency_us.load(Ordering::SeqCst));
        if !self.asked && !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
    }

    /// What makes the server forget the statement that this request executes, when that is armed.
    fn forgets(&mut self, request: &[u8]) -> Option<Vec<u8>> {
        let executes = !self.asked && matches!(self.statements.request(request), Does::Executes(_));
        (executes && self.faults.forgets()).then(|| self.statements.closing())
    }

    /// Notes a piece of a request; false when it must not reach the server.
    fn passes(&mut self, request: &[u8]) -> bool {
        let begins = !std::mem::replace(&mut self.asked, true);
        if self.losing.is_some() {
            return true;
        }
        if begins {
            match self.statements.request(request) {
                Does::Prepares => return true,
                Does::Executes(text) => self.tail.extend_from_slice(text),
                Does::AsItSays => {}
            }
        }
        self.tail.extend_from_slice(request);
        let Some(armed) = self.faults.take(&self.tail) else {
            let keep = self.faults.overlap().min(self.tail.len());
            self.tail.drain(..self.tail.len() - keep);
            return true;
        };
        match armed.fault {
            Fault::BeforeRequest => {
                self.holding = armed.holds;
                self.faults.record(armed, self.connection, 0);
                false
            }
            Fault::AfterRequest => {
                self.losing = Some(armed);
                true
            }
        }
    }

    /// Notes a piece of an answer: the first one completes a round trip.
    fn answered(&mut self, answer: &[u8]) {
        self.tail.clear();
        if std::mem::take(&mut self.asked) {
            self.statements.answer(answer);
            self.round_trips.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// How many bytes the server still sent before it closed.
///
/// # Panics
/// When it has not closed in time: then nobody knows what it did, and a test that goes on would prove nothing.
async fn read_to_end(server: &mut ReadHalf<'_>) -> io::Result<usize> {
    let mut rest = Vec::new();
    match tokio::time::timeout(SERVER_TIMEOUT, server.read_to_end(&mut rest)).await {
        // A server may also close hard, after it has done everything.
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset => Ok(rest.len()),
        Ok(read) => read,
        Err(_) => panic!("the server did not finish a request within {SERVER_TIMEOUT:?}"),
    }
}
