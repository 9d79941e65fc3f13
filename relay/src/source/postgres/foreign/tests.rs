//! Which tables can be read, how, and what is said about the others. That the texts work is shown by the acceptance tests.

use super::*;
use crate::source::mapping::Preset;

fn columns(all: &[(&str, &str)]) -> Vec<Column> {
    let column = |(name, kind): &(&str, &str)| Column {
        name: (*name).to_owned(),
        kind: kind.trim_end_matches('!').to_owned(),
        not_null: kind.ends_with('!'),
        filled: *name == "seq",
        generated: false,
        unique: ["seq", "id"].contains(name),
    };
    all.iter().map(column).collect()
}

const DEBEZIUM: [(&str, &str); 6] = [
    ("id", "uuid!"),
    ("aggregatetype", "character varying!"),
    ("aggregateid", "character varying!"),
    ("type", "character varying!"),
    ("payload", "jsonb"),
    ("seq", "bigint!"),
];

fn mapping() -> Mapping {
    let table = "outboxevent".parse().unwrap();
    Mapping {
        preset: Some(Preset::Debezium),
        place: "relay.toml:3: preset".to_owned(),
        ..Mapping::new(table)
    }
}

fn named(column: &str, key: &str) -> Named {
    Named { column: column.parse().unwrap(), place: format!("relay.toml:7: {key}") }
}

#[test]
fn debezium_s_table_is_seen_as_the_outbox() {
    let plan = made(&mapping(), &columns(&DEBEZIUM)).unwrap();
    for part in [
        "SELECT \"seq\" AS seq, \"id\" AS id, now() AS created_at, \
         'topic:' || coalesce(\"aggregatetype\"::text, '') AS destination, ",
        "convert_to(\"payload\"::text, 'UTF8') AS payload, '{}'::jsonb AS headers, NULL::text AS tracingspancontext \
         FROM \"outboxevent\"",
    ] {
        assert!(plan.rows.contains(part), "{}\n  lacks\n{part}", plan.rows);
    }
    let home = &plan.home;
    assert_eq!(home.columns, "\"id\", \"aggregatetype\", \"aggregateid\", \"type\", \"payload\"");
    assert_eq!(home.values, "id, aggregatetype, aggregateid, type, convert_from(payload, 'UTF8')::jsonb");
    assert!(home.id_is_unique && home.overriding);
}

#[test]
fn columns_that_the_outbox_has_not_are_headers_and_find_their_way_back() {
    let mut mapping = mapping();
    mapping.extra = vec![named("tenant", "extra_columns"), named("part", "extra_columns")];
    let all = [&DEBEZIUM[..], &[("tenant", "text"), ("part", "integer!"), ("headers", "jsonb!")]].concat();
    let plan = made(&mapping, &columns(&all)).unwrap();
    let headers = "coalesce(\"headers\"::jsonb, '{}') || jsonb_strip_nulls(jsonb_build_object('tenant', \"tenant\"::text, \
                   'part', \"part\"::text)) AS headers";
    assert!(plan.rows.contains(headers), "{}", plan.rows);
    assert!(plan.home.columns.ends_with("\"headers\", \"tenant\", \"part\""), "{}", plan.home.columns);
    let back = "(headers - ARRAY['tenant', 'part'])::jsonb, (jsonb_populate_record(NULL::\"outboxevent\", \
                jsonb_build_object('tenant', headers ->> 'tenant'))).\"tenant\"";
    assert!(plan.home.values.contains(back), "{}", plan.home.values);
}

#[test]
fn everything_that_is_wrong_with_a_table_is_said_at_once() {
    let mut mapping = mapping();
    mapping.columns.insert(Role::Payload, named("body", "columns.payload"));
    mapping.columns.insert(Role::CreatedAt, named("type", "columns.created_at"));
    mapping.extra = vec![named("tenant", "extra_columns")];
    let all = [("id", "text!"), ("aggregatetype", "text!"), ("type", "text!"), ("shard", "integer!")];
    let problems = made(&mapping, &columns(&all)).unwrap_err();
    let expected = [
        "relay.toml:3: preset: table outboxevent has no column seq",
        "relay.toml:3: preset: id needs a NOT NULL uuid, and outboxevent.id is text NOT NULL",
        "relay.toml:7: columns.created_at: created_at needs a timestamp, and outboxevent.type is text NOT NULL",
        "relay.toml:3: preset: table outboxevent has no column aggregateid; say which one it is with columns.aggregateid",
        "relay.toml:7: columns.payload names column body, which table outboxevent has not; correct it (columns: id, aggr",
        "relay.toml:7: extra_columns names column tenant, which",
        "relay.toml:3: preset: column shard is NOT NULL without a default and nobody maps it",
    ];
    assert_eq!(problems.len(), expected.len(), "{problems:#?}");
    for (problem, expected) in problems.iter().zip(expected) {
        assert!(problem.starts_with(expected), "{problem}\n  is not\n{expected}");
    }
    let none = made(&mapping, &[]).unwrap_err();
    assert!(none[0].contains("there is no table outboxevent"), "{none:?}");
}
