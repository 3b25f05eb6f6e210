//! The repository of an attempt: opened, or made where the class says so.
//!
//! To open one takes a third of a second of a processor and 32 MiB for its password, so [`OPEN_AT_ONCE`] are opened at a time.
//!
//! Many first exports at once make one repository: `config` is stored on condition that there is none, on which the store decides, and
//! who comes second opens what the first has made. Where one was known before, none is made: its place may be empty only because somebody
//! took it away, and a new one there would hide that.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::agent::secrets::RepositorySecret;
use crate::agent::transfers::context::Context;
use crate::agent::transfers::message;
use crate::blocks::{Blocks, TaskQuery};
use crate::repository::{KdfCost, Repository, RepositoryError};
use crate::transfer::Progress;
use crate::types::{PoolId, RepositoryOrder};

use super::fault::{Ended, Fault};

/// Two cores' worth; more only wait for each other.
const OPEN_AT_ONCE: usize = 2;
static OPENING: Semaphore = Semaphore::const_new(OPEN_AT_ONCE);

/// Opens the repository of `secret` for exports of `pool`. `progress` tells meanwhile when its store does not answer.
///
/// # Errors
/// [`Ended`] as the attempt ends.
pub(in crate::agent) async fn open(
    context: &Context,
    pool: PoolId,
    secret: &RepositorySecret,
    order: RepositoryOrder,
    progress: &Progress,
) -> Result<Repository, Ended> {
    // Never closed.
    let _turn = OPENING.acquire().await.map_err(|_| Ended::inside(Fault::Unknown))?;
    let RepositorySecret { location, password, environment } = secret;
    let workspace = &context.workspace;
    let store = workspace.connect(location, environment).map_err(RepositoryError::from)?;
    progress.watch(&store);
    let opened = match workspace.open(Arc::clone(&store), location, password).await {
        Err(RepositoryError::NoRepository) => {
            if is_known(context.blocks.as_ref(), pool, &location.to_string()).await? {
                return Err(Ended::without_repository(Fault::Gone));
            }
            if order == RepositoryOrder::Existing {
                return Err(Ended::without_repository(Fault::NoRepository));
            }
            match Repository::init(Arc::clone(&store), password, KdfCost::STANDARD).await {
                Ok(_) | Err(RepositoryError::AlreadyInitialized) => {}
                Err(error) => return Err(error.into()),
            }
            workspace.open(store, location, password).await?
        }
        opened => opened?,
    };
    Ok(message::locked_for(context, pool, opened, None))
}

/// Whether a repository at this place was opened before for any snapshot that the pool still has.
async fn is_known(blocks: &dyn Blocks, pool: PoolId, location: &str) -> Result<bool, Ended> {
    let mut query = TaskQuery { pool, after: None, limit: TaskQuery::MAX };
    loop {
        let page = blocks.tasks(query).await?;
        let mut tasks = page.tasks.iter().filter_map(|known| known.copies.task.as_ref());
        if tasks.any(|task| task.location == location && task.repository.is_some()) {
            return Ok(true);
        }
        match page.next {
            Some(next) => query.after = Some(next),
            None => return Ok(false),
        }
    }
}
