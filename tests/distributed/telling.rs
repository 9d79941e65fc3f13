//! What is told about distributed transactions: the lines of the transaction log, metrics, the monitor.

#![allow(clippy::unwrap_used)] // a test that cannot go on says so by its panic

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use barid::distributed::{
    Label, MonitoredStatus, Settings, TransactionFilter, TransactionMonitor, Which, measures,
};
use barid_tests::{Proxy, eventually, lines::Lines};
use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder,
    SharedString, Unit,
};
use shop::Shop;
use tracing_subscriber::{EnvFilter, fmt::format::FmtSpan};

mod shop;

const LONG: Duration = Duration::from_secs(120);

/// Keeps the last value of every gauge, the sum of every counter, and how often a histogram was written, by name and labels.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<BTreeMap<String, f64>>>);

struct Cell(Kept, String);

impl Cell {
    fn change(&self, change: impl FnOnce(f64) -> f64) {
        let mut kept = self.0.0.lock().unwrap();
        let value = kept.entry(self.1.clone()).or_default();
        *value = change(*value);
    }
}

impl CounterFn for Cell {
    fn increment(&self, by: u64) {
        self.change(|value| value + by as f64);
    }

    fn absolute(&self, to: u64) {
        self.change(|_| to as f64);
    }
}

impl GaugeFn for Cell {
    fn increment(&self, by: f64) {
        self.change(|value| value + by);
    }

    fn decrement(&self, by: f64) {
        self.change(|value| value - by);
    }

    fn set(&self, to: f64) {
        self.change(|_| to);
    }
}

impl HistogramFn for Cell {
    fn record(&self, _: f64) {
        self.change(|value| value + 1.0);
    }
}

impl Kept {
    fn cell(&self, key: &Key) -> Arc<Cell> {
        let mut labels: Vec<_> =
            key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
        labels.sort();
        Arc::new(Cell(self.clone(), format!("{}{{{}}}", key.name(), labels.join(","))))
    }

    fn get(&self, name: &str, labels: &str) -> f64 {
        self.0.lock().unwrap().get(&format!("{name}{{{labels}}}")).copied().unwrap_or(0.0)
    }
}

impl Recorder for Kept {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.cell(key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.cell(key))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.cell(key))
    }
}

