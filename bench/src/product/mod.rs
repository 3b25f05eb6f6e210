//! The product's pipelines, one process for each: what a node does between the request and its answer.
//!
//! A file stands for a volume's snapshot. What a pool knows about it is found by the same code: allocated ranges are the file's
//! extents, changed ranges the comparison of two files' extents. The catalogue's record of the last export is taken from the
//! repository instead, before the clock of the pipeline but within the process that is measured, so that it counts against us.
//!
//! Each prints one JSON line: the pipeline's own report, the settings, and `peak_bytes`, the kernel's peak of resident memory.

pub mod check;
mod counted;
mod distant;
pub mod export;
pub mod fabricated;
pub mod restore;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::runtime::Runtime;
use windlass::repository::{self, Cache, Environment, KdfCost, Location, Password, Repository};
use windlass::transfer::Budget;

use crate::error::{BenchError, While};
use counted::{CountedStore, Requests};
use distant::DistantStore;
use fabricated::FabricatedStore;

/// Where the image lies in a snapshot, as the product lays it out: in its volume's folder.
const FOLDER: &str = "bench";
const IMAGE: &str = "volume.img";

/// Which repository.
#[derive(Debug, Clone, clap::Args)]
pub struct RepositoryArguments {
    /// The repository: a directory, or a bucket as restic calls it, with credentials in the environment
    #[arg(long, value_name = "PLACE")]
    pub repository: String,
    /// Directory of the cache; without one nothing is kept
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
    /// What every request to the repository takes longer, in milliseconds
    #[arg(long, value_name = "MS", default_value = "0")]
    pub latency: u64,
    /// Password of the repository
    #[arg(long, env = "RESTIC_PASSWORD", hide_env_values = true, value_name = "TEXT")]
    pub password: String,
}

/// What a transfer may use.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct BudgetArguments {
    /// Memory of the transfer in bytes; the product's default if not given
    #[arg(long, value_name = "BYTES")]
    memory: Option<u64>,
    /// Worker threads; as many as there are processors if not given
    #[arg(long, value_name = "N")]
    workers: Option<NonZeroUsize>,
}

impl BudgetArguments {
    pub(crate) fn budget(self) -> Budget {
        let default = self.workers.map_or_else(Budget::for_this_machine, Budget::for_workers);
        Budget { memory_bytes: self.memory.unwrap_or(default.memory_bytes), ..default }
    }
}

impl RepositoryArguments {
    fn password(&self) -> Result<Password, BenchError> {
        Password::new(self.password.as_bytes()).while_doing(|| "the password cannot be used".to_owned())
    }

    fn store(&self) -> Result<Arc<dyn repository::Store>, BenchError> {
        let what = || "the repository's place".to_owned();
        let store = match self.repository.starts_with("s3:") {
            true => {
                let location = self.repository.parse::<Location>().while_doing(what)?;
                repository::connect(&location, &Environment::from_process()).while_doing(what)?
            }
            false => {
                let folder = std::path::absolute(&self.repository).while_doing(what)?;
                let location = Location::Local(folder.clone());
                FabricatedStore::around(repository::connect(&location, &Environment::new()).while_doing(what)?, &folder)
            }
        };
        Ok(match self.latency {
            0 => store,
            milliseconds => Arc::new(DistantStore::new(store, Duration::from_millis(milliseconds))),
        })
    }

    /// Opens the repository.
    ///
    /// # Errors
    /// When it cannot be reached, or not with this password.
    pub async fn open(&self) -> Result<Repository, BenchError> {
        self.open_on(self.store()?).await
    }

    /// Opens the repository; also what will have been asked of its store from now on.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub async fn open_counted(&self) -> Result<(Repository, Arc<Requests>), BenchError> {
        let requests = Arc::<Requests>::default();
        let store = Arc::new(CountedStore::new(self.store()?, Arc::clone(&requests)));
        Ok((self.open_on(store).await?, requests))
    }

    async fn open_on(&self, store: Arc<dyn repository::Store>) -> Result<Repository, BenchError> {
        let opened = Repository::open(store, &self.password()?).await;
        let opened = opened.while_doing(|| format!("opening {}", self.repository))?;
        Ok(match &self.cache {
            Some(folder) => opened.with_cache(&Cache::new(folder.clone(), Cache::LIMIT_BYTES)),
            None => opened,
        })
    }
}

/// Makes a repository.
///
/// # Errors
/// When there is one, or it cannot be written.
pub fn init(arguments: &RepositoryArguments) -> Result<(), BenchError> {
    runtime()?.block_on(async {
        let made = Repository::init(arguments.store()?, &arguments.password()?, KdfCost::STANDARD).await;
        made.map(drop).while_doing(|| format!("making {}", arguments.repository))
    })
}

/// The runtime that the product's command line makes.
pub fn runtime() -> Result<Runtime, BenchError> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().while_doing(|| "starting".to_owned())
}

/// Prints `report` with the settings and the peak of memory as one line.
pub(crate) fn print(report: impl serde::Serialize, settings: Value) -> Result<(), BenchError> {
    let mut line = serde_json::to_value(report).while_doing(|| "writing the report".to_owned())?;
    let Value::Object(fields) = &mut line else { return Err(BenchError::new("the report is no object")) };
    if let Value::Object(settings) = settings {
        fields.extend(settings);
    }
    fields.insert("peak_bytes".to_owned(), json!(peak_bytes()?));
    println!("{line}");
    Ok(())
}

/// The most memory that was resident in this process at once, from the kernel.
fn peak_bytes() -> Result<u64, BenchError> {
    let status = std::fs::read_to_string("/proc/self/status").while_doing(|| "reading /proc/self/status".to_owned())?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")).and_then(|number| number.parse::<u64>().ok());
    kib.map(|kib| kib << 10).ok_or_else(|| BenchError::new("/proc/self/status has no VmHWM"))
}
