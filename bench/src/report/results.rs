//! The figures of a run, and their medians.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::limit::{LockWait, Report, Stage};
use crate::measure::Usage;

/// Names of the cases.
pub mod case {
    /// Everything into a new repository.
    pub const FULL: &str = "full";
    /// The same without decoding again.
    pub const UNVERIFIED: &str = "full-unverified";
    /// One percent changed, all over.
    pub const SCATTERED: &str = "incremental-scattered";
    /// One percent changed, in few runs.
    pub const CLUSTERED: &str = "incremental-clustered";
    /// Nothing changed.
    pub const UNCHANGED: &str = "unchanged";
    /// Back to a file.
    pub const RESTORE: &str = "restore";
    /// Every byte of the repository read and verified.
    pub const CHECK: &str = "check";
    /// Those on a database's pages.
    pub const FULL_DATABASE: &str = "full-database";
    /// One percent of them changed, all over.
    pub const SCATTERED_DATABASE: &str = "incremental-scattered-database";
    /// On what does not compress.
    pub const FULL_INCOMPRESSIBLE: &str = "full-incompressible";
    /// On 100 GiB that are nearly empty.
    pub const FULL_SPARSE: &str = "full-sparse-100gib";
    /// Nothing changed in them.
    pub const UNCHANGED_SPARSE: &str = "unchanged-sparse-100gib";
    /// The same change in 10 GiB.
    pub const GROWTH_SMALL: &str = "increment-in-10gib";
    /// And in 1 TiB.
    pub const GROWTH_LARGE: &str = "increment-in-1tib";
    /// 64 MiB into a repository of ten million blobs.
    pub const INDEX_10M: &str = "index-10m";
    /// Nothing changed in 1 TiB that is allocated as a whole.
    pub const UNCHANGED_FULL: &str = "unchanged-1tib-full";
    /// One chunk of it changed.
    pub const CHUNK_OF_FULL: &str = "one-chunk-1tib-full";
    /// 64 workers on a store that is far away.
    pub const MANY_CORES: &str = "many-cores";
    /// 8 workers on the same.
    pub const FEW_CORES: &str = "few-cores";
    /// An export beside a hundred locks of others on a store that is far away.
    pub const LOCKS: &str = "locks-100";
    /// Beside none.
    pub const NO_LOCKS: &str = "locks-none";
    /// An exporter into a bucket by itself.
    pub const AGENTS_1: &str = "agents-1";
    /// Four that begin together.
    pub const AGENTS_4: &str = "agents-4";
    /// Sixteen.
    pub const AGENTS_16: &str = "agents-16";
}

/// The tool of the rows that are no tool's.
pub const LIMIT: &str = "limit";
const WINDLASS: &str = "windlass";
const RESTIC: &str = "restic";

/// One repetition.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figures {
    /// What it took.
    pub usage: Usage,
    /// By how much the repository grew, or how large it is where nothing is stored.
    pub stored_bytes: u64,
    /// Where several exporters were measured together.
    pub throughput: Option<Throughput>,
}

impl Figures {
    /// Of a tool by itself.
    pub fn new(usage: Usage, stored_bytes: u64) -> Self {
        Self { usage, stored_bytes, throughput: None }
    }
}

/// What several exporters did together.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Throughput {
    /// Bytes of volumes that all of them read in a second.
    pub bytes_per_second: f64,
    /// Requests to the store that one of them made.
    pub requests_each: f64,
}

/// A line of the results: medians.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// What was done.
    pub case: String,
    /// By what.
    pub tool: String,
    /// Its version.
    pub version: String,
    /// To which data.
    pub data: String,
    /// Seconds from start to end.
    pub wall_seconds: f64,
    /// Seconds of processor time.
    pub cpu_seconds: f64,
    /// Peak of resident memory.
    pub peak_bytes: u64,
    /// By how much the repository grew, or how large it is where nothing is stored.
    pub stored_bytes: u64,
    /// How often it was measured.
    pub repetitions: usize,
    /// Each time.
    pub wall_seconds_of_each: Vec<f64>,
    /// Each processor time.
    pub cpu_seconds_of_each: Vec<f64>,
    /// The command, or how the figure came about.
    pub command: String,
    /// Of a limit: the part that depends on the bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wall_seconds_of_bytes: Option<f64>,
    /// Of several exporters together.
    #[serde(flatten)]
    pub throughput: Option<Throughput>,
    /// What else is to be known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// Everything of a run, in the order in which it was first measured.
#[derive(Debug, Default)]
pub struct Results {
    /// Medians. Filled by [`Results::complete`].
    pub rows: Vec<Row>,
    samples: Vec<(Row, Vec<Figures>)>,
    limits: BTreeMap<String, Vec<Report>>,
}

impl Results {
    /// Adds a repetition.
    pub fn note(&mut self, case: &str, tool: &str, version: &str, data: &str, command: &str, figures: Figures) {
        let at = self.samples.iter().position(|(row, _)| row.case == case && row.tool == tool);
        let at = at.unwrap_or_else(|| {
            self.samples.push((Row::empty(case, tool, version, data, command), Vec::new()));
            self.samples.len() - 1
        });
        self.samples[at].1.push(figures);
    }

