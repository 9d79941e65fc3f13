//! What a wire does to the bytes, and that it counts it.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{Quality, Wire};
use crate::eventually;

const SOON: Duration = Duration::from_secs(20);

/// A server that says everything back, and a connection to it through a wire.
async fn echo() -> (Wire, TcpStream) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let wire = Wire::start(listener.local_addr().unwrap().to_string()).await;
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut into) = client.split();
                let _ = tokio::io::copy(&mut from, &mut into).await; // ends with its connection
            });
        }
    });
    let client = TcpStream::connect(wire.addr).await.unwrap();
    (wire, client)
}

async fn there_and_back(client: &mut TcpStream, bytes: usize) -> Duration {
    let (sent, began) = (vec![7; bytes], Instant::now());
    client.write_all(&sent).await.unwrap();
    let mut back = vec![0; bytes];
    tokio::time::timeout(SOON, client.read_exact(&mut back)).await.expect("an echo").unwrap();
    assert_eq!(back, sent);
    began.elapsed()
}

#[tokio::test]
async fn latency_and_a_narrow_wire_take_time() {
    let (wire, mut client) = echo().await;
    there_and_back(&mut client, 1_000).await;
    assert_eq!(wire.carried().spoilt, 0);
    wire.quality(Quality::latency(Duration::from_millis(100), Duration::ZERO));
    assert!(there_and_back(&mut client, 1).await >= Duration::from_millis(200));
    wire.quality(Quality::bytes_per_s(20_000));
    assert!(there_and_back(&mut client, 10_000).await >= Duration::from_millis(500));
    wire.quality(Quality::slices(1));
    let before = wire.carried();
    there_and_back(&mut client, 500).await;
    assert_eq!(wire.carried().spoilt - before.spoilt, 1_000, "one piece a byte and direction");
}

#[tokio::test]
async fn a_reset_is_no_orderly_end() {
    let (wire, mut client) = echo().await;
    there_and_back(&mut client, 10).await;
    wire.reset_all();
    let ended = tokio::time::timeout(SOON, client.read(&mut [0; 1])).await.expect("an end");
    assert_eq!(ended.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    eventually(SOON, "it was counted", || async { wire.carried().resets == 1 }).await;
    wire.refuse(true);
    let mut refused = TcpStream::connect(wire.addr).await.unwrap();
    assert!(!matches!(refused.read(&mut [0; 1]).await, Ok(1)));
    assert_eq!(wire.carried().refused, 1);
}

#[tokio::test]
async fn a_clogged_connection_loses_nothing_and_a_black_hole_everything() {
    let (wire, mut client) = echo().await;
    there_and_back(&mut client, 10).await;
    let arrived = wire.carried().bytes;
    wire.clog(0, true);
    client.write_all(&[1; 10]).await.unwrap();
    let mut other = TcpStream::connect(wire.addr).await.unwrap();
    there_and_back(&mut other, 10).await;
    assert_eq!(wire.carried().bytes - arrived, 20, "the other connection only");
    wire.clog(0, false);
    client.read_exact(&mut [0; 10]).await.unwrap();
    wire.quality(Quality::black_hole());
    client.write_all(&[1; 10]).await.unwrap();
    eventually(SOON, "it was swallowed", || async { wire.carried().swallowed == 10 }).await;
}

#[tokio::test]
async fn a_slow_close_comes_late() {
    let (wire, mut client) = echo().await;
    wire.quality(Quality::slow_close(Duration::from_millis(300)));
    there_and_back(&mut client, 10).await;
    let began = Instant::now();
    client.shutdown().await.unwrap();
    assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
    assert!(began.elapsed() >= Duration::from_millis(300));
}
