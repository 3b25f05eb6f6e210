//! Forgetting snapshots, by policy or by name: restic's words with restic's meanings.
//!
//! Which snapshots go is decided by pure functions of the snapshots and the present time: they are [filtered](Filter), divided into
//! [groups](GroupBy), and a [policy](Policy) says of each group what it keeps and why. Then the snapshot objects that it does not keep are
//! deleted one by one, under a shared lock ([`Repository::forget`]); what they referred to stays until a prune.
//!
//! It runs beside everything that a shared lock allows: an export whose parent is forgotten has read that snapshot's list already or
//! reads the volume whole; a restore has its list; a prune in its planning keeps more than it must. A crash, or a cancellation, between
//! two deletes leaves fewer snapshots forgotten, and the same command goes on where it ended.
//!
//! **Never**: a group is never emptied by a policy ([`ForgetError::NothingKept`]: a tag was misspelt); nothing goes without a policy or
//! a name; a snapshot whose time cannot be read is kept, since no rule can be applied to it.

mod group;
mod period;
mod policy;
mod time;

use tokio_util::sync::CancellationToken;

use super::error::RepositoryError;
use super::id::Id;
use super::lock::LockGuard;
use super::open::Repository;
use super::snapshot::StoredSnapshot;
use crate::types::Timestamp;

pub use group::{Filter, Group, GroupBy, TagList};
pub use period::{Period, Span};
pub use policy::{Count, Kept, Policy, Verdict};

/// Why no decision was made. Nothing was deleted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ForgetError {
    /// Without a policy, all snapshots would go.
    #[error("no policy was given, so nothing is forgotten")]
    NoPolicy,
    /// A policy that keeps nothing of a group is taken for a mistake.
    #[error("the policy would keep no snapshot of {0}")]
    NothingKept(Group),
}

/// Decides what the policy keeps of each group of the `snapshots` that match, as of `now`. Groups come in order of their names.
pub fn plan(
    snapshots: Vec<StoredSnapshot>,
    filter: &Filter,
    group_by: GroupBy,
    policy: &Policy,
    now: Timestamp,
) -> Result<Vec<(Group, Verdict)>, ForgetError> {
    if policy.is_empty() {
        return Err(ForgetError::NoPolicy);
    }
    let matching = snapshots.into_iter().filter(|stored| filter.matches(&stored.snapshot));
    let groups = group::divide(matching, group_by).into_iter().map(|(group, snapshots)| {
        let verdict = policy.apply(snapshots, now);
        if verdict.keep.is_empty() { Err(ForgetError::NothingKept(group)) } else { Ok((group, verdict)) }
    });
    groups.collect()
}

impl Repository {
    /// Forgets each of these snapshots; returns those that it came to before `cancel` was cancelled, which is looked at between two.
    ///
    /// # Errors
    /// The snapshots before the one that failed are then forgotten.
    pub async fn forget_all(&self, ids: &[Id], lock: &LockGuard, cancel: &CancellationToken) -> Result<Vec<Id>, RepositoryError> {
        let mut forgotten = Vec::new();
        for id in ids {
            if cancel.is_cancelled() {
                break;
            }
            self.forget(id, lock).await?;
            forgotten.push(*id);
        }
        Ok(forgotten)
    }
}
