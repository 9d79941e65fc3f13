//! The relay as a process of its own: this program in another role, so that nothing of the bench is in its memory.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use barid_tests::{Process, TestDatabase, servers};
use sqlx::{PgPool, Postgres};

use crate::{
    report::median,
    running::SIDE_MAX,
    target::{Kind, Target},
};

const SAMPLE_EVERY: Duration = Duration::from_millis(100);
const STOP_WITHIN: Duration = Duration::from_secs(30);

/// Resident memory of the relay, in MiB.
pub(super) struct Memory {
    pub(super) mib_max: f64,
    /// From the second quarter of the samples to the last, in the median.
    pub(super) mib_growth: f64,
}

/// Lets a relay delete so many rows, and looks at its memory.
pub(super) async fn drained_by_a_process(
    target: &Target,
    database: &TestDatabase<Postgres>,
    rows: usize,
) -> anyhow::Result<Memory> {
    let folder = std::env::temp_dir().join(barid_tests::names::unique("relay"));
    std::fs::create_dir(&folder)?;
    let measured = sampled(target, database, rows, &folder.join("relay.toml")).await;
    std::fs::remove_dir_all(&folder)?;
    measured
}

async fn sampled(
    target: &Target,
    database: &TestDatabase<Postgres>,
    rows: usize,
    file: &std::path::Path,
) -> anyhow::Result<Memory> {
    let sink = match target.sink {
        Kind::Rabbitmq => format!("kind = \"rabbitmq\"\nurl = \"{}\"", servers::amqp()),
        Kind::Kafka => format!("kind = \"kafka\"\nbrokers = \"{}\"", servers::kafka()),
    };
    let config = format!(
        "[source.bench]\nurl = \"{}\"\n[sink.sink]\n{sink}\nwindow_rows_max = {}\n[[route]]\ndestination = \"*\"\nsink = \"sink\"\n",
        database.url,
        target.window()
    );
    std::fs::write(file, config)?;
    let before = deleted(&database.pool).await?;
    let mut command = tokio::process::Command::new(std::env::current_exe()?);
    command.arg("relay").arg("--config").arg(file);
    let relay = Process::start(&mut command);
    let id = relay.id().context("the relay has ended")?;
    let (began, mut samples) = (Instant::now(), Vec::new());
    loop {
        tokio::time::sleep(SAMPLE_EVERY).await;
        let resident = resident_mib(id);
        let resident =
            resident.with_context(|| format!("the relay has ended\n{}", relay.log().join("\n")))?;
        samples.push(resident);
        if deleted(&database.pool).await? - before >= i64::try_from(rows)? {
            break;
        }
        ensure!(began.elapsed() < SIDE_MAX, "{rows} rows took longer than {SIDE_MAX:?}");
    }
    let (status, log) = relay.terminate(STOP_WITHIN).await;
    ensure!(status.success(), "the relay ended with {status}\n{}", log.join("\n"));
    let quarter = samples.len() / 4;
    let of =
        |from: usize, to: usize| median(samples[from..to.max(from + 1).min(samples.len())].iter().copied());
    Ok(Memory {
        mib_max: samples.iter().copied().fold(0.0, f64::max),
        mib_growth: of(3 * quarter, samples.len()) - of(quarter, 2 * quarter),
    })
}

/// Rows that were ever deleted, as the server's statistics have it: within a second of the truth, and free to ask.
async fn deleted(pool: &PgPool) -> anyhow::Result<i64> {
    let deleted = "SELECT n_tup_del FROM pg_stat_user_tables WHERE relname = 'outbox'";
    Ok(sqlx::query_scalar(deleted).fetch_one(pool).await?)
}

fn resident_mib(process: u32) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: f64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib / 1024.0)
}