// One thread, so that the log and the metrics of its tasks are this test's.
#[tokio::test]
async fn lines_metrics_and_the_monitor_tell_what_happened() {
    let (lines, kept) = (Lines::default(), Kept::default());
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_env_filter(EnvFilter::new("transactions=debug"))
        .with_span_events(FmtSpan::NEW)
        .with_writer(lines.clone())
        .finish();
    let _logging = tracing::subscriber::set_default(subscriber);
    let _metrics = metrics::set_default_local_recorder(&kept);

    let shop = Shop::new().await;
    let archive = Arc::new(Mutex::new(Vec::new()));
    let archived = Arc::clone(&archive);
    let monitor =
        TransactionMonitor::new().archive(move |record| archived.lock().unwrap().push(record.clone()));
    let process = shop.process(Settings { monitor: monitor.clone(), ..Settings::default() }).await;
    let label = || Label {
        kind: Some("order".to_owned()),
        metadata: Some("{\"order\":7}".to_owned()),
        correlation_id: Some("c-1".to_owned()),
        ..Label::default()
    };

    // One that commits.
    let (unit, work) = process.unit();
    let mut unit = unit.label(label());
    let id = unit.transaction_id().to_string();
    unit.begin().await.unwrap();
    let active = process.coordinator.monitor().active_transactions();
    assert_eq!(
        active.iter().map(|record| (&*record.id, &*record.kind)).collect::<Vec<_>>(),
        [(&*id, "order")]
    );
    work.insert(1).await.unwrap();
    unit.commit().await.unwrap();
    assert!(monitor.active_transactions().is_empty());
    let all = TransactionFilter { which: Which::All, ..TransactionFilter::default() };
    let entry = process.coordinator.list(&all).await.unwrap().remove(0);
    assert_eq!((entry.tx_type.as_deref(), entry.correlation_id.as_deref()), (Some("order"), Some("c-1")));
    assert_eq!(entry.metadata.as_deref(), Some("{\"order\":7}"));
    let text = lines.text();
    for line in [
        format!("Transaction {id} started. Details: {{"),
        format!("Prepare for participant users in transaction {id} succeeded"),
        format!("Prepare for participant bills in transaction {id} succeeded"),
        format!("Commit for participant users in transaction {id} succeeded"),
        format!("Commit for participant bills in transaction {id} succeeded"),
        format!("Transaction {id} completed with status: committed"),
        format!("dtx.begin{{txn={id}"),
        format!("dtx.prepare{{txn={id} branch=\"users\" correlation=\"c-1\"}}"),
        format!("dtx.decide{{txn={id}"),
        format!("dtx.commit{{txn={id}"),
    ] {
        assert!(text.contains(&line), "no line {line}\n{text}");
    }
    for (name, labels, value) in [
        (measures::STARTED, "type=order", 1.0),
        (measures::COMPLETED, "success=true,type=order", 1.0),
        (measures::DURATION, "success=true,type=order", 1.0),
        (measures::PARTICIPANTS, "type=order", 1.0),
        (measures::PARTICIPANT_DURATION, "operation=prepare,participant_id=users,success=true", 1.0),
        (measures::PARTICIPANT_DURATION, "operation=commit,participant_id=bills,success=true", 1.0),
        (measures::PHASE_DURATION, "phase=prepare", 1.0),
        (measures::PHASE_DURATION, "phase=commit", 1.0),
        (measures::PREPARED_DURATION, "", 1.0),
    ] {
        assert_eq!(kept.get(name, labels), value, "{name} {labels}");
    }

    // One that says no: the entry is there.
    let (unit, work) = process.unit();
    let mut unit = unit.label(label());
    let id = unit.transaction_id().to_string();
    unit.begin().await.unwrap();
    assert!(work.insert(1).await.is_err());
    unit.commit().await.unwrap_err();
    let text = lines.text();
    for line in [
        format!("Prepare for participant users in transaction {id} failed"),
        format!("Rollback for participant bills in transaction {id} succeeded"),
        format!("Transaction {id} completed with status: rolled_back"),
        format!("dtx.rollback{{txn={id}"),
    ] {
        assert!(text.contains(&line), "no line {line}\n{text}");
    }
    assert_eq!(kept.get(measures::FAILED, "error=aborted,type=order"), 1.0);
    assert_eq!(kept.get(measures::COMPLETED, "success=false,type=order"), 1.0);
    let records = std::mem::take(&mut *archive.lock().unwrap());
    let statuses: Vec<_> = records.iter().map(|record| record.status).collect();
    assert_eq!(statuses, [MonitoredStatus::Completed, MonitoredStatus::Failed]);
    let events: Vec<_> = records[0].events.iter().map(|event| &*event.event).collect();
    assert_eq!(events, ["prepare_start", "decide_start", "commit_start"]);
    assert_eq!(monitor.counts()["order"].failed, 1);

    // One that commits while a branch is away.
    let (proxy, away) = Proxy::in_front_of(&shop.users.url).await;
    let far = shop.process_at(&away, Settings::default()).await;
    let (mut unit, work) = far.unit();
    let id = unit.transaction_id().to_string();
    unit.begin().await.unwrap();
    work.insert(2).await.unwrap();
    assert!(unit.prepare_all().await.unwrap());
    drop(proxy);
    assert!(!unit.commit_all().await.unwrap());
    let partial = format!(
        "PARTIAL COMMIT FAILURE in transaction {id}: 1 of 2 participants have not confirmed it (users)"
    );
    assert!(lines.text().contains(&partial), "{}", lines.text());
    assert_eq!(kept.get(measures::PARTIAL_COMMITS, ""), 1.0);
    process.coordinator.look_once().await.unwrap();
    assert_eq!(kept.get(measures::OPEN, ""), 1.0);
    assert!(kept.get(measures::SLOTS_USED, "resource=users") >= 1.0);
    assert!(kept.get(measures::SLOTS_MAX, "resource=users") >= 1.0);
    eventually(LONG, "recovery completes it", || async {
        process.coordinator.recover_once().await.unwrap();
        shop.prepared(&process).await == 0
    })
    .await;
    assert!(shop.happened(2).await);
    assert_eq!(kept.get(measures::RECOVERY_ACTIONS, "action=commit,result=done"), 1.0);
    assert!(lines.text().contains(&format!("dtx.recover{{txn={id}}}")));
    process.coordinator.look_once().await.unwrap();
    assert_eq!(kept.get(measures::OPEN, ""), 0.0);
    far.close().await;
    process.close().await;
}
