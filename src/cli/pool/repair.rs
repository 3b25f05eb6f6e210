//! `windlass pool repair`: the metadata of a thin pool, checked and made usable again.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use crate::pool::thin::{History, RepairOutcome, RepairReport};

use crate::cli::exit::{CliError, Exit};
use crate::cli::format::Format;
use crate::cli::open_pool;
use crate::cli::output::{print_json, print_text};

/// Arguments of `pool repair`.
#[derive(Debug, Args)]
pub struct RepairArgs {
    /// Block device of the pool, or either of its two
    #[arg(long, value_name = "PATH")]
    device: PathBuf,
}

/// Repairs it, and says what was found and done.
///
/// # Errors
/// [`Exit::Refused`] while the pool is in use.
pub async fn run(args: RepairArgs, format: Format) -> Result<(), CliError> {
    let device = args.device.clone();
    let repaired = tokio::task::spawn_blocking(move || open_pool::repair(&device)).await;
    let report = repaired.unwrap_or_else(|error| Err(CliError::because(Exit::Failed, "the pool was not repaired", error)))?;
    match format {
        Format::Text => print_text(&describe(&report, &args.device.display().to_string())),
        Format::Json => print_json(&Repaired::from(&report)),
    }
}

fn describe(report: &RepairReport, device: &str) -> String {
    let mut text = match report.outcome {
        RepairOutcome::Sound if report.reclaimed_bytes > 0 => format!("{device}: the metadata is sound\n"),
        RepairOutcome::Sound => format!("{device}: the metadata is sound; there was nothing to repair\n"),
        RepairOutcome::Cleared => format!("{device}: the metadata is sound; the pool takes changes again\n"),
        RepairOutcome::Rebuilt => format!(
            "{device}: the metadata was damaged, and was rebuilt from what could be read; volumes may have lost data: check their file \
             systems, and restore what is not whole\n"
        ),
    };
    if report.reclaimed_bytes > 0 {
        text.push_str(&format!(
            "  {} bytes that a power cut left allocated to nothing were given back\n",
            report.reclaimed_bytes
        ));
    }
    if report.left_bytes > 0 {
        text.push_str(&format!(
            "  {} bytes are allocated to nothing, though not by a power cut, and were left\n",
            report.left_bytes
        ));
    }
    for line in report.findings.lines() {
        text.push_str(&format!("  found: {line}\n"));
    }
    if report.history == History::Broken {
        text.push_str(
            "  a part of the pool is of an earlier state, or rebuilt: volumes may show old data, or what others have written; check them, \
             and restore what is not whole. What changed since the snapshots of before is not told any more: the next exports are full\n",
        );
    }
    for missing in &report.missing {
        text.push_str(&format!("  gone: {missing}\n"));
    }
    for unknown in &report.unknown {
        text.push_str(&format!("  no record, left alone: {unknown}\n"));
    }
    text
}

/// What a repair found and did, as it is printed.
#[derive(Debug, Serialize)]
struct Repaired<'a> {
    outcome: &'static str,
    reclaimed_bytes: u64,
    left_bytes: u64,
    findings: &'a str,
    missing: &'a [String],
    unknown: &'a [String],
    history: &'static str,
}

impl<'a> From<&'a RepairReport> for Repaired<'a> {
    fn from(report: &'a RepairReport) -> Self {
        Self {
            outcome: match report.outcome {
                RepairOutcome::Sound => "sound",
                RepairOutcome::Cleared => "cleared",
                RepairOutcome::Rebuilt => "rebuilt",
            },
            reclaimed_bytes: report.reclaimed_bytes,
            left_bytes: report.left_bytes,
            findings: &report.findings,
            missing: &report.missing,
            unknown: &report.unknown,
            history: match report.history {
                History::Whole => "whole",
                History::Broken => "broken",
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repair_tells_what_was_found_and_what_is_lost() {
        let report = RepairReport {
            outcome: RepairOutcome::Rebuilt,
            reclaimed_bytes: 0,
            left_bytes: 0,
            findings: "bad checksum\nmissing devices".to_owned(),
            missing: vec!["volume x".to_owned()],
            unknown: vec!["thin device 7".to_owned()],
            history: History::Broken,
        };
        let text = describe(&report, "/dev/sdx");
        assert!(text.starts_with("/dev/sdx: the metadata was damaged"), "{text}");
        for line in ["  found: bad checksum\n", "  gone: volume x\n", "  no record, left alone: thin device 7\n"] {
            assert!(text.contains(line), "{text}");
        }
        assert!(text.contains("the next exports are full\n"), "{text}");
        let json = serde_json::to_value(Repaired::from(&report)).unwrap();
        assert_eq!((&json["outcome"], &json["history"]), (&"rebuilt".into(), &"broken".into()));
    }

    #[test]
    fn space_that_was_given_back_is_told_in_bytes() {
        let report = RepairReport {
            outcome: RepairOutcome::Sound,
            reclaimed_bytes: 196_608,
            left_bytes: 65_536,
            findings: String::new(),
            missing: Vec::new(),
            unknown: Vec::new(),
            history: History::Whole,
        };
        let text = describe(&report, "/dev/sdx");
        assert!(text.contains("  196608 bytes that a power cut left allocated to nothing were given back\n"), "{text}");
        assert!(text.contains("  65536 bytes are allocated to nothing"), "{text}");
        let json = serde_json::to_value(Repaired::from(&report)).unwrap();
        assert_eq!(
            (&json["outcome"], &json["reclaimed_bytes"], &json["left_bytes"]),
            (&"sound".into(), &196_608.into(), &65_536.into())
        );
    }
}
