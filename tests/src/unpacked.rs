//! Programs and libraries that a test needs and no server brings along: see `tests/services/unpacked`.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Runs Prometheus's `promtool` with these arguments and this input, in this folder.
///
/// # Panics
/// When there is none and none can be fetched.
#[must_use]
pub fn promtool(arguments: &[&str], input: &Path, folder: &Path) -> Output {
    let input = std::fs::File::open(input).expect("the input of promtool can be read");
    let mut command = Command::new(unpacked("prometheus", "promtool"));
    command.args(arguments).current_dir(folder).stdin(Stdio::from(input));
    command.output().expect("promtool can be run")
}

/// The library that, preloaded into a process, gives it the clock that `FAKETIME` names: `+3d` is three days ahead.
///
/// # Panics
/// As [`promtool`].
#[must_use]
pub fn faketime() -> PathBuf {
    unpacked("libfaketime", "libfaketime.so.1")
}

fn unpacked(package: &str, file: &str) -> PathBuf {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/services/unpacked");
    let output =
        Command::new(script).args([package, file]).output().expect("a script of tests/services runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
}
