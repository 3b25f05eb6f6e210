//! What the demo did and found, as a table and as JSON.

use std::time::Duration;

use serde::Serialize;

use super::tree::Comparison;
use crate::cli::output::{Align, Table};
use crate::cli::size::{ByteSize, duration, throughput};

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What was done.
    pub name: String,
    /// How long it took.
    pub time: Duration,
    /// How many bytes it moved, if any.
    pub bytes: u64,
    /// What came of it.
    pub result: String,
}

/// All steps so far, and how many comparisons and checks came out which way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    steps: Vec<Step>,
    passed: u64,
    /// One text for each failure.
    failures: Vec<String>,
}

/// Failures that are printed; the rest is counted.
const SHOWN_FAILURES: usize = 20;

impl Report {
    /// Adds a step that was done.
    pub fn step(&mut self, step: Step) {
        self.steps.push(step);
    }

    /// Counts a check.
    pub fn check(&mut self, name: &str, result: Result<(), String>) {
        match result {
            Ok(()) => self.passed += 1,
            Err(reason) => self.failures.push(format!("{name}: {reason}")),
        }
    }

    /// Counts compared files, each one.
    pub fn compared(&mut self, name: &str, comparison: &Comparison) {
        self.passed += comparison.equal;
        self.failures.extend(comparison.different.iter().map(|text| format!("{name}: {text}")));
    }

    /// Comparisons and checks that came out wrong.
    pub fn failed(&self) -> usize {
        self.failures.len()
    }

    /// The line that scripts read: the last on standard output.
    pub fn verdict(&self) -> String {
        format!("{} passed, {} failed", self.passed, self.failed())
    }

    /// Table, failures and verdict.
    pub fn render(&self) -> String {
        let columns = [
            ("STEP", Align::Left),
            ("TIME", Align::Right),
            ("BYTES", Align::Right),
            ("RATE", Align::Right),
            ("RESULT", Align::Left),
        ];
        let mut table = Table::new(&columns);
        for step in &self.steps {
            let bytes = if step.bytes > 0 { ByteSize::new(step.bytes).to_string() } else { "-".to_owned() };
            let rate = throughput(step.bytes, step.time);
            table.row([step.name.clone(), duration(step.time), bytes, rate, step.result.clone()]);
        }
        let mut text = table.render();
        for failure in self.failures.iter().take(SHOWN_FAILURES) {
            text.push_str(&format!("failed: {failure}\n"));
        }
        if let Some(more) = self.failed().checked_sub(SHOWN_FAILURES).filter(|&more| more > 0) {
            text.push_str(&format!("failed: {more} more\n"));
        }
        text.push_str(&self.verdict());
        text.push('\n');
        text
    }

    /// The same for programs; `repository` is what was kept.
    pub fn view(&self, repository: Option<String>) -> ReportView<'_> {
        ReportView {
            steps: self.steps.iter().map(StepView::of).collect(),
            passed: self.passed,
            failed: self.failed(),
            failures: &self.failures,
            repository,
        }
    }
}

/// A report as it is printed.
#[derive(Debug, Serialize)]
pub struct ReportView<'a> {
    steps: Vec<StepView<'a>>,
    passed: u64,
    failed: usize,
    failures: &'a [String],
    repository: Option<String>,
}

#[derive(Debug, Serialize)]
struct StepView<'a> {
    name: &'a str,
    seconds: f64,
    bytes: u64,
    bytes_per_second: Option<f64>,
    result: &'a str,
}

impl<'a> StepView<'a> {
    fn of(step: &'a Step) -> Self {
        let seconds = step.time.as_secs_f64();
        let bytes_per_second = (step.bytes > 0).then(|| step.bytes as f64 / seconds.max(1e-9));
        Self { name: &step.name, seconds, bytes: step.bytes, bytes_per_second, result: &step.result }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut report = Report::default();
        let step = |name: &str, time, bytes, result: &str| Step { name: name.to_owned(), time, bytes, result: result.to_owned() };
        report.step(step("create the pool", Duration::from_millis(40), 0, "xfs"));
        report.step(step("copy files", Duration::from_secs(2), 512 << 20, "9 files"));
        report.check("file system", Ok(()));
        report.compared("files", &Comparison { equal: 9, different: vec![], bytes: 1 });
        report
    }

    #[test]
    fn the_table_ends_with_the_verdict() {
        let expected = "\
STEP              TIME      BYTES         RATE  RESULT
create the pool  40 ms          -            -  xfs
copy files       2.0 s  512.0 MiB  256.0 MiB/s  9 files
10 passed, 0 failed
";
        assert_eq!(report().render(), expected);
    }

    #[test]
    fn each_failure_counts_and_is_named() {
        let mut report = report();
        report.check("file system", Err("not clean".to_owned()));
        report.compared("files", &Comparison { equal: 0, different: vec!["a".to_owned(); 30], bytes: 0 });
        let text = report.render();
        assert!(text.contains("failed: file system: not clean\n") && text.contains("failed: 11 more\n"), "{text}");
        assert!(text.ends_with("\n10 passed, 31 failed\n"), "{text}");
        assert_eq!(serde_json::to_value(report.view(None)).unwrap()["failed"], 31);
    }
}
