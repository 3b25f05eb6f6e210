//! The pool that a request of the command line names: by its id, by its name if only one has it here, or, unnamed, the only one there is.

use std::sync::Arc;

use crate::csi::error::RequestError;
use crate::pool::owned::OwnedPool;
use crate::pool::set::{Absent, Member, PoolSet};
use crate::types::error::chain;
use crate::types::{PoolId, PoolName};

/// Finds it. Reads catalogues, so it blocks.
///
/// # Errors
/// Not found; invalid when several are meant; [`crate::csi::error::Fault::PoolElsewhere`] for one that has failed.
pub fn find(pools: &PoolSet, field: &'static str, text: &str) -> Result<Arc<OwnedPool>, RequestError> {
    if text.is_empty() {
        return match pools.members().as_slice() {
            [Member::Open(pool)] => Ok(Arc::clone(pool)),
            [Member::Failed(failed)] => Err(RequestError::pool_elsewhere(field, failed.to_string())),
            [] => Err(RequestError::not_found(field, "this node has no pool")),
            _ => Err(several(field, "this node has several pools", &pools.pools())),
        };
    }
    let nothing = || RequestError::not_found(field, format!("there is no pool {text} on this node"));
    if let Some(id) = text.parse::<PoolId>().ok().or_else(|| PoolId::from_label(text)) {
        return pools.get(id).map_err(|absent| match absent {
            Absent::Failed(failed) => RequestError::pool_elsewhere(field, failed.to_string()),
            Absent::Elsewhere { .. } => nothing(),
        });
    }
    let name: PoolName = text.parse().map_err(|_| nothing())?;
    let named: Vec<_> = pools.pools().into_iter().filter(|pool| has_name(pools, pool, &name)).collect();
    match named.as_slice() {
        [pool] => Ok(Arc::clone(pool)),
        // A failed pool does not say what it is called.
        [] => match pools.failed().first() {
            Some(failed) => Err(RequestError::pool_elsewhere(field, format!("no open pool is called {text}, and {failed}"))),
            None => Err(nothing()),
        },
        several_named => Err(several(field, &format!("several pools of this node are called {text}"), several_named)),
    }
}

fn several(field: &'static str, what: &str, pools: &[Arc<OwnedPool>]) -> RequestError {
    let ids: Vec<_> = pools.iter().map(|pool| pool.id().to_string()).collect();
    RequestError::invalid(field, format!("{what}, name one of {}", ids.join(", ")))
}

/// Whether a pool is called so; one that does not say is not.
pub(super) fn has_name(pools: &PoolSet, pool: &OwnedPool, name: &PoolName) -> bool {
    match pool.properties() {
        Ok(properties) => properties.name == *name,
        Err(error) => {
            tracing::warn!(pool = %pool.id(), error = %chain(&error), "a pool does not say what it is called");
            pools.suspect(pool.id());
            false
        }
    }
}
