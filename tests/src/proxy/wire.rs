//! A wire between a client and a server whose quality a test sets while it is in use.
//!
//! Where [`Proxy`](super::Proxy) knows whose turn it is and loses single answers, a wire carries both directions
//! independently, as AMQP and Kafka need it, and spoils everything alike: it delays, narrows, slices, swallows, resets and
//! clogs. What it did is counted, so that a test can prove that it happened.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, tcp};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::quality::Quality;
use crate::servers;

/// What is carried at a time; with latency, how much is under way.
const PIECE_BYTES: usize = 64 * 1024;

/// A wire that carries until it is dropped; dropping it cuts all of its connections.
#[derive(Debug)]
pub struct Wire {
    /// Where clients connect to.
    pub addr: SocketAddr,
    shared: Arc<Shared>,
    stop: CancellationToken,
}

/// What a wire has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// Connections that were made through it.
    pub connections: u64,
    /// Connections that it refused.
    pub refused: u64,
    /// Connections that it reset.
    pub resets: u64,
    /// Bytes that arrived.
    pub bytes: u64,
    /// Pieces that arrived late or cut to size.
    pub spoilt: u64,
    /// Bytes that were sent and never arrived.
    pub swallowed: u64,
}

#[derive(Debug)]
struct Shared {
    upstream: Mutex<String>,
    refusing: AtomicBool,
    quality: watch::Sender<[Quality; 2]>,
    /// Each connection, by its number: whether it is clogged.
    clogs: Mutex<Vec<watch::Sender<bool>>>,
    /// Cancelled to reset what is connected now, and then replaced.
    reset: Mutex<CancellationToken>,
    counts: Counts,
}

#[derive(Debug, Default)]
struct Counts {
    refused: AtomicU64,
    resets: AtomicU64,
    bytes: AtomicU64,
    spoilt: AtomicU64,
    swallowed: AtomicU64,
}

impl Wire {
    /// Listens on a free port of the loopback and connects every client to `upstream` (`host:port`).
    ///
    /// # Panics
    /// When there is no port to listen on.
    pub async fn start(upstream: impl Into<String>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port on the loopback");
        let addr = listener.local_addr().expect("a listener has an address");
        let shared = Arc::new(Shared {
            upstream: Mutex::new(upstream.into()),
            refusing: AtomicBool::new(false),
            quality: watch::channel([Quality::default(); 2]).0,
            clogs: Mutex::default(),
            reset: Mutex::default(),
            counts: Counts::default(),
        });
        let stop = CancellationToken::new();
        tokio::spawn(stop.clone().run_until_cancelled_owned(accept(listener, Arc::clone(&shared))));
        Self { addr, shared, stop }
    }

    /// A wire to the server of this URL, and the URL that leads through it.
    ///
    /// # Panics
    /// When there is no port to listen on.
    pub async fn in_front_of(url: &str) -> (Self, String) {
        let wire = Self::start(servers::address_of(url)).await;
        let url = servers::through(url, wire.addr);
        (wire, url)
    }

    /// From now on both directions are like this.
    pub fn quality(&self, both: Quality) {
        self.shared.quality.send_replace([both; 2]);
    }

    /// From now on the way to the server is like the first, the way back like the second.
    pub fn qualities(&self, to_server: Quality, to_client: Quality) {
        self.shared.quality.send_replace([to_server, to_client]);
    }

    /// New connections lead there; those that are open stay.
    pub fn lead_to(&self, upstream: impl Into<String>) {
        *self.shared.upstream.lock().unwrap_or_else(PoisonError::into_inner) = upstream.into();
    }

    /// Whether new connections are closed at once.
    pub fn refuse(&self, refuse: bool) {
        self.shared.refusing.store(refuse, Ordering::SeqCst);
    }

    /// Resets everything that is connected now (RST, not FIN), in the middle of whatever is on its way.
    pub fn reset_all(&self) {
        std::mem::take(&mut *self.shared.reset.lock().unwrap_or_else(PoisonError::into_inner)).cancel();
    }

    /// How many connections there have been; they are numbered from 0.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.clogs.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether this connection is stopped: nothing passes, nothing is lost, and it goes on when it is released.
    pub fn clog(&self, connection: usize, clogged: bool) {
        let clogs = self.shared.clogs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(clog) = clogs.get(connection) {
            clog.send_replace(clogged);
        }
    }

