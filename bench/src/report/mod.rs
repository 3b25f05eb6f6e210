//! The report: what was measured on what, the figures, and whether they suffice.

pub mod machine;
pub mod required;
pub mod results;

use std::fmt::Write;

use crate::limit::Stage;
use machine::Machine;
use results::{LIMIT, Results, Row, case};

/// What a run was.
#[derive(Debug, Clone)]
pub struct About {
    /// How to repeat it.
    pub command: String,
    /// Where things lay.
    pub place: String,
    /// What was backed up.
    pub data: Vec<String>,
    /// Tools that were not there or failed.
    pub absent: Vec<String>,
    /// How many threads ran or wanted to in the last minute of the run.
    pub load: String,
    /// Why not everything was measured, if so.
    pub incomplete: Option<String>,
    /// The machine.
    pub machine: Machine,
}

const CONDITIONS: &str = "\
Before each measured command everything written is synced and the image is dropped from the page cache; all read it through the
same loop device. Windlass syncs every object it stores and the file it restores, restic the objects it stores; in memory that
costs nobody anything, on a disk it would. A backup's time includes opening the repository (scrypt) and locking it. Caches are
those that each tool keeps by default, in the state that the full backup left. Every restored image was compared with the
original, byte for byte. The image is always `volume.img` in one folder; the file behind the name is the snapshot's own, so tools
that look at inodes and times see a changed file, as they do with snapshots, and read it. CPU is user and system time of the
process, peak its largest resident memory, both as the kernel accounts them.
";

const LIMIT_TEXT: &str = "\
The limit is the sum of the stages' times, each measured on one thread with the same bytes in this run, divided by the number of
processors; the time to open and lock a repository is added. Stages: an export reads, tests for zeros, names chunks, compresses,
encrypts, authenticates, names packs, writes and syncs; with verification it also verifies the code, decrypts, decompresses and
compares.
";

/// The report as Markdown.
pub fn markdown(about: &About, results: &Results) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = write(&mut text, about, results);
    text
}

fn write(text: &mut String, about: &About, results: &Results) -> std::fmt::Result {
    let machine = &about.machine;
    writeln!(text, "# Benchmarks\n\nMade by `{}`. Medians.\n", about.command)?;
    writeln!(
        text,
        "* Machine: {}, {} of {} processors, {} GiB of memory, Linux {}",
        machine.processor,
        machine.processors,
        machine.of,
        machine.memory_bytes.div_ceil(1 << 30),
        machine.kernel
    )?;
    writeln!(text, "* Processor features: {}", machine.features.join(" "))?;
    writeln!(text, "* Load before: {}, at the end: {} (the last tool's own threads among it)", machine.load, about.load)?;
    writeln!(text, "* Tools: {}", versions(results).join(", "))?;
    if !about.absent.is_empty() {
        writeln!(text, "* Not there, or failed: {}", about.absent.join(", "))?;
    }
    if let Some(reason) = &about.incomplete {
        writeln!(text, "* **Incomplete**: {reason}")?;
    }
    writeln!(text, "* Place: {}", about.place)?;
    for data in &about.data {
        writeln!(text, "* Data: {data}")?;
    }
    writeln!(text, "\n{CONDITIONS}")?;
    figures(text, results)?;
    stages(text, results, machine.processors)?;
    commands(text, results)?;
    required_table(text, results, machine.has_sha())
}

fn versions(results: &Results) -> Vec<String> {
    let mut versions: Vec<String> = Vec::new();
    for row in results.rows.iter().filter(|row| row.tool != LIMIT) {
        let version = format!("{} {}", row.tool, row.version);
        if !versions.contains(&version) {
            versions.push(version);
        }
    }
    versions
}

fn figures(text: &mut String, results: &Results) -> std::fmt::Result {
    writeln!(text, "## Figures\n")?;
    writeln!(text, "| case | tool | wall s | CPU s | peak MiB | stored MB | times |")?;
    writeln!(text, "|---|---|---:|---:|---:|---:|---:|")?;
    for row in &results.rows {
        let peak = if row.tool == LIMIT { String::new() } else { (row.peak_bytes >> 20).to_string() };
        writeln!(
            text,
            "| {} | {} | {:.2} | {:.2} | {peak} | {:.1} | {} |",
            row.case,
            row.tool,
            row.wall_seconds,
            row.cpu_seconds,
            row.stored_bytes as f64 / 1e6,
            row.repetitions
        )?;
    }
    for row in &results.rows {
        if let Some(together) = row.throughput {
            let (rate, requests) = (together.bytes_per_second / 1e6, together.requests_each);
            writeln!(text, "\n* {}: {rate:.1} MB/s of volumes in all, {requests:.1} requests each", row.case)?;
        }
    }
    let mut notes: Vec<(&str, &str)> = results.rows.iter().filter_map(|row| Some((&*row.case, row.note.as_deref()?))).collect();
    notes.dedup();
    writeln!(text)?;
    for (case, note) in notes {
        writeln!(text, "* {case}: {note}")?;
    }
    writeln!(text)
}

fn stages(text: &mut String, results: &Results, processors: u32) -> std::fmt::Result {
    let Some(report) = results.stages(case::FULL) else { return Ok(()) };
    writeln!(text, "## The limit\n\n{LIMIT_TEXT}")?;
    writeln!(text, "| stage of `full` | MB | MB/s of one thread | s of one thread |\n|---|---:|---:|---:|")?;
    for (stage, passage) in &report.stages {
        let (mb, seconds) = (passage.bytes as f64 / 1e6, passage.seconds);
        writeln!(text, "| {} | {mb:.1} | {:.0} | {seconds:.2} |", name(*stage), mb / seconds)?;
    }
    let export = report.thread_seconds(Stage::EXPORT);
    let verify = report.thread_seconds(Stage::VERIFY);
    writeln!(
        text,
        "\n{export:.2} s to export and {verify:.2} s to verify make {:.2} s on {processors} processors; opening takes {:.2} s, \
         locking {:.2} s.\n",
        (export + verify) / f64::from(processors),
        report.open_seconds,
        report.lock_seconds
    )
}

fn name(stage: Stage) -> String {
    match serde_json::to_value(stage) {
        Ok(serde_json::Value::String(name)) => name,
        _ => format!("{stage:?}"),
    }
}

fn commands(text: &mut String, results: &Results) -> std::fmt::Result {
    writeln!(text, "## Commands\n")?;
    let listed = [case::FULL, case::SCATTERED, case::RESTORE, case::CHECK];
    let rows = results.rows.iter().filter(|row: &&Row| listed.contains(&&*row.case) && row.tool != LIMIT);
    for row in rows {
        writeln!(text, "* {}: `{}`", row.case, row.command)?;
    }
    writeln!(text)
}

fn required_table(text: &mut String, results: &Results, has_sha: bool) -> std::fmt::Result {
    let column = if has_sha { "with SHA instructions" } else { "without SHA instructions" };
    writeln!(text, "## Required, on a processor {column}\n\n| what | required | reached | |\n|---|---|---|---|")?;
    for line in required::requirements(results, has_sha) {
        writeln!(
            text,
            "| {} | {} | {} | {} |",
            line.what,
            line.required,
            line.reached,
            if line.met { "met" } else { "**not met**" }
        )?;
    }
    Ok(())
}
