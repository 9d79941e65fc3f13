//! `barid-relay tx check` finds each thing that it claims to find, on servers where it is so.

use std::path::Path;

use barid::store::{AnyPool, schema};
use barid_tests::{PrivateServer, TestDatabase, sql};
use serde_json::Value;
use tokio::process::Command;
use url::Url;

use super::place::{Place, parse, says};

/// What was found of a section: how bad, about what, and what it says.
fn found<'a>(checked: &'a Value, section: &str, check: &str) -> (&'a str, &'a str) {
    let databases = checked["databases"].as_array().unwrap().iter();
    let findings =
        databases.filter(|one| one["section"] == section).map(|one| one["findings"].as_array().unwrap());
    let mut findings = findings.flatten().filter(|finding| finding["check"] == check);
    let finding =
        findings.next().unwrap_or_else(|| panic!("nothing about {check} of {section}: {checked:#}"));
    (finding["severity"].as_str().unwrap(), finding["detail"].as_str().unwrap())
}

async fn ready(url: &str) {
    let pool = AnyPool::connect(url, 1).await.unwrap();
    schema::apply(&pool).await.unwrap();
    pool.close().await;
}

async fn run(url: &str, statements: &[&str]) {
    let pool = AnyPool::connect(url, 1).await.unwrap();
    for statement in statements {
        sql::execute(&pool, statement).await.unwrap();
    }
    pool.close().await;
}

/// Replaces a resource of the configuration, checks, and returns the exit code and what was found.
async fn checked(place: &Place, replaced: &str, url: &str) -> (i32, Value) {
    place.configure(&place.config().replace(replaced, url));
    let (code, said) = place.tx(&["check", "--output", "json"]).await;
    (code, parse(&said))
}

