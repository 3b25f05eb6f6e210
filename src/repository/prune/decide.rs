//! Decides what becomes of each pack, given what is needed of it. Does no I/O.
//!
//! The rules are restic's. A pack of which nothing is needed goes. One that is needed whole stays, unless it is small and ten others are,
//! which then become few. Of the others, those with the largest unneeded share are repacked until what stays unneeded is little enough;
//! packs of trees, and those that mix trees with data, always.
//!
//! A pack that was found damaged keeps nothing that another pack has. What only it has may be lost or not: it stays as it is.

use std::cmp::Reverse;

use crate::repository::blob::BlobKind;
use crate::repository::id::Id;
use crate::repository::pack::expected_bytes;

use super::row::BlobCopy;

/// Bytes of the packs that a repack makes, as restic's.
pub(super) const PACK_BYTES: u64 = 16 << 20;
/// Smallest size that counts as a pack's usual one, as restic has it.
const MIN_PACK_BYTES: u64 = 4 << 20;
/// How many small packs there must be to be worth the trouble; fewer are left by any repack.
const MANY: usize = 10;
/// Longest blob, plain or sealed, that is moved, since it is in memory then. What is needed of a pack with a longer one stays where it is:
/// only trees of volumes of many TiB are as long, and they have packs of their own.
pub(super) const LONGEST_MOVED_BYTES: u32 = 64 << 20;

/// How much that no snapshot needs may stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaxUnused {
    /// So many hundredths of the repository.
    Percent(u8),
    Bytes(u64),
    /// Any amount: only packs of which nothing is needed go.
    Unlimited,
}

impl Default for MaxUnused {
    /// restic's default.
    fn default() -> Self {
        Self::Percent(5)
    }
}

impl MaxUnused {
    fn bytes(self, used: u64) -> u64 {
        match self {
            Self::Percent(share @ ..100) => (u128::from(used) * u128::from(share) / u128::from(100 - share)) as u64,
            Self::Bytes(bytes) => bytes,
            Self::Percent(_) | Self::Unlimited => u64::MAX,
        }
    }
}

/// What becomes of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Keep,
    /// What is needed of the pack is copied, then it goes.
    Repack,
    Remove,
}

/// A pack that index files name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pack {
    pub(super) id: Id,
    /// Bytes that the pack has, if it exists.
    pub(super) stored: Option<u64>,
    /// Bytes that the pack must have.
    pub(super) expected: u64,
    /// The pack was found damaged, at least in part.
    pub(super) is_doubted: bool,
    /// Longest blob in it, plain or sealed.
    pub(super) longest: u32,
    has_data: bool,
    has_trees: bool,
    /// Bytes of blobs that are needed and have no other copy.
    pub(super) only_here: u64,
    /// Bytes of blobs that are needed and have other copies.
    pub(super) duplicate: u64,
    /// Bytes of blobs that no snapshot needs.
    pub(super) unneeded: u64,
    /// Those of `duplicate` that this pack keeps for all.
    pub(super) chosen: u64,
    pub(super) action: Action,
}

impl Pack {
    pub(super) fn new(id: Id, stored: Option<u64>) -> Self {
        Self {
            id,
            stored,
            is_doubted: false,
            expected: expected_bytes(std::iter::empty()),
            longest: 0,
            has_data: false,
            has_trees: false,
            only_here: 0,
            duplicate: 0,
            unneeded: 0,
            chosen: 0,
            action: Action::Keep,
        }
    }

    pub(super) fn add(&mut self, copy: &BlobCopy) {
        let one = expected_bytes(std::iter::once((copy.location.length, copy.location.uncompressed_length)));
        self.expected += one - expected_bytes(std::iter::empty());
        self.longest = self.longest.max(copy.location.length).max(copy.location.plain_length());
        match copy.kind {
            BlobKind::Data => self.has_data = true,
            BlobKind::Tree => self.has_trees = true,
        }
    }

    /// True when the pack exists and is as long as it must be.
    pub(super) fn is_whole(&self) -> bool {
        self.stored == Some(self.expected)
    }

