//! Who may connect to a socket beyond what the mode of its file says, by what the kernel says of the peer (SO_PEERCRED).
//!
//! The mode lets in whoever is in the socket's group. That the client is the one process that the group was made for is a second look: its user.
//! A client that may not connect is closed before a byte of it was read, and each user is told of once, a few users at most: a hostile
//! client that connects again and again fills no log.

use std::collections::BTreeSet;

use nix::unistd::Uid;
use tokio::net::UnixStream;

/// Users of which a line is logged.
const TOLD: usize = 64;

/// Which users may connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PeerRule {
    /// Whoever the mode of the socket's file lets in.
    #[default]
    ByMode,
    /// This user, and root.
    UserOrRoot(Uid),
}

impl PeerRule {
    fn admits(self, user: Uid) -> bool {
        match self {
            Self::ByMode => true,
            Self::UserOrRoot(admitted) => user == admitted || user.is_root(),
        }
    }
}

/// Looks at each client that connects to a socket.
#[derive(Debug)]
pub struct PeerCheck {
    rule: PeerRule,
    told: BTreeSet<u32>,
}

impl PeerCheck {
    /// A check by this rule, of which nothing was told yet.
    pub fn new(rule: PeerRule) -> Self {
        Self { rule, told: BTreeSet::new() }
    }

    /// Whether the client at the other end may stay.
    pub fn admits(&mut self, client: &UnixStream) -> bool {
        if self.rule == PeerRule::ByMode {
            return true;
        }
        let user = match client.peer_cred() {
            Ok(credentials) => Uid::from_raw(credentials.uid()),
            Err(error) => {
                tracing::warn!(%error, "a client was turned away: the kernel does not say who it is");
                return false;
            }
        };
        if self.rule.admits(user) {
            return true;
        }
        if self.is_news(user) {
            tracing::warn!(%user, "clients of this user are turned away: the socket is another user's");
        }
        false
    }

    /// Whether a line is to be logged of this user.
    fn is_news(&mut self, user: Uid) -> bool {
        self.told.len() < TOLD && self.told.insert(user.as_raw())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_user_that_was_named_and_root_may_connect() {
        let rule = PeerRule::UserOrRoot(Uid::from_raw(1000));
        let admitted = [0, 999, 1000, 1001].map(|user| rule.admits(Uid::from_raw(user)));
        assert_eq!(admitted, [true, false, true, false]);
        assert!(PeerRule::ByMode.admits(Uid::from_raw(1001)));
    }

    #[test]
    fn each_user_is_told_of_once_and_not_without_end() {
        let mut check = PeerCheck::new(PeerRule::UserOrRoot(Uid::from_raw(1000)));
        let told = (0..2).flat_map(|_| 2000..3000).filter(|&user| check.is_news(Uid::from_raw(user))).count();
        assert_eq!(told, TOLD);
    }
}
