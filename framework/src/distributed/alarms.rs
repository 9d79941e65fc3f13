//! Looks at how many transactions are open, in doubt, and prepared for how long: gauges for who draws curves, and a hook for who is
//! to be woken.
//!
//! Called by recovery every half minute. A threshold that is crossed is told once, and once more when it is well again.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use metrics::gauge;

use super::{coordinator::Coordinator, ids::ResourceId, log::LogError, measures, participant::Pressure};
use crate::limits;

/// From where on somebody is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// More transactions than this are open. Default: 100.
    pub open_max: u64,
    /// More transactions than this are in doubt: recovery has taken them, and they are not over. Default: 0.
    pub in_doubt_max: u64,
    /// A transaction is prepared for longer than this in a database, whoever's it is. Default: 5 min. Raise it where named
    /// transactions wait longer.
    pub prepared_max: Duration,
    /// More than this share of a server's room for prepared transactions is taken, in percent. Default: 80.
    pub slots_percent_max: u8,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            open_max: 100,
            in_doubt_max: 0,
            prepared_max: Duration::from_secs(5 * 60),
            slots_percent_max: 80,
        }
    }
}

/// What is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Figure {
    /// How many transactions are open.
    Open,
    /// How many are in doubt.
    InDoubt,
    /// The age of the oldest prepared one of a database, in seconds.
    OldestPrepared,
    /// How much of a server's room for prepared ones is taken, in percent.
    Slots,
}

/// A threshold that was crossed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alarm {
    /// What was looked at.
    pub figure: Figure,
    /// In which database; `None`: in the log.
    pub resource: Option<ResourceId>,
    /// How much it is.
    pub value: u64,
    /// How much it may be.
    pub limit: u64,
    /// Whether it is well again.
    pub over: bool,
}

impl fmt::Display for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.figure {
            Figure::Open => "open distributed transactions",
            Figure::InDoubt => "distributed transactions in doubt",
            Figure::OldestPrepared => "seconds is the age of the oldest prepared transaction",
            Figure::Slots => "percent of the room for prepared transactions is taken",
        };
        write!(f, "{} {what}", self.value)?;
        if let Some(resource) = &self.resource {
            write!(f, " in {resource}")?;
        }
        match self.over {
            true => write!(f, ", no more than {} again", self.limit),
            false => write!(f, ", more than {}: look with `barid tx list`", self.limit),
        }
    }
}

/// Called with a threshold that was crossed or is well again.
pub type ThresholdHook = Arc<dyn Fn(&Alarm) + Send + Sync>;

/// What is being told at the moment.
#[derive(Default)]
pub(super) struct Alarms(Mutex<BTreeMap<(Figure, Option<ResourceId>), Alarm>>);

impl Alarms {
    /// Takes over what is too much now, and returns what has changed.
    fn changed(&self, now: Vec<Alarm>) -> Vec<Alarm> {
        // Every change of it is one call.
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = Vec::new();
        for alarm in now {
            let key = (alarm.figure, alarm.resource.clone());
            let was = told.contains_key(&key);
            match alarm.over {
                true => drop(told.remove(&key)),
                false => drop(told.insert(key, alarm.clone())),
            }
            if was == alarm.over {
                changed.push(alarm);
            }
        }
        changed
    }
}

fn compare(figure: Figure, resource: Option<&ResourceId>, value: u64, limit: u64) -> Alarm {
    Alarm { figure, resource: resource.cloned(), value, limit, over: value <= limit }
}

