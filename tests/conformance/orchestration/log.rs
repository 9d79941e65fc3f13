//! Sagas and whose turn it is.

use super::*;

pub(super) async fn a_saga_is_started_once<DB: Backend>(pool: Pool<DB>, _: &AnyPool) {
    let log = SqlSagaLog::new(pool);
    log.ready().await.unwrap();
    let (_, new) = saga("one");
    assert_eq!(log.start(&new).await.unwrap(), Started::Now);
    assert_eq!(log.start(&new).await.unwrap(), Started::Before);
    let stored = log.load(new.id()).await.unwrap().unwrap();
    assert_eq!((stored.name.as_str(), stored.version, stored.data.as_str()), ("things", 2, r#"{"thing":7}"#));
    assert_eq!((stored.steps.join(" ").as_str(), stored.status.as_str()), ("first second", "running"));
    assert_eq!((stored.time_left, stored.outcome(), stored.held), (None, None, false));
    assert!(log.load(SagaId::of("other")).await.unwrap().is_none());
}

pub(super) async fn one_at_a_time_has_it<DB: Backend>(pool: Pool<DB>, _: &AnyPool) {
    let log = Arc::new(SqlSagaLog::new(pool));
    let (_, new) = saga("one");
    log.start(&new).await.unwrap();
    let mut all = tokio::task::JoinSet::new();
    for number in 0..8 {
        let (log, id) = (Arc::clone(&log), new.id());
        all.spawn(async move { log.take(id, &format!("number {number}"), LEASE).await.unwrap() });
    }
    let taken: Vec<_> = all.join_all().await.into_iter().flatten().collect();
    assert_eq!(taken.len(), 1, "one of them has it");
    assert_eq!(taken[0].0.epoch, 1);
    let shown = log.show(new.id(), 0).await.unwrap().unwrap();
    assert!(shown.saga.owner.unwrap().starts_with("number "));
}

pub(super) async fn what_is_saved_is_read_and_who_has_lost_its_turn_saves_nothing<DB: Backend>(
    pool: Pool<DB>,
    _: &AnyPool,
) {
    let log = SqlSagaLog::new(pool);
    let (_, new) = saga("one");
    log.start(&new).await.unwrap();
    let (first, stored) = log.take(new.id(), "first", LEASE).await.unwrap().unwrap();
    let mut state = stored.state;
    state.steps[0] = barid::orchestration::core::StepState {
        status: StepStatus::Done,
        attempts: 2,
        compensations: 0,
        in_doubt: false,
    };
    let output = json!({"text": "it's \\ \" 12 €\n"});
    let steps = vec![SavedStep { at: 0, output: Some(output.clone()), error: Some("once 'not'".to_owned()) }];
    let save = Save { state: &state, steps, error: Some("why"), then: Then::Pause(Duration::ZERO) };
    log.save(first, &save).await.unwrap();
    let (second, stored) = log.take(new.id(), "second", LEASE).await.unwrap().unwrap();
    assert_eq!((second.epoch, &stored.state), (2, &state));
    assert_eq!((stored.outputs, stored.error.as_deref()), (vec![Some(output), None], Some("why")));

    state.steps[1].status = StepStatus::Failed;
    state.direction = Direction::Back;
    let steps = vec![SavedStep { at: 1, output: None, error: None }];
    let late = Save { state: &state, steps: steps.clone(), error: None, then: Then::AskForHelp };
    let error = log.save(first, &late).await.unwrap_err();
    assert!(matches!(error, OrchestrationError::Fenced(id) if id == new.id()), "{error}");
    let now = log.load(new.id()).await.unwrap().unwrap();
    assert_eq!(
        (now.state.steps[1].status, now.error.as_deref(), now.held),
        (StepStatus::Pending, Some("why"), true)
    );
    log.save(second, &Save { state: &state, steps, error: None, then: Then::Hold(LEASE) }).await.unwrap();
    let now = log.load(new.id()).await.unwrap().unwrap();
    assert_eq!((&now.state, now.status.as_str(), now.error), (&state, "compensating", None));
    let shown = log.show(new.id(), 0).await.unwrap().unwrap();
    assert_eq!(shown.steps[0].error.as_deref(), Some("once 'not'"), "what a step said stays");
}

pub(super) async fn only_what_is_due_and_defined_is_found<DB: Backend>(pool: Pool<DB>, _: &AnyPool) {
    let log = SqlSagaLog::new(pool);
    let ids = ["one", "two", "three"].map(|text| saga(text).1);
    for new in &ids {
        log.start(new).await.unwrap();
    }
    assert_eq!(log.due(&known(), 10).await.unwrap().len(), 3);
    assert_eq!(log.due(&known(), 2).await.unwrap().len(), 2);
    assert!(log.due(&[], 10).await.unwrap().is_empty());
    let other = [("things".to_owned(), 1), ("other".to_owned(), 2)];
    assert!(log.due(&other, 10).await.unwrap().is_empty());
    assert_eq!(log.stranded(&other, Duration::ZERO).await.unwrap(), known());
    assert!(
        log.stranded(&other, LEASE).await.unwrap().is_empty()
            && log.stranded(&known(), Duration::ZERO).await.unwrap().is_empty()
    );
    let (turn, stored) = log.take(ids[0].id(), "one", LEASE).await.unwrap().unwrap();
    log.take(ids[1].id(), "one", LEASE).await.unwrap().unwrap();
    let save = Save { state: &stored.state, steps: Vec::new(), error: None, then: Then::Pause(LEASE) };
    log.save(turn, &save).await.unwrap();
    assert_eq!(
        log.due(&known(), 10).await.unwrap(),
        [ids[2].id()],
        "one pauses, and somebody is at the other"
    );
    assert!(log.take(ids[0].id(), "two", LEASE).await.unwrap().is_none());
}

pub(super) async fn what_is_over_is_kept_and_then_forgotten<DB: Backend>(pool: Pool<DB>, _: &AnyPool) {
    let log = SqlSagaLog::new(pool);
    let (definition, new) = saga("one");
    let definition = definition.deadline(Duration::from_secs(3_600));
    let new_with_deadline = definition.instance(new.id(), &Data { thing: 7 }).unwrap();
    log.start(&new_with_deadline).await.unwrap();
    let (turn, stored) = log.take(new.id(), "one", LEASE).await.unwrap().unwrap();
    let left = stored.time_left.unwrap();
    assert!(left > Duration::from_secs(3_000) && left <= Duration::from_secs(3_600), "{left:?}");
    let then = Then::Finish(Outcome::Completed);
    log.save(turn, &Save { state: &stored.state, steps: Vec::new(), error: None, then }).await.unwrap();
    assert_eq!(log.load(new.id()).await.unwrap().unwrap().outcome(), Some(Outcome::Completed));
    assert!(log.take(new.id(), "two", LEASE).await.unwrap().is_none());
    let list = async |which| {
        let filter = SagaFilter { which, ..SagaFilter::default() };
        log.list(&filter).await.unwrap().len()
    };
    assert_eq!((list(Which::Open).await, list(Which::Finished).await, list(Which::All).await), (0, 1, 1));
    assert!(log.finished(10, LEASE).await.unwrap().is_empty());
    barid_tests::eventually(LEASE, "it is over for a moment", || async {
        log.finished(10, Duration::ZERO).await.unwrap().len() == 1
    })
    .await;
    log.purge(new.id()).await.unwrap();
    assert!(log.load(new.id()).await.unwrap().is_none() && log.show(new.id(), 0).await.unwrap().is_none());
}

pub(super) async fn humans_retry_and_skip_and_it_is_written_down<DB: Backend>(pool: Pool<DB>, _: &AnyPool) {
    let log = SqlSagaLog::new(pool);
    let (_, new) = saga("one");
    log.start(&new).await.unwrap();
    let ann = Principal::new("ann");
    let (turn, stored) = log.take(new.id(), "one", LEASE).await.unwrap().unwrap();
    let held = by_hand(&log, new.id(), &ByHand::Retry, &ann, "now", false).await.unwrap_err();
    assert!(matches!(held, OrchestrationError::Working { .. }), "{held}");
    let mut state = stored.state;
    state.direction = Direction::Back;
    (state.steps[0].status, state.steps[0].compensations) = (StepStatus::Stuck, 5);
    let steps = vec![SavedStep { at: 0, output: None, error: None }];
    log.save(turn, &Save { state: &state, steps, error: None, then: Then::AskForHelp }).await.unwrap();
    assert!(log.due(&known(), 10).await.unwrap().is_empty(), "it waits for a human");

    for (what, reason) in [(ByHand::Retry, " "), (ByHand::Skip("nothing".to_owned()), "why")] {
        by_hand(&log, new.id(), &what, &ann, reason, false).await.unwrap_err();
    }
    let dry = by_hand(&log, new.id(), &ByHand::Retry, &ann, "mended", true).await.unwrap();
    assert_eq!(dry.steps, [("first".to_owned(), StepStatus::Stuck, StepStatus::Compensating)]);
    assert_eq!(log.load(new.id()).await.unwrap().unwrap().state, state, "nothing was done");
    by_hand(&log, new.id(), &ByHand::Retry, &ann, "mended", false).await.unwrap();
    let now = log.load(new.id()).await.unwrap().unwrap();
    assert_eq!((now.state.steps[0].compensations, now.status.as_str()), (0, "compensating"));
    assert_eq!(log.due(&known(), 10).await.unwrap(), [new.id()]);
    let (turn, _) = log.take(new.id(), "one", LEASE).await.unwrap().unwrap();
    assert_eq!(turn.epoch, 3, "who acts by hand has a turn too");
    let steps = vec![SavedStep { at: 0, output: None, error: None }];
    log.save(turn, &Save { state: &state, steps, error: None, then: Then::AskForHelp }).await.unwrap();
    by_hand(&log, new.id(), &ByHand::Skip("first".to_owned()), &ann, "by hand", false).await.unwrap();
    let shown = log.show(new.id(), 10).await.unwrap().unwrap();
    assert_eq!(shown.steps[0].status, StepStatus::Skipped);
    let audit: Vec<_> =
        shown.audit.iter().map(|entry| (entry.action.as_str(), entry.reason.as_str())).collect();
    assert_eq!(audit, [("skip saga step first", "by hand"), ("retry saga", "mended")]);
}

pub(super) async fn a_saga_starts_with_the_unit_of_work_of_somebody<DB: Backend>(
    pool: Pool<DB>,
    _: &AnyPool,
) {
    let (log, database) = (SqlSagaLog::new(pool.clone()), StepDatabase::new(pool));
    let starts = |fails: bool| {
        database.work(move |_: StepContext<Data>, db| {
            Box::pin(async move {
                SqlSagaLog::start_in(db, &saga("inner").1).await?;
                if fails { Err(Error::new("not this time")) } else { Ok(()) }
            })
        })
    };
    starts(true).act(&call("one", 1)).await.unwrap_err();
    assert!(log.load(SagaId::of("inner")).await.unwrap().is_none());
    for text in ["one", "two"] {
        starts(false).act(&call(text, 1)).await.unwrap();
        assert_eq!(log.due(&known(), 10).await.unwrap(), [SagaId::of("inner")]);
    }
}
