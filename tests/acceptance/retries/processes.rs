//! Attempts across processes: killed ones, several at once, and a handler that takes its process with it.

use std::{os::unix::process::ExitStatusExt, time::Duration};

use barid::{DeadLetter, Headers, RabbitMq, Transport};
use barid_tests::{Process, servers};
use tokio::process::Command;

use super::stage::{PATIENCE, Stage, database, make};

/// How long an ended process may take to be noticed as ended.
const SOON: Duration = Duration::from_secs(60);

fn start<T: Transport + Clone>(stage: &Stage<T>, transport: &str, attempts: u32, pause_ms: u32) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_failing-bus"));
    command.args([&stage.database.url, transport, &stage.queue]);
    command.args([attempts.to_string(), pause_ms.to_string()]);
    Process::start(&mut command)
}

/// The numbers of the attempts at a message that a process says it made.
fn attempts_at(how: &str, log: &[String]) -> Vec<u32> {
    let told =
        log.iter().filter_map(|line| line.strip_prefix("attempt ")?.strip_suffix(&format!(" of {how}")));
    told.map(|number| number.parse().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_count_goes_on_after_a_kill_and_in_another_instance() {
    let stage = Stage::sql().await;
    stage.send(make("fail")).await;
    let counted = "SELECT coalesce(sum(attempts), 0)::bigint FROM attempts";
    let mut made = Vec::new();

    let killed = start(&stage, "sql", 6, 1_000);
    stage.becomes(counted, 1).await;
    made.extend(attempts_at("fail", &killed.kill().await));

    // Two instances at once: whoever gets the message goes on with the count.
    let (one, mut two) = (start(&stage, "sql", 6, 1_000), start(&stage, "sql", 6, 1_000));
    two.line_with("ready", PATIENCE).await;
    stage.becomes(counted, 3).await;
    made.extend(attempts_at("fail", &one.kill().await));

    let (letter, ..) = stage.letter().await;
    let (status, log) = two.terminate(SOON).await;
    assert!(status.success(), "{log:?}");
    made.extend(attempts_at("fail", &log));
    made.sort_unstable();
    // A kill may have hit an attempt that was counted and not made; none is made twice, and none after the last.
    assert!(made.windows(2).all(|two| two[0] < two[1]), "an attempt was made twice: {made:?}");
    assert!(made.first() == Some(&1) && made.last() <= Some(&6) && made.len() >= 4, "{made:?}");
    assert_eq!((letter.attempts, letter.cause.as_str()), (6, "asked to fail"));
    stage.becomes("SELECT count(*) FROM attempts", 0).await;
    assert_eq!(stage.waiting(&stage.queue).await, 0);
    stage.database.drop_now().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_that_is_killed_is_an_attempt() {
    let stage = Stage::sql().await;
    stage.send(make("hang")).await;
    let mut made = Vec::new();
    // The first delivery writes no count; the repeats are counted before they run.
    for _ in 0..3 {
        let mut process = start(&stage, "sql", 2, 50);
        process.line_with("of hang", PATIENCE).await;
        made.extend(attempts_at("hang", &process.kill().await));
    }
    assert_eq!(made, [1, 1, 2]);
    let survivor = start(&stage, "sql", 2, 50);
    let (letter, ..) = stage.letter().await;
    let (_, log) = survivor.terminate(SOON).await;
    assert_eq!(attempts_at("hang", &log), Vec::<u32>::new());
    assert_eq!(letter.attempts, 2);
    assert!(letter.cause.contains("its process died"), "{}", letter.cause);
    stage.database.drop_now().await;
}

/// Restarts the process whenever it has ended, as a supervisor would, until there is a dead letter. Returns it and the log of
/// each process that died.
async fn supervise<T: Transport + Clone>(
    stage: &Stage<T>,
    transport: &str,
    until_effects: i64,
) -> ((DeadLetter, Headers, bytes::Bytes), Vec<Vec<String>>) {
    let mut dead = Vec::new();
    loop {
        let mut process = start(stage, transport, 3, 50);
        let status = tokio::select! {
            status = process.ended(PATIENCE) => status,
            letter = stage.letter() => {
                stage.becomes("SELECT count(*) FROM effects", until_effects).await;
                assert!(process.terminate(SOON).await.0.success());
                return (letter, dead);
            }
        };
        assert_eq!(status.signal(), Some(6), "it did not abort: {:?}", process.log());
        dead.push(process.log());
        assert!(dead.len() < 20, "it goes on for ever");
    }
}

async fn a_poison_message_does_not_stop_the_queue<T: Transport + Clone>(stage: Stage<T>, transport: &str) {
    for how in ["before", "abort", "after"] {
        stage.send(make(how)).await;
    }
    let ((letter, _, body), dead) = supervise(&stage, transport, 2).await;
    assert_eq!(body, serde_json::to_vec(&make("abort")).unwrap(), "another message was given up");
    let made: Vec<u32> = dead.iter().flat_map(|log| attempts_at("abort", log)).collect();
    // One more than the three: the first delivery leaves no count.
    assert_eq!((made, letter.attempts), (vec![1, 1, 2, 3], 3));
    assert!(letter.handler.as_deref().unwrap().contains("failing_bus::make"), "{letter:?}");
    stage.becomes("SELECT count(*) FROM attempts", 0).await;
    stage.database.drop_now().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_aborts_the_process_is_given_up_and_the_sql_queue_flows_on() {
    a_poison_message_does_not_stop_the_queue(Stage::sql().await, "sql").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_aborts_the_process_is_given_up_and_the_rabbitmq_queue_flows_on() {
    let transport = RabbitMq::connect(&servers::amqp()).await.unwrap();
    a_poison_message_does_not_stop_the_queue(Stage::new(database().await, transport).await, "rabbitmq").await;
}

#[derive(serde::Serialize, serde::Deserialize, barid::Message)]
#[message(name = "trouble.twice")]
struct Twice;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_of_failed_messages_that_aborts_the_process_runs_once() {
    let stage = Stage::sql().await;
    stage.send(Twice).await;
    let ((letter, ..), dead) = supervise(&stage, "sql", 0).await;
    let lines = |what| dead.iter().flatten().filter(|line| line.as_str() == what).count();
    assert_eq!((lines("first level"), lines("second level"), dead.len()), (3, 1, 1));
    assert_eq!(letter.attempts, 3);
    stage.database.drop_now().await;
}