    /// Of the packs that a blob lies in, the one with the smallest rank keeps it. Sound packs come first; then those without a blob that
    /// is not needed, so that what an interrupted prune has repacked already is not repacked again; then those that must keep the most.
    pub(super) fn rank(&self) -> (bool, bool, Reverse<u64>, Reverse<u64>, Id) {
        (self.is_doubted, self.unneeded > 0, Reverse(self.only_here), Reverse(self.duplicate), self.id)
    }

    /// Bytes of blobs that must stay.
    pub(super) fn used(&self) -> u64 {
        self.only_here + self.chosen
    }

    /// Bytes of blobs that need not stay.
    pub(super) fn unused(&self) -> u64 {
        self.unneeded + self.duplicate - self.chosen
    }
}

/// The size below which a pack is small: four fifths of what nearly all packs have, as in restic, but never so much that those made here
/// would be small.
fn small_bytes(packs: &[Pack]) -> u64 {
    let mut sizes: Vec<_> = packs.iter().filter(|pack| pack.is_whole()).map(|pack| pack.expected).collect();
    sizes.sort_unstable();
    let usual = sizes.get(sizes.len() * 3 / 100).copied().unwrap_or_default();
    usual.clamp(MIN_PACK_BYTES, PACK_BYTES) * 4 / 5
}

