//! A batch that is dropped half way: all of it happened or nothing, and nothing stays open.

use std::{pin::pin, sync::Arc, task::Poll};

use crate::{
    bus::{Place, Run, Setup},
    world::{Kind, World},
};

/// Far more polls than a batch takes.
const POLLS_MAX: usize = 2_000;

async fn check(kind: Kind) {
    let world = World::new(kind).await;
    for polls in 1.. {
        assert!(polls < POLLS_MAX, "{kind:?}: not handled after {polls} polls");
        world.empty().await;
        let run = Arc::new(Run::new(world.clone(), Setup::default(), (0..5).map(Place::new).collect()).await);
        let handled = polled(polls, run.handle()).await.is_some();
        // A transaction that is still open would keep this from its end.
        run.handle_each().await;
        let mut rows = Vec::new();
        for at in 0..5 {
            rows.push(world.rows(i64::try_from(at).unwrap(), run.id(at)).await);
        }
        assert_eq!(rows, [[1, 1, 1]; 5], "{kind:?}: dropped after {polls} polls, then delivered again");
        if handled {
            return;
        }
    }
}

/// Polls `future` exactly `polls` times, each time when it asked to be, and then drops it. `None`: it was not ready.
async fn polled<F: Future>(mut polls: usize, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    std::future::poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => {
            polls -= 1;
            if polls == 0 { Poll::Ready(None) } else { Poll::Pending }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_batch_has_happened_or_not_on_postgres() {
    check(Kind::Postgres).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_batch_has_happened_or_not_on_mariadb() {
    check(Kind::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_batch_has_happened_or_not_on_sqlite() {
    check(Kind::Sqlite).await;
}
