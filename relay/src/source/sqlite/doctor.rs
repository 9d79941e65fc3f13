//! What a SQLite file says: who else can read it, and how it writes. See [`crate::doctor`].

use std::os::unix::fs::PermissionsExt;

use sqlx::SqlitePool;

use crate::{
    doctor::Report,
    source::{At, SourceError},
};

/// Looks at one file.
pub(in crate::source) async fn examine(
    name: &str,
    pool: &SqlitePool,
    report: &mut Report,
) -> Result<(), SourceError> {
    let file = pool.connect_options().get_filename().to_path_buf();
    match std::fs::metadata(&file) {
        Ok(metadata) if metadata.permissions().mode() & 0o007 != 0 => report.warning(
            "file",
            format!("{} can be read by every user of this machine", file.display()),
            format!("chmod o= {}", file.display()),
        ),
        Ok(_) => report.ok("file", format!("{} is not for everybody", file.display())),
        Err(error) => {
            report.warning("file", format!("{}: {error}", file.display()), "see why it cannot be looked at")
        }
    }
    let asked = sqlx::query_scalar("PRAGMA journal_mode").fetch_one(pool);
    let mode: String = At { name }.bounded("asking for the journal mode", asked).await?;
    if mode == "wal" {
        report.ok("journal", "a write-ahead log: readers and the writer do not wait for one another");
    } else {
        let what = format!("the journal mode is {mode}: whoever reads keeps whoever writes waiting");
        report.warning("journal", what, "PRAGMA journal_mode = wal");
    }
    Ok(())
}
