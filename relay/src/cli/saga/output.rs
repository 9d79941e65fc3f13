//! How sagas are shown: as tables for people, as JSON for programs.

use barid::orchestration::{
    SagaDetail, SagaEntry, SagaId,
    book::{ByHand, SagaChange},
};
use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::json;

use super::super::terminal::{Output, print_json, print_table, visible};

pub(super) fn list(found: &[SagaEntry], limit: u32, output: Output) {
    if output == Output::Json {
        return print_json(&json!({"sagas": found}));
    }
    let rows = found.iter().map(|entry| {
        vec![
            entry.id.to_string(),
            format!("{} {}", entry.name, entry.version),
            entry.status.clone(),
            time(entry.started_at),
            or_dash(entry.owner.as_deref()),
            entry.error.clone().unwrap_or_default(),
        ]
    });
    print_table(&["ID", "SAGA", "STATUS", "STARTED", "WITH", "BECAUSE"], rows);
    if found.len() >= limit as usize {
        println!("\nThere may be more: --limit");
    }
}

pub(super) fn show(found: &SagaDetail, output: Output) {
    if output == Output::Json {
        return print_json(&json!(found));
    }
    for (name, value) in lines(found) {
        println!("{name:<12} {}", visible(&value));
    }
    println!();
    let rows = found.steps.iter().map(|step| {
        vec![
            step.name.clone(),
            step.status.to_string(),
            step.attempts.to_string(),
            step.compensations.to_string(),
            if step.in_doubt { "yes" } else { "-" }.to_owned(),
            or_dash(step.output.as_deref()),
            step.error.clone().unwrap_or_default(),
        ]
    });
    print_table(&["STEP", "STATUS", "TRIED", "UNDOING TRIED", "IN DOUBT", "RETURNED", "SAID LAST"], rows);
    if found.audit.is_empty() {
        return;
    }
    println!();
    let rows = found.audit.iter().map(|entry| {
        let at = entry.at.map_or_else(|| "-".to_owned(), time);
        vec![at, entry.principal.clone(), entry.action.clone(), entry.outcome.clone(), entry.reason.clone()]
    });
    print_table(&["AT", "WHO", "DID", "OUTCOME", "REASON"], rows);
}

fn lines(found: &SagaDetail) -> Vec<(&'static str, String)> {
    let entry = &found.saga;
    let mut lines = vec![
        ("id", entry.id.to_string()),
        ("saga", format!("{} version {}", entry.name, entry.version)),
        ("status", entry.status.clone()),
        ("data", found.data.clone()),
        ("started", time(entry.started_at)),
        ("changed", time(entry.updated_at)),
        ("turns", entry.epoch.to_string()),
    ];
    let texts = [("because", &entry.error), ("with", &entry.owner)];
    lines.extend(texts.into_iter().filter_map(|(name, text)| Some((name, text.clone()?))));
    let times = [("until", entry.lease_until), ("deadline", entry.deadline), ("finished", entry.finished_at)];
    lines.extend(times.into_iter().filter_map(|(name, at)| Some((name, time(at?)))));
    if entry.finished_at.is_none() && entry.owner.is_none() {
        lines.push(("next try", time(entry.next_run_at)));
    }
    lines
}

/// What was changed, or would be.
pub(super) fn changed(id: SagaId, what: &ByHand, change: &SagaChange, dry_run: bool, output: Output) {
    if output == Output::Json {
        let steps = change.steps.iter().map(|(step, from, to)| json!({"step": step, "from": from, "to": to}));
        return print_json(&json!({
            "saga": id, "action": what.action(), "steps": steps.collect::<Vec<_>>(), "status": change.status, "dry_run": dry_run,
        }));
    }
    let would = if dry_run { "would " } else { "" };
    println!("{would}{} saga {id}: {}", what.action(), change.status);
    for (step, from, to) in &change.steps {
        println!("  {}: {from}, now {to}", visible(step));
    }
    if change.steps.is_empty() {
        println!("  nothing of it is stuck: it goes on now instead of later");
    }
}

fn or_dash(text: Option<&str>) -> String {
    text.unwrap_or("-").to_owned()
}

fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}
