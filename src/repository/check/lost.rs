//! What of a repository does not read.

use std::collections::HashSet;

use crate::repository::blob::BlobLocation;
use crate::repository::id::Id;

/// Blobs that do not read of which each is known, 64 bytes each.
const MAX_LOST_BLOBS: usize = 200_000;

/// What does not read.
#[derive(Default)]
pub(super) struct Lost {
    /// Packs, with all that is in them.
    pub(super) packs: HashSet<Id>,
    /// Blobs, by the pack they lie in.
    blobs: HashSet<(Id, Id)>,
}

impl Lost {
    /// The blobs of `pack` do not read. Of so many that they would not fit the memory, the whole pack counts as lost.
    pub(super) fn add(&mut self, pack: Id, blobs: Vec<Id>) {
        if self.blobs.len() + blobs.len() > MAX_LOST_BLOBS {
            self.packs.insert(pack);
        } else {
            self.blobs.extend(blobs.into_iter().map(|blob| (pack, blob)));
        }
    }

    pub(super) fn has(&self, blob: &Id, location: &BlobLocation) -> bool {
        self.packs.contains(&location.pack) || self.blobs.contains(&(location.pack, *blob))
    }
}
