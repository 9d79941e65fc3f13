//! The state of one saga while a message is being handled, and what of it has to be written. No I/O.

use std::time::Duration;

use uuid::Uuid;

use super::{Data, timeouts::Timeouts};
use crate::{
    error::{Error, Result},
    headers, limits,
    message::Outgoing,
    store::saga::{Change, Correlation, Stored},
};

/// What the store has for a message.
pub(crate) enum State<D> {
    /// Nothing yet: the unit of work has not begun.
    Unread,
    Missing,
    /// Completed, with its id.
    Completed(Uuid),
    Live(Live<D>),
}

/// A saga that is neither missing nor completed.
pub(crate) struct Live<D> {
    saga: String,
    pub(crate) id: Uuid,
    /// The revision that was read; `None` when the message starts the saga.
    pub(crate) read: Option<i64>,
    pub(crate) data: D,
    /// The data as it was read, encoded as it will be.
    before: Option<String>,
    pub(crate) completed: bool,
    pub(crate) touched: bool,
    /// The correlations that are stored.
    known: Vec<Correlation>,
    /// Those that the handler sets.
    pub(crate) correlate: Vec<Correlation>,
    pub(crate) timeouts: Timeouts,
}

impl<D: Data> State<D> {
    /// What was read.
    pub(crate) fn of(saga: &str, stored: Option<Stored>) -> Result<Self> {
        let Some(Stored { id, revision, data, correlations, timeouts }) = stored else {
            return Ok(Self::Missing);
        };
        let Some(json) = data else { return Ok(Self::Completed(id)) };
        let data = decoded::<D>(saga, id, &json)?;
        let timeouts = Timeouts::read(timeouts.as_deref());
        Ok(Self::Live(Live {
            saga: saga.to_owned(),
            timeouts: timeouts.map_err(|error| error.context(format!("saga {saga:?} with id {id}")))?,
            id,
            read: Some(revision),
            before: Some(encoded(saga, id, &data)?),
            data,
            completed: false,
            touched: false,
            known: correlations,
            correlate: Vec::new(),
        }))
    }
}

impl<D: Data> Live<D> {
    /// A saga that a message starts, known by the values that found none.
    pub(crate) fn new(saga: &str, correlate: Vec<Correlation>) -> Self {
        Self {
            saga: saga.to_owned(),
            timeouts: Timeouts::default(),
            id: Uuid::now_v7(),
            read: None,
            data: D::default(),
            before: None,
            completed: false,
            touched: false,
            known: Vec::new(),
            correlate,
        }
    }

    /// Sets a timeout that finds its way back by the saga's id.
    pub(crate) fn set_timeout(&mut self, after: Duration, message: Outgoing) -> Result<Uuid> {
        let message = message.header(headers::SAGA, &self.saga).header(headers::SAGA_ID, self.id.to_string());
        self.timeouts.set(after, message)
    }

    /// What has to be written; `None` when nothing has changed.
    pub(crate) fn change(&self, message_id: Uuid) -> Result<Option<Change>> {
        let saga = &self.saga;
        let data = if self.completed { None } else { Some(encoded(saga, self.id, &self.data)?) };
        let known = |correlation: &&Correlation| {
            self.known.iter().any(|known| known.property == correlation.property)
        };
        let set = self.correlate.iter().filter(|correlation| !self.known.contains(correlation));
        let (replaced, added): (Vec<&Correlation>, Vec<&Correlation>) = set.partition(known);
        let unchanged = data.is_some() && data == self.before && !self.touched && !self.timeouts.changed();
        if unchanged && replaced.is_empty() && added.is_empty() {
            return Ok(None);
        }
        Ok(Some(Change {
            saga: saga.clone(),
            id: self.id,
            read: self.read,
            timeouts: if data.is_some() { self.timeouts.json()? } else { None },
            data,
            added: added.into_iter().cloned().collect(),
            replaced: replaced.into_iter().cloned().collect(),
            message_id,
        }))
    }

