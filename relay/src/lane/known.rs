//! Which rows are known, and until when.

use super::{Lanes, RowId};

impl Lanes {
    /// A read is asked for: rows deleted from now on may still be among its results.
    pub fn read_started(&mut self) {
        self.reading = true;
    }

    /// The results of the read are pushed: nothing older can come any more.
    pub fn read_finished(&mut self) {
        self.reading = false;
        for (id, _) in self.retired.drain() {
            self.known.remove(&id);
        }
    }

    /// These rows left the outbox: their DELETE or their parking was answered.
    pub fn gone(&mut self, rows: impl IntoIterator<Item = RowId>) {
        for id in rows {
            self.stats.left += 1;
            let park = self.parking.remove(&id);
            if self.reading && !broken!(self, ForgetsDuringARead) {
                self.retired.insert(id, park);
            } else {
                self.known.remove(&id);
            }
        }
    }

    /// Rows between reading and deleting, those in flight included.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.known.len()
    }

    /// The same without rows that have left and are remembered, because a read is under way that may have seen them.
    #[must_use]
    pub fn buffered(&self) -> usize {
        self.known.len() - self.retired.len()
    }

    /// The positions of all known rows, for sources that read the head of the table again and again.
    #[must_use]
    pub fn known_seqs(&self) -> Vec<i64> {
        let mut seqs: Vec<i64> = self.known.iter().map(|id| id.seq).collect();
        seqs.sort_unstable();
        seqs
    }

    /// A row that is known was read again. When it had left, it has to leave once more; nothing else follows from it.
    pub(super) fn come_back(&mut self, id: RowId) {
        #[cfg(test)]
        if self.broken == Some(super::broken::Broken::LeavesWhatCameBack) {
            return;
        }
        match self.retired.remove(&id) {
            None => {}
            Some(None) => self.deletes.push_back(id),
            Some(Some(park)) => self.parks.push_back(park),
        }
    }
}
