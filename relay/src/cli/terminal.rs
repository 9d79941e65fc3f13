//! What the commands for operators share: the two forms of output, and who asks.
//!
//! What an application or a broker wrote goes to a terminal only with its control characters made visible: they could
//! rewrite what stands above them.

use clap::ValueEnum;
use comfy_table::{Table, presets::NOTHING};
use serde_json::Value;

/// As much of a text as a cell of a table has room for.
const CELL_CHARS_MAX: usize = 80;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    Table,
    Json,
}

/// Who works at this terminal.
pub(super) fn user() -> String {
    let name = std::env::var("USER").or_else(|_| std::env::var("LOGNAME"));
    name.unwrap_or_else(|_| "unknown".to_owned())
}

pub(super) fn print_table(header: &[&str], rows: impl Iterator<Item = Vec<String>>) {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(header);
    for row in rows {
        table.add_row(row.iter().map(|cell| short(&visible(cell))));
    }
    println!("{}", table.trim_fmt());
}

pub(super) fn print_json(value: &Value) {
    println!("{value:#}");
}

/// Without control characters.
pub(super) fn visible(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

fn short(text: &str) -> String {
    match text.char_indices().nth(CELL_CHARS_MAX) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_made_visible_and_long_texts_short() {
        assert_eq!(visible("a\u{1b}[2Jb\nc"), "a\\u{1b}[2Jb\\nc");
        let long = "ä".repeat(200);
        assert_eq!(short(&long).chars().count(), CELL_CHARS_MAX + 3);
        assert_eq!(short("short"), "short");
    }
}
