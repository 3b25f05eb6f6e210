//! Tokens, and the descriptor that each is worth.
//!
//! A token is used once, by the process that it was given to, within [`LIFE`]. What is not so is refused without a word about why; the log says
//! it. A token that another process presents is not used up by that: else a thief could keep its owner from its descriptor.
//!
//! There is one for each that is held, so no more than those; it goes when it was used and when what it is for is let go.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::peer::Peer;
use super::target_file::TargetFile;
use crate::blocks::wire::secret::Secret;
use crate::blocks::{SnapshotLease, descriptor};

/// How long a token is good: twice what an agent may take to connect, to send it and to be answered, each of which it gives up after
/// [`descriptor::WITHIN`]. It begins at once, in the same function that got the token.
pub(super) const LIFE: Duration = Duration::from_secs(2 * 3 * descriptor::WITHIN.as_secs());

/// What is handed out.
#[derive(Clone)]
pub(super) enum Descriptor {
    /// Of a snapshot, for reading.
    Lease(Arc<dyn SnapshotLease>),
    /// Of a target, for writing.
    Target(TargetFile),
}

impl Descriptor {
    /// Sends it.
    ///
    /// # Errors
    /// Whatever the system reports.
    pub(super) fn send(&self, socket: impl AsFd) -> io::Result<()> {
        match self {
            Self::Lease(lease) => descriptor::send(socket, lease.file()),
            Self::Target(file) => file.send(socket),
        }
    }
}

impl fmt::Debug for Descriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lease(_) => "Lease",
            Self::Target(_) => "Target",
        })
    }
}

/// Why a token is worth nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Worthless {
    /// Never given out, used, or taken back.
    Unknown,
    /// Given out too long ago.
    Expired,
    /// Given to another process.
    Stolen,
}

/// The tokens of a node. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Offers {
    by_token: Arc<Mutex<HashMap<Secret, Offer>>>,
}

#[derive(Debug)]
struct Offer {
    descriptor: Descriptor,
    peer: Option<Peer>,
    made: Instant,
}

impl Offers {
    /// Offers a descriptor for `token`, which is new.
    pub(super) fn make(&self, token: Secret, descriptor: Descriptor, peer: Option<Peer>) {
        self.lock().insert(token, Offer { descriptor, peer, made: Instant::now() });
    }

    /// Takes what a token is worth.
    ///
    /// # Errors
    /// [`Worthless`].
    pub(super) fn take(&self, token: &Secret, peer: Option<Peer>, now: Instant) -> Result<Descriptor, Worthless> {
        let mut offers = self.lock();
        let offer = offers.get(token).ok_or(Worthless::Unknown)?;
        if !Peer::may_be(offer.peer, peer) {
            return Err(Worthless::Stolen);
        }
        let is_expired = now.saturating_duration_since(offer.made) > LIFE;
        let offer = offers.remove(token).ok_or(Worthless::Unknown)?;
        drop(offers);
        if is_expired { Err(Worthless::Expired) } else { Ok(offer.descriptor) }
    }

    /// Takes an offer back; the descriptor, if nobody has fetched it.
    pub(super) fn withdraw(&self, token: &Secret) -> Option<Descriptor> {
        self.lock().remove(token).map(|offer| offer.descriptor)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Secret, Offer>> {
        // Offers go in and out whole.
        self.by_token.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(offers: &Offers, peer: Option<Peer>) -> Secret {
        let token = Secret::random().unwrap();
        offers.make(token, Descriptor::Target(TargetFile::new(tempfile::tempfile().unwrap())), peer);
        token
    }

    fn this_process() -> Option<Peer> {
        let (near, _far) = std::os::unix::net::UnixStream::pair().unwrap();
        Peer::connected_to(&near)
    }

    #[test]
    fn a_token_is_used_once_and_not_after_it_was_withdrawn() {
        let (offers, now) = (Offers::default(), Instant::now());
        let token = offer(&offers, None);
        assert!(offers.take(&token, None, now).is_ok());
        assert_eq!(offers.take(&token, None, now).unwrap_err(), Worthless::Unknown);
        let token = offer(&offers, None);
        assert!(offers.withdraw(&token).is_some() && offers.withdraw(&token).is_none());
        assert_eq!(offers.take(&token, None, now).unwrap_err(), Worthless::Unknown);
        assert_eq!(offers.take(&Secret::random().unwrap(), None, now).unwrap_err(), Worthless::Unknown);
    }

    #[test]
    fn a_token_expires_and_is_gone_then() {
        let offers = Offers::default();
        let token = offer(&offers, None);
        assert_eq!(offers.take(&token, None, Instant::now() + LIFE + LIFE).unwrap_err(), Worthless::Expired);
        assert!(offers.lock().is_empty());
        let token = offer(&offers, None);
        assert!(offers.take(&token, None, Instant::now() + LIFE / 2).is_ok());
    }

    #[test]
    fn a_stolen_token_is_refused_and_stays_good_for_its_owner() {
        let (offers, now) = (Offers::default(), Instant::now());
        let owner = this_process();
        let thief = Peer::of_another_process();
        let token = offer(&offers, owner);
        assert_eq!(offers.take(&token, Some(thief), now).unwrap_err(), Worthless::Stolen);
        assert!(offers.take(&token, owner, now).is_ok());
    }
}
