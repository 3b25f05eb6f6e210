//! The thread that keeps a copy up to date.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::slots::{CopyError, CopyFile};
use crate::pool::PoolError;
use crate::pool::catalogue::commits::{Commits, Seen};
use crate::pool::catalogue::open::Catalogue;
use crate::types::error::chain;

/// Least time between two copies.
const SHORTEST_REST: Duration = Duration::from_secs(1);
/// It rests this many times as long as the last copy took, which is 5 MB and a tenth of a second for 10,000 snapshots.
const REST: u32 = 19;

/// The running keeper. Dropping it writes what is not written yet, and ends it.
#[derive(Debug)]
pub(in crate::pool) struct CopyKeeper {
    commits: Arc<Commits>,
    thread: Option<JoinHandle<()>>,
}

impl CopyKeeper {
    /// Keeps a copy of the catalogue at `path` from now on. A copy that a later version wrote is left alone.
    ///
    /// # Errors
    /// [`PoolError::Io`] when no thread can be started.
    pub(in crate::pool) fn start(catalogue: Catalogue, path: PathBuf) -> Result<Self, PoolError> {
        let commits = Arc::clone(catalogue.connection.commits());
        let run = move || Keeping { catalogue, path, file: None, failed: false }.run();
        let thread = thread::Builder::new().name("catalogue-copy".to_owned()).spawn(run);
        let thread = thread.map_err(|error| PoolError::io("start to keep the second copy of the catalogue", error))?;
        Ok(Self { commits, thread: Some(thread) })
    }
}

impl Drop for CopyKeeper {
    fn drop(&mut self) {
        self.commits.stop();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the keeper of the catalogue's second copy ended by a panic");
        }
    }
}

/// What the thread knows.
struct Keeping {
    catalogue: Catalogue,
    path: PathBuf,
    file: Option<CopyFile>,
    /// Whether the last attempt failed, which was said.
    failed: bool,
}

impl Keeping {
    fn run(mut self) {
        let commits = Arc::clone(self.catalogue.connection.commits());
        loop {
            let Seen { commits: seen, stopped } = commits.seen();
            let begun = Instant::now();
            if !self.keep() || stopped {
                return;
            }
            commits.rest((begun.elapsed() * REST).max(SHORTEST_REST));
            commits.wait(seen);
            let now = commits.seen();
            if now.stopped && now.commits == seen && !self.failed {
                return;
            }
        }
    }

    /// Writes it if it says something else; whether that is to go on.
    fn keep(&mut self) -> bool {
        match self.try_keep() {
            Ok(()) => {
                if std::mem::take(&mut self.failed) {
                    tracing::info!(copy = %self.path.display(), "the second copy of the catalogue is written again");
                }
            }
            Err(error @ CopyError::Newer(_)) => {
                tracing::warn!(copy = %self.path.display(), error = %chain(&error), "the second copy of the catalogue is left as it is");
                return false;
            }
            Err(error) => {
                if !std::mem::replace(&mut self.failed, true) {
                    tracing::warn!(copy = %self.path.display(), error = %chain(&error), "the second copy of the catalogue cannot be written now");
                }
            }
        }
        true
    }

    fn try_keep(&mut self) -> Result<(), CopyError> {
        let (revision, text) = self.catalogue.as_text().map_err(std::io::Error::other)?;
        let mut file = match self.file.take() {
            Some(file) => file,
            None => CopyFile::open(&self.path)?,
        };
        let written = file.write(revision, text);
        if written.is_ok() {
            self.file = Some(file);
        }
        // Otherwise it is opened again by the next attempt, whatever state it is in.
        Ok(written?)
    }
}
