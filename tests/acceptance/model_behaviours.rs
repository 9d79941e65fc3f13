//! What the model's own tests assert of it, re-created from the described behaviour; where Barid behaves otherwise on purpose,
//! the test asserts ours and says so.

#![allow(clippy::unwrap_used, missing_docs)] // a test

#[path = "model_behaviours/completion.rs"]
mod completion;
#[path = "model_behaviours/idempotency.rs"]
mod idempotency;
#[path = "model_behaviours/outbox.rs"]
mod outbox;
#[path = "model_behaviours/pipeline.rs"]
mod pipeline;
#[path = "model_behaviours/retry.rs"]
mod retry;
#[path = "model_behaviours/stage.rs"]
mod stage;
#[path = "model_behaviours/transports.rs"]
mod transports;
#[path = "model_behaviours/unit_of_work.rs"]
mod unit_of_work;
