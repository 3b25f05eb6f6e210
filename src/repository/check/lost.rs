//! Packs and blobs of a repository that do not read.

use std::collections::HashSet;

use crate::repository::blob::BlobLocation;
use crate::repository::id::Id;

/// Most blobs that are remembered one by one, 64 bytes each.
const MAX_LOST_BLOBS: usize = 200_000;

/// Packs and blobs that do not read.
#[derive(Default)]
pub(super) struct Lost {
    /// Packs that are lost as a whole.
    pub(super) packs: HashSet<Id>,
    /// Single blobs, each with the pack that it lies in.
    blobs: HashSet<(Id, Id)>,
}

impl Lost {
    /// Adds blobs of `pack`. When there are too many to remember, the whole pack counts as lost.
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
