//! The machine a run was made on.

use std::fs;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use crate::error::{BenchError, While};

/// Processors that a run uses: figures of machines with more are comparable then.
const PROCESSORS: usize = 2;

/// What decides how fast a run is.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Name of the processor.
    pub processor: String,
    /// Those of its features that the tools make use of.
    pub features: Vec<&'static str>,
    /// Processors that are used.
    pub processors: u32,
    /// Processors there are.
    pub of: usize,
    /// The kernel.
    pub kernel: String,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// How many others wanted to run, averaged over the minute before.
    pub load: String,
}

impl Machine {
    /// Confines this process and all that it starts to the first two processors it may use, and says what the machine is.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn on_two_processors() -> Result<Self, BenchError> {
        let what = || "choosing processors".to_owned();
        let own = Pid::from_raw(0);
        let allowed = sched_getaffinity(own).while_doing(what)?;
        let usable: Vec<usize> = (0..CpuSet::count()).filter(|&cpu| allowed.is_set(cpu).unwrap_or(false)).collect();
        let mut chosen = CpuSet::new();
        for &cpu in usable.iter().take(PROCESSORS) {
            chosen.set(cpu).while_doing(what)?;
        }
        sched_setaffinity(own, &chosen).while_doing(what)?;

        let read = |path: &str| fs::read_to_string(path).while_doing(|| format!("reading {path}"));
        let cpuinfo = read("/proc/cpuinfo")?;
        let field = |names: &[&str]| {
            let line = cpuinfo.lines().find(|line| names.iter().any(|name| line.starts_with(name)))?;
            line.split_once(':').map(|(_, value)| value.trim().to_owned())
        };
        let flags = field(&["flags", "Features"]).unwrap_or_default();
        let known = ["sha_ni", "sha2", "avx2", "avx512f", "avx512bw", "vaes", "aes", "pclmulqdq", "vpclmulqdq"];
        let memory = read("/proc/meminfo")?;
        let memory = memory.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap_or_default();
        Ok(Self {
            processor: field(&["model name", "CPU part"]).unwrap_or_else(|| "unknown".to_owned()),
            features: known.into_iter().filter(|name| flags.split(' ').any(|flag| flag == *name)).collect(),
            processors: usable.len().min(PROCESSORS) as u32,
            of: usable.len(),
            kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            load: load()?,
            memory_bytes: memory.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) << 10,
        })
    }

    /// Whether one stream of SHA-256 is fast here, which decides how far ahead one can be.
    pub fn has_sha(&self) -> bool {
        self.features.iter().any(|feature| matches!(*feature, "sha_ni" | "sha2"))
    }
}

/// How many threads ran or wanted to, averaged over the last minute.
///
/// # Errors
/// When the system does not say.
pub fn load() -> Result<String, BenchError> {
    let text = fs::read_to_string("/proc/loadavg").while_doing(|| "reading /proc/loadavg".to_owned())?;
    Ok(text.split(' ').next().unwrap_or_default().to_owned())
}
