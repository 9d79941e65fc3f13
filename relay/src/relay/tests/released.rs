//! What happens to parked rows that an operator released, and to the rows of their key meanwhile.

use super::*;

impl Stage {
    /// What `barid-relay parked retry` does in the database: the row holds its key no longer.
    async fn release(&self, name: &str) {
        let mut transaction = self.pool.acquire().await.unwrap();
        for text in [
            "BEGIN IMMEDIATE".to_owned(),
            format!("UPDATE relay_parked SET state = 'behind' WHERE type = '{name}'"),
            "INSERT INTO relay_released VALUES ('main', 1) ON CONFLICT (source) DO UPDATE SET times = times + 1".to_owned(),
            "COMMIT".to_owned(),
        ] {
            sqlx::raw_sql(sqlx::AssertSqlSafe(text)).execute(&mut *transaction).await.unwrap();
        }
    }

    async fn parked(&self) -> Vec<(String, String)> {
        let parked = sqlx::query_as("SELECT type, state FROM relay_parked ORDER BY seq");
        parked.fetch_all(&self.pool).await.unwrap()
    }

    /// `one`, `three` and `five` of key k cannot be delivered once; two, four and six can.
    async fn six_of_a_key() -> Self {
        let stage = Self::new().await;
        for name in ["one", "two", "three", "four", "five", "six"] {
            if ["one", "three", "five"].contains(&name) {
                stage.broker.answers(name, [Some(Outcome::Permanent(format!("{name} is too large")))]);
            }
            stage.insert(name, Some("k"), "queue:a").await;
        }
        stage
    }
}

fn states(rows: &[(String, String)]) -> Vec<(&str, &str)> {
    rows.iter().map(|(name, state)| (name.as_str(), state.as_str())).collect()
}

#[tokio::test]
async fn a_released_row_goes_first_and_what_waited_follows_in_order() {
    let stage = Stage::six_of_a_key().await;
    let (stop, running) = stage.start();
    stage.until("relay_parked", 6).await;
    assert_eq!(stage.broker.names(), ["one"]);
    let before: Vec<Uuid> = ids(&stage).await;
    stage.release("one").await;
    // One flows, two follows, three is the next that cannot be delivered: what is behind it waits again.
    stage.broker.saw(4).await;
    stage.until("relay_parked", 4).await;
    stage.insert("seven", Some("k"), "queue:a").await;
    stage.until("relay_parked", 5).await;
    assert_eq!(stage.broker.names(), ["one", "one", "two", "three"]);
    let parked =
        [("three", "poison"), ("four", "behind"), ("five", "behind"), ("six", "behind"), ("seven", "behind")];
    assert_eq!(states(&stage.parked().await), parked);
    stage.release("three").await;
    stage.until("relay_parked", 3).await;
    stage.release("five").await;
    stage.until("relay_parked", 0).await;
    stage.until("outbox", 0).await;
    stop.cancel();
    let stats = running.await.unwrap();
    assert_eq!(stage.broker.names()[4..], ["three", "four", "five", "five", "six", "seven"]);
    assert_eq!((stats.confirmed, stats.poison, stats.released), (7, 3, 6 + 5 + 3));
    let seen = stage.broker.seen.lock().unwrap();
    let again: Vec<Uuid> = seen.iter().filter(|(name, _)| name == "one").map(|(_, id)| *id).collect();
    assert_eq!(again, [before[0], before[0]], "a message that is sent again keeps its id");
}

async fn ids(stage: &Stage) -> Vec<Uuid> {
    sqlx::query_scalar("SELECT id FROM relay_parked ORDER BY seq").fetch_all(&stage.pool).await.unwrap()
}

