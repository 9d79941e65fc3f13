//! The SQL of `docs/distributed-transactions.md`, for when none of Barid's programs can run: what it ends, recovery finds ended.

use std::fs;

use barid::store::AnyPool;
use barid_tests::{eventually, sql, transfer::run};
use serde_json::Value;
use sqlx::{AssertSqlSafe, Row};

use super::place::{PATIENCE, Place};

/// The blocks of SQL of the page; the test uses its statements and no others.
fn page() -> String {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/distributed-transactions.md");
    fs::read_to_string(file).unwrap()
}

/// The statement of the page that begins so, up to its end, with what stands for something replaced.
fn statement(begins: &str, replaced: &[(&str, &str)]) -> String {
    let page = page();
    let at = page.find(begins).unwrap_or_else(|| panic!("the page has no {begins:?}"));
    let end = page[at..].find(';').unwrap();
    let mut text = page[at..at + end].to_owned();
    for (from, to) in replaced {
        assert!(text.contains(from), "{text:?} has no {from:?}");
        text = text.replace(from, to);
    }
    text
}

/// Ends both branches of a transaction by hand, after what stands.
async fn end(place: &Place, gid: &str, shown: &Value, commit: bool) {
    let xid = |at: usize| shown["branches"][at]["xid"].as_str().unwrap();
    let verb = if commit { "COMMIT PREPARED '" } else { "ROLLBACK PREPARED '" };
    run(&place.bank.pools[1], &statement(verb, &[("barid:...", xid(0))])).await.unwrap();
    // As XA RECOVER shows it: both parts in one piece, and where to cut.
    let AnyPool::MySql(pool) = &place.bank.pools[2] else { panic!("MariaDB") };
    let rows = sqlx::raw_sql(AssertSqlSafe(statement("XA RECOVER;", &[]))).fetch_all(pool).await.unwrap();
    let whole: Vec<(usize, String)> = rows
        .iter()
        .map(|row| {
            let cut = row.try_get_unchecked::<i64, _>("gtrid_length").unwrap();
            let data = row.try_get_unchecked::<Vec<u8>, _>("data").unwrap();
            (usize::try_from(cut).unwrap(), String::from_utf8(data).unwrap())
        })
        .collect();
    let (cut, both) = whole.iter().find(|(_, data)| data.starts_with(&gid.replace('-', ""))).unwrap();
    let (first, second) = both.split_at(*cut);
    let xa = statement(
        "XA COMMIT '",
        &[("018f2c5e7b1a7c3d9e4f0123456789ab", first), ("<log id>.<epoch>.<number>", second)],
    );
    let xa = if commit { xa } else { xa.replace("XA COMMIT", "XA ROLLBACK") };
    run(&place.bank.pools[2], &xa).await.unwrap();
}

async fn recovered(place: &Place) {
    eventually(PATIENCE, "it is over", async || {
        place.bank.coordinator.recover_once().await.unwrap();
        let open = "SELECT count(*) FROM dtx_transaction WHERE finished_at IS NULL";
        sql::number(&place.bank.pools[0], open).await.unwrap() == 0
    })
    .await;
    let odd = "SELECT count(*) FROM dtx_transaction WHERE status NOT IN('committed','aborted')";
    assert_eq!(sql::number(&place.bank.pools[0], odd).await.unwrap(), 0, "nothing was contradicted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sql_of_the_page_ends_what_is_left() {
    const GID: &str = "018f2c5e-7b1a-7c3d-9e4f-0123456789ab";
    let place = Place::new(2).await;
    let home = &place.bank.pools[0];

    let decided = place.dies_at("c9", 0).await;
    for look in ["SELECT gid, status, decision", "SELECT ordinal, name, resource_id"] {
        run(home, &statement(look, &[]).replace(GID, &decided)).await.unwrap();
    }
    run(&place.bank.pools[1], &statement("SELECT gid, owner, prepared FROM", &[])).await.unwrap();
    run(&place.bank.pools[1], &statement("SELECT gid, owner, database", &[])).await.unwrap();
    let late = statement("UPDATE dtx_transaction", &[(GID, &decided)]);
    run(home, &late).await.unwrap();
    let shown = place.json(&["show", &decided]).await;
    assert_eq!(shown["transaction"]["decision"], "commit", "what stands is not changed by hand either");
    end(&place, &decided, &shown, true).await;
    let xid = shown["branches"][0]["xid"].as_str().unwrap();
    let marker = statement("SELECT state FROM dtx_marker", &[("barid:...", xid)]);
    let committed = format!("SELECT count(*) FROM ({marker}) m WHERE state = 'branch'");
    assert_eq!(sql::number(&place.bank.pools[1], &committed).await.unwrap(), 1);
    recovered(&place).await;
    assert!(place.bank.happened(0).await);

    let undecided = place.dies_at("c6", 1).await;
    let shown = place.json(&["show", &undecided]).await;
    run(home, &statement("UPDATE dtx_transaction", &[(GID, &undecided)])).await.unwrap();
    end(&place, &undecided, &shown, false).await;
    recovered(&place).await;
    assert!(!place.bank.happened(1).await && place.bank.prepared().await == 0);
}
