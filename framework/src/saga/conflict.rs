//! Handling a message again because somebody else saved or started its saga first.

use std::{fmt, time::Duration};

use uuid::Uuid;

use crate::{
    completion::{self, Failure},
    error::Error,
    limits,
    pipeline::{IncomingContext, retry::jitter},
    store::saga::{Correlation, Lookup},
};

/// Which saga, for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) saga: String,
    pub(crate) lookup: Option<Lookup>,
    /// Its id, and the revision that was read.
    pub(crate) live: Option<(Uuid, Option<i64>)>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "saga {:?} (", self.saga)?;
        if let Some(Lookup::Values(values)) = &self.lookup {
            for Correlation { property, value } in values {
                write!(f, "{property} = {value}, ")?;
            }
        }
        match self.live {
            Some((id, Some(revision))) => write!(f, "id {id}, revision {revision})"),
            Some((_, None)) => write!(f, "new)"),
            None => write!(f, "not there)"),
        }
    }
}

/// Whether the message failed because somebody else was first, and may be handled again at once.
pub(crate) fn is_again(cx: &IncomingContext, failure: &Failure) -> bool {
    let Failure::BeforeCommit(error) = failure else { return false };
    is_conflict(cx, error) && cx.conflicts < cx.core().sagas.conflict_retries_max
}

fn is_conflict(cx: &IncomingContext, error: &Error) -> bool {
    !cx.sagas.is_empty() && cx.core().sagas.store.as_ref().is_some_and(|store| store.is_conflict(error))
}

/// Undoes what was done and makes the context ready to begin again, after a moment.
pub(crate) async fn again(cx: &mut IncomingContext) {
    completion::roll_back(cx).await;
    completion::close(cx).await;
    cx.conflicts += 1;
    tracing::debug!(
        bus = cx.context.bus(), id = %cx.context.message_id(), again = cx.conflicts, outcome = "saga conflict",
        "handling a message again: another one was first with its saga"
    );
    cx.renew();
    tokio::time::sleep(pause(cx.conflicts, jitter())).await;
}

/// The error of a message that met others too often, with the sagas that it can be about.
pub(crate) fn explained(cx: &IncomingContext, error: Error) -> Error {
    if !is_conflict(cx, &error) {
        return error;
    }
    let places: Vec<_> = cx.sagas.iter().map(|(saga, _)| saga.place().to_string()).collect();
    error.context(format!(
        "another message was first with {}, each of the {} times that this one was handled",
        places.join(" or "),
        cx.conflicts + 1
    ))
}

/// How long to wait before the message is handled again for the `again`th time. `jitter` in 0..1 keeps those apart that met.
pub(crate) fn pause(again: u32, jitter: f64) -> Duration {
    let longest = limits::SAGA_CONFLICT_PAUSE.saturating_mul(2_u32.saturating_pow(again.saturating_sub(1)));
    longest.min(limits::SAGA_CONFLICT_PAUSE_MAX).mul_f64(jitter.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_stay_short() {
        assert_eq!(pause(1, 1.0), limits::SAGA_CONFLICT_PAUSE);
        assert_eq!(pause(2, 0.5), limits::SAGA_CONFLICT_PAUSE);
        assert_eq!(pause(u32::MAX, 1.0), limits::SAGA_CONFLICT_PAUSE_MAX);
    }

    #[test]
    fn a_place_names_saga_correlation_and_revision() {
        let values = vec![Correlation { property: "order".to_owned(), value: "7".to_owned() }];
        let place = Place {
            saga: "shipping".to_owned(),
            lookup: Some(Lookup::Values(values)),
            live: Some((Uuid::nil(), Some(3))),
        };
        let id = Uuid::nil();
        assert_eq!(place.to_string(), format!("saga \"shipping\" (order = 7, id {id}, revision 3)"));
    }
}