/// Runs a script of `tests/services` on the folder of a server, and returns the address of what it started.
async fn beside(server: &PrivateServer, name: &str, argument: &str) -> String {
    let mut script =
        Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("services").join(format!("{name}.sh")));
    let output = script.arg(server.folder()).arg(argument).output().await.unwrap();
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    let file = [name, argument].join("-");
    let url = std::fs::read_to_string(server.folder().join(format!("{}.url", file.trim_end_matches('-'))));
    url.unwrap().trim().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_right_is_said_to_be() {
    let place = Place::new(1).await;
    let (table, json) = place.both(&["check"]).await;
    says(
        &table,
        &[
            "[source.home]: ok: server: PostgreSQL",
            "[resource.branch-1]: ok: pooler:",
            "[resource.branch-2]: ok: galera:",
        ],
    );
    assert_eq!(json["failed"], 0);
    for (section, checks) in [
        ("[source.home]", &["server", "rights", "durability", "pooler"][..]),
        ("[resource.branch-1]", &["server", "rights", "durability", "role", "pooler"]),
        ("[resource.branch-2]", &["server", "rights", "durability", "galera", "recover"]),
    ] {
        for check in checks {
            assert_eq!(found(&json, section, check).0, "ok", "{section} {check}");
        }
    }
    assert!(found(&json, "[resource.branch-1]", "slots").1.contains("prepared transactions in use"));

    // What cannot be prepared, what has no tables, and what is not there.
    let file = TestDatabase::sqlite().await;
    ready(&file.url).await;
    let (code, json) = checked(&place, &place.urls[2], &file.url).await;
    let (severity, detail) = found(&json, "[resource.branch-2]", "server");
    assert!(code == 4 && severity == "error" && detail.contains("cannot be prepared"), "{detail}");
    let bare = TestDatabase::postgres().await;
    let (code, json) = checked(&place, &place.urls[1], &bare.url).await;
    assert!(code == 5 && found(&json, "[resource.branch-1]", "schema").1.contains("schema apply"), "{json}");
    let (code, json) = checked(&place, &place.urls[1], "postgres://nobody@127.0.0.1:1/nothing").await;
    assert!(code == 4 && json["databases"][1]["error"].as_str().unwrap().contains("127.0.0.1:1"), "{json}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_kind_of_database_can_be_home() {
    let place = Place::new(1).await;
    let (mariadb, file) = (TestDatabase::mariadb().await, TestDatabase::sqlite().await);
    for (url, kind) in [(&mariadb.url, "MariaDB"), (&file.url, "SQLite")] {
        ready(url).await;
        let (code, json) = checked(&place, &place.urls[0], url).await;
        assert_eq!(code, 0, "{kind}: {json:#}");
        assert!(found(&json, "[source.home]", "server").1.contains(kind), "{json:#}");
        let (table, json) = place.both(&["list", "--all"]).await;
        says(&table, &["ID", "0 open"]);
        assert_eq!(json["transactions"], Value::Array(Vec::new()), "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_postgresql_is_found() {
    let place = Place::new(1).await;
    let home = &place.urls[0];
    let name = Url::parse(home).unwrap().path()[1..].to_owned();
    run(home, &[&format!("ALTER DATABASE {name} SET synchronous_commit = off")]).await;

    let disabled = PrivateServer::postgres("-c max_prepared_transactions=0").await;
    ready(&disabled.url).await;
    let (code, json) = checked(&place, &place.urls[1], &disabled.url).await;
    let (severity, detail) = found(&json, "[resource.branch-1]", "slots");
    assert!(code == 4 && severity == "error" && detail.contains("set max_prepared_transactions"), "{detail}");
    let (severity, detail) = found(&json, "[source.home]", "durability");
    assert!(severity == "error" && detail.contains("synchronous_commit is off"), "{detail}");
    assert_eq!(json["failed"], 2);
    run(home, &[&format!("ALTER DATABASE {name} RESET synchronous_commit")]).await;

    // One slot, taken by somebody else; a role without rights; a trigger that notifies.
    disabled.stop().await;
    disabled.start_with("-c max_prepared_transactions=1").await;
    let statements = [
        "CREATE FUNCTION rings() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NOTIFY outbox; RETURN NEW; END$$",
        "CREATE TRIGGER rung AFTER INSERT ON outbox FOR EACH ROW EXECUTE FUNCTION rings()",
        "CREATE ROLE shop LOGIN PASSWORD 'shop'",
        "GRANT SELECT ON ALL TABLES IN SCHEMA public TO shop",
        "GRANT INSERT ON dtx_marker TO shop",
        "BEGIN; CREATE TABLE held (id int); PREPARE TRANSACTION 'barid:somebody'",
    ];
    run(&disabled.url, &statements).await;
    let mut shop = Url::parse(&disabled.url).unwrap();
    shop.set_username("shop").unwrap();
    shop.set_password(Some("shop")).unwrap();
    let (code, json) = checked(&place, &place.urls[1], shop.as_str()).await;
    assert_eq!(code, 4);
    for (check, severity, text) in [
        ("slots", "error", "all 1 slots"),
        ("role", "error", "what barid prepared here shop may not end"),
        ("rights", "error", "DELETE on dtx_marker"),
        ("notify", "warning", "outbox.rung"),
        ("age", "ok", "the oldest"),
    ] {
        let (found, detail) = found(&json, "[resource.branch-1]", check);
        assert!(found == severity && detail.contains(text), "{check}: {found}: {detail}");
    }
    run(&disabled.url, &["ROLLBACK PREPARED 'barid:somebody'"]).await;

    // A replica, what it means to a home, and a pooler.
    let standby = beside(&disabled, "standby", "").await;
    let (code, json) = checked(&place, &place.urls[1], &standby).await;
    assert!(code == 4 && found(&json, "[resource.branch-1]", "server").1.contains("is a standby"), "{json}");
    let (code, json) = checked(&place, home, &disabled.url).await;
    let (severity, detail) = found(&json, "[source.home]", "durability");
    assert!(code == 0 && severity == "warning" && detail.contains("synchronous_standby_names"), "{detail}");
    let pooled = beside(&disabled, "pgbouncer", "transaction").await;
    let (code, json) = checked(&place, &place.urls[1], &pooled).await;
    assert!(
        code == 4 && found(&json, "[resource.branch-1]", "pooler").1.contains("transaction mode"),
        "{json}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_mariadb_is_found() {
    let place = Place::new(1).await;
    let server = PrivateServer::mariadb("--innodb-flush-log-at-trx-commit=2 --wsrep-on=ON").await;
    run(&server.url, &["CREATE DATABASE branch", "CREATE USER shop@'%' IDENTIFIED BY 'shop'"]).await;
    let mut url = Url::parse(&server.url).unwrap();
    url.set_path("branch");
    ready(url.as_str()).await;
    run(url.as_str(), &["GRANT SELECT ON branch.* TO shop@'%'"]).await;
    url.set_username("shop").unwrap();
    url.set_password(Some("shop")).unwrap();
    let (code, json) = checked(&place, &place.urls[2], url.as_str()).await;
    assert_eq!(code, 4, "{json}");
    for (check, text) in [
        ("galera", "does not replicate prepared transactions"),
        ("durability", "innodb_flush_log_at_trx_commit is 2"),
        ("rights", "INSERT on dtx_marker, DELETE on dtx_marker"),
    ] {
        let (severity, detail) = found(&json, "[resource.branch-2]", check);
        assert!(severity == "error" && detail.contains(text), "{check}: {severity}: {detail}");
    }
}
