//! How transactions are shown: as tables for people, as JSON for programs.

use barid::distributed::{
    AuditEntry, LogFigures, Resolved, Severity, TransactionDetail, TransactionEntry,
    core::{Decision, Outcome},
};
use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};

use super::super::{
    exit,
    terminal::{Output, print_json, print_table, visible},
};
use crate::tx::Examined;

pub(super) fn list(found: &[TransactionEntry], figures: &LogFigures, limit: u32, output: Output) {
    if output == Output::Json {
        return print_json(&json!({"transactions": found, "figures": figures}));
    }
    let rows = found.iter().map(|entry| {
        vec![
            entry.gid.to_string(),
            or_dash(entry.name.as_deref()),
            entry.kind.clone(),
            entry.status.clone(),
            or_dash(entry.decision.map(word)),
            time(entry.started_at),
            entry.attempts.to_string(),
            entry.error_message.clone().unwrap_or_default(),
        ]
    });
    print_table(&["ID", "NAME", "KIND", "STATUS", "DECISION", "STARTED", "RECOVERED", "ERROR"], rows);
    if found.len() >= limit as usize {
        println!("\nThere may be more: --limit");
    }
    let LogFigures { open, waiting, in_doubt, manual, .. } = figures;
    println!("\n{open} open: {waiting} wait for their commit, {in_doubt} in recovery, {manual} need help");
}

pub(super) fn show(
    found: &TransactionDetail,
    prepared: &[Option<bool>],
    audited: &[AuditEntry],
    output: Output,
) {
    let TransactionDetail { transaction, branches, events, .. } = found;
    if output == Output::Json {
        let branches = branches.iter().zip(prepared).map(|(branch, prepared)| {
            let mut value = json!(branch);
            value["prepared_now"] = json!(prepared);
            value
        });
        let branches: Vec<Value> = branches.collect();
        return print_json(
            &json!({"transaction": transaction, "branches": branches, "events": events, "audit": audited}),
        );
    }
    for (name, value) in lines(transaction) {
        println!("{name:<12} {}", visible(&value));
    }
    println!();
    let rows = branches.iter().zip(prepared).map(|(branch, prepared)| {
        let now = match prepared {
            Some(true) => "prepared",
            Some(false) => "not prepared",
            None => "not known",
        };
        let error = branch.error.clone().unwrap_or_default();
        vec![
            branch.name.clone(),
            branch.resource.clone(),
            branch.status.clone(),
            now.to_owned(),
            branch.xid.clone(),
            error,
        ]
    });
    print_table(&["BRANCH", "RESOURCE", "STATUS", "NOW", "CALLED THERE", "SAID"], rows);
    println!();
    let rows = events
        .iter()
        .map(|event| vec![time(event.at), event.event.clone(), event.data.clone().unwrap_or_default()]);
    print_table(&["AT", "EVENT", ""], rows);
    if audited.is_empty() {
        return;
    }
    println!();
    let rows = audited.iter().map(|entry| {
        let at = entry.at.map_or_else(|| "-".to_owned(), time);
        vec![at, entry.principal.clone(), entry.action.clone(), entry.outcome.clone(), entry.reason.clone()]
    });
    print_table(&["AT", "WHO", "DID", "OUTCOME", "REASON"], rows);
}

fn lines(entry: &TransactionEntry) -> Vec<(&'static str, String)> {
    let home = if entry.home { "takes part with work of its own" } else { "only decides" };
    let mut lines = vec![
        ("id", entry.gid.to_string()),
        ("name", or_dash(entry.name.as_deref())),
        ("kind", entry.kind.clone()),
        ("status", entry.status.clone()),
        ("decision", or_dash(entry.decision.map(word))),
        ("home", home.to_owned()),
        ("started", time(entry.started_at)),
        ("deadline", time(entry.deadline)),
        ("recovered", format!("{} times", entry.attempts)),
    ];
    let texts = [
        ("type", &entry.tx_type),
        ("metadata", &entry.metadata),
        ("correlation", &entry.correlation_id),
        ("principal", &entry.principal),
        ("because", &entry.decision_reason),
        ("error", &entry.error_message),
        ("cleaned up", &entry.cleaned_up_reason),
    ];
    lines.extend(texts.into_iter().filter_map(|(name, text)| Some((name, text.clone()?))));
    let times =
        [("prepared", entry.prepared_at), ("decided", entry.decided_at), ("finished", entry.finished_at)];
    lines.extend(times.into_iter().filter_map(|(name, at)| Some((name, time(at?)))));
    if entry.finished_at.is_none() {
        lines.push(("next look", time(entry.next_run_at)));
    }
    lines
}

