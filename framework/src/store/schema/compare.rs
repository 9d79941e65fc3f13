//! Compares what a database has with what this program knows. No I/O.

use super::{Migration, SchemaError, Status};

/// One row of `barid_schema`: version, name, checksum.
pub(super) type Row = (i32, String, String);

/// Sorts the known steps into applied and pending, and finds unknown and changed ones.
pub(super) fn compare(place: &str, known: &[Migration], rows: Vec<Row>) -> Result<Status, SchemaError> {
    let mut status = Status::default();
    for &step in known {
        match rows.iter().find(|(version, ..)| i64::from(*version) == i64::from(step.version)) {
            None => status.pending.push(step),
            Some((_, _, checksum)) if *checksum == step.checksum() => status.applied.push(step),
            Some((_, _, checksum)) => {
                return Err(SchemaError::Changed {
                    place: place.to_owned(),
                    version: step.version,
                    name: step.name.to_owned(),
                    found: checksum.clone(),
                    expected: step.checksum(),
                });
            }
        }
    }
    let newest = known.last().map_or(0, |step| step.version);
    for (version, name, _) in rows {
        match u32::try_from(version) {
            Ok(version) if version > newest => status.newer.push((version, name)),
            _ => {}
        }
    }
    status.newer.sort();
    Ok(status)
}

impl Status {
    /// That nothing is pending and nothing is newer.
    pub(super) fn check(&self, place: &str) -> Result<(), SchemaError> {
        self.check_not_newer(place)?;
        if self.pending.is_empty() {
            return Ok(());
        }
        let missing: Vec<String> = self.pending.iter().map(Migration::to_string).collect();
        Err(SchemaError::Missing { place: place.to_owned(), missing: missing.join(", ") })
    }

    /// That nothing is newer.
    pub(super) fn check_not_newer(&self, place: &str) -> Result<(), SchemaError> {
        let Some((found, name)) = self.newer.last() else { return Ok(()) };
        let known = self.applied.iter().chain(&self.pending).map(|step| step.version).max().unwrap_or(0);
        Err(SchemaError::Newer { place: place.to_owned(), found: *found, name: name.clone(), known })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[Migration] =
        &[Migration { version: 1, name: "one", sql: "a" }, Migration { version: 2, name: "two", sql: "b" }];

    fn row(version: i32, sql: &'static str) -> Row {
        (version, format!("v{version}"), Migration { version: 0, name: "", sql }.checksum())
    }

    /// What the status of `rows` says, or the error.
    fn check(rows: Vec<Row>, expected: &str) {
        let said = match compare("here", KNOWN, rows).and_then(|status| status.check("here")) {
            Ok(()) => "good".to_owned(),
            Err(error) => error.to_string(),
        };
        assert!(said.contains(expected), "{said:?} does not contain {expected:?}");
    }

    #[test]
    fn every_state_has_its_answer() {
        check(vec![], "here lacks 0001_one, 0002_two of Barid's schema; run: barid-relay schema apply");
        check(vec![row(1, "a")], "lacks 0002_two");
        check(vec![row(2, "b")], "lacks 0001_one");
        check(vec![row(1, "a"), row(2, "b")], "good");
        check(vec![row(1, "a"), row(2, "b"), row(4, "x"), row(3, "x")], "has schema version 4 (v4)");
        check(vec![row(1, "a"), row(3, "x")], "knows versions up to 2");
        check(vec![row(1, "z")], "was changed after it was applied");
    }

    #[test]
    fn line_ends_do_not_change_a_checksum() {
        let of = |sql| Migration { version: 1, name: "x", sql }.checksum();
        assert_eq!(of("a\nb\n"), of("a\r\nb\r\n"));
        assert_ne!(of("a\nb\n"), of("a\nb"));
    }
}
