//! Writing to the outbox from anywhere: what `relay/README.md` shows, done by the role that may insert and nothing else.

#![allow(clippy::unwrap_used)] // a test

use barid_tests::place::{KINDS, Kind, PATIENCE, Place};
use barid_tests::roles::{Roles, as_role, may};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use uuid::Uuid;

const FUNCTION: &str = include_str!("../../migrations/optional/postgres_enqueue.sql");
const BODY: &str = r#"{"to": "a@example.org"}"#;

/// The statements of the section, in its order: one for each database, and the function.
fn shown() -> Vec<String> {
    let readme = include_str!("../../relay/README.md");
    let section = readme.split("## Writing to the outbox\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let blocks: Vec<String> =
        section.split("```sql\n").skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect();
    assert_eq!(blocks.len(), KINDS.len() + 1, "{blocks:?}");
    blocks
}

#[tokio::test]
async fn what_the_readme_shows_is_delivered() {
    let shown = shown();
    for (kind, statement) in KINDS.into_iter().zip(&shown) {
        let place = Place::new(kind).await;
        let to_the_queue = |statement: &str| {
            assert!(statement.contains("'queue:mail'"), "{statement}");
            statement.replace("queue:mail", &format!("queue:{}", place.there))
        };
        let mut statements = vec![to_the_queue(statement)];
        if kind == Kind::Postgres {
            place.execute(FUNCTION).await;
            statements.push(to_the_queue(&shown[KINDS.len()]));
        }
        // SQLite has no roles.
        let roles = if kind == Kind::Sqlite { None } else { Some(Roles::of(&place).await) };
        for statement in &statements {
            match &roles {
                Some(roles) => may(&place, &roles.app, &[statement], &["SELECT id FROM outbox"]).await,
                None => place.execute(statement).await,
            }
        }
        let relay = place.relay();
        for copy in place.received(&place.there, statements.len()).await {
            assert_eq!((copy.key.as_str(), copy.body.as_str()), ("4711", BODY), "{kind:?}");
        }
        assert!(relay.terminate(PATIENCE).await.0.success());
        if let Some(roles) = roles {
            roles.drop_from(&place).await;
        }
    }
}

#[tokio::test]
async fn the_function_refuses_what_could_not_be_delivered() {
    let place = Place::new(Kind::Postgres).await;
    place.execute(FUNCTION).await;
    let roles = Roles::of(&place).await;
    let mut app = PgConnection::connect(&as_role(&place, &roles.app)).await.unwrap();
    let mut call = async |arguments: &str| {
        let text = AssertSqlSafe(format!("SELECT outbox_enqueue({arguments})"));
        sqlx::query_scalar::<_, Uuid>(text).fetch_one(&mut app).await
    };
    for (arguments, says) in [
        ("'mail', 'mail.send', ''", "'mail' leads nowhere"),
        ("'queue:', 'mail.send', ''", "leads nowhere"),
        ("E'queue:a\\n', 'mail.send', ''", "leads nowhere"),
        ("'queue:a b', 'mail.send', ''", "leads nowhere"),
        ("'queue:' || repeat('a', 201), 'mail.send', ''", "leads nowhere"),
        ("NULL, 'mail.send', ''", "leads nowhere"),
        ("'queue:a', '', ''", "the type of a message"),
        ("'queue:a', E'a\\tb', ''", "the type of a message"),
        ("'queue:a', NULL, ''", "the type of a message"),
        ("'queue:a', '.send', ''", "ordering key"),
        ("'queue:a', 'a', '', aggregateid => repeat('a', 1001)", "ordering key"),
        ("'queue:a', 'a', convert_to(repeat('a', 1000001), 'UTF8')", "1000001 bytes, and at most 1000000"),
        ("'queue:a', 'a', 'ab', bytes_max => 1", "2 bytes, and at most 1 are"),
        ("'queue:a', 'a', '', headers => '[]'", "no JSON object"),
        ("'queue:a', 'a', '', headers => NULL", "no JSON object"),
        ("'queue:a', 'a', '', headers => '{\"a\": 1}'", "'a' is no text"),
        ("'queue:a', 'a', '', headers => '{\"a\": null}'", "'a' is no text"),
        ("'queue:a', 'a', '', headers => '{\"\": \"1\"}'", "the name of a header"),
        (r#"'queue:a', 'a', '', headers => '{"a\nb": "1"}'"#, "the name of a header"),
        ("'queue:a', 'a', '', headers => '{\"BCC\": \"1\"}'", "may not be called BCC"),
        ("'queue:a', 'a', '', headers => jsonb_build_object('a', repeat('a', 65536))", "at most 65536"),
    ] {
        let error = call(arguments).await.expect_err(arguments);
        let answer = error.as_database_error().unwrap_or_else(|| panic!("{arguments}: {error}"));
        assert!(
            answer.code().as_deref() == Some("22023") && answer.message().contains(says),
            "{arguments}: {error}"
        );
    }
    // What is as large as it may be, what has no order and no payload, and an id of the caller's own.
    let mine = Uuid::now_v7();
    for arguments in [
        "'topic:a', 'a', convert_to(repeat('a', 1000000), 'UTF8')".to_owned(),
        "'topic:a', 'a', convert_to(repeat('a', 1000001), 'UTF8'), bytes_max => 2000000".to_owned(),
        "'queue:a', 'a', NULL".to_owned(),
        format!("'queue:a', 'a', '', id => '{mine}', aggregatetype => 'mail', tracingspancontext => 'x'"),
    ] {
        let id = call(&arguments).await.unwrap_or_else(|error| panic!("{arguments}: {error}"));
        assert!(id == mine || id.get_version_num() == 7, "{arguments}: {id}");
    }
    assert_eq!(place.number("SELECT count(*) FROM outbox").await, 4);
    let given = format!("SELECT count(*) FROM outbox WHERE id = '{mine}' AND aggregatetype = 'mail'");
    assert_eq!(place.number(&given).await, 1);
    app.close().await.unwrap();
    roles.drop_from(&place).await;
}
