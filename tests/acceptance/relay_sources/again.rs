//! One key read again, from a position on, by every reader: what is left in the outbox is found there, and nothing else is.

use std::sync::Arc;

use barid::store::AnyPool;
use barid_relay::{
    lane::LeftOut,
    source::{ReadRow, Reader, Source, Want, open, postgres::PostgresSource},
};
use barid_tests::{
    outbox::{Database, Outbox},
    sql,
};

/// The keys of the rows at positions 1, 2, 3 and so on. Names that differ only a little are other keys.
const KEYS: [Option<&str>; 9] =
    [Some("a"), Some("a"), Some("A"), Some("a"), None, Some("a "), Some("a"), Some("it's"), Some("a")];

fn want(rows_max: usize, left_out: &[LeftOut]) -> Want {
    Want { rows_max, bytes_max: 1 << 20, known: Vec::new(), left_out: left_out.to_vec() }
}

fn key(aggregateid: &str, from: i64) -> LeftOut {
    LeftOut { aggregatetype: "t".to_owned(), aggregateid: aggregateid.to_owned(), from }
}

fn seqs(rows: &[ReadRow]) -> Vec<i64> {
    rows.iter().map(|row| row.id().seq).collect()
}

async fn insert(outbox: &Outbox, table: &str, seq: i64, key: Option<&str>) {
    let (id, payload) = match &outbox.pool {
        AnyPool::Postgres(_) => ("gen_random_uuid()", "convert_to('1234567890', 'UTF8')"),
        AnyPool::MySql(_) => ("random_bytes(16)", "'1234567890'"),
        _ => ("randomblob(16)", "CAST('1234567890' AS BLOB)"),
    };
    let key = key.map_or("NULL".to_owned(), |key| format!("'{}'", key.replace('\'', "''")));
    let row = format!(
        "INSERT INTO {table} (seq, id, destination, aggregatetype, aggregateid, type, payload) \
         VALUES ({seq}, {id}, 'topic:t', 't', {key}, 'm', {payload})"
    );
    sql::execute(&outbox.pool, &row).await.unwrap();
}

async fn check(outbox: Outbox, table: &str, source: Arc<dyn Source>) {
    for (seq, key) in (1..).zip(KEYS) {
        insert(&outbox, table, seq, key).await;
    }
    let mut reader: Box<dyn Reader> = source.reader().await.unwrap();
    assert_eq!(seqs(&reader.read(&want(100, &[])).await.unwrap()), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
    for (left_out, rows_max, found) in [
        (key("a", 2), 100, &[2, 4, 7, 9][..]),
        (key("a", 3), 2, &[4, 7]),
        (key("a", 10), 100, &[]),
        (key("A", i64::MIN), 100, &[3]),
        (key("a ", 1), 100, &[6]),
        (key("it's", 1), 100, &[8]),
        (key("nobody", 1), 100, &[]),
    ] {
        let rows = reader.again(&left_out, &want(rows_max, &[])).await.unwrap();
        assert_eq!(seqs(&rows), found, "{left_out:?}");
    }
    // After the row that passes the bound.
    let little = Want { bytes_max: 15, ..want(100, &[]) };
    assert_eq!(seqs(&reader.again(&key("a", 1), &little).await.unwrap()), [1, 2]);
    insert(&outbox, table, 10, Some("b")).await;
    if source.needs_known() {
        let left_out = [key("a", 3), key("it's", 1)];
        let rows = reader.read(&want(100, &left_out)).await.unwrap();
        assert_eq!(seqs(&rows), [1, 2, 3, 5, 6, 10], "what was left out is not in the way");
    } else {
        assert_eq!(seqs(&reader.read(&want(100, &[])).await.unwrap()), [10], "the news are what they were");
    }
    drop(reader);
    outbox.drop_now().await;
}

#[tokio::test]
async fn every_reader_reads_a_key_again() {
    for database in Database::ALL {
        let outbox = Outbox::new(database).await;
        let source = open::source("main", &outbox.pool);
        check(outbox, "outbox", source).await;
    }
}

#[tokio::test]
async fn a_key_of_a_foreign_table_is_read_again() {
    let outbox = Outbox::new(Database::Postgres).await;
    let change = "ALTER TABLE outbox RENAME TO legacy_events; ALTER TABLE legacy_events DROP COLUMN xid";
    sql::execute(&outbox.pool, change).await.unwrap();
    let AnyPool::Postgres(pool) = &outbox.pool else { panic!("PostgreSQL") };
    let source = Arc::new(PostgresSource::new("main", pool).table("legacy_events".parse().unwrap()));
    check(outbox, "legacy_events", source).await;
}