    /// Whether a tool was measured in a case.
    pub fn has(&self, case: &str, tool: &str) -> bool {
        self.samples.iter().any(|(row, _)| row.case == case && row.tool == tool)
    }

    /// Adds a measurement of the stages.
    pub fn limit(&mut self, case: &str, report: Report) {
        self.limits.entry(case.to_owned()).or_default().push(report);
    }

    /// Says something about the rows of a case.
    pub fn remark(&mut self, case: &str, text: &str) {
        for (row, _) in self.samples.iter_mut().filter(|(row, _)| row.case == case) {
            row.note = Some(text.to_owned());
        }
    }

    /// The stages of a case, in the repetition whose sum is the median.
    pub fn stages(&self, case: &str) -> Option<&Report> {
        let mut reports: Vec<&Report> = self.limits.get(case)?.iter().collect();
        reports.sort_by(|one, other| all_seconds(one).total_cmp(&all_seconds(other)));
        reports.get(reports.len() / 2).copied()
    }

    /// The row of a case and a tool.
    pub fn row(&self, case: &str, tool: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.case == case && row.tool == tool)
    }

    /// Makes the rows, those of the limits on `processors` processors among them.
    pub fn complete(&mut self, processors: u32) {
        self.rows = self.samples.iter().map(|(row, figures)| row.of_medians(figures)).collect();
        // The second decoding is what restic does by default; there is no other figure of its to compare with.
        let borrowed = self.row(case::FULL, RESTIC).filter(|_| self.row(case::UNVERIFIED, WINDLASS).is_some()).cloned();
        self.rows.extend(borrowed.map(|row| Row {
            case: case::UNVERIFIED.to_owned(),
            note: Some("restic as it comes, as in `full`".to_owned()),
            ..row
        }));
        let decoded = || Stage::EXPORT.into_iter().chain(Stage::VERIFY);
        let mut limits = Vec::new();
        for case in self.limits.keys() {
            let Some(report) = self.stages(case) else { continue };
            limits.push(self.limit_row(case, report, decoded().collect(), processors));
            if case == case::FULL {
                let others =
                    [(case::UNVERIFIED, &Stage::EXPORT[..]), (case::RESTORE, &Stage::RESTORE), (case::CHECK, &Stage::CHECK)];
                limits.extend(others.map(|(other, stages)| {
                    let repetitions = self.limits[case].len();
                    Row { repetitions, ..self.limit_row(other, report, stages.to_vec(), processors) }
                }));
            }
        }
        self.rows.extend(limits);
        let cases = self.cases();
        self.rows.sort_by_key(|row| cases.iter().position(|case| *case == row.case));
    }

    /// The cases, in the order in which they came.
    pub fn cases(&self) -> Vec<String> {
        let mut cases: Vec<String> = Vec::new();
        for row in &self.rows {
            if !cases.contains(&row.case) {
                cases.push(row.case.clone());
            }
        }
        cases
    }

    fn limit_row(&self, case: &str, report: &Report, stages: Vec<Stage>, processors: u32) -> Row {
        let threads = report.thread_seconds(stages);
        let bytes = threads / f64::from(processors);
        let (waiting, fixed) = match case {
            case::RESTORE => (LockWait::Meanwhile, "opening; locking, if that took longer"),
            _ => (LockWait::Before, "opening and locking"),
        };
        let command = format!("the stages' seconds of one thread over {processors} processors, and {fixed}");
        let data = self.samples.iter().find(|(row, _)| row.case == case).map(|(row, _)| row.data.clone());
        Row {
            wall_seconds: report.wall_seconds(bytes, waiting),
            cpu_seconds: threads + report.fixed_cpu_seconds,
            stored_bytes: report.packed_bytes,
            wall_seconds_of_bytes: Some(bytes),
            repetitions: self.limits.get(case).map_or(1, Vec::len),
            ..Row::empty(case, LIMIT, "", &data.unwrap_or_default(), &command)
        }
    }
}

fn all_seconds(report: &Report) -> f64 {
    report.thread_seconds(report.stages.keys().copied())
}

impl Row {
    fn empty(case: &str, tool: &str, version: &str, data: &str, command: &str) -> Self {
        Self {
            case: case.to_owned(),
            tool: tool.to_owned(),
            version: version.to_owned(),
            data: data.to_owned(),
            command: command.to_owned(),
            wall_seconds: 0.0,
            cpu_seconds: 0.0,
            peak_bytes: 0,
            stored_bytes: 0,
            repetitions: 0,
            wall_seconds_of_each: Vec::new(),
            cpu_seconds_of_each: Vec::new(),
            wall_seconds_of_bytes: None,
            throughput: None,
            note: None,
        }
    }

