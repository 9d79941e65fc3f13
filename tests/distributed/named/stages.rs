//! External stages, and what undoes them.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use barid::{
    Error,
    distributed::{ExternalStage, Gid, Principal, Settings, TransactionRetry},
};

use super::shop::Shop;

type Calls = Arc<Mutex<Vec<String>>>;

/// A stage that writes down its calls, and fails where it is told to.
fn stage(calls: &Calls, name: &'static str, works: bool, undoes: bool) -> ExternalStage {
    let (done, undone) = (Arc::clone(calls), Arc::clone(calls));
    let action = move || {
        done.lock().unwrap().push(name.to_owned());
        async move { if works { Ok(()) } else { Err(Error::new("the card was refused")) } }
    };
    ExternalStage::new(name, action).compensated_by(move || {
        undone.lock().unwrap().push(format!("undo {name}"));
        async move { if undoes { Ok(()) } else { Err(Error::new("no answer from the bank")) } }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn external_stages_are_undone_backwards_when_nothing_commits() {
    let shop = Shop::new().await;
    let alerts = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&alerts);
    let settings = Settings {
        on_alert: Some(Arc::new(move |_: Gid, what: &str| heard.lock().unwrap().push(what.to_owned()))),
        retry: TransactionRetry { pause: Duration::from_millis(1), ..TransactionRetry::default() },
        ..Settings::default()
    };
    let process = shop.process(settings).await;
    let named = process.coordinator.named(Principal::new("shop"));
    let calls = Calls::default();
    let took = |calls: &Calls| std::mem::take(&mut *calls.lock().unwrap());

    // All well.
    let (unit, work) = process.unit();
    let stages = vec![stage(&calls, "stock", true, true), stage(&calls, "card", true, true)];
    let id = named.execute_distributed_operation(
        "order-1",
        unit,
        || async {
            work.insert(1).await?;
            Ok(1)
        },
        stages,
    );
    assert_eq!(id.await.unwrap(), 1);
    assert_eq!(took(&calls), ["stock", "card"]);
    assert!(shop.happened(1).await);

    // The second stage fails: it and the first are undone, the last first; a compensation that fails keeps nobody from running.
    let (unit, work) = process.unit();
    let stages = vec![
        stage(&calls, "stock", true, true),
        stage(&calls, "card", false, false),
        stage(&calls, "mail", true, true),
    ];
    let failed = named.execute_distributed_operation("order-2", unit, || work.insert(2), stages);
    let error = failed.await.unwrap_err();
    assert_eq!(error.to_string(), "stage \"card\": the card was refused");
    assert_eq!(took(&calls), ["stock", "card", "undo card", "undo card", "undo card", "undo stock"]);
    assert!(!shop.happened(2).await && shop.prepared(&process).await == 0);
    let told: Vec<String> = std::mem::take(&mut *alerts.lock().unwrap());
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("order-2") && told[0].contains("no answer from the bank"), "{told:?}");
    let entry = process.coordinator.find("order-2").await.unwrap().unwrap();
    let detail = process.coordinator.show(entry.gid).await.unwrap().unwrap();
    let events: Vec<_> = detail.events.iter().filter(|event| event.event.starts_with("external")).collect();
    assert_eq!(events.len(), 5, "stock begun and done, card begun, not undone, stock undone: {events:?}");

    // Work that fails before any stage has run: nothing to undo.
    let (unit, work) = process.unit();
    let failed = named.execute_distributed_operation(
        "order-3",
        unit,
        || work.insert(1),
        vec![stage(&calls, "stock", true, true)],
    );
    assert!(failed.await.is_err());
    assert!(took(&calls).is_empty());

    // Somebody else commits while a stage runs, which then fails: what is committed stays, and what goes with it too.
    let other = shop.process(Settings::default()).await;
    let (unit, work) = process.unit();
    let committing = other.coordinator.named(Principal::new("somebody"));
    let meddled = ExternalStage::new("ship", move || {
        let committing = committing.clone();
        async move {
            committing.commit_distributed("order-4").await?;
            Err(Error::new("no carrier"))
        }
    });
    let failed = named.execute_distributed_operation(
        "order-4",
        unit,
        || work.insert(4),
        vec![stage(&calls, "stock", true, true), meddled],
    );
    assert!(failed.await.unwrap_err().to_string().contains("no carrier"));
    assert_eq!(took(&calls), ["stock"], "nothing is undone");
    assert!(shop.happened(4).await);
    let told = std::mem::take(&mut *alerts.lock().unwrap());
    assert!(told.len() == 1 && told[0].contains("not undone"), "{told:?}");

    // A stage that does not answer may have happened, and a panic as well.
    let (unit, work) = process.unit();
    let silent = stage(&calls, "slow", true, true);
    let hanging = ExternalStage::new("hanging", std::future::pending::<Result<(), Error>>)
        .within(Duration::from_millis(20));
    let failed =
        named.execute_distributed_operation("order-5", unit, || work.insert(5), vec![silent, hanging]);
    let error = failed.await.unwrap_err();
    assert!(error.to_string().contains("did not answer within 20ms"), "{error}");
    assert_eq!(took(&calls), ["slow", "undo slow"]);
    assert!(!shop.happened(5).await && shop.prepared(&process).await == 0);
    process.close().await;
    other.close().await;
}
