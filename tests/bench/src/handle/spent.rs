//! What a slice took: time, and CPU time on both sides of the wire.

use std::{
    fs,
    ops::{Add, Sub},
    time::{Duration, Instant},
};

/// The kernel counts CPU time in hundredths of a second, whatever its own clock is.
const TICK: Duration = Duration::from_millis(10);

/// Time, and CPU time of this process and of the server. Zero where the system does not say.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Spent {
    pub(super) time: Duration,
    pub(super) client: Duration,
    pub(super) server: Duration,
}

impl Spent {
    /// Since the process began; only differences mean anything.
    pub(super) fn until_now(server: Option<u32>) -> Self {
        static BEGAN: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
        Self {
            time: BEGAN.elapsed(),
            client: of_process(std::process::id()).map_or(Duration::ZERO, |(_, spent)| spent),
            server: server.map_or(Duration::ZERO, of_family),
        }
    }
}

impl Sub for Spent {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            time: self.time - other.time,
            client: self.client.saturating_sub(other.client),
            server: self.server.saturating_sub(other.server),
        }
    }
}

impl Add for Spent {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            time: self.time + other.time,
            client: self.client + other.client,
            server: self.server + other.server,
        }
    }
}

/// The parent of a process, and its CPU time, children that have ended not included.
fn of_process(id: u32) -> Option<(u32, Duration)> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The name comes second, in parentheses, and may hold anything.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: u32 = fields.get(11)?.parse::<u32>().ok()? + fields.get(12)?.parse::<u32>().ok()?;
    Some((fields.get(1)?.parse().ok()?, TICK * ticks))
}

/// A process and its children.
fn of_family(parent: u32) -> Duration {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    ids.filter_map(|id| of_process(id).filter(|(of, _)| *of == parent || id == parent))
        .map(|(_, spent)| spent)
        .sum()
}
