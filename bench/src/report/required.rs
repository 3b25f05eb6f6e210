//! What has to be reached, and whether it was.

use super::results::{LIMIT, Results, Row, case};

/// A line of the table of what is required.
#[derive(Debug, Clone, PartialEq)]
pub struct Requirement {
    /// What.
    pub what: String,
    /// What has to be reached.
    pub required: String,
    /// What was.
    pub reached: String,
    /// Whether that is enough.
    pub met: bool,
}

/// One of a row's figures.
type Figure = fn(&Row) -> f64;

const WINDLASS: &str = "windlass";
const RESTIC: &str = "restic";
/// How much more than restic may be stored.
const STORED: f64 = 1.10;
/// How near to the limit.
const OF_LIMIT: f64 = 0.85;
/// How near where all bytes are moved, so that little else counts.
const OF_LIMIT_WHOLE: f64 = 0.90;
/// How long a volume may take that did not change, in seconds.
const UNCHANGED: f64 = 1.0;
/// Processor time of an export into a long index, in seconds.
const INDEX_CPU: f64 = 0.5;
/// And of one of a large volume that did not change, or hardly.
const UNCHANGED_FULL_CPU: f64 = 2.0;
const CHUNK_OF_FULL_CPU: f64 = 5.0;
/// Many workers may not be slower than few; what two runs differ by themselves is left to them.
const MANY_CORES: f64 = 0.95;
/// How much longer an export may take for locks of others, in seconds.
const LOCKS: f64 = 0.5;
/// How much longer the same change may take in a larger volume.
const GROWTH: f64 = 1.3;

/// Everything that the results say something about.
pub fn requirements(results: &Results, has_sha: bool) -> Vec<Requirement> {
    let mut lines = Vec::new();
    let both: [(&str, Figure); 2] = [("wall", |row| row.wall_seconds), ("CPU", |row| row.cpu_seconds)];
    let only_wall = &both[..1];
    let ratios = [
        (case::FULL, [3.8, 2.8], &both[..]),
        (case::UNVERIFIED, [5.0, 3.3], only_wall),
        (case::SCATTERED, [7.0, 4.0], only_wall),
        (case::CLUSTERED, [20.0, 10.0], only_wall),
        (case::RESTORE, [2.5, 1.6], only_wall),
    ];
    for (case, required, figures) in ratios {
        let required = required[usize::from(has_sha)];
        for (name, figure) in figures {
            if let (Some(own), Some(other)) = (results.row(case, WINDLASS), results.row(case, RESTIC)) {
                lines.push(at_least(&format!("{case}: restic's {name} / ours"), required, figure(other) / figure(own), "x"));
            }
        }
    }
    if let (Some(own), Some(other)) = (results.row(case::FULL, WINDLASS), results.row(case::FULL, RESTIC)) {
        let ratio = own.stored_bytes as f64 / other.stored_bytes as f64;
        lines.push(at_most(&format!("{}: our stored bytes / restic's", case::FULL), STORED, ratio, "x"));
    }
    for (case, ..) in ratios {
        if let (Some(own), Some(limit)) = (results.row(case, WINDLASS), results.row(case, LIMIT)) {
            let near = if matches!(case, case::FULL | case::RESTORE) { OF_LIMIT_WHOLE } else { OF_LIMIT };
            let mut line =
                at_least(&format!("{case}: limit / ours"), near * 100.0, limit.wall_seconds / own.wall_seconds * 100.0, "%");
            if let Some(bytes) = limit.wall_seconds_of_bytes {
                line.reached += &format!(" ({:.0}% without opening and locking)", bytes / own.wall_seconds * 100.0);
            }
            lines.push(line);
        }
    }
    if let Some(row) = results.row(case::UNCHANGED_SPARSE, WINDLASS) {
        lines.push(at_most("unchanged, 100 GiB sparse: wall", UNCHANGED, row.wall_seconds, " s"));
    }
    if let (Some(small), Some(large)) = (results.row(case::GROWTH_SMALL, WINDLASS), results.row(case::GROWTH_LARGE, WINDLASS)) {
        for (name, figure) in both {
            lines.push(at_most(
                &format!("the same change: {name} in 1 TiB / in 10 GiB"),
                GROWTH,
                figure(large) / figure(small),
                "x",
            ));
        }
    }
    scale(results, &mut lines);
    lines
}

/// What a repository that many share may cost.
fn scale(results: &Results, lines: &mut Vec<Requirement>) {
    let limits = [
        (case::INDEX_10M, "64 MiB into a repository of 10 million blobs: CPU", INDEX_CPU),
        (case::UNCHANGED_FULL, "unchanged, 1 TiB full: CPU", UNCHANGED_FULL_CPU),
        (case::CHUNK_OF_FULL, "one chunk changed, 1 TiB full: CPU", CHUNK_OF_FULL_CPU),
    ];
    for (case, what, limit) in limits {
        if let Some(row) = results.row(case, WINDLASS) {
            lines.push(at_most(what, limit, row.cpu_seconds, " s"));
        }
    }
    if let Some(row) = results.row(case::UNCHANGED_FULL, WINDLASS) {
        lines.push(at_most("unchanged, 1 TiB full: stored", 1.0, row.stored_bytes as f64 / 1e6, " MB"));
    }
    if let (Some(few), Some(many)) = (results.row(case::FEW_CORES, WINDLASS), results.row(case::MANY_CORES, WINDLASS)) {
        let ratio = few.wall_seconds / many.wall_seconds;
        lines.push(at_least("a store 200 ms away: wall with 8 workers / with 64", MANY_CORES, ratio, "x"));
    }
    if let (Some(none), Some(many)) = (results.row(case::NO_LOCKS, WINDLASS), results.row(case::LOCKS, WINDLASS)) {
        lines.push(at_most("100 locks of others: wall more than with none", LOCKS, many.wall_seconds - none.wall_seconds, " s"));
    }
}

fn at_least(what: &str, required: f64, reached: f64, unit: &str) -> Requirement {
    line(what, format!("at least {}", number(required, unit)), number(reached, unit), reached >= required)
}

fn at_most(what: &str, required: f64, reached: f64, unit: &str) -> Requirement {
    line(what, format!("at most {}", number(required, unit)), number(reached, unit), reached <= required)
}

fn line(what: &str, required: String, reached: String, met: bool) -> Requirement {
    Requirement { what: what.to_owned(), required, reached, met }
}

fn number(value: f64, unit: &str) -> String {
    if unit == "%" { format!("{value:.0}{unit}") } else { format!("{value:.2}{unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Usage;
    use crate::report::results::Figures;

    fn results(own: f64, other: f64) -> Results {
        let mut results = Results::default();
        for (tool, wall_seconds) in [(WINDLASS, own), (RESTIC, other)] {
            let usage = Usage { wall_seconds, cpu_seconds: wall_seconds, peak_bytes: 1 };
            results.note(case::FULL, tool, "1", "d", "c", Figures::new(usage, 100));
        }
        results.complete(2);
        results
    }

    #[test]
    fn a_ratio_is_met_from_the_required_one_on_which_depends_on_the_processor() {
        let met = |own, other, has_sha| {
            let lines = requirements(&results(own, other), has_sha);
            assert_eq!(lines.len(), 3, "wall, CPU, stored bytes");
            lines[0].met
        };
        assert!(met(10.0, 28.0, true));
        assert!(!met(10.0, 27.9, true));
        assert!(!met(10.0, 28.0, false));
        assert!(met(10.0, 38.0, false));
    }

    #[test]
    fn nothing_is_said_about_what_was_not_measured() {
        assert_eq!(requirements(&Results::default(), true), []);
    }
}