/// What a decision by hand would do.
pub(super) fn would_resolve(entry: &TransactionEntry, decision: Decision, output: Output) {
    let (called, word) = (called(entry), word(decision));
    if output == Output::Json {
        return print_json(&json!({
            "transaction": entry.gid, "name": entry.name, "decision": word, "stood": entry.decision.is_some(), "dry_run": true,
        }));
    }
    match (entry.finished_at, entry.decision) {
        (Some(_), _) => println!("{called} is over already: {}", entry.status),
        (None, Some(_)) => println!("would carry out at once what is decided: {word} {called}"),
        (None, None) => println!("would decide: {word} {called}"),
    }
}

/// What it did.
pub(super) fn resolved(entry: &TransactionEntry, resolved: &Resolved, output: Output) {
    let (called, word) = (called(entry), word(resolved.decision));
    let outcome = match resolved.outcome {
        Outcome::Committed => "committed",
        Outcome::Aborted => "aborted",
        Outcome::InDoubt => "in_doubt",
        Outcome::Heuristic(_) => "heuristic",
    };
    if output == Output::Json {
        return print_json(&json!({
            "transaction": entry.gid, "name": entry.name, "decision": word, "outcome": outcome, "pending": resolved.pending,
            "dry_run": false,
        }));
    }
    println!("{word} {called}: {}", outcome.replace('_', " "));
    if resolved.pending {
        println!("Some branches have not confirmed it; recovery completes them.");
    }
}

/// What was forgotten, or given up because it was not over.
pub(super) fn forgotten(entry: &TransactionEntry, dry_run: bool, output: Output) {
    let verb = if entry.finished_at.is_some() { "forget" } else { "give up" };
    if output == Output::Json {
        return print_json(&json!({
            "transaction": entry.gid, "name": entry.name, "action": verb.replace(' ', "_"), "was": entry.status, "dry_run": dry_run,
        }));
    }
    let verb = if dry_run { format!("would {verb}") } else { verb.to_owned() };
    println!("{verb}: {} ({})", called(entry), entry.status);
}

/// Prints what was found; returns an exit code for each database with errors.
pub(super) fn examined(all: &[Examined], output: Output) -> Vec<u8> {
    let failed: Vec<u8> = all.iter().filter_map(failed).collect();
    if output == Output::Json {
        let all = all.iter().map(|one| match &one.found {
            Ok(findings) => json!({"section": one.section, "part": one.part, "findings": findings}),
            Err(error) => json!({"section": one.section, "part": one.part, "error": error.to_string()}),
        });
        print_json(&json!({"databases": all.collect::<Vec<_>>(), "failed": failed.len()}));
        return failed;
    }
    for one in all {
        match &one.found {
            Ok(findings) => {
                for finding in findings {
                    let detail = visible(&finding.detail);
                    println!("{}: {}: {}: {detail}", one.section, finding.severity, finding.check);
                }
            }
            // It names the section itself.
            Err(error) => println!("{error}"),
        }
    }
    failed
}

fn failed(one: &Examined) -> Option<u8> {
    match &one.found {
        Ok(findings) if findings.iter().all(|finding| finding.severity < Severity::Error) => None,
        Ok(findings) if findings.iter().any(|finding| finding.check == "schema") => Some(5),
        Ok(_) => Some(4),
        Err(error) => Some(exit::setup(error)),
    }
}

fn called(entry: &TransactionEntry) -> String {
    let name = entry.name.as_ref().map(|name| format!(" ({name})")).unwrap_or_default();
    format!("transaction {}{name}", entry.gid)
}

fn word(decision: Decision) -> &'static str {
    match decision {
        Decision::Commit => "commit",
        Decision::Abort => "abort",
    }
}

fn or_dash(text: Option<&str>) -> String {
    text.unwrap_or("-").to_owned()
}

fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}
