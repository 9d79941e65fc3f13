//! `barid-relay explain`: where a message is, and what it waits for.

use clap::Args;
use uuid::Uuid;

use super::{
    ConfigFile, Failure, load,
    terminal::{Output, print_json, visible},
};
use crate::{
    config::{AfterName, Config, SourceConfig},
    explain::{self, Before, COUNTED_ROWS_MAX, Explained, Place, Table},
    parked::json::time,
    setup,
    sink::Pattern,
    source::open,
    survey,
};

/// Shown below `barid-relay explain --help`.
pub(super) const HELP: &str = "It asks the databases themselves and needs no running relay. It reads the whole outbox, which has no index \
of ids.

A message is in one of three places: it waits in the outbox, it is parked, or it was published and is in the archive (after = \
\"archive\"). What is in none of them was never committed, or was published and is not kept any more.

Exit codes: 0 found; 2 wrong arguments; 3 the configuration is wrong; 4 a database cannot be reached or refuses; 5 the schema is \
missing or another one; 6 no source has it.";

#[derive(Debug, Args)]
pub(super) struct Explain {
    #[command(flatten)]
    file: ConfigFile,
    /// Only this [source.NAME].
    #[arg(long)]
    source: Option<String>,
    /// Lines for people, or JSON for programs.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// The message id.
    id: Uuid,
}

pub(super) async fn explain(explain: &Explain) -> Result<(), Failure> {
    let config = load(&explain.file.config)?;
    let sources: Vec<_> = match &explain.source {
        Some(name) => vec![config.source.get_key_value(name).ok_or_else(|| {
            let names = config.source.keys().cloned().collect::<Vec<_>>().join(", ");
            Failure::Usage(format!("there is no [source.{name}] (sources: {names})"))
        })?],
        None => config.source.iter().collect(),
    };
    let mut all = Vec::new();
    for (name, source) in &sources {
        all.extend(look(&config, name, source, explain.id).await?);
    }
    match explain.output {
        Output::Json => print_json(&explain::json(explain.id, &all)),
        Output::Table => all.iter().for_each(|one| show(explain.id, one)),
    }
    if all.is_empty() {
        return Err(Failure::Unknown { id: explain.id, sources: described(&sources) });
    }
    Ok(())
}

/// The sources, and what becomes of what they publish.
fn described(sources: &[(&String, &SourceConfig)]) -> String {
    let one = |(name, source): &(&String, &SourceConfig)| match source.after {
        AfterName::Delete => format!("{name}, which deletes it"),
        AfterName::Archive => format!("{name}, which archives it for a time"),
    };
    sources.iter().map(one).collect::<Vec<_>>().join("; ")
}

async fn look(
    config: &Config,
    name: &str,
    source: &SourceConfig,
    id: Uuid,
) -> Result<Vec<Explained>, Failure> {
    let pool = setup::database_with(name, source, 1).await?;
    let finder = open::finder(name, &pool, &source.options()).await?;
    let mut all = Vec::new();
    for place in finder.find(id).await? {
        let before = match place.table {
            Table::Archived => Before::default(),
            Table::Waiting | Table::Parked => finder.before(&place).await?,
        };
        let route = route(config, &place.destination);
        let mut waits_for = reasons(&place, &before, route.is_some());
        if place.table == Table::Waiting {
            let survey = open::survey(name, &pool, &source.options()).await?;
            let state = survey::lease_state(&survey.holder);
            if state != "held" {
                waits_for.push(format!("a relay: none works on source {name} (its lease: {state})"));
            }
        }
        all.push(Explained { source: name.to_owned(), place, before, route, waits_for });
    }
    Ok(all)
}

/// The first route that matches, as the relay would choose it.
fn route(config: &Config, destination: &str) -> Option<(String, String)> {
    let matches =
        |pattern: &str| pattern.parse::<Pattern>().is_ok_and(|pattern| pattern.matches(destination));
    let route = config.route.iter().find(|route| matches(&route.destination))?;
    Some((route.destination.clone(), route.sink.clone()))
}

/// What a message waits for, in words.
fn reasons(place: &Place, before: &Before, routed: bool) -> Vec<String> {
    let mut reasons = Vec::new();
    if let Some(held) = &before.held_by {
        let error = held.error.as_deref().unwrap_or("no reason was kept");
        reasons.push(format!(
            "message {} (seq {}) of its key, which is parked: {error}; `barid-relay parked retry` or `skip` lets the key go on",
            held.id, held.seq
        ));
    }
    match (place.table, place.state.as_deref()) {
        (Table::Archived, _) => {}
        (Table::Parked, Some("behind")) if before.held_by.is_some() => {}
        (Table::Parked, Some("behind")) => reasons
            .push("the relay, which puts it back into the outbox: nothing holds its key any more".to_owned()),
        (Table::Parked, state) => {
            let who = if state == Some("skipped") { "; nobody waits for it" } else { "" };
            reasons.push(format!(
                "somebody to repair the cause; then `barid-relay parked retry` sends it, and `parked skip` or `purge` gives it up{who}"
            ));
        }
        (Table::Waiting, _) if !routed => {
            reasons.push(
                "a [[route]] for its destination: without one it is parked when its turn comes".to_owned(),
            );
        }
        (Table::Waiting, _) if before.rows_of_key > 0 => {
            reasons.push(format!("{} of its key that were written before it", messages(before.rows_of_key)));
        }
        (Table::Waiting, _) if before.rows > 0 && before.held_by.is_none() => {
            reasons.push(format!("its turn: {} were written before it", messages(before.rows)));
        }
        (Table::Waiting, _) if before.held_by.is_none() => {
            reasons.push(
                "its confirm: it is the first in line; `barid-relay status` says how the broker is"
                    .to_owned(),
            );
        }
        (Table::Waiting, _) => {}
    }
    reasons
}

fn messages(count: i64) -> String {
    match count {
        1 => "1 message".to_owned(),
        COUNTED_ROWS_MAX.. => format!("{COUNTED_ROWS_MAX} messages or more"),
        _ => format!("{count} messages"),
    }
}

fn show(id: Uuid, explained: &Explained) {
    let Explained { source, place, before, route, waits_for } = explained;
    let state = place.state.as_deref().map(|state| format!(" ({state})")).unwrap_or_default();
    let at = place.moved_ms.map(|ms| format!(" at {}", time(ms))).unwrap_or_default();
    let is = match place.table {
        Table::Waiting => "waits in the outbox".to_owned(),
        Table::Parked => format!("was parked{state}{at}"),
        Table::Archived => format!("was published{at}, and is in the archive"),
    };
    println!("message {id} {is}");
    let to = match route {
        Some((pattern, sink)) => format!("{}, by route {pattern:?} to sink {sink}", place.destination),
        None => format!("{}, which no route matches", place.destination),
    };
    let mut lines = vec![
        ("source", source.clone()),
        ("seq", place.seq.to_string()),
        ("destination", to),
        ("key", place.key().unwrap_or_else(|| "none: unordered".to_owned())),
        ("type", place.name.clone()),
        ("written", time(place.created_ms)),
    ];
    if place.table == Table::Waiting {
        let of_key = messages(before.rows_of_key);
        lines.push(("before it", format!("{}; of its key {of_key}", messages(before.rows))));
    }
    lines.extend(place.error.clone().map(|error| ("error", error)));
    lines.extend(waits_for.iter().map(|reason| ("waits for", reason.clone())));
    for (name, value) in lines {
        println!("  {name:<12} {}", visible(&value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::explain::Holding;

    fn place(table: Table, state: Option<&str>) -> Place {
        Place {
            table,
            seq: 7,
            destination: "queue:a".to_owned(),
            aggregatetype: "order".to_owned(),
            aggregateid: Some("1".to_owned()),
            name: "m".to_owned(),
            payload_bytes: None,
            created_ms: 0,
            state: state.map(str::to_owned),
            error: None,
            moved_ms: None,
        }
    }

    #[test]
    fn each_place_has_its_reason() {
        let held = || Some(Holding { id: Uuid::nil(), seq: 3, error: Some("refused".to_owned()) });
        let before = |rows, rows_of_key, held_by| Before { rows, rows_of_key, held_by };
        for (table, state, before, routed, says) in [
            (Table::Waiting, None, before(0, 0, None), true, &["first in line"][..]),
            (Table::Waiting, None, before(5, 0, None), true, &["its turn: 5 messages"]),
            (Table::Waiting, None, before(5, 1, None), true, &["1 message of its key"]),
            (Table::Waiting, None, before(0, 0, None), false, &["a [[route]]"]),
            (
                Table::Waiting,
                None,
                before(0, 0, held()),
                true,
                &["(seq 3) of its key, which is parked: refused"],
            ),
            (Table::Parked, Some("behind"), before(0, 0, held()), true, &["seq 3"]),
            (Table::Parked, Some("behind"), before(0, 0, None), true, &["puts it back"]),
            (Table::Parked, Some("poison"), before(0, 0, None), true, &["repair the cause"]),
            (Table::Parked, Some("skipped"), before(0, 0, None), true, &["nobody waits for it"]),
            (Table::Archived, None, before(0, 0, None), true, &[]),
        ] {
            let reasons = reasons(&place(table, state), &before, routed);
            assert_eq!(reasons.len(), says.len(), "{reasons:?}");
            for (reason, says) in reasons.iter().zip(says) {
                assert!(reason.contains(says), "{reason}\n  lacks\n{says}");
            }
        }
        assert_eq!(messages(COUNTED_ROWS_MAX), "10000 messages or more");
    }
}
