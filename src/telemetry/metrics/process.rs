//! What the process takes of its machine, read when it is asked for, and what program it is.
//!
//! A process that cannot be looked into by others may still read these files of its own. What does not read is left out.

use std::fmt;
use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};
use nix::sys::time::TimeValLike;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use super::description::{Description, FamilyEncoder};
use super::families;
use crate::failpoint;

/// The version of the program.
#[derive(Debug)]
pub(super) struct BuildInfo;

impl Collector for BuildInfo {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        // A build that can be made to fail on purpose must not run as a product, and shows here too.
        let build = if failpoint::ENABLED { "failpoints" } else { "product" };
        FamilyEncoder::begin(&mut encoder, &families::BUILD_INFO)?.gauge(&[env!("CARGO_PKG_VERSION"), build], 1.0)
    }
}

/// Time, memory, descriptors and threads of the process.
#[derive(Debug)]
pub(super) struct ProcessFigures {
    started: f64,
}

impl ProcessFigures {
    /// Of a process that begins now.
    pub(super) fn begin() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { started: since.as_secs_f64() }
    }
}

impl Collector for ProcessFigures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let of_status = |key: &str| field(&status, key);
        // The directory that is read is open itself.
        let descriptors = fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count().saturating_sub(1) as f64);
        let limit = getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(soft, _)| soft as f64);
        let mut gauge = |description: &Description, value: Option<f64>| match value {
            Some(value) => FamilyEncoder::begin(&mut encoder, description)?.gauge(&[], value),
            None => Ok(()),
        };
        gauge(&families::PROCESS_START, Some(self.started))?;
        gauge(&families::PROCESS_RESIDENT, of_status("VmRSS").map(|kibibytes| kibibytes * 1024.0))?;
        gauge(&families::PROCESS_THREADS, of_status("Threads"))?;
        gauge(&families::PROCESS_FDS, descriptors)?;
        gauge(&families::PROCESS_MAX_FDS, limit)?;
        match getrusage(UsageWho::RUSAGE_SELF) {
            Ok(usage) => {
                let microseconds = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
                FamilyEncoder::begin(&mut encoder, &families::PROCESS_CPU)?.counter(&[], microseconds as f64 / 1e6)
            }
            Err(_) => Ok(()),
        }
    }
}

/// The number of a line such as `VmRSS:     1234 kB`.
fn field(status: &str, key: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_by_their_whole_names() {
        let status = "Name:\tx\nVmRSSx:\t 1 kB\nVmRSS:\t   1234 kB\nThreads:\t7\n";
        assert_eq!(field(status, "VmRSS"), Some(1234.0));
        assert_eq!(field(status, "Threads"), Some(7.0));
        assert_eq!(field(status, "VmHWM"), None);
    }
}