impl Coordinator {
    /// Sets the gauges, and tells what has crossed a threshold since the last look. Returns what is too much now. A database that does
    /// not answer keeps its gauges and is not told.
    ///
    /// # Errors
    /// When the log does not answer.
    pub async fn look_once(&self) -> Result<Vec<Alarm>, LogError> {
        let (thresholds, figures) = (self.0.settings.thresholds, self.0.log.figures().await?);
        for (name, value) in [
            (measures::OPEN, figures.open as f64),
            (measures::WAITING, figures.waiting as f64),
            (measures::IN_DOUBT, figures.in_doubt as f64),
            (measures::MANUAL, figures.manual as f64),
            (measures::OLDEST_OPEN, figures.oldest_age_ms as f64 / 1_000.0),
        ] {
            gauge!(name).set(value);
        }
        let mut now = vec![
            compare(Figure::Open, None, figures.open, thresholds.open_max),
            compare(Figure::InDoubt, None, figures.in_doubt, thresholds.in_doubt_max),
        ];
        for (id, resource) in &self.0.resources {
            match tokio::time::timeout(limits::CALL_TIMEOUT, resource.pressure()).await {
                Ok(Ok(pressure)) => now.extend(pressed(id, &pressure, &thresholds)),
                Ok(Err(error)) => {
                    tracing::warn!(target: "transactions", resource = %id, %error, "the prepared transactions are not known")
                }
                Err(_) => {
                    tracing::warn!(target: "transactions", resource = %id, "the prepared transactions are not known: no answer in time")
                }
            }
        }
        let too_much = now.iter().filter(|alarm| !alarm.over).cloned().collect();
        for alarm in self.0.alarms.changed(now) {
            match alarm.over {
                true => tracing::info!(target: "transactions", "{alarm}"),
                false => tracing::error!(target: "transactions", "{alarm}"),
            }
            if let Some(hook) = &self.0.settings.on_threshold {
                hook(&alarm);
            }
        }
        Ok(too_much)
    }
}

/// The gauges of one database, and what is compared.
fn pressed(id: &ResourceId, pressure: &Pressure, thresholds: &Thresholds) -> Vec<Alarm> {
    let labels = [("resource", id.to_string())];
    gauge!(measures::SLOTS_USED, &labels).set(pressure.used as f64);
    let age = pressure.oldest.unwrap_or_default();
    gauge!(measures::OLDEST_PREPARED, &labels).set(age.as_secs_f64());
    let mut compared =
        vec![compare(Figure::OldestPrepared, Some(id), age.as_secs(), thresholds.prepared_max.as_secs())];
    if let Some(room) = pressure.room.filter(|room| *room > 0) {
        gauge!(measures::SLOTS_MAX, &labels).set(room as f64);
        let percent = pressure.used.saturating_mul(100) / room;
        compared.push(compare(Figure::Slots, Some(id), percent, thresholds.slots_percent_max.into()));
    }
    compared
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threshold_is_told_when_it_is_crossed_and_when_it_is_well_again() {
        let alarms = Alarms::default();
        let shop = ResourceId::new("shop").unwrap();
        let at = |value| vec![compare(Figure::InDoubt, None, value, 2)];
        for (value, told) in
            [(2, None), (3, Some(false)), (9, None), (2, Some(true)), (0, None), (3, Some(false))]
        {
            let changed = alarms.changed(at(value));
            assert_eq!(changed.first().map(|alarm| alarm.over), told, "{value}");
        }
        let thresholds = Thresholds::default();
        let pressure = Pressure { used: 9, room: Some(10), oldest: Some(Duration::from_secs(301)) };
        let too_much = alarms.changed(pressed(&shop, &pressure, &thresholds));
        let texts: Vec<_> = too_much.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "301 seconds is the age of the oldest prepared transaction in shop, more than 300: look with `barid tx list`",
                "90 percent of the room for prepared transactions is taken in shop, more than 80: look with `barid tx list`",
            ]
        );
        // A server without such a bound has no share of it.
        let pressure = Pressure { used: 9, room: None, oldest: None };
        let well = alarms.changed(pressed(&shop, &pressure, &thresholds));
        assert_eq!(
            well.iter().map(|alarm| (alarm.figure, alarm.over)).collect::<Vec<_>>(),
            [(Figure::OldestPrepared, true)]
        );
    }
}