    fn of_medians(&self, figures: &[Figures]) -> Self {
        let wall: Vec<f64> = figures.iter().map(|figures| figures.usage.wall_seconds).collect();
        let cpu: Vec<f64> = figures.iter().map(|figures| figures.usage.cpu_seconds).collect();
        let together: Vec<Throughput> = figures.iter().filter_map(|figures| figures.throughput).collect();
        let throughput = (!together.is_empty()).then(|| Throughput {
            bytes_per_second: median(together.iter().map(|throughput| throughput.bytes_per_second)),
            requests_each: median(together.iter().map(|throughput| throughput.requests_each)),
        });
        let whole = |value: fn(&Figures) -> u64| median(figures.iter().map(|figures| value(figures) as f64)) as u64;
        Self {
            wall_seconds: median(wall.iter().copied()),
            cpu_seconds: median(cpu.iter().copied()),
            peak_bytes: whole(|figures| figures.usage.peak_bytes),
            stored_bytes: whole(|figures| figures.stored_bytes),
            repetitions: figures.len(),
            wall_seconds_of_each: wall,
            cpu_seconds_of_each: cpu,
            throughput,
            ..self.clone()
        }
    }
}

/// The middle of some numbers; of an even count the mean of the two in the middle; 0 of none.
fn median(numbers: impl Iterator<Item = f64>) -> f64 {
    let mut numbers: Vec<f64> = numbers.collect();
    numbers.sort_by(f64::total_cmp);
    match numbers.len() {
        0 => 0.0,
        count if count % 2 == 1 => numbers[count / 2],
        count => f64::midpoint(numbers[count / 2 - 1], numbers[count / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::Passage;

    fn figures(wall_seconds: f64) -> Figures {
        Figures::new(Usage { wall_seconds, cpu_seconds: 2.0 * wall_seconds, peak_bytes: 10 }, 100)
    }

    #[test]
    fn a_row_has_the_medians_of_its_repetitions() {
        let mut results = Results::default();
        for wall in [9.0, 1.0, 2.0] {
            results.note(case::FULL, "borg", "1", "d", "c", figures(wall));
        }
        results.complete(2);
        let row = results.row(case::FULL, "borg").unwrap();
        assert_eq!((row.wall_seconds, row.cpu_seconds, row.stored_bytes, row.repetitions), (2.0, 4.0, 100, 3));
        assert_eq!(row.wall_seconds_of_each, [9.0, 1.0, 2.0]);
        assert_eq!(median([4.0, 1.0, 3.0, 2.0].into_iter()), 2.5);
    }

    #[test]
    fn what_exporters_did_together_is_in_the_results_and_nobody_else_says_anything_of_it() {
        let mut results = Results::default();
        for bytes_per_second in [3.0, 1.0, 2.0] {
            let throughput = Some(Throughput { bytes_per_second, requests_each: 16.0 });
            results.note(case::AGENTS_4, "windlass", "1", "d", "c", Figures { throughput, ..figures(1.0) });
        }
        results.note(case::FULL, "windlass", "1", "d", "c", figures(1.0));
        results.complete(2);
        let shown = |case| serde_json::to_value(results.row(case, "windlass").unwrap()).unwrap();
        assert_eq!(
            (&shown(case::AGENTS_4)["bytes_per_second"], &shown(case::AGENTS_4)["requests_each"]),
            (&2.0.into(), &16.0.into())
        );
        assert!(shown(case::FULL).get("bytes_per_second").is_none());
    }

    #[test]
    fn the_limit_spreads_the_stages_over_the_processors_and_adds_what_is_fixed() {
        let mut results = Results::default();
        let stages = [(Stage::Compress, 6.0), (Stage::Decompress, 2.0), (Stage::WriteImage, 5.0)];
        let stages = stages.map(|(stage, seconds)| (stage, Passage { bytes: 1, seconds })).into();
        let (open_seconds, lock_seconds) = (0.1, 0.2);
        let report = Report { stages, chunk_bytes: 1, packed_bytes: 7, open_seconds, lock_seconds, fixed_cpu_seconds: 0.1 };
        results.limit(case::FULL, report);
        results.complete(2);
        let wall = |case| results.row(case, LIMIT).unwrap().wall_seconds;
        assert!((wall(case::FULL) - 4.3).abs() < 1e-9);
        assert!((wall(case::UNVERIFIED) - 3.3).abs() < 1e-9);
        assert!((wall(case::RESTORE) - 3.6).abs() < 1e-9, "a restore works while its lock settles");
        assert_eq!(results.row(case::FULL, LIMIT).unwrap().wall_seconds_of_bytes, Some(4.0));
    }

    #[test]
    fn unverified_exports_are_compared_with_restic_as_it_comes() {
        let mut results = Results::default();
        results.note(case::FULL, RESTIC, "1", "d", "c", figures(10.0));
        results.note(case::UNVERIFIED, WINDLASS, "1", "d", "c", figures(2.0));
        results.complete(2);
        let row = results.row(case::UNVERIFIED, RESTIC).unwrap();
        assert_eq!(row.wall_seconds, 10.0);
        assert!(row.note.is_some());
    }
}
