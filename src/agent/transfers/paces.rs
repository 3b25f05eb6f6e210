//! Who shares a line to a store: the exports to one repository whose classes say the same bandwidth.
//!
//! A class says how much of a site's uplink its exports may take, and a node runs several of them at once: each by itself would take as
//! many times of it. Classes with different figures do not share, since neither says what the other may take; nor do repositories,
//! since they may lie behind different lines. So what a node sends at most is the sum of what its classes say for each repository.
//!
//! Nothing is kept of a line that no transfer uses.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::repository::{Id, Pace};
use crate::types::Bandwidth;

/// The lines that transfers use. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(in crate::agent) struct Paces(Arc<Mutex<Lines>>);

/// By the repository that they lead to, and what they let through.
type Lines = HashMap<(Id, Bandwidth), Weak<Pace>>;

impl Paces {
    /// The line of that bandwidth to a repository.
    pub(in crate::agent) fn line(&self, repository: Id, bandwidth: Bandwidth) -> Arc<Pace> {
        // Changed by one insertion or removal at a time: a panic elsewhere leaves the map whole.
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.retain(|_, line| line.strong_count() > 0);
        if let Some(line) = lines.get(&(repository, bandwidth)).and_then(Weak::upgrade) {
            return line;
        }
        let line = Arc::new(Pace::new(bandwidth));
        lines.insert((repository, bandwidth), Arc::downgrade(&line));
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_figure_to_the_same_repository_is_one_line_while_anybody_uses_it() {
        let paces = Paces::default();
        let (slow, fast) = (Bandwidth::new(1 << 20).unwrap(), Bandwidth::new(2 << 20).unwrap());
        let (here, there) = (Id::of(b"here"), Id::of(b"there"));
        let line = paces.line(here, slow);
        assert!(Arc::ptr_eq(&line, &paces.clone().line(here, slow)));
        assert!(!Arc::ptr_eq(&line, &paces.line(here, fast)) && !Arc::ptr_eq(&line, &paces.line(there, slow)));
        drop(line);
        let _other = paces.line(there, fast);
        assert_eq!(paces.0.lock().unwrap().len(), 1);
    }
}
