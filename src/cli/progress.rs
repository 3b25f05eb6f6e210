//! Progress of long work on standard error: a bar on a terminal, a line now and then elsewhere, JSON lines in JSON mode.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::format::Format;
use super::size::ByteSize;

/// Time between two lines where there is no terminal: often enough to see that work goes on, seldom enough for a log.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// What the numbers of a piece of work count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Bytes,
    /// Things, of the kind that the title names.
    Items,
}

/// How far a piece of work is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Step {
    /// What is being done, in a word or two.
    pub phase: String,
    /// How much has been dealt with.
    pub done: u64,
    /// All of it; zero while that is not known.
    pub total: u64,
    /// Bytes written to the repository; zero for other work.
    pub stored: u64,
}

/// Shows one piece of work from its begin to its end. Dropping it takes a bar off the terminal.
pub struct Progress {
    title: String,
    unit: Unit,
    face: Face,
}

enum Face {
    Bar(ProgressBar),
    Lines { last: Instant, format: Format },
}

impl Progress {
    /// Begins to show; `title` says what is done to what.
    pub fn begin(title: impl Into<String>, unit: Unit, format: Format) -> Self {
        let title = title.into();
        let face = match format {
            Format::Text if io::stderr().is_terminal() => Face::Bar(bar(&title, unit)),
            _ => Face::Lines { last: Instant::now(), format },
        };
        Self { title, unit, face }
    }

    /// Shows how far the work is.
    pub fn update(&mut self, step: &Step) {
        match &mut self.face {
            Face::Bar(bar) => {
                // Zero is "not known": the bar then moves without a percentage.
                bar.set_length(step.total.max(step.done).max(1));
                bar.set_position(step.done);
                bar.set_message(step.phase.clone());
            }
            Face::Lines { last, format } => {
                if last.elapsed() >= LINE_INTERVAL {
                    *last = Instant::now();
                    let line = line(&self.title, step, self.unit, *format);
                    // Nobody reads: then nobody misses it.
                    let _ = writeln!(io::stderr().lock(), "{line}");
                }
            }
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Face::Bar(bar) = &self.face {
            bar.finish_and_clear();
        }
    }
}

fn bar(title: &str, unit: Unit) -> ProgressBar {
    let bar = ProgressBar::new(1);
    let template = match unit {
        Unit::Bytes => "{prefix} [{bar:30}] {percent:>3}%  {binary_bytes} of {binary_total_bytes}  {binary_bytes_per_sec}  {msg}",
        Unit::Items => "{prefix} [{bar:30}] {percent:>3}%  {pos} of {len}  {msg}",
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_prefix(title.to_owned());
    bar
}

fn line(title: &str, step: &Step, unit: Unit, format: Format) -> String {
    let amount = |number: u64| match unit {
        Unit::Bytes => ByteSize::new(number).to_string(),
        Unit::Items => number.to_string(),
    };
    match format {
        Format::Json => json_line(title, step, unit),
        Format::Text => {
            let done = amount(step.done);
            let of = if step.total > 0 { format!(" of {}", amount(step.total)) } else { String::new() };
            let stored = if step.stored > 0 { format!(", {} stored", ByteSize::new(step.stored)) } else { String::new() };
            let phase = if step.phase.is_empty() { String::new() } else { format!(" ({})", step.phase) };
            format!("{title}: {done}{of}{stored}{phase}")
        }
    }
}

/// A line as programs read it.
#[derive(Debug, Serialize)]
struct ProgressLine<'a> {
    progress: ProgressView<'a>,
}

#[derive(Debug, Serialize)]
struct ProgressView<'a> {
    title: &'a str,
    phase: &'a str,
    #[serde(flatten)]
    amount: Amount,
    bytes_stored: u64,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Amount {
    Bytes { bytes_done: u64, bytes_total: u64 },
    Items { done: u64, total: u64 },
}

#[expect(clippy::expect_used, reason = "texts and numbers always have a form in JSON")]
fn json_line(title: &str, step: &Step, unit: Unit) -> String {
    let amount = match unit {
        Unit::Bytes => Amount::Bytes { bytes_done: step.done, bytes_total: step.total },
        Unit::Items => Amount::Items { done: step.done, total: step.total },
    };
    let progress = ProgressView { title, phase: &step.phase, amount, bytes_stored: step.stored };
    serde_json::to_string(&ProgressLine { progress }).expect("progress is written as JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_how_far_and_of_how_much() {
        let step = Step { phase: "reading".to_owned(), done: 512 << 20, total: 1 << 30, stored: 3 << 20 };
        assert_eq!(
            line("export of s", &step, Unit::Bytes, Format::Text),
            "export of s: 512.0 MiB of 1.0 GiB, 3.0 MiB stored (reading)"
        );
        let step = Step { done: 5, ..Step::default() };
        assert_eq!(line("restore", &step, Unit::Bytes, Format::Text), "restore: 5 B");
        assert_eq!(line("check", &step, Unit::Items, Format::Text), "check: 5");
        let json: serde_json::Value = serde_json::from_str(&line("restore", &step, Unit::Bytes, Format::Json)).unwrap();
        assert_eq!(json["progress"]["bytes_done"], 5);
    }
}