#[tokio::test]
async fn a_row_behind_another_poison_row_waits_for_it() {
    let stage = Stage::new().await;
    for (name, destination) in
        [("one", "topic:x"), ("two", "queue:a"), ("three", "topic:x"), ("four", "queue:a")]
    {
        stage.insert(name, Some("k"), destination).await;
    }
    // What an earlier run left: two poison rows in one key.
    let (stop, running) = stage.start();
    stage.until("relay_parked", 4).await;
    stop.cancel();
    running.await.unwrap();
    let second = "UPDATE relay_parked SET state = 'poison' WHERE type = 'three'";
    sqlx::query(second).execute(&stage.pool).await.unwrap();
    let repaired = "UPDATE relay_parked SET destination = 'queue:a'";
    sqlx::query(repaired).execute(&stage.pool).await.unwrap();

    stage.release("three").await;
    let (stop, running) = stage.start();
    stage.insert("other", Some("l"), "queue:a").await;
    stage.until("outbox", 0).await;
    assert_eq!(stage.broker.names(), ["other"], "one still holds the key");
    sqlx::query(second).execute(&stage.pool).await.unwrap();
    stage.release("one").await;
    stage.until("relay_parked", 2).await;
    stage.until("outbox", 0).await;
    assert_eq!(stage.broker.names(), ["other", "one", "two"], "three holds the rows from there on");
    stage.release("three").await;
    stage.until("relay_parked", 0).await;
    stage.until("outbox", 0).await;
    stop.cancel();
    running.await.unwrap();
    assert_eq!(stage.broker.names(), ["other", "one", "two", "three", "four"]);
}

#[tokio::test]
async fn what_was_released_while_no_relay_ran_is_put_back_at_the_start() {
    let stage = Stage::six_of_a_key().await;
    let (stop, running) = stage.start();
    stage.until("relay_parked", 6).await;
    stop.cancel();
    running.await.unwrap();
    stage.insert("seven", Some("k"), "queue:a").await;
    stage.broker.answers("three", []);
    stage.broker.answers("five", []);
    stage.release("one").await;
    let (stop, running) = stage.start();
    stage.until("relay_parked", 0).await;
    stage.until("outbox", 0).await;
    stop.cancel();
    running.await.unwrap();
    assert_eq!(stage.broker.names(), ["one", "one", "two", "three", "four", "five", "six", "seven"]);
}

/// The table was emptied and its numbers begin anew: the position of a parked row may belong to another message.
#[tokio::test]
async fn a_position_that_is_taken_is_left_to_whom_it_belongs() {
    let stage = Stage::new().await;
    stage.insert("lost", None, "topic:nowhere").await;
    let (stop, running) = stage.start();
    stage.until("relay_parked", 1).await;
    stop.cancel();
    running.await.unwrap();
    let repaired = "UPDATE relay_parked SET destination = 'queue:a', state = 'behind'";
    sqlx::query(repaired).execute(&stage.pool).await.unwrap();
    sqlx::query("DELETE FROM sqlite_sequence").execute(&stage.pool).await.unwrap();
    stage.insert("new", None, "queue:a").await;
    let (stop, running) = stage.start();
    stage.broker.saw(2).await;
    stage.until("outbox", 0).await;
    stop.cancel();
    running.await.unwrap();
    assert_eq!(stage.broker.names(), ["new", "lost"]);
}

#[tokio::test]
async fn rows_of_the_same_cause_are_parked_with_one_fingerprint() {
    let stage = Stage::new().await;
    for (name, said) in [("one", "9 bytes exceed 8"), ("two", "7 bytes exceed 5"), ("three", "no such queue")]
    {
        stage.broker.answers(name, [Some(Outcome::Permanent(said.to_owned()))]);
        stage.insert(name, Some(name), "queue:a").await;
    }
    stage.insert("four", Some("one"), "queue:a").await;
    let (stop, running) = stage.start();
    stage.until("relay_parked", 4).await;
    stop.cancel();
    running.await.unwrap();
    let parked = sqlx::query_as("SELECT type, fingerprint FROM relay_parked");
    let parked: Vec<(String, Option<String>)> = parked.fetch_all(&stage.pool).await.unwrap();
    let of = |name| parked.iter().find(|row| row.0 == name).unwrap().1.clone();
    assert!(of("one").is_some() && of("one") == of("two") && of("one") != of("three"), "{parked:?}");
    assert_eq!(of("four"), None, "it did not fail");
}
