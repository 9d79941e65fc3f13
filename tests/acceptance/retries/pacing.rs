//! At once, then after a pause, then never: on every transport, and nobody else waits meanwhile.

use std::time::{Duration, Instant};

use barid::{Attempt, Error, Kafka, RabbitMq, Result, RetryPolicy, State, Transport, headers};
use barid_tests::servers;
use tokio::sync::mpsc;

use super::stage::{Make, PATIENCE, Running, Stage, database, make};

/// Long enough to tell a pause from a slow machine.
const PAUSE: Duration = Duration::from_secs(6);

type Seen = mpsc::Sender<(String, u32, Instant)>;

async fn note(cmd: Make, attempt: Attempt, seen: State<Seen>) -> Result<()> {
    seen.0.send((cmd.how.clone(), attempt.0, Instant::now())).await?;
    if cmd.how == "fail" { Err(Error::new("asked to fail").context("noting")) } else { Ok(()) }
}

async fn check<T: Transport + Clone>(stage: Stage<T>) {
    let (seen, mut told) = mpsc::channel(100);
    let mut next = async || tokio::time::timeout(PATIENCE, told.recv()).await.unwrap().unwrap();
    let bus = stage
        .bus()
        .retry(RetryPolicy { attempts_max: 3, immediate_max: 2, pause: PAUSE, pause_max: PAUSE })
        .prefetch(1)
        .parallelism(1)
        .state::<Seen>(seen)
        .handler(note);
    let running = Running::start(bus.build().unwrap());
    let id = stage.send(make("fail")).await;

    let (_, first, began) = next().await;
    let (_, second, repeated) = next().await;
    assert_eq!((first, second), (1, 2));
    assert!(repeated - began < PAUSE / 2, "the second attempt was not at once: {:?}", repeated - began);

    // With a prefetch of one: a message that waits takes no place in it.
    for other in ["a", "b", "c"] {
        stage.send(make(other)).await;
        let (how, ..) = next().await;
        assert_eq!(how, other, "it waited behind the delayed one");
    }
    let (how, third, delayed) = next().await;
    assert_eq!((how.as_str(), third), ("fail", 3));
    assert!(delayed - repeated >= PAUSE / 2, "it came back after {:?} already", delayed - repeated);

    let (letter, all, body) = stage.letter().await;
    running.stop().await;
    assert_eq!((letter.attempts, letter.cause.as_str()), (3, "noting: asked to fail"));
    assert_eq!([&letter.bus, &letter.queue, &letter.source], [&stage.queue; 3]);
    assert!(letter.handler.unwrap().ends_with("pacing::note"));
    assert_eq!(all.get(headers::ID), Some(id.to_string().as_str()));
    assert_eq!(body, serde_json::to_vec(&make("fail")).unwrap());
    stage.becomes("SELECT count(*) FROM attempts", 0).await;
    stage.database.drop_now().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sql_queue() {
    check(Stage::sql().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rabbitmq() {
    let transport = RabbitMq::connect(&servers::amqp()).await.unwrap();
    check(Stage::new(database().await, transport).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kafka() {
    let transport = Kafka::connect(servers::kafka()).await.unwrap();
    check(Stage::new(database().await, transport).await).await;
}
