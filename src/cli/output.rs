//! What commands print on standard output: tables for people, JSON for programs.
//!
//! Standard output carries results only; progress, logs and errors go to standard error. In JSON mode each command prints
//! exactly one document.

use std::io::{self, Write};

use serde::Serialize;

use crate::types::Timestamp;

use super::exit::{CliError, Exit};

pub use super::format::Format;

/// On which side a column's values stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    Left,
    Right,
}

/// Rows under a head, each column as wide as its widest value.
#[derive(Debug, Clone)]
pub struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table.
    pub fn new(columns: &[(&'static str, Align)]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row. Values beyond the last column are dropped, missing ones are blank.
    pub fn row(&mut self, values: impl IntoIterator<Item = String>) {
        self.rows.push(values.into_iter().take(self.columns.len()).collect());
    }

    /// The text, one line a row, no blanks at line ends.
    pub fn render(&self) -> String {
        let width = |column: usize| {
            let values = self.rows.iter().filter_map(|row| row.get(column)).map(|value| printable(value).chars().count());
            values.chain([self.columns[column].0.chars().count()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let line = |values: &mut dyn Iterator<Item = &str>| {
            let cells = values.zip(&self.columns).zip(&widths).map(|((value, (_, align)), &width)| match align {
                Align::Left => format!("{:<width$}", printable(value)),
                Align::Right => format!("{:>width$}", printable(value)),
            });
            let mut text = cells.collect::<Vec<_>>().join("  ");
            text.truncate(text.trim_end().len());
            text.push('\n');
            text
        };
        let mut text = line(&mut self.columns.iter().map(|(head, _)| *head));
        for row in &self.rows {
            text.push_str(&line(&mut row.iter().map(String::as_str)));
        }
        text
    }
}

/// A number of things, of which `one` is the name: `1 snapshot`, `2 snapshots`.
pub fn counted(number: u64, one: &str) -> String {
    format!("{number} {one}{}", if number == 1 { "" } else { "s" })
}

/// Names come from elsewhere: control characters (colour codes, line feeds) must not reach the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { '?' } else { character }).collect()
}

/// Prints a text, with a line end if it has none.
///
/// # Errors
/// When standard output cannot be written. A reader that went away (`| head`) is no error.
pub fn print_text(text: &str) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    match out.write_all(text.as_bytes()).and_then(|()| out.write_all(end.as_bytes())).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(CliError::because(Exit::Failed, "cannot write to standard output", error))
        }
        _ => Ok(()),
    }
}

/// Prints a line to standard error, beside the result. If nobody reads that, nobody misses the line.
pub fn print_aside(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Prints one JSON document.
///
/// # Errors
/// As for [`print_text`].
pub fn print_json(value: &impl Serialize) -> Result<(), CliError> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| CliError::because(Exit::Failed, "the result cannot be written as JSON", error))?;
    print_text(&text)
}

/// RFC 3339 in UTC, to the second: `2026-01-31T23:59:59Z`.
pub fn utc(time: Timestamp) -> String {
    let (days, second) = (time.seconds / 86_400, time.seconds % 86_400);
    let (year, month, day) = civil(days);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
}

/// The date so many days after 1970-01-01, by counting in 400-year eras that begin on 1 March.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_value_and_numbers_stand_right() {
        let mut table = Table::new(&[("NAME", Align::Left), ("SIZE", Align::Right), ("NOTE", Align::Left)]);
        table.row(["data".to_owned(), "1.0 GiB".to_owned(), String::new()]);
        table.row(["longer-name".to_owned(), "4 B".to_owned(), "x".to_owned(), "dropped".to_owned()]);
        table.row(["ä\u{1b}[31m".to_owned()]);
        let expected = "\
NAME            SIZE  NOTE
data         1.0 GiB
longer-name      4 B  x
ä?[31m
";
        assert_eq!(table.render(), expected);
    }

    #[test]
    fn times_are_written_in_utc() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_767_225_599, "2025-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(utc(Timestamp { seconds, nanoseconds: 5 }), text);
        }
    }
}
