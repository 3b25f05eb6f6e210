//! The figures: taken, reduced to medians, told.

use std::fmt::Write;
use std::time::Instant;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use serde::Serialize;

use crate::error::{BenchError, While};

/// A line: medians of one operation by one tool.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    case: String,
    tool: String,
    version: String,
    wall_seconds: f64,
    cpu_seconds: f64,
    peak_bytes: u64,
    stored_bytes: u64,
    repetitions: usize,
    wall_seconds_of_each: Vec<f64>,
    #[serde(skip)]
    cpu_seconds_of_each: Vec<f64>,
}

/// All of them, in the order in which they were first taken.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<Row>,
}

/// What is required: of which case, of which tool's time, how many times ours at least.
const REQUIRED: &[(&str, &str, f64)] = &[("snapshot", "lvm2", 30.0), ("difference", "thin_delta", 1.0)];

impl Table {
    /// Measures one call. Processor time is that of this process and of the commands that have ended; a kernel's own threads are in
    /// nobody's, but in everyone's wall time.
    pub fn measure(
        &mut self,
        case: &str,
        tool: &str,
        version: &str,
        work: impl FnOnce() -> Result<(), BenchError>,
    ) -> Result<(), BenchError> {
        let before = processor_seconds()?;
        let start = Instant::now();
        work()?;
        let wall = start.elapsed().as_secs_f64();
        let cpu = processor_seconds()? - before;
        let at = self.rows.iter().position(|row| row.case == case && row.tool == tool).unwrap_or_else(|| {
            self.rows.push(Row {
                case: case.to_owned(),
                tool: tool.to_owned(),
                version: version.to_owned(),
                wall_seconds: 0.0,
                cpu_seconds: 0.0,
                peak_bytes: 0,
                stored_bytes: 0,
                repetitions: 0,
                wall_seconds_of_each: Vec::new(),
                cpu_seconds_of_each: Vec::new(),
            });
            self.rows.len() - 1
        });
        self.rows[at].wall_seconds_of_each.push(wall);
        self.rows[at].cpu_seconds_of_each.push(cpu);
        Ok(())
    }

    /// Reduces what was taken to medians.
    pub fn complete(&mut self) {
        for row in &mut self.rows {
            row.wall_seconds = median(&row.wall_seconds_of_each);
            row.cpu_seconds = median(&row.cpu_seconds_of_each);
            row.repetitions = row.wall_seconds_of_each.len();
        }
    }

    /// The medians.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Both tables as Markdown: the medians with their ratios, and what is required.
    pub fn render(&self) -> String {
        let mut text = "| what | tool | version | wall ms | CPU ms | times ours |\n|---|---|---|---|---|---|\n".to_owned();
        for row in &self.rows {
            let ratio = self.ratio(&row.case, &row.tool).map(|ratio| format!("{ratio:.1}")).unwrap_or_default();
            let _ = writeln!(
                text,
                "| {} | {} | {} | {:.2} | {:.2} | {ratio} |",
                row.case,
                row.tool,
                row.version,
                row.wall_seconds * 1e3,
                row.cpu_seconds * 1e3
            );
        }
        text.push_str("\n| what | required | reached | |\n|---|---|---|---|\n");
        for (case, tool, least) in REQUIRED {
            let Some(ratio) = self.ratio(case, tool) else { continue };
            let verdict = if ratio >= *least { "met" } else { "**not met**" };
            let _ = writeln!(text, "| {case}: {tool}'s wall / ours | at least {least:.0}x | {ratio:.1}x | {verdict} |");
        }
        text
    }

    fn ratio(&self, case: &str, tool: &str) -> Option<f64> {
        let of = |tool: &str| self.rows.iter().find(|row| row.case == case && row.tool == tool).map(|row| row.wall_seconds);
        let ours = of(super::windlass::NAME)?;
        of(tool).map(|theirs| theirs / ours)
    }
}

fn processor_seconds() -> Result<f64, BenchError> {
    let of = |who| -> Result<f64, BenchError> {
        let usage = getrusage(who).while_doing(|| "asking for the processor time".to_owned())?;
        let seconds = |time: TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
        Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
    };
    Ok(of(UsageWho::RUSAGE_SELF)? + of(UsageWho::RUSAGE_CHILDREN)?)
}

fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        length if length % 2 == 1 => sorted[length / 2],
        length => (sorted[length / 2 - 1] + sorted[length / 2]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_middle_one_or_between_the_two() {
        assert_eq!((median(&[3.0, 1.0, 2.0]), median(&[4.0, 1.0, 2.0, 3.0]), median(&[])), (2.0, 2.5, 0.0));
    }
}
