//! Returns that come with another row's confirm, as lapin delivers them.

use lapin::{BasicProperties, message::Delivery};

use super::*;

fn shard(rows: u64) -> Shard {
    let flying = (0..rows).map(|n| {
        let flying = Flying {
            token: Token(n),
            id: Uuid::from_u128(n.into()),
            destination: Destination::queue(format!("q{n}")).unwrap(),
            bytes: 0,
            since: Instant::now(),
            returned: None,
            answer: None,
        };
        (n, flying)
    });
    Shard { flying: flying.collect(), next: rows, ..Shard::default() }
}

fn returned(row: u64) -> BasicReturnMessage {
    let mut delivery = Delivery::mock(0, "".into(), format!("q{row}").into(), false, Vec::new());
    let id = Uuid::from_u128(row.into()).to_string();
    delivery.properties = BasicProperties::default().with_message_id(id.into());
    BasicReturnMessage { delivery, reply_code: 312, reply_text: "NO_ROUTE".into() }
}

/// Each pass is a list of confirms: the row, and the row whose return came with it. `unroutable` is the expected end.
fn check(rows: u64, passes: &[&[(u64, Option<u64>)]], unroutable: &[u64]) {
    let mut shard = shard(rows);
    let mut settled = Vec::new();
    for pass in passes {
        let confirm =
            |(row, carried): &(u64, Option<u64>)| (*row, Ok(Confirmation::Ack(carried.map(returned))));
        let mut answers: Vec<_> = pass.iter().map(confirm).collect();
        assert!(shard.judge(&mut answers, &mut settled).is_none());
    }
    assert!(shard.flying.is_empty() && !shard.confused, "{passes:?} left rows behind");
    assert_eq!(settled.len() as u64, rows, "{passes:?}");
    for Settled { token: Token(row), outcome, .. } in settled {
        let failed = matches!(outcome, Outcome::Permanent(_));
        assert_eq!(failed, unroutable.contains(&row), "{passes:?}: row {row} became {outcome:?}");
    }
}

#[test]
fn a_return_is_booked_on_the_row_it_names() {
    check(2, &[&[(0, None), (1, Some(1))]], &[1]);
    // With a neighbour's confirm, in the same pass and in either order.
    check(2, &[&[(0, Some(1)), (1, None)]], &[1]);
    check(2, &[&[(1, None), (0, Some(1))]], &[1]);
    // The owner's confirm comes later.
    check(2, &[&[(0, Some(1))], &[(1, None)]], &[1]);
    // Two returns, swapped.
    check(2, &[&[(0, Some(1)), (1, Some(0))]], &[0, 1]);
    check(2, &[&[(0, Some(1))], &[(1, Some(0))]], &[0, 1]);
    // A chain over a row that is fine.
    check(4, &[&[(3, None), (0, Some(1))], &[(1, Some(2))], &[(2, None)]], &[1, 2]);
}

#[test]
fn a_nack_is_transient_unless_the_row_was_returned() {
    let mut shard = shard(2);
    let mut settled = Vec::new();
    let mut answers = vec![(0, Ok(Confirmation::Nack(None))), (1, Ok(Confirmation::Nack(Some(returned(1)))))];
    assert!(shard.judge(&mut answers, &mut settled).is_none());
    assert!(matches!(settled[0].outcome, Outcome::Transient(_)));
    assert!(matches!(&settled[1].outcome, Outcome::Permanent(why) if why.contains("NO_ROUTE")));
}

#[test]
fn a_closed_channel_leaves_no_verdict_open() {
    let mut shard = shard(3);
    let mut settled = Vec::new();
    // Row 0 carries row 1's return: it may still be returned itself, and the channel is closed before that is known.
    assert!(shard.judge(&mut [(0, Ok(Confirmation::Ack(Some(returned(1)))))], &mut settled).is_none());
    assert!(settled.is_empty());
    let waiting = shard.lose("connection lost", &mut settled);
    assert!(waiting.is_empty());
    settled.sort_by_key(|settled| settled.token);
    let outcomes: Vec<_> = settled.iter().map(|settled| &settled.outcome).collect();
    assert!(
        matches!(outcomes[..], [Outcome::Unknown(_), Outcome::Permanent(_), Outcome::Unknown(_)]),
        "{outcomes:?}"
    );
}
