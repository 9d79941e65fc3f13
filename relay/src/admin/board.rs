//! What is known of each source of this process: the command `run` writes it, the admin server reads it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use barid::store::AnyPool;
use tokio::sync::{OnceCell, watch};

use crate::{
    config::{Config, SourceConfig},
    lane::Stats,
    metrics::{View, meter::Meter, page},
    parked::ParkedStore,
    relay::Relay,
    setup::{self, SetupError},
    source::open,
    survey::Survey,
};

/// What a source is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Its database or its schema was not seen yet.
    #[default]
    Opening,
    /// Its relay works, or stands by while another one does.
    Running,
    /// Its relay was told to stop, and did.
    Stopped,
    /// Its relay ended by a fault.
    Failed,
}

impl Phase {
    /// As the API has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Running => "running",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        }
    }
}

/// All sources of a process.
#[derive(Debug)]
pub struct Board {
    /// The name of this relay.
    instance: String,
    entries: BTreeMap<String, Entry>,
}

/// What is known of one source.
#[derive(Debug)]
pub struct Entry {
    name: String,
    config: SourceConfig,
    phase: Mutex<Phase>,
    relay: OnceLock<(Arc<Meter>, watch::Receiver<Stats>)>,
    /// For surveys and parked messages, so that the relay's own connections are never waited for.
    pool: OnceCell<AnyPool>,
    survey: Mutex<Option<(Survey, Instant)>>,
    survey_failures: AtomicU64,
}

/// Connections of the admin server to each database: one for surveys, one for whoever looks at parked messages.
const CONNECTIONS: u32 = 2;

impl Board {
    /// Of the sources of a configuration.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let entry = |(name, config): (&String, &SourceConfig)| {
            let entry = Entry {
                name: name.clone(),
                config: config.clone(),
                phase: Mutex::default(),
                relay: OnceLock::new(),
                pool: OnceCell::new(),
                survey: Mutex::default(),
                survey_failures: AtomicU64::new(0),
            };
            (name.clone(), entry)
        };
        Self { instance: config.relay.instance.clone(), entries: config.source.iter().map(entry).collect() }
    }

    /// The sources, in the order of their names.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// One source.
    #[must_use]
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.get(name)
    }

    /// Its relay is about to work.
    pub fn opened(&self, name: &str, relay: &Relay) {
        if let Some(entry) = self.entries.get(name) {
            // A source is opened once; a second relay would be none of this process.
            let _ = entry.relay.set((relay.meter(), relay.stats()));
            *locked(&entry.phase) = Phase::Running;
        }
    }

    /// Its relay has ended.
    pub fn ended(&self, name: &str, phase: Phase) {
        if let Some(entry) = self.entries.get(name) {
            *locked(&entry.phase) = phase;
        }
    }

    /// What `/metrics` answers.
    #[must_use]
    pub fn metrics(&self) -> String {
        // Copies, so that nobody waits while the page is written.
        let surveys: Vec<_> = self.entries().map(Entry::survey).collect();
        let views = self.entries().zip(&surveys).map(|(entry, survey)| View {
            name: &entry.name,
            up: entry.phase() == Phase::Running,
            meter: entry.relay.get().map(|(meter, _)| &**meter),
            stats: entry.stats(),
            survey: survey.as_ref().map(|(survey, age)| (survey, *age)),
            survey_failures: entry.survey_failures.load(Relaxed),
        });
        page(env!("CARGO_PKG_VERSION"), &self.instance, &views.collect::<Vec<_>>())
    }
}

impl Entry {
    /// Its name in the configuration.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it is doing.
    #[must_use]
    pub fn phase(&self) -> Phase {
        *locked(&self.phase)
    }

    /// The counters of its lanes.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.relay.get().map(|(_, stats)| *stats.borrow()).unwrap_or_default()
    }

    /// What its relay counts, once there is one.
    #[must_use]
    pub fn meter(&self) -> Option<&Meter> {
        self.relay.get().map(|(meter, _)| &**meter)
    }

    /// What its database said last, and how long ago.
    #[must_use]
    pub fn survey(&self) -> Option<(Survey, Duration)> {
        locked(&self.survey).as_ref().map(|(survey, at)| (survey.clone(), at.elapsed()))
    }

    /// Asks its database.
    ///
    /// # Errors
    /// When it cannot be opened, or does not answer in time.
    pub async fn look(&self) -> Result<Survey, SetupError> {
        let looked = match self.pool().await {
            Ok(pool) => {
                let survey = open::survey(&self.name, pool, &self.config.options()).await;
                survey.map_err(SetupError::from)
            }
            Err(error) => Err(error),
        };
        match &looked {
            Ok(survey) => *locked(&self.survey) = Some((survey.clone(), Instant::now())),
            Err(_) => {
                self.survey_failures.fetch_add(1, Relaxed);
            }
        }
        looked
    }

    /// Its parked messages.
    ///
    /// # Errors
    /// When its database cannot be opened.
    pub async fn parked(&self) -> Result<Box<dyn ParkedStore>, SetupError> {
        Ok(open::parked(&self.name, self.pool().await?))
    }

    async fn pool(&self) -> Result<&AnyPool, SetupError> {
        self.pool.get_or_try_init(|| setup::database_with(&self.name, &self.config, CONNECTIONS)).await
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
