//! Streams of events in a unit of work of a handler.

use super::{Appended, Batch, Fault, Work, read, snapshot, within};
use crate::{
    event_store::{EventStoreError, Page, Slice, Snapshot, StreamName},
    store::{backend::Backend, connection::UnitConnection},
};

/// What happens to events in a unit of work. An error of the database poisons the unit; what the store itself refuses does not.
impl<DB: Backend> UnitConnection<DB> {
    pub(crate) async fn append_events(&mut self, batch: &Batch) -> Result<Appended, EventStoreError> {
        let doing = format!("appending to stream {}", batch.stream);
        let appended = within(batch.run(self)).await;
        self.settled(appended, &doing)
    }

    pub(crate) async fn read_events(
        &mut self,
        stream: &StreamName,
        slice: Slice,
    ) -> Result<Page, EventStoreError> {
        let doing = format!("reading stream {stream}");
        let page = within(async { read::stream::<DB>(self.live()?, stream, slice).await }).await;
        self.settled(page, &doing)
    }

    pub(crate) async fn save_snapshot(
        &mut self,
        stream: &StreamName,
        state: &Snapshot,
    ) -> Result<(), EventStoreError> {
        let doing = format!("keeping a snapshot of stream {stream}");
        let saved = within(async { snapshot::save::<DB>(self.live()?, stream, state).await }).await;
        self.settled(saved, &doing)
    }

    pub(crate) async fn load_snapshot(
        &mut self,
        stream: &StreamName,
        format: u32,
    ) -> Result<Option<Snapshot>, EventStoreError> {
        let doing = format!("reading the snapshot of stream {stream}");
        let read = within(async { snapshot::load::<DB>(self.live()?, stream, format).await }).await;
        self.settled(read, &doing)
    }

    fn settled<T>(&self, ended: Result<T, Fault>, doing: &str) -> Result<T, EventStoreError> {
        ended.map_err(|fault| {
            if !matches!(fault, Fault::Told(_)) {
                self.poison();
            }
            fault.while_doing(doing)
        })
    }
}
