//! Publishing in transactions: a batch arrives as a whole, in order, or not at all.

use std::collections::BTreeMap;

use super::*;

fn transactional() -> Cluster {
    let mut cluster = cluster();
    cluster.settings.transactional_id = Some("outbox".to_owned());
    cluster
}

fn numbered(n: u64) -> OutgoingRow {
    let mut row = row("orders");
    row.seq = n.cast_signed();
    row.payload = Some(Bytes::from(n.to_string()));
    row
}

/// The outcomes of everything that was submitted.
async fn outcomes(publisher: &mut dyn Publisher, rows: usize) -> BTreeMap<u64, Outcome> {
    let mut all = BTreeMap::new();
    while all.len() < rows {
        let settled = tokio::time::timeout(BOUND, publisher.settled()).await.expect("every row settles");
        for (Token(token), outcome) in settled {
            assert!(all.insert(token, outcome).is_none(), "row {token} settled twice");
        }
    }
    all
}

/// Submits rows again until all are confirmed; those that are refused for good are returned, and left out.
async fn confirm_all(publisher: &mut dyn Publisher, rows: &[OutgoingRow]) -> Vec<(usize, String)> {
    let (mut open, mut refused): (Vec<usize>, Vec<_>) = ((0..rows.len()).collect(), Vec::new());
    while !open.is_empty() {
        for at in &open {
            publisher.submit(&rows[*at], Token(*at as u64)).expect("the window is larger");
        }
        let outcomes = outcomes(publisher, open.len()).await;
        for (at, outcome) in &outcomes {
            if let Outcome::Permanent(why) = outcome {
                refused.push((usize::try_from(*at).unwrap(), why.clone()));
            }
        }
        open.retain(|at| !matches!(outcomes[&(*at as u64)], Outcome::Confirmed | Outcome::Permanent(_)));
    }
    refused
}

/// What a consumer of committed records sees, up to a last message that is published for this.
async fn arrived(cluster: &Cluster, publisher: &mut dyn Publisher) -> Vec<u64> {
    let last = u64::MAX;
    assert_eq!(confirm_all(publisher, &[numbered(last)]).await, []);
    let mut consumer = cluster.kafka().consumer(&Inbox::new("orders")).await.unwrap();
    let mut seen = Vec::new();
    loop {
        let delivery = tokio::time::timeout(BOUND, consumer.receive()).await.expect("the last one").unwrap();
        let number = std::str::from_utf8(&delivery.body).unwrap().parse().unwrap();
        delivery.settlement.ack().await.unwrap();
        if number == last {
            consumer.close().await.unwrap();
            return seen;
        }
        seen.push(number);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_a_key_arrive_once_and_in_order() {
    let cluster = transactional();
    assert!(cluster.kafka().publishes_atomically());
    let mut publisher = cluster.publisher().await;
    let rows: Vec<_> = (0..500).map(numbered).collect();
    assert_eq!(confirm_all(publisher.as_mut(), &rows).await, []);
    assert_eq!(arrived(&cluster, publisher.as_mut()).await, (0..500).collect::<Vec<_>>());
    assert_eq!(publisher.close().await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_row_lets_nothing_of_its_key_pass() {
    let cluster = transactional();
    let mut publisher = cluster.publisher().await;
    let mut rows: Vec<_> = (0..40).map(numbered).collect();
    rows[17].payload = Some(vec![b'x'; 1_000_001].into());
    for (token, row) in (0..).zip(&rows) {
        publisher.submit(row, Token(token)).unwrap();
    }
    let outcomes = outcomes(publisher.as_mut(), rows.len()).await;
    assert!(matches!(&outcomes[&17], Outcome::Permanent(why) if why.contains("message_bytes_max")));
    for (at, outcome) in &outcomes {
        // Rows before it may have been committed in a batch of their own; nothing behind it may.
        let fits = matches!(outcome, Outcome::Transient(_)) || (*at < 17 && *outcome == Outcome::Confirmed);
        assert!(*at == 17 || fits, "row {at}: {outcome:?}");
    }
    let confirmed = outcomes.values().filter(|outcome| **outcome == Outcome::Confirmed).count() as u64;
    let seen = arrived(&cluster, publisher.as_mut()).await;
    assert_eq!(seen, (0..confirmed).collect::<Vec<_>>(), "what was not confirmed is not there");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_broker_refuses_takes_its_batch_with_it() {
    let cluster = transactional();
    let mut publisher = cluster.publisher().await;
    assert_eq!(confirm_all(publisher.as_mut(), &[numbered(0)]).await, []);
    cluster.mock.request_errors(RDKafkaApiKey::Produce, &[Reply::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE]);
    assert_eq!(confirm_all(publisher.as_mut(), &[numbered(1)]).await.len(), 1, "it is refused for good");
    assert_eq!(confirm_all(publisher.as_mut(), &[numbered(2)]).await, []);
    assert_eq!(arrived(&cluster, publisher.as_mut()).await, [0, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_client_retries_is_confirmed() {
    let cluster = transactional();
    let mut publisher = cluster.publisher().await;
    let coordinator = [
        Reply::RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE,
        Reply::RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS,
    ];
    cluster.mock.request_errors(RDKafkaApiKey::EndTxn, &coordinator);
    cluster.mock.request_errors(RDKafkaApiKey::Produce, &[Reply::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS]);
    assert_eq!(publish(publisher.as_mut(), "orders").await, Outcome::Confirmed);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_is_waited_out() {
    let mut cluster = transactional();
    cluster.settings.message_timeout = Duration::from_secs(2);
    cluster.settings.connect_timeout = Duration::from_secs(2);
    let mut publisher = cluster.publisher().await;
    assert_eq!(confirm_all(publisher.as_mut(), &[numbered(0)]).await, []);
    cluster.mock.broker_down(1).unwrap();
    publisher.submit(&numbered(1), Token(1)).unwrap();
    let outcome = outcomes(publisher.as_mut(), 1).await.remove(&1).unwrap();
    assert!(matches!(outcome, Outcome::Unknown(_) | Outcome::Transient(_)), "{outcome:?}");
    cluster.mock.broker_up(1).unwrap();
    assert_eq!(confirm_all(publisher.as_mut(), &[numbered(1), numbered(2)]).await, []);
    let mut seen = arrived(&cluster, publisher.as_mut()).await;
    seen.dedup();
    assert_eq!(seen, [0, 1, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn giving_up_and_closing_settle_every_row_once() {
    let cluster = transactional();
    let mut publisher = cluster.publisher().await;
    assert_eq!(publish(publisher.as_mut(), "orders").await, Outcome::Confirmed);
    cluster.mock.broker_round_trip_time(1, Duration::from_secs(20)).unwrap();
    for token in 0..50 {
        publisher.submit(&numbered(token), Token(token)).unwrap();
    }
    publisher.give_up();
    let outcomes = tokio::time::timeout(BOUND, publisher.close()).await.expect("closing is bounded");
    let tokens: std::collections::BTreeSet<u64> = outcomes.iter().map(|(token, _)| token.0).collect();
    assert_eq!((tokens.len(), outcomes.len()), (50, 50));
    assert!(outcomes.iter().all(|(_, outcome)| *outcome != Outcome::Confirmed), "{outcomes:?}");
}
