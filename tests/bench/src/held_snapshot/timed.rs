//! The relay's source, with a clock on the reads of its reader.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use async_trait::async_trait;
use barid_relay::{
    lane::LeftOut,
    lease::{Candidate, Epoch, Leases},
    source::{ReadRow, Reader, Source, SourceError, Want, Writer},
};

/// When reads began, and what each took in microseconds.
#[derive(Default)]
pub(super) struct Reads(Mutex<Vec<(Instant, f64)>>);

impl Reads {
    /// A read that began then has ended now.
    pub(super) fn book(&self, began: Instant) {
        let took = began.elapsed().as_secs_f64() * 1e6;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((began, took));
    }

    pub(super) fn taken(&self) -> Vec<(Instant, f64)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A source that is looked at.
pub(super) struct TimedSource {
    source: Arc<dyn Source>,
    reads: Arc<Reads>,
}

impl TimedSource {
    pub(super) fn new(source: Arc<dyn Source>, reads: Arc<Reads>) -> Self {
        Self { source, reads }
    }
}

#[async_trait]
impl Source for TimedSource {
    fn name(&self) -> &str {
        self.source.name()
    }

    fn needs_known(&self) -> bool {
        self.source.needs_known()
    }

    async fn leases(&self, by: &Candidate) -> Result<Box<dyn Leases>, SourceError> {
        self.source.leases(by).await
    }

    async fn reader(&self) -> Result<Box<dyn Reader>, SourceError> {
        let reader = self.source.reader().await?;
        Ok(Box::new(TimedReader { reader, reads: Arc::clone(&self.reads) }))
    }

    async fn writer(&self) -> Result<Box<dyn Writer>, SourceError> {
        self.source.writer().await
    }
}

struct TimedReader {
    reader: Box<dyn Reader>,
    reads: Arc<Reads>,
}

#[async_trait]
impl Reader for TimedReader {
    async fn adopt(&mut self, epoch: Epoch) -> Result<u64, SourceError> {
        self.reader.adopt(epoch).await
    }

    async fn read(&mut self, want: &Want) -> Result<Vec<ReadRow>, SourceError> {
        let began = Instant::now();
        let rows = self.reader.read(want).await?;
        if !rows.is_empty() {
            self.reads.book(began);
        }
        Ok(rows)
    }

    async fn again(&mut self, key: &LeftOut, want: &Want) -> Result<Vec<ReadRow>, SourceError> {
        self.reader.again(key, want).await
    }
}
