//! Against a plain echo server first, then against the two databases that it is made for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use sqlx::{Connection, Executor, MySqlConnection, PgConnection};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::{TestDatabase, eventually};

const WAIT: Duration = Duration::from_secs(30);

/// Echoes what it gets, byte by byte, and counts the bytes.
async fn echo_server() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let heard = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&heard);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let counter = Arc::clone(&counter);
            tokio::spawn(async move {
                while let Ok(byte) = client.read_u8().await {
                    counter.fetch_add(1, Ordering::SeqCst);
                    if client.write_u8(byte).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (address, heard)
}

async fn ask(client: &mut TcpStream, question: &[u8]) -> std::io::Result<Vec<u8>> {
    client.write_all(question).await?;
    let mut answer = vec![0; question.len()];
    client.read_exact(&mut answer).await?;
    Ok(answer)
}

#[tokio::test]
async fn counts_a_burst_and_its_answer_as_one_round_trip() {
    let (server, _) = echo_server().await;
    let proxy = Proxy::start(server).await;
    let mut first = TcpStream::connect(proxy.addr).await.unwrap();
    assert_eq!(ask(&mut first, b"one").await.unwrap(), b"one");
    assert_eq!(ask(&mut first, b"two").await.unwrap(), b"two");
    let mut second = TcpStream::connect(proxy.addr).await.unwrap();
    ask(&mut second, b"three").await.unwrap();
    assert_eq!(proxy.round_trips_by_connection(), [2, 1]);
    assert_eq!(proxy.round_trips(), 3);
    proxy.reset();
    ask(&mut second, b"four").await.unwrap();
    assert_eq!(proxy.round_trips_by_connection(), [0, 1]);
}

#[tokio::test]
async fn latency_is_added_once_to_a_round_trip() {
    let (server, _) = echo_server().await;
    let proxy = Proxy::start(server).await;
    let mut client = TcpStream::connect(proxy.addr).await.unwrap();
    ask(&mut client, b"hello").await.unwrap();
    let latency = Duration::from_millis(40);
    proxy.add_latency(latency);
    let began = std::time::Instant::now();
    for _ in 0..3 {
        ask(&mut client, b"hello").await.unwrap();
    }
    assert!(began.elapsed() >= 3 * latency, "{:?}", began.elapsed());
    assert_eq!(proxy.round_trips(), 4);
}

#[tokio::test]
async fn a_fault_strikes_once_and_only_its_request() {
    // (the fault, bytes that the server heard of the request, bytes that the client did not hear)
    for (fault, heard_by_server, swallowed) in [(Fault::AfterRequest, 8, 8), (Fault::BeforeRequest, 0, 0)] {
        let (server, heard) = echo_server().await;
        let proxy = Proxy::start(server).await;
        proxy.shared.faults.arm(fault, b"COMMIT", false);
        let mut client = TcpStream::connect(proxy.addr).await.unwrap();
        ask(&mut client, b"INSERT").await.unwrap();
        let before = heard.load(Ordering::SeqCst);
        assert!(ask(&mut client, b"; COMMIT").await.is_err(), "{fault:?}: the answer is lost");
        let fired = Fired { fault, needle: b"COMMIT".to_vec(), connection: 0, swallowed };
        assert_eq!(proxy.fired(), [fired]);
        assert_eq!(heard.load(Ordering::SeqCst) - before, heard_by_server, "{fault:?}");
        let mut client = TcpStream::connect(proxy.addr).await.unwrap();
        assert_eq!(ask(&mut client, b"COMMIT").await.unwrap(), b"COMMIT", "{fault:?}: it strikes once");
    }
}

#[tokio::test]
async fn a_needle_may_lie_across_two_packets() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = Proxy::start(listener.local_addr().unwrap().to_string()).await;
    proxy.cut_before_request(b"COMMIT");
    let mut client = TcpStream::connect(proxy.addr).await.unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    client.write_all(b"xxCOM").await.unwrap();
    let mut seen = [0; 5];
    server.read_exact(&mut seen).await.unwrap(); // the first half has passed
    client.write_all(b"MIT").await.unwrap();
    assert_eq!(server.read(&mut seen).await.unwrap_or(0), 0, "the second half does not");
    assert_eq!(proxy.fired().len(), 1);
}

#[tokio::test]
async fn cut_all_cuts_what_is_connected_and_nothing_later() {
    let (server, _) = echo_server().await;
    let proxy = Proxy::start(server).await;
    let mut old = TcpStream::connect(proxy.addr).await.unwrap();
    ask(&mut old, b"hello").await.unwrap();
    proxy.cut_all();
    assert!(ask(&mut old, b"hello").await.is_err());
    let mut new = TcpStream::connect(proxy.addr).await.unwrap();
    ask(&mut new, b"hello").await.unwrap();
}

/// Runs the same story on a database: one insert whose COMMIT's answer is lost, in a text of several statements.
macro_rules! answer_lost {
    ($test:ident, $database:ident, $connection:ty, $begin:literal) => {
        #[tokio::test]
        async fn $test() {
            let database = TestDatabase::$database().await;
            database.pool.execute("CREATE TABLE t (id INT PRIMARY KEY)").await.unwrap();
            let (proxy, url) = Proxy::in_front_of(&database.url).await;
            for (fault, id, rows) in [(Fault::AfterRequest, 1, 1_i64), (Fault::BeforeRequest, 2, 0)] {
                let mut connection = <$connection>::connect(&url).await.unwrap();
                proxy.reset();
                connection.execute($begin).await.unwrap();
                assert_eq!(proxy.round_trips(), 1, "a text of several statements is one round trip");
                proxy.shared.faults.arm(fault, b"COMMIT", false);
                let text = format!("INSERT INTO t VALUES ({id}); COMMIT");
                let lost = sqlx::raw_sql(sqlx::AssertSqlSafe(text)).execute(&mut connection).await;
                assert!(matches!(lost, Err(sqlx::Error::Io(_))), "{lost:?}");
                assert_eq!(proxy.fired().last().unwrap().fault, fault);
                let text = format!("SELECT COUNT(*) FROM t WHERE id = {id}");
                let count = sqlx::query_scalar::<_, i64>(sqlx::AssertSqlSafe(text));
                assert_eq!(count.fetch_one(&database.pool).await.unwrap(), rows, "{fault:?}");
            }
            database.drop_now().await;
        }
    };
}

answer_lost!(postgres_loses_the_answer, postgres, PgConnection, "BEGIN; SAVEPOINT s");
answer_lost!(mariadb_loses_the_answer, mariadb, MySqlConnection, "START TRANSACTION");

#[tokio::test]
async fn a_request_that_is_held_arrives_when_its_client_is_gone() {
    let (server, heard) = echo_server().await;
    let proxy = Proxy::start(server).await;
    proxy.hold_before_request(b"COMMIT");
    let mut client = TcpStream::connect(proxy.addr).await.unwrap();
    client.write_all(b"COMMIT").await.unwrap();
    eventually(WAIT, "it is held", || async { proxy.fired().len() == 1 }).await;
    assert_eq!((heard.load(Ordering::SeqCst), proxy.delivered()), (0, 0));
    drop(client);
    proxy.deliver_held();
    eventually(WAIT, "it is delivered", || async { proxy.delivered() == 1 }).await;
    assert_eq!(heard.load(Ordering::SeqCst), 6);
}

#[tokio::test]
async fn an_answer_that_is_held_is_waited_for() {
    let (server, heard) = echo_server().await;
    let proxy = Proxy::start(server).await;
    proxy.hold_after_request(b"COMMIT");
    let mut client = TcpStream::connect(proxy.addr).await.unwrap();
    client.write_all(b"COMMIT").await.unwrap();
    eventually(WAIT, "its answer is held", || async { proxy.fired().len() == 1 }).await;
    assert_eq!(heard.load(Ordering::SeqCst), 6);
    let told = client.try_read(&mut [0]).unwrap_err();
    assert_eq!(told.kind(), std::io::ErrorKind::WouldBlock, "neither an answer nor the end");
}