    /// Goes on over what somebody else saved meanwhile.
    pub(crate) fn rebase(&mut self, fresh: &Stored) -> Result<()> {
        self.read = Some(fresh.revision);
        self.before = None;
        self.known.clone_from(&fresh.correlations);
        self.timeouts.rebase(fresh.timeouts.as_deref())
    }
}

pub(crate) fn decoded<D: Data>(saga: &str, id: Uuid, json: &str) -> Result<D> {
    serde_json::from_str(json).map_err(|cause| {
        Error::permanent(format!(
            "the state of saga {saga:?} with id {id} cannot be read as {}: {cause}. It was written by a version of the program \
             with other fields: make the type read both, for instance with #[serde(default)], and send the message again",
            std::any::type_name::<D>()
        ))
    })
}

fn encoded<D: Data>(saga: &str, id: Uuid, data: &D) -> Result<String> {
    let json = serde_json::to_string(data).map_err(|cause| {
        Error::permanent(format!(
            "the state of saga {saga:?} with id {id} cannot be written as JSON: {cause}"
        ))
    })?;
    if json.len() > limits::SAGA_DATA_BYTES_MAX {
        return Err(Error::permanent(format!(
            "the state of saga {saga:?} with id {id} has {} bytes as JSON, and at most {} can be kept: keep what grows in a table of \
             your own",
            json.len(),
            limits::SAGA_DATA_BYTES_MAX
        )));
    }
    Ok(json)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn correlation(property: &str, value: &str) -> Correlation {
        Correlation { property: property.to_owned(), value: value.to_owned() }
    }

    fn live(json: &str) -> Live<Vec<u8>> {
        let stored = Stored {
            id: Uuid::nil(),
            revision: 3,
            data: Some(json.to_owned()),
            timeouts: None,
            correlations: vec![correlation("order", "7")],
        };
        let State::Live(live) = State::of("s", Some(stored)).unwrap() else { panic!("it is live") };
        live
    }

    fn change(live: &Live<Vec<u8>>) -> Option<Change> {
        live.change(Uuid::nil()).unwrap()
    }

    #[test]
    fn only_what_changed_is_written() {
        let mut saga = live("[1, 2]");
        assert_eq!(change(&saga), None, "spaces are no change");
        saga.correlate = vec![correlation("order", "7")];
        assert_eq!(change(&saga), None, "it has that value already");
        saga.touched = true;
        assert_eq!(change(&saga).unwrap().read, Some(3));
        saga.touched = false;
        saga.correlate = vec![correlation("order", "8"), correlation("payment", "a")];
        let written = change(&saga).unwrap();
        assert_eq!(
            (written.replaced, written.added),
            (vec![correlation("order", "8")], vec![correlation("payment", "a")])
        );
        let mut saga = live("[1,2]");
        saga.data.push(3);
        assert_eq!(change(&saga).unwrap().data.as_deref(), Some("[1,2,3]"));
        saga.completed = true;
        assert_eq!(change(&saga).unwrap().data, None);
    }

    #[test]
    fn a_new_saga_is_always_written() {
        let saga = Live::<Vec<u8>>::new("s", vec![correlation("order", "7")]);
        let written = change(&saga).unwrap();
        assert_eq!((written.read, written.data.as_deref()), (None, Some("[]")));
        assert_eq!(written.added, [correlation("order", "7")]);
    }

    #[test]
    fn a_state_that_cannot_be_read_names_its_saga() {
        let stored = Stored {
            id: Uuid::nil(),
            revision: 0,
            data: Some("{}".to_owned()),
            timeouts: None,
            correlations: Vec::new(),
        };
        let error = State::<Vec<u8>>::of("shipping", Some(stored)).err().unwrap();
        assert_eq!(error.disposition(), crate::Disposition::DeadLetter);
        let said = error.to_string();
        assert!(said.contains("\"shipping\"") && said.contains(&Uuid::nil().to_string()), "{said}");
    }

    #[test]
    fn a_state_that_is_too_large_is_refused() {
        let mut saga = live("[]");
        saga.data = vec![255; limits::SAGA_DATA_BYTES_MAX / 4 + 1];
        assert!(saga.change(Uuid::nil()).unwrap_err().to_string().contains("table of your own"));
    }
}
