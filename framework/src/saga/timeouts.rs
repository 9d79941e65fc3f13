//! The timeouts of one saga while a message is being handled. No I/O.
//!
//! The list that is kept with the saga decides: a timeout that is not on it was cancelled or handled, wherever its message is.

use std::time::Duration;

use uuid::Uuid;

use crate::{
    error::{Error, Result},
    limits,
    message::Outgoing,
};

/// The id of the message, and its wire name.
pub(crate) type Timeout = (Uuid, String);

/// The ids that have to leave the schedule, and the messages that have to get into it.
pub(crate) type Rescheduled = (Vec<Uuid>, Vec<(Duration, Outgoing)>);

#[derive(Default)]
pub(crate) struct Timeouts {
    /// Those that were pending when the saga was read.
    read: Vec<Timeout>,
    /// Those of them that are no longer wanted, with whether they were handled.
    gone: Vec<(Uuid, bool)>,
    /// Those that this message sets.
    set: Vec<(Duration, Outgoing)>,
}

impl Timeouts {
    /// As they were kept.
    pub(crate) fn read(json: Option<&str>) -> Result<Self> {
        let read = json.map(serde_json::from_str).transpose();
        let read = read.map_err(|cause| Error::permanent(format!("its timeouts cannot be read: {cause}")))?;
        Ok(Self { read: read.unwrap_or_default(), ..Self::default() })
    }

    /// Goes on over what somebody else saved meanwhile.
    pub(crate) fn rebase(&mut self, json: Option<&str>) -> Result<()> {
        self.read = Self::read(json)?.read;
        Ok(())
    }

    pub(crate) fn set(&mut self, after: Duration, message: Outgoing) -> Result<Uuid> {
        let id = message.id;
        if self.pending().count() >= limits::SAGA_TIMEOUTS_MAX {
            return Err(Error::permanent(format!(
                "a saga waits for at most {} timeouts at the same time: cancel what is no longer needed",
                limits::SAGA_TIMEOUTS_MAX
            )));
        }
        self.set.push((after, message));
        Ok(id)
    }

    pub(crate) fn cancel(&mut self, which: impl Fn(&Timeout) -> bool) {
        self.set.retain(|(_, message)| !which(&(message.id, message.name.clone())));
        let gone = self.read.iter().filter(|timeout| which(timeout)).map(|(id, _)| (*id, false));
        self.gone.extend(gone);
    }

    /// Whether this message is one that is waited for; it is not any more.
    pub(crate) fn fires(&mut self, id: Uuid) -> bool {
        let pending = self.pending().any(|(pending, _)| pending == id);
        if pending {
            self.gone.push((id, true));
        }
        pending
    }

    fn pending(&self) -> impl Iterator<Item = Timeout> + '_ {
        let wanted = |(id, _): &&Timeout| !self.gone.iter().any(|(gone, _)| gone == id);
        let set = self.set.iter().map(|(_, message)| (message.id, message.name.clone()));
        self.read.iter().filter(wanted).cloned().chain(set)
    }

    pub(crate) fn changed(&self) -> bool {
        !self.gone.is_empty() || !self.set.is_empty()
    }

    /// As they are to be kept.
    pub(crate) fn json(&self) -> Result<Option<String>> {
        let pending: Vec<_> = self.pending().collect();
        Ok(if pending.is_empty() { None } else { Some(serde_json::to_string(&pending)?) })
    }

    /// What has to leave the schedule, and what has to get into it.
    pub(crate) fn take(&mut self, completed: bool) -> Rescheduled {
        let handled = |id: &Uuid| self.gone.contains(&(*id, true));
        if completed {
            return (self.read.iter().map(|(id, _)| *id).filter(|id| !handled(id)).collect(), Vec::new());
        }
        let cancelled = self.gone.iter().filter(|(_, handled)| !handled).map(|(id, _)| *id).collect();
        (cancelled, std::mem::take(&mut self.set))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(timeouts: &Timeouts) -> Vec<String> {
        timeouts.pending().map(|(_, name)| name).collect()
    }

    fn read() -> Timeouts {
        let kept = [(Uuid::from_u128(1), "remind"), (Uuid::from_u128(2), "cancel")];
        Timeouts::read(Some(&serde_json::to_string(&kept).unwrap())).unwrap()
    }

    #[test]
    fn a_timeout_fires_once_and_not_after_it_was_cancelled() {
        let mut timeouts = read();
        assert!(!timeouts.changed());
        assert!(timeouts.fires(Uuid::from_u128(1)));
        assert!(!timeouts.fires(Uuid::from_u128(1)), "a repeat");
        timeouts.cancel(|(_, name)| name == "cancel");
        assert!(!timeouts.fires(Uuid::from_u128(2)), "cancelled");
        assert_eq!((timeouts.changed(), timeouts.json().unwrap()), (true, None));
        let (cancelled, set) = timeouts.take(false);
        assert_eq!((cancelled, set.len()), (vec![Uuid::from_u128(2)], 0), "what was handled has left");
    }

    #[test]
    fn what_this_message_set_can_be_cancelled_by_it() {
        let mut timeouts = read();
        let id = timeouts.set(Duration::ZERO, Outgoing::raw("later", None)).unwrap();
        assert_eq!(names(&timeouts), ["remind", "cancel", "later"]);
        timeouts.cancel(|(timeout, _)| *timeout == id);
        assert_eq!(names(&timeouts), ["remind", "cancel"]);
        timeouts.set(Duration::ZERO, Outgoing::raw("later", None)).unwrap();
        let (cancelled, set) = timeouts.take(true);
        assert_eq!((cancelled.len(), set.len()), (2, 0), "a completed saga waits for nothing");
    }

    #[test]
    fn there_is_a_limit() {
        let mut timeouts = read();
        let set = |timeouts: &mut Timeouts| timeouts.set(Duration::ZERO, Outgoing::raw("later", None));
        for _ in 2..limits::SAGA_TIMEOUTS_MAX {
            set(&mut timeouts).unwrap();
        }
        assert!(set(&mut timeouts).unwrap_err().to_string().contains("at most 100 timeouts"));
    }
}
