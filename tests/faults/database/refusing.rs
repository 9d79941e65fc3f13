//! Schemas that do not fit: the relay refuses to start and says which command helps.

use barid_tests::{
    outbox::{Database, Outbox},
    rig::{PATIENCE, Rig},
    servers, sql,
    tape::Tape,
};

/// What the relay says about a schema, and how it ends.
async fn refused(database: Database, spoil: &str, says: &[&str]) {
    let rig = Rig::new(Outbox::new(database).await, Tape::rabbitmq(&servers::amqp()).await);
    for statement in spoil.split(';') {
        sql::execute(&rig.outbox.pool, statement).await.unwrap();
    }
    let mut relay = rig.relay();
    let status = relay.ended(PATIENCE).await;
    let log = relay.log().join("\n");
    assert_eq!(status.code(), Some(5), "{database:?}, {spoil}\n{log}");
    for text in says {
        assert!(log.contains(text), "{database:?}, {spoil}: lacks {text:?}\n{log}");
    }
    rig.outbox.drop_now().await;
}

#[tokio::test]
async fn f29_a_schema_that_is_missing_older_or_newer() {
    for database in Database::ALL {
        let apply = "barid-relay schema apply";
        refused(database, "DROP TABLE barid_schema", &["lacks", apply]).await;
        refused(database, "DELETE FROM barid_schema WHERE version > 4", &["lacks", "0005_relay", apply])
            .await;
        let newer = "INSERT INTO barid_schema (version, name, checksum) VALUES (9999, 'tomorrow', 'x')";
        refused(database, newer, &["9999", "tomorrow", "update this program"]).await;
    }
}
