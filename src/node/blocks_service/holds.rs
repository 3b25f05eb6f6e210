//! How much may be held at once: leases and targets together.
//!
//! An agent runs a few transfers at once, each of which holds one snapshot or one target; [`OF_A_PEER`] leaves room for more. The node pays for each with at most two descriptors (the snapshot's, and a base's while changes are listed; or a
//! target's until it was fetched), a device on thin pools, and a call that is open. [`OF_A_SOCKET`] is twice that, so that an agent that
//! was started anew is served while the node still lets go of what the one before held. 64 times two descriptors leave most of the 512 that
//! are not for connections to the pools themselves.
//!
//! What is held counts until it was let go, however long that takes, so nobody can have more by dropping it and asking again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::peer::Peer;
use crate::blocks::{BlocksError, wire};

/// By one process.
pub(super) const OF_A_PEER: usize = wire::HELD_BY_AN_AGENT;
/// By all.
pub(super) const OF_A_SOCKET: usize = 2 * OF_A_PEER;

/// What is held by whom. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Holds {
    counts: Arc<Mutex<HashMap<Option<Peer>, usize>>>,
}

/// One that is held. It counts until this is dropped.
#[derive(Debug)]
pub(super) struct Hold {
    holds: Holds,
    peer: Option<Peer>,
}

impl Holds {
    /// Room for one more.
    ///
    /// # Errors
    /// [`BlocksError::Unavailable`] when there is none.
    pub(super) fn take(&self, peer: Option<Peer>) -> Result<Hold, BlocksError> {
        let mut counts = self.counts();
        let (own, all) = (counts.get(&peer).copied().unwrap_or_default(), counts.values().sum::<usize>());
        if own >= OF_A_PEER || all >= OF_A_SOCKET {
            let text = format!(
                "{own} snapshots and targets are held, {all} by all agents: more than {OF_A_PEER} or {OF_A_SOCKET} cannot be"
            );
            return Err(BlocksError::Unavailable(text));
        }
        counts.insert(peer, own + 1);
        Ok(Hold { holds: self.clone(), peer })
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<Option<Peer>, usize>> {
        // Numbers go in and out whole.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut counts = self.holds.counts();
        match counts.get_mut(&self.peer) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(counts.remove(&self.peer)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_may_hold_half_and_what_is_dropped_is_free_again() {
        let holds = Holds::default();
        let mut held: Vec<_> = (0..OF_A_PEER).map(|_| holds.take(None).unwrap()).collect();
        assert!(matches!(holds.take(None), Err(BlocksError::Unavailable(_))));
        held.pop();
        held.push(holds.take(None).unwrap());
        drop(held);
        assert!(holds.counts().is_empty());
    }
}
