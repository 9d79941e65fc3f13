//! Sagas around the handlers of a message: loaded, changed, saved or left alone.

use std::sync::{Arc, OnceLock};

use barid::{
    Bus, BusBuilder, Context, Memory, Message, Result, Saga, SqlIdempotency, SqlUnitOfWork, State,
    saga::{Definition, MemorySagas, Missing, Resolution, WhenMissing, by},
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::stage::{DEAD, Journal, Place, bus, carrying, database, delivery};

/// What a message does to its task.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
enum Does {
    Step,
    Nothing,
    Complete,
    /// Steps, after another message did too.
    StepTooLate,
}

#[derive(Serialize, Deserialize, Message)]
#[message(name = "tasks.begin")]
struct Begin {
    task: u64,
    does: Does,
}

#[derive(Serialize, Deserialize, Message)]
#[message(name = "tasks.go_on")]
struct GoOn {
    task: u64,
    does: Does,
}

#[derive(Serialize, Deserialize, Message)]
#[message(name = "tasks.look")]
struct Look {
    task: u64,
}

#[derive(Default, Serialize, Deserialize)]
struct Task {
    steps: u32,
}

/// The bus itself, for a message that meets another one.
type Rival = Arc<OnceLock<Bus>>;

async fn begin(cmd: Begin, mut task: Saga<Task>, journal: State<Journal>) -> Result<()> {
    journal.0.write(if task.is_new() { "begins" } else { "begins again" });
    apply(cmd.does, &mut task);
    Ok(())
}

async fn go_on(
    cmd: GoOn,
    mut task: Saga<Task>,
    journal: State<Journal>,
    rival: State<Rival>,
    cx: Context,
) -> Result<()> {
    journal.0.write(format!("goes on from {}", task.steps));
    if cmd.does == Does::StepTooLate && !journal.0.read().contains(&"meets".to_owned()) {
        journal.0.write("meets");
        let other = carrying(Uuid::now_v7(), &GoOn { task: cmd.task, does: Does::Step });
        Box::pin(rival.0.get().unwrap().handle(other)).await?;
    }
    journal.0.watch(&cx, None)?;
    apply(cmd.does, &mut task);
    Ok(())
}

fn apply(does: Does, task: &mut Saga<Task>) {
    match does {
        Does::Step | Does::StepTooLate => task.steps += 1,
        Does::Nothing => {}
        Does::Complete => task.complete(),
    }
}

async fn look(_: Look, task: Saga<Task>, journal: State<Journal>) -> Result<()> {
    journal.0.write(format!("revision {} steps {}", task.revision(), task.steps));
    Ok(())
}

async fn is_missing(missing: Missing, cx: Context) -> Result<()> {
    let journal = cx.state::<Journal>().unwrap();
    journal.write(format!("no {} for {:?}", missing.saga, missing.looked_for));
    journal.write(if missing.completed.is_some() { "completed" } else { "unknown" });
    journal.watch(&cx, None)
}

fn tasks() -> Definition<Task> {
    Saga::<Task>::define("tasks")
        .starts_with(by("task", |cmd: &Begin| cmd.task), begin)
        .then(by("task", |cmd: &GoOn| cmd.task), go_on)
        .then(by("task", |cmd: &Look| cmd.task), look)
        .when_missing_call(is_missing)
}

struct Desk {
    network: Memory,
    bus: Bus,
    journal: Journal,
}

impl Desk {
    async fn new(saga: Definition<Task>) -> Self {
        Self::on(|bus| bus.memory_sagas(MemorySagas::new()), saga).await
    }

    async fn on(sagas: impl FnOnce(BusBuilder) -> BusBuilder, saga: Definition<Task>) -> Self {
        let (network, journal, rival) = (Memory::new(), Journal::default(), Rival::default());
        let builder = sagas(bus(&network).await).state(journal.clone()).state(Arc::clone(&rival));
        let bus = builder.handler(beside).saga(saga).build().unwrap();
        rival.set(bus.clone()).unwrap();
        Self { network, bus, journal }
    }

    /// Handles a message that is to succeed, and returns what was written.
    async fn takes<M: Message>(&self, message: &M) -> Vec<String> {
        let before = self.journal.read().len();
        self.bus.handle(carrying(Uuid::now_v7(), message)).await.unwrap();
        self.journal.read().split_off(before)
    }

    async fn looks_at(&self, task: u64) -> String {
        self.takes(&Look { task }).await.swap_remove(0)
    }
}

async fn beside(_: Place, journal: State<Journal>) -> Result<()> {
    journal.0.write("no saga");
    Ok(())
}

/// The same message without a saga in its way.
async fn also(_: GoOn, journal: State<Journal>) -> Result<()> {
    journal.0.write("also");
    Ok(())
}

#[tokio::test]
async fn a_message_without_sagas_goes_to_its_handlers() {
    let desk = Desk::new(tasks()).await;
    desk.bus.handle(delivery(Uuid::now_v7(), 1)).await.unwrap();
    assert_eq!(desk.journal.read(), ["no saga"]);
}

#[tokio::test]
async fn the_first_message_makes_a_saga_with_what_its_handler_changed() {
    let desk = Desk::new(tasks()).await;
    assert_eq!(desk.takes(&Begin { task: 1, does: Does::Step }).await, ["begins"]);
    assert_eq!(desk.looks_at(1).await, "revision 0 steps 1");
    // One that is there is found and updated.
    assert_eq!(desk.takes(&Begin { task: 1, does: Does::Step }).await, ["begins again"]);
    desk.takes(&GoOn { task: 1, does: Does::Step }).await;
    assert_eq!(desk.looks_at(1).await, "revision 2 steps 3");
    // Unchanged, it is not written.
    desk.takes(&GoOn { task: 1, does: Does::Nothing }).await;
    assert_eq!(desk.looks_at(1).await, "revision 2 steps 3");
    assert_eq!(desk.looks_at(2).await, "no tasks for [(\"task\", \"2\")]", "another task is another saga");
}

#[tokio::test]
async fn a_later_message_of_an_unknown_saga_goes_to_the_policy_and_is_acknowledged() {
    let desk = Desk::new(tasks()).await;
    let written = desk.takes(&GoOn { task: 7, does: Does::Step }).await;
    assert_eq!(written, ["no tasks for [(\"task\", \"7\")]", "unknown", "commit", "ack", "close"]);
    assert_eq!(desk.network.len(DEAD), 0);
    // By default the saga's handler is left out, and the others run.
    let journal = Journal::default();
    let quiet = bus(&desk.network).await.memory_sagas(MemorySagas::new()).state(journal.clone());
    let quiet = quiet.state(Rival::default()).saga(tasks().when_missing(WhenMissing::Ignore));
    let quiet = quiet.handler(also).build().unwrap();
    quiet.handle(carrying(Uuid::now_v7(), &GoOn { task: 7, does: Does::Step })).await.unwrap();
    assert_eq!(journal.read(), ["also"]);
}

/// The model deletes a completed saga, and its start brings it back. Ours leaves a tombstone.
#[tokio::test]
async fn a_completed_saga_is_a_tombstone_whether_it_was_new_or_not() {
    let desk = Desk::new(tasks()).await;
    desk.takes(&Begin { task: 1, does: Does::Complete }).await;
    desk.takes(&Begin { task: 2, does: Does::Step }).await;
    desk.takes(&GoOn { task: 2, does: Does::Complete }).await;
    for task in [1, 2] {
        for _ in 0..2 {
            let start = desk.takes(&Begin { task, does: Does::Step }).await;
            assert_eq!(start[1], "completed", "a start does not bring {task} back");
            assert_eq!(desk.takes(&GoOn { task, does: Does::Step }).await[1], "completed");
        }
    }
}

#[tokio::test]
async fn a_state_that_somebody_else_changed_is_merged_once_and_saved() {
    let merges = Journal::default();
    let merging = merges.clone();
    let desk = Desk::new(tasks().resolve_conflict(move |mine: &mut Task, other: &Task| {
        merging.write(format!("{} and {}", mine.steps, other.steps));
        mine.steps += 1;
        Resolution::Save
    }));
    let desk = desk.await;
    desk.takes(&Begin { task: 1, does: Does::Nothing }).await;
    desk.takes(&GoOn { task: 1, does: Does::StepTooLate }).await;
    assert_eq!(merges.read(), ["1 and 1"]);
    assert_eq!(desk.looks_at(1).await, "revision 2 steps 2");
}

/// The model saves its own state over the other one. Without a hook ours handles the message again.
#[tokio::test]
async fn without_a_hook_the_message_is_handled_again_and_no_update_is_lost() {
    let desk = Desk::new(tasks()).await;
    desk.takes(&Begin { task: 1, does: Does::Nothing }).await;
    let written = desk.takes(&GoOn { task: 1, does: Does::StepTooLate }).await;
    let handled: Vec<_> = written.iter().filter(|entry| entry.starts_with("goes on")).collect();
    assert_eq!(handled, ["goes on from 0", "goes on from 0", "goes on from 1"]);
    assert_eq!(desk.looks_at(1).await, "revision 2 steps 2");
    assert_eq!(desk.network.len(DEAD), 0);
}

#[tokio::test]
async fn a_start_that_comes_twice_is_stored_and_handled_once() {
    let database = database().await;
    let unit = SqlUnitOfWork::new(database.pool.clone()).commit_with_transaction(true);
    let sql = |bus: BusBuilder| bus.unit_of_work(unit).idempotency(SqlIdempotency::new());
    let desk = Desk::on(sql, tasks()).await;
    let id = Uuid::now_v7();
    for _ in 0..2 {
        desk.bus.handle(carrying(id, &Begin { task: 1, does: Does::Step })).await.unwrap();
        let stored = sqlx::query_as::<_, (i64, String)>("SELECT revision, data FROM saga");
        assert_eq!(stored.fetch_all(&database.pool).await.unwrap(), [(0, r#"{"steps":1}"#.to_owned())]);
    }
    assert_eq!(desk.journal.read(), ["begins"]);
    drop(desk);
    database.drop_now().await;
}