/// Sets the action of each pack.
pub(super) fn decide(packs: &mut [Pack], max_unused: MaxUnused) {
    let small = small_bytes(packs);
    let is_small = |pack: &Pack| pack.expected < small;
    let (mut candidates, mut small_ones) = (Vec::new(), Vec::new());
    let (mut used, mut unused) = (0, 0);
    for (number, pack) in packs.iter_mut().enumerate() {
        pack.action = Action::Keep;
        // Nothing is needed of a pack that is not whole: what it should hold is elsewhere, or there is no plan.
        if pack.used() == 0 || !pack.is_whole() {
            pack.action = Action::Remove;
            continue;
        }
        used += pack.used();
        if pack.is_doubted {
            continue;
        }
        unused += pack.unused();
        let is_mixed = pack.has_data && pack.has_trees;
        if pack.longest > LONGEST_MOVED_BYTES || (pack.unused() == 0 && !is_mixed && !is_small(pack)) {
            continue;
        }
        if pack.unused() == 0 && !is_mixed { small_ones.push(number) } else { candidates.push(number) }
    }
    // What is copied of the others ends in one more of each kind.
    if small_ones.len() + 2 * usize::from(!candidates.is_empty()) >= MANY {
        candidates.extend(small_ones);
    }
    // Trees before data, small before large, then those that free the most for what must be copied.
    candidates.sort_by(|a, b| {
        let (a, b) = (&packs[*a], &packs[*b]);
        let rest = u128::from(b.unused()) * u128::from(a.used());
        let freed = u128::from(a.unused()) * u128::from(b.used());
        (!a.has_trees, !is_small(a)).cmp(&(!b.has_trees, !is_small(b))).then(rest.cmp(&freed)).then(a.id.cmp(&b.id))
    });
    let may_stay = max_unused.bytes(used);
    for number in candidates {
        let pack = &mut packs[number];
        if pack.has_trees || is_small(pack) || unused > may_stay {
            pack.action = Action::Repack;
            unused -= pack.unused();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pack(number: u64, kind: BlobKind, only_here: u64, unneeded: u64) -> Pack {
        let mut pack = Pack::new(Id::of(&number.to_le_bytes()), None);
        (pack.has_data, pack.has_trees) = (kind == BlobKind::Data, kind == BlobKind::Tree);
        (pack.only_here, pack.unneeded) = (only_here, unneeded);
        pack.expected += only_here + unneeded;
        pack.stored = Some(pack.expected);
        pack
    }

    fn packs() -> impl Strategy<Value = Vec<Pack>> {
        let sizes = (0_u64..20 << 20, 0_u64..20 << 20, any::<bool>(), 0_u8..4);
        prop::collection::vec(sizes, 0..60).prop_map(|sizes| {
            let made = sizes.into_iter().zip(0..).map(|((used, unneeded, tree, shape), number)| {
                let kind = if tree { BlobKind::Tree } else { BlobKind::Data };
                let (used, unneeded) = [(used, unneeded), (used, 0), (0, unneeded), (used / 100, 0)][usize::from(shape)];
                pack(number, kind, used, unneeded)
            });
            made.collect()
        })
    }

    proptest! {
        #[test]
        fn what_is_needed_never_goes_and_little_that_is_not_stays(mut packs in packs(), percent in 0_u8..=100) {
            let max = MaxUnused::Percent(percent);
            decide(&mut packs, max);
            let kept = || packs.iter().filter(|pack| pack.action == Action::Keep);
            prop_assert!(packs.iter().all(|pack| pack.action != Action::Remove || pack.used() == 0));
            let used: u64 = packs.iter().map(Pack::used).sum();
            prop_assert!(kept().map(Pack::unused).sum::<u64>() <= max.bytes(used));
            prop_assert!(kept().filter(|pack| pack.has_trees).all(|pack| pack.unused() == 0));
            let small = small_bytes(&packs);
            prop_assert!(kept().filter(|pack| pack.expected < small).count() < MANY);
        }

        #[test]
        fn what_a_prune_made_the_next_leaves_alone(mut packs in packs()) {
            decide(&mut packs, MaxUnused::default());
            let moved = |kind| {
                let repacked = packs.iter().filter(move |pack| pack.action == Action::Repack && pack.has_trees == (kind == BlobKind::Tree));
                repacked.map(Pack::used).sum::<u64>()
            };
            let mut after: Vec<_> = packs.iter().filter(|pack| pack.action == Action::Keep).cloned().collect();
            for (kind, number) in [(BlobKind::Data, 1000), (BlobKind::Tree, 2000)] {
                let bytes = moved(kind);
                after.extend((0..bytes / PACK_BYTES).map(|more| pack(number + more, kind, PACK_BYTES, 0)));
                after.push(pack(number - 1, kind, (bytes % PACK_BYTES).max(1), 0));
            }
            decide(&mut after, MaxUnused::default());
            let again: u64 = after.iter().filter(|pack| pack.action != Action::Keep).map(|pack| pack.expected).sum();
            // At most the small ones that were too few for it before.
            prop_assert!(again <= MANY as u64 * PACK_BYTES, "{again} bytes moved again");
        }
    }

    #[test]
    fn shares_are_of_the_whole() {
        assert_eq!(MaxUnused::Percent(5).bytes(95), 5);
        assert_eq!((MaxUnused::Percent(0).bytes(95), MaxUnused::Bytes(7).bytes(95)), (0, 7));
        assert_eq!((MaxUnused::Percent(100).bytes(1), MaxUnused::Unlimited.bytes(1)), (u64::MAX, u64::MAX));
    }

    #[test]
    fn a_doubted_pack_stays_as_long_as_something_is_only_there() {
        let doubted = |only_here| Pack { is_doubted: true, ..pack(1, BlobKind::Tree, only_here, 1 << 20) };
        let mut packs = vec![doubted(1 << 20), doubted(0)];
        decide(&mut packs, MaxUnused::Percent(0));
        assert_eq!(packs.iter().map(|pack| pack.action).collect::<Vec<_>>(), [Action::Keep, Action::Remove]);
        assert!(pack(2, BlobKind::Data, 0, 1).rank() < packs[0].rank());
    }

    #[test]
    fn a_pack_with_a_blob_too_long_to_be_moved_stays() {
        let mut long = pack(1, BlobKind::Tree, 1 << 20, 1 << 20);
        long.longest = LONGEST_MOVED_BYTES + 1;
        let mut packs = vec![long, pack(2, BlobKind::Tree, 1 << 20, 1 << 20)];
        decide(&mut packs, MaxUnused::default());
        assert_eq!(packs.iter().map(|pack| pack.action).collect::<Vec<_>>(), [Action::Keep, Action::Repack]);
    }
}
