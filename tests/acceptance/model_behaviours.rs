//! What the model's own tests assert of it, re-created from the described behaviour; where Barid behaves otherwise on purpose,
//! the test asserts ours and says so.

#![allow(clippy::unwrap_used, missing_docs)] // a test

#[path = "model_behaviours/attempts.rs"]
mod attempts;
#[path = "model_behaviours/batches.rs"]
mod batches;
#[path = "model_behaviours/completion.rs"]
mod completion;
#[allow(dead_code)] // the suite of workers needs more of it
#[path = "workers/faulty.rs"]
mod faulty;
#[path = "model_behaviours/hosting.rs"]
mod hosting;
#[path = "model_behaviours/idempotency.rs"]
mod idempotency;
#[path = "model_behaviours/outbox.rs"]
mod outbox;
#[path = "model_behaviours/pipeline.rs"]
mod pipeline;
#[path = "model_behaviours/retry.rs"]
mod retry;
#[path = "model_behaviours/saga_store.rs"]
mod saga_store;
#[path = "model_behaviours/sagas.rs"]
mod sagas;
#[path = "model_behaviours/sending.rs"]
mod sending;
#[path = "model_behaviours/stage.rs"]
mod stage;
#[path = "model_behaviours/subscribing.rs"]
mod subscribing;
#[path = "model_behaviours/transports.rs"]
mod transports;
#[path = "model_behaviours/unit_of_work.rs"]
mod unit_of_work;
#[path = "model_behaviours/workers.rs"]
mod workers;