    /// What it has done so far.
    #[must_use]
    pub fn carried(&self) -> Carried {
        let counts = &self.shared.counts;
        let of = |count: &AtomicU64| count.load(Ordering::SeqCst);
        Carried {
            connections: self.connections() as u64,
            refused: of(&counts.refused),
            resets: of(&counts.resets),
            bytes: of(&counts.bytes),
            spoilt: of(&counts.spoilt),
            swallowed: of(&counts.swallowed),
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut links = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { continue };
                if shared.refusing.load(Ordering::SeqCst) {
                    shared.counts.refused.fetch_add(1, Ordering::SeqCst);
                    continue;
                }
                links.spawn(link(client, Arc::clone(&shared)));
            }
            Some(_) = links.join_next() => {}
        }
    }
}

async fn link(mut client: TcpStream, shared: Arc<Shared>) {
    let upstream = shared.upstream.lock().unwrap_or_else(PoisonError::into_inner).clone();
    // A server that cannot be reached looks to the client like one that closes at once.
    let Ok(mut server) = TcpStream::connect(upstream).await else { return };
    // Without it slices would travel together; a socket that refuses is one that has just been closed.
    if client.set_nodelay(true).and_then(|()| server.set_nodelay(true)).is_err() {
        return;
    }
    let reset = shared.reset.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let clog = watch::Sender::new(false);
    let clogged = clog.subscribe();
    let number = {
        let mut clogs = shared.clogs.lock().unwrap_or_else(PoisonError::into_inner);
        clogs.push(clog);
        clogs.len() as u64
    };
    let carried = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let carry = |to: usize, from, into| {
            let pipe =
                Pipe { to, shared: &shared, quality: shared.quality.subscribe(), clogged: clogged.clone() };
            pipe.carry(from, into, number)
        };
        let both = async { tokio::join!(carry(0, from_client, to_server), carry(1, from_server, to_client)) };
        reset.run_until_cancelled(both).await
    };
    if carried.is_none() {
        // Zero linger: what is unsent is thrown away and the peer sees a reset. One that is closed already needs none.
        let _ = client.set_zero_linger().and_then(|()| server.set_zero_linger());
        shared.counts.resets.fetch_add(1, Ordering::SeqCst);
    }
}

/// One direction of a connection.
struct Pipe<'a> {
    /// 0 to the server, 1 to the client.
    to: usize,
    shared: &'a Shared,
    quality: watch::Receiver<[Quality; 2]>,
    clogged: watch::Receiver<bool>,
}

impl Pipe<'_> {
    /// Until the end of the stream, which is passed on; a connection that breaks ends it too.
    async fn carry(mut self, mut from: tcp::ReadHalf<'_>, mut into: tcp::WriteHalf<'_>, seed: u64) {
        let mut buffer = vec![0; PIECE_BYTES];
        let mut dice = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        loop {
            let read = from.read(&mut buffer).await.unwrap_or(0);
            let mut piece = &buffer[..read];
            if piece.is_empty() {
                sleep(self.now().close_after).await;
                // The other side may have closed first.
                let _ = into.shutdown().await;
                return;
            }
            while !piece.is_empty() {
                if self.passes().await.is_err() {
                    return;
                }
                let quality = self.now();
                if quality.black_hole {
                    self.shared.counts.swallowed.fetch_add(piece.len() as u64, Ordering::SeqCst);
                    break;
                }
                // Narrow wires carry a tenth of a second at a time, so that nobody waits for a large piece as a whole.
                let narrow = quality.bytes_per_s.map_or(PIECE_BYTES, |rate| (rate as usize / 10).max(1));
                let size = quality.slice_bytes.unwrap_or(PIECE_BYTES).max(1).min(narrow).min(piece.len());
                let (now, later) = piece.split_at(size);
                if quality != Quality::default() {
                    dice =
                        dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    pause(quality.delay(size, (dice >> 32) as u32)).await;
                    self.shared.counts.spoilt.fetch_add(1, Ordering::SeqCst);
                }
                if into.write_all(now).await.is_err() {
                    return;
                }
                self.shared.counts.bytes.fetch_add(size as u64, Ordering::SeqCst);
                piece = later;
            }
        }
    }

    fn now(&self) -> Quality {
        self.quality.borrow()[self.to]
    }

    /// Waits while the connection is clogged.
    async fn passes(&mut self) -> Result<(), watch::error::RecvError> {
        self.clogged.wait_for(|clogged| !clogged).await.map(drop)
    }
}

/// A timer rounds up to a millisecond, which would make slices a narrow wire.
async fn pause(delay: Duration) {
    if delay.is_zero() {
        tokio::task::yield_now().await;
    } else {
        sleep(delay).await;
    }
}
