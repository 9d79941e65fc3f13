//! The doorbell that the configuration asks for.

use super::{BusBuilder, problems::Problems};
use crate::doorbell::{Address, Doorbell};

impl BusBuilder {
    /// Adds it to the outbox, for which it is.
    pub(super) fn hang_doorbell(&mut self, configured: Option<&str>, problems: &mut Problems) {
        let Some(text) = configured else { return };
        let bell = text.parse::<Address>().map_err(|error| error.to_string());
        let bell = bell.and_then(|address| {
            Doorbell::to(address).map_err(|error| format!("the doorbell {text:?} cannot be rung: {error}"))
        });
        let remedy = "correct [bus.NAME] doorbell, or remove it: a relay polls as well";
        match (bell, self.outbox.take()) {
            (Ok(bell), Some(outbox)) => self.outbox = Some(outbox.doorbell(bell)),
            (Ok(_), None) => {
                problems.add("BRD017", "it has a doorbell, but no outbox to ring it for", remedy)
            }
            (Err(what), outbox) => {
                self.outbox = outbox;
                problems.add("BRD017", what, remedy);
            }
        }
    }
}
