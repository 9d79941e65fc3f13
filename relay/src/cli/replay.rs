//! `barid-relay replay`: sends archived messages again.

use std::io::IsTerminal;

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use uuid::Uuid;

use super::{
    Failure,
    on::{Because, On},
    terminal::{Output, print_json, visible},
};
use crate::{
    archive::{self, ArchiveStore, Archived, Replayed, Selection, When, json, when},
    config::{AfterName, SourceConfig},
    parked::{json::time, words},
    setup,
    source::open,
};

/// Shown below `barid-relay replay --help`.
pub(super) const HELP: &str = "A source with after = \"archive\" keeps what it has published in the table relay_archive, for archive_for_s \
seconds. Replaying moves messages from there back into the outbox, as new rows at its end: whatever relay works on the source \
publishes them behind everything else, those of a key in their order, and archives them anew.

A message keeps its id. Consumers that remember ids (every bus with idempotency does, for a week) do nothing about a message that they \
have handled; what they have forgotten, or never saw, they handle. To have a handled message handled again, remove its id there.

It needs no running relay, and disturbs none. Each 1,000 messages are one transaction, with a row in relay_audit. Interrupted, it has \
done whole ones of those; run it again for the rest, with --until and the time at which you began, if a relay runs meanwhile.

  barid-relay replay 018f2c5e-7b1a-7c3d-9e4f-0123456789ab --reason 'the consumer lost its database'
  barid-relay replay --key order/4711 --dry-run --reason 'to see how many'
  barid-relay replay --from 2026-03-29T10:00:00Z --until 2026-03-29T11:00:00Z --destination topic:orders --reason 'restored a backup'

Exit codes: 0 done, or counted; 2 wrong arguments; 3 the configuration is wrong; 4 the database cannot be reached or refuses, perhaps \
after a part was done; 5 the schema is missing or another one; 6 nothing in the archive is what was asked for.";

#[derive(Debug, Args)]
pub(super) struct Replay {
    #[command(flatten)]
    on: On,
    /// One message, by its id.
    #[arg(conflicts_with = "all")]
    id: Option<Uuid>,
    /// The whole archive of the source.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    because: Because,
}

/// Everything that is named must be true of a message.
#[derive(Debug, Args)]
#[command(next_help_heading = "Which messages")]
struct Which {
    /// With this ordering key: the columns aggregatetype and aggregateid, for instance order/4711.
    #[arg(long, value_name = "AGGREGATETYPE/AGGREGATEID", value_parser = words::key)]
    key: Option<words::Key>,
    /// Published at this time or later: 2026-03-29T10:00:00Z, or an age: 30s, 15m, 2h or 7d.
    #[arg(long, value_name = "TIME", value_parser = when)]
    from: Option<When>,
    /// Published before this time.
    #[arg(long, value_name = "TIME", value_parser = when)]
    until: Option<When>,
    /// With this destination, for instance topic:orders.
    #[arg(long)]
    destination: Option<String>,
    /// With this message name.
    #[arg(long = "type", value_name = "TYPE")]
    name: Option<String>,
}

pub(super) async fn replay(replay: Replay) -> Result<(), Failure> {
    let config = replay.on.config()?;
    let (name, source) = replay.on.source(&config)?;
    let named = replay.selection(0);
    if !replay.all && !named.names_something() {
        let which =
            "which messages? Name an ID, --key, --from, --until, --destination or --type, or say --all";
        return Err(Failure::Usage(which.to_owned()));
    }
    let pool = setup::database(name, source).await?;
    let store = open::archive(name, &pool, &source.options()).await?;
    let selection = replay.selection(store.now_ms().await?);
    let found = store.count(&selection).await?;
    let said = selection.to_string();
    if found.messages == 0 {
        let selection = format!("{said}{}", hint(source));
        return Err(Failure::NothingArchived { source_name: name.clone(), selection });
    }
    let mut report = Replayed { source: name.clone(), selection: said, found, messages: None };
    if !replay.because.dry_run {
        let change = archive::Replay { selection, who: replay.because.by, reason: replay.because.reason };
        report.messages = Some(all(&*store, &change, &found).await?);
    }
    show(&report, replay.on.output);
    Ok(())
}

impl Replay {
    /// What is meant, if it is this time now.
    fn selection(&self, now_ms: i64) -> Selection {
        let Which { key, from, until, destination, name } = &self.which;
        Selection {
            id: self.id,
            key: key.clone(),
            destination: destination.clone(),
            name: name.clone(),
            from_ms: from.map(|from| from.ms(now_ms)),
            until_ms: until.map(|until| until.ms(now_ms)),
        }
    }
}

/// Who looks for what is never kept is told so.
fn hint(source: &SourceConfig) -> &'static str {
    match source.after {
        AfterName::Archive => "",
        AfterName::Delete => {
            " (the source has after = \"delete\", so what it publishes is not kept; after = \"archive\" keeps it)"
        }
    }
}

/// One transaction after the other, with a bar at a terminal; how many messages were moved.
async fn all(store: &dyn ArchiveStore, replay: &archive::Replay, found: &Archived) -> Result<i64, Failure> {
    let bar = bar(found.messages.unsigned_abs());
    let (mut after, mut messages) = (found.first - 1, 0);
    loop {
        match store.replay(replay, after, found.last).await {
            Ok(Some(moved)) => {
                after = moved.after;
                messages += moved.messages;
                bar.set_position(messages.unsigned_abs());
            }
            Ok(None) => break,
            Err(cause) => {
                bar.abandon();
                return Err(if messages == 0 {
                    cause.into()
                } else {
                    Failure::HalfReplayed { messages, of: found.messages, cause }
                });
            }
        }
    }
    bar.finish_and_clear();
    Ok(messages)
}

/// Drawn on the standard error of a terminal, and nowhere else.
fn bar(messages: u64) -> ProgressBar {
    let target = match std::io::stderr().is_terminal() {
        true => ProgressDrawTarget::stderr(),
        false => ProgressDrawTarget::hidden(),
    };
    let bar = ProgressBar::with_draw_target(Some(messages), target);
    let template = "{bar:40} {human_pos} of {human_len} messages, {per_sec}, {eta} left";
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        // The template is a constant; without it the bar looks plainer.
        Err(_) => bar,
    }
}

fn show(replayed: &Replayed, output: Output) {
    if output == Output::Json {
        return print_json(&json::replayed(replayed));
    }
    let Replayed { source, selection, found, messages } = replayed;
    let Archived { keys, from_ms, until_ms, .. } = *found;
    let (from, until, selection) = (time(from_ms), time(until_ms), visible(selection));
    let about = format!("of {keys} keys, published from {from} to {until} (source {source}; {selection})");
    match messages {
        None => println!("would replay {} messages {about}", found.messages),
        Some(messages) => {
            println!("replay: {messages} messages {about}");
            println!("They are in the outbox, behind what was there, and are published in turn.");
        }
    }
}
