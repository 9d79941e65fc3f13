//! Event stores that take part are ended too, whichever way they do: the log has one word for both.

use std::sync::Arc;

use barid::{
    EventStore,
    distributed::{
        Coordinator, DistributedUnitOfWork, EventBranch as _, EventStoreResource, Principal, Resource,
        ResourceId, Settings, SqlResource,
    },
    event_store::{Expected, NewEvent, StagedAppend, StreamName},
    store::{AnyPool, distributed::any::decision_log},
};
use barid_tests::sql;

use super::place::Place;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_are_ended_in_a_branch_and_staged() {
    let place = Place::new(1).await;
    let [home, AnyPool::Postgres(first), AnyPool::MySql(second)] = &place.bank.pools[..] else {
        panic!("three databases")
    };
    let branches = SqlResource::new(ResourceId::new("branch-1").unwrap(), first.clone());
    let (in_branch, staging) = (EventStore::new(first.clone()), EventStore::new(second.clone()));
    let staged = EventStoreResource::new(ResourceId::new("branch-2").unwrap(), staging);
    let resources: [Arc<dyn Resource>; 2] = [branches.clone(), staged.clone()];
    let coordinator = Coordinator::connect(decision_log(home), resources, Settings::default()).await.unwrap();
    let shop = coordinator.named(Principal::new("shop"));
    for (name, how, events) in [("kept", "--commit", 1), ("dropped", "--abort", 0)] {
        let mut unit = DistributedUnitOfWork::new(&coordinator);
        let (one, other) = (branches.branch().events(in_branch.clone()), staged.participant());
        unit.register_event_store("in the branch", one.clone()).unwrap();
        unit.register_event_store("staged", other.clone()).unwrap();
        let append = || {
            let append = StagedAppend::new(StreamName::new(name).unwrap(), Expected::NoStream);
            append.event(NewEvent::raw("things.happened", "{}"))
        };
        let work = async || {
            one.add_events(append()).await?;
            other.add_events(append()).await?;
            Ok(())
        };
        shop.begin_distributed(name, unit, work).await.unwrap();
        let shown = place.json(&["show", name]).await;
        for branch in shown["branches"].as_array().unwrap() {
            assert_eq!(
                (&branch["resource_type"], &branch["prepared_now"]),
                (&"event_store".into(), &true.into())
            );
        }
        let done = place.json(&["resolve", name, how, "--reason", "because"]).await;
        let outcome = if events == 1 { "committed" } else { "aborted" };
        assert_eq!((&done["outcome"], &done["pending"]), (&outcome.into(), &false.into()), "{name}");
        let count = format!("SELECT count(*) FROM event_log WHERE stream = '{name}'");
        for pool in &place.bank.pools[1..] {
            assert_eq!(sql::number(pool, &count).await.unwrap(), events, "{name}");
        }
        let (code, said) = place.tx(&["forget", name, "--reason", "because"]).await;
        assert_eq!(code, 0, "{said}");
    }
    for (pool, left) in [(1, "dtx_marker"), (2, "dtx_marker"), (2, "event_transaction")] {
        let left = format!("SELECT count(*) FROM {left}");
        assert_eq!(sql::number(&place.bank.pools[pool], &left).await.unwrap(), 0, "{left}");
    }
}
