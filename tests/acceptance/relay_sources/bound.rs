//! From where MariaDB's head reader begins: above what can no longer get a new row, and not a row higher.
//!
//! What a reader passes over is shown by rows with positions that somebody chose by hand, which no rule expects.

use std::time::{Duration, Instant};

use barid::store::{AnyPool, schema};
use barid_relay::source::{ReadRow, Reader, Source, Want, mysql::MySqlSource};
use barid_tests::{TestDatabase, eventually};
use sqlx::{Connection, Executor, MySql, MySqlConnection, MySqlPool};
use uuid::Uuid;

use super::SETTLE;

/// In this time a bound moves that does not wait for the open transactions.
const HASTY: Duration = Duration::from_secs(6);

async fn database() -> TestDatabase<MySql> {
    let database = TestDatabase::mariadb().await;
    schema::apply(&AnyPool::MySql(database.pool.clone())).await.unwrap();
    database
}

async fn insert(db: impl Executor<'_, Database = MySql>, seq: Option<i64>) {
    let row = "INSERT INTO outbox (seq, id, destination, aggregatetype, aggregateid, `type`) \
        VALUES (?, ?, 'topic:t', 'a', '1', 'm')";
    sqlx::query(row).bind(seq).bind(Uuid::now_v7()).execute(db).await.unwrap();
}

/// What the reader hands out that the relay does not have.
async fn read(reader: &mut dyn Reader, known: &[i64]) -> Vec<i64> {
    let mut known = known.to_vec();
    known.sort_unstable();
    let rows = reader
        .read(&Want { rows_max: 1_000, bytes_max: 1 << 20, known, left_out: Vec::new() })
        .await
        .unwrap();
    rows.iter()
        .map(|row| match row {
            ReadRow::Row(row, _) => row.seq,
            ReadRow::Malformed { id, reason, .. } | ReadRow::Late { id, reason, .. } => {
                panic!("{id:?}: {reason}")
            }
        })
        .collect()
}

/// Inserts rows at lower and lower positions until the reader passes over one.
async fn moves(pool: &MySqlPool, reader: &mut dyn Reader, known: &mut Vec<i64>) {
    let state = tokio::sync::Mutex::new((reader, known));
    eventually(SETTLE, "the bound moves", async || {
        let mut state = state.lock().await;
        let (reader, known) = &mut *state;
        let below = known.iter().copied().min().unwrap_or(0).min(0) - 1;
        insert(pool, Some(below)).await;
        let found = read(*reader, known).await;
        known.push(below);
        found.is_empty()
    })
    .await;
}

#[tokio::test]
async fn the_bound_waits_for_every_transaction_that_may_hold_a_position() {
    let database = database().await;
    let source = MySqlSource::new("main", &database.pool);
    let mut reader = source.reader().await.unwrap();
    let mut slow = MySqlConnection::connect(&database.url).await.unwrap();
    slow.execute("BEGIN").await.unwrap();
    insert(&mut slow, None).await;
    insert(&database.pool, None).await;
    let mut known = read(&mut *reader, &[]).await;
    assert_eq!(known, [2]);
    let began = Instant::now();
    while began.elapsed() < HASTY {
        assert!(read(&mut *reader, &known).await.is_empty());
        tokio::time::sleep(Duration::from_millis(50)).await; // the pace of a relay
    }
    slow.execute("COMMIT").await.unwrap();
    assert_eq!(read(&mut *reader, &known).await, [1], "not lost");
    known.push(1);
    moves(&database.pool, &mut *reader, &mut known).await;
    insert(&database.pool, None).await;
    assert_eq!(read(&mut *reader, &known).await, [3]);
    slow.close().await.unwrap();
    database.drop_now().await;
}

#[tokio::test]
async fn without_the_privilege_there_is_no_bound_and_everything_is_read() {
    let database = database().await;
    let name = format!("barid_{}", &Uuid::now_v7().simple().to_string()[12..]);
    let run = async |sql: String| {
        database.pool.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(sql))).await.unwrap();
    };
    run(format!("CREATE USER '{name}'@'127.0.0.1' IDENTIFIED BY 'barid'")).await;
    let schema = database.url.rsplit('/').next().unwrap();
    run(format!("GRANT ALL ON {schema}.* TO '{name}'@'127.0.0.1'")).await;
    let mut url: url::Url = database.url.parse().unwrap();
    url.set_username(&name).unwrap();
    url.set_password(Some("barid")).unwrap();
    let pool = MySqlPool::connect_lazy(url.as_str()).unwrap();
    let mut reader = MySqlSource::new("main", &pool).reader().await.unwrap();
    insert(&database.pool, None).await;
    let mut known = read(&mut *reader, &[]).await;
    let began = Instant::now();
    while began.elapsed() < HASTY {
        let below = -i64::try_from(known.len()).unwrap();
        insert(&database.pool, Some(below)).await;
        assert_eq!(read(&mut *reader, &known).await, [below]);
        known.push(below);
        tokio::time::sleep(Duration::from_millis(200)).await; // the pace of a relay
    }
    drop(reader);
    pool.close().await;
    run(format!("DROP USER '{name}'@'127.0.0.1'")).await;
    database.drop_now().await;
}

/// An old snapshot keeps deleted rows in the table: F20. A reader above them does not notice.
#[tokio::test]
async fn a_held_snapshot_costs_a_bounded_reader_nothing() {
    const ROWS: i64 = 100_000;
    let database = database().await;
    let source = MySqlSource::new("main", &database.pool);
    let mut holder = MySqlConnection::connect(&database.url).await.unwrap();
    holder.execute("START TRANSACTION WITH CONSISTENT SNAPSHOT").await.unwrap();
    let many = format!(
        "INSERT INTO outbox (id, destination, aggregatetype, `type`) \
         SELECT UNHEX(MD5(seq)), 'topic:t', 'a', 'm' FROM seq_1_to_{ROWS}"
    );
    database.pool.execute(sqlx::AssertSqlSafe(many)).await.unwrap();
    database.pool.execute("DELETE FROM outbox").await.unwrap();
    insert(&database.pool, None).await;
    let mut bounded = source.reader().await.unwrap();
    let mut known = read(&mut *bounded, &[]).await;
    assert_eq!(known.len(), 1);
    moves(&database.pool, &mut *bounded, &mut known).await;
    let mut fresh = source.reader().await.unwrap();
    let (mut from_the_bound, mut from_the_head) = (Vec::new(), Vec::new());
    for _ in 0..15 {
        for (reader, times) in [(&mut bounded, &mut from_the_bound), (&mut fresh, &mut from_the_head)] {
            let began = Instant::now();
            read(&mut **reader, &known).await;
            times.push(began.elapsed());
        }
    }
    from_the_bound.sort_unstable();
    from_the_head.sort_unstable();
    let (bounded, head) = (from_the_bound[7], from_the_head[7]);
    println!(
        "{ROWS} deleted rows behind a held snapshot: {bounded:?} a read from the bound, {head:?} from the head"
    );
    assert!(bounded * 2 < head, "{bounded:?} from the bound, {head:?} from the head");
    holder.close().await.unwrap();
    database.drop_now().await;
}
