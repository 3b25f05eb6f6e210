//! The difference of two trees of mappings, without what they share.
//!
//! Two cursors go through the inner nodes in the order of their keys. Where both stand on the same block, whatever is below is the same
//! in both, and they step over it. Otherwise the one that is behind goes on: down, or past a leaf, which is noted. That a subtree is
//! found to be shared is a matter of cost only: one that is not steps down on both sides, and its mappings turn out to be equal.
//!
//! When enough leaves are noted they are read, those of both trees in one batch, and their mappings compared up to where the cursors
//! stand: below the lower of the two, no leaf of either tree is left out. At most the last leaf of each tree
//! reaches beyond; it is carried over into the next batch.

use super::batch::{Batch, LEAVES};
use super::blocks::{BLOCK_BYTES, MetadataBlock};
use super::cursor::Cursor;
use super::damage::Damage;
use super::error::ThinMetadataError;
use super::node::{NUMBER, Node, TIME_BITS};
use super::reader::Reader;
use super::run::{BlockRun, Runs};

/// Passes on the runs of virtual blocks that are mapped in one of the trees only, or to different data blocks.
pub(super) fn difference<E: From<ThinMetadataError>>(
    reader: &mut Reader<'_>,
    roots: [MetadataBlock; 2],
    high: u64,
    sink: &mut dyn FnMut(BlockRun) -> Result<(), E>,
) -> Result<(), E> {
    if roots[0] == roots[1] {
        return Ok(());
    }
    let mut one = Side::open(reader, roots[0], high)?;
    let mut other = Side::open(reader, roots[1], high)?;
    let mut batch = Batch::new(2 * LEAVES);
    let mut runs = Runs::new(sink);
    loop {
        note_leaves(reader, &mut one, &mut other, &mut batch)?;
        batch.load::<NUMBER>(reader)?;
        let end = match (one.cursor.current(), other.cursor.current()) {
            (None, None) => None,
            (place, None) | (None, place) => place.map(|place| place.low),
            (Some(place), Some(beside)) => Some(place.low.min(beside.low)),
        };
        // No key is as high as that.
        let limit = end.unwrap_or(u64::MAX);
        compare(one.entries(&batch, limit), other.entries(&batch, limit), &mut runs)?;
        if end.is_none() {
            return runs.finish();
        }
        one.carry(&batch, limit);
        other.carry(&batch, limit);
        batch.clear();
    }
}

/// Moves the cursors on until enough leaves are noted, or both are at the end.
fn note_leaves(reader: &Reader<'_>, one: &mut Side, other: &mut Side, batch: &mut Batch) -> Result<(), ThinMetadataError> {
    while !batch.is_full() {
        match (one.cursor.current(), other.cursor.current()) {
            (None, None) => break,
            (Some(_), None) => one.advance(reader, batch)?,
            (None, Some(_)) => other.advance(reader, batch)?,
            (Some(place), Some(beside)) => {
                if place.block == beside.block {
                    if place.level != beside.level {
                        return Err(ThinMetadataError::damaged(place.block, Damage::TwoHeights));
                    }
                    one.cursor.step(reader)?;
                    other.cursor.step(reader)?;
                } else if (place.low, beside.level) <= (beside.low, place.level) {
                    one.advance(reader, batch)?;
                } else {
                    other.advance(reader, batch)?;
                }
            }
        }
    }
    Ok(())
}

/// One of the two trees.
struct Side {
    cursor: Cursor,
    /// Numbers of its leaves in the batch.
    noted: Vec<usize>,
    /// A leaf of an earlier batch, and which of its entries is the first that was not compared.
    carried: Box<[u8; BLOCK_BYTES]>,
    position: Option<usize>,
}

impl Side {
    fn open(reader: &mut Reader<'_>, root: MetadataBlock, high: u64) -> Result<Self, ThinMetadataError> {
        let cursor = Cursor::open(reader, root, high)?;
        Ok(Self { cursor, noted: Vec::with_capacity(2 * LEAVES), carried: Box::new([0; BLOCK_BYTES]), position: None })
    }

    /// Down from an inner node, past a leaf.
    fn advance(&mut self, reader: &Reader<'_>, batch: &mut Batch) -> Result<(), ThinMetadataError> {
        match self.cursor.current() {
            Some(place) if place.level == 0 => {
                self.noted.push(batch.len());
                batch.push(place);
                self.cursor.step(reader)
            }
            _ => self.cursor.descend(reader),
        }
    }

    /// The entries below `end` that were not compared yet.
    fn entries<'b>(&'b self, batch: &'b Batch, end: u64) -> Entries<'b, impl Iterator<Item = Node<'b, NUMBER>>> {
        let carried = self.position.map(|position| Node::of(&self.carried).without_first(position));
        let leaves = carried.into_iter().chain(self.noted.iter().map(|&number| Node::of(batch.bytes(number))));
        Entries { leaves, keys: &[], values: &[], end }
    }

    /// Keeps the leaf that has entries from `end` on, if one has.
    fn carry(&mut self, batch: &Batch, end: u64) {
        if let Some(&last) = self.noted.last() {
            self.carried.copy_from_slice(batch.bytes(last));
            self.position = Some(0);
        }
        self.noted.clear();
        let node = Node::<NUMBER>::of(&self.carried);
        self.position = self.position.map(|_| node.count_below(end)).filter(|&position| position < node.count());
    }
}

/// Entries of one tree, in ascending order; those of one leaf at a time lie in memory beside each other.
struct Entries<'b, L> {
    leaves: L,
    keys: &'b [[u8; 8]],
    values: &'b [[u8; 8]],
    end: u64,
}

impl<'b, L: Iterator<Item = Node<'b, NUMBER>>> Entries<'b, L> {
    /// Whether there are any; afterwards `keys` and `values` hold the next.
    fn refill(&mut self) -> bool {
        while self.keys.is_empty() {
            let Some(node) = self.leaves.next() else { return false };
            let count = node.count_below(self.end);
            (self.keys, self.values) = (&node.keys()[..count], &node.values()[..count]);
        }
        true
    }

    fn skip(&mut self, count: usize) {
        (self.keys, self.values) = (&self.keys[count..], &self.values[count..]);
    }
}

/// Passes on what differs between two lists of entries.
fn compare<'b, E>(
    mut one: Entries<'b, impl Iterator<Item = Node<'b, NUMBER>>>,
    mut other: Entries<'b, impl Iterator<Item = Node<'b, NUMBER>>>,
    runs: &mut Runs<'_, E>,
) -> Result<(), E> {
    loop {
        match (one.refill(), other.refill()) {
            (false, false) => return Ok(()),
            (true, false) => take_all(&mut one, runs)?,
            (false, true) => take_all(&mut other, runs)?,
            (true, true) => {
                let mut same = 0;
                for (((key, beside), value), against) in one.keys.iter().zip(other.keys).zip(one.values).zip(other.values) {
                    if key != beside {
                        break;
                    }
                    if (u64::from_le_bytes(*value) ^ u64::from_le_bytes(*against)) >> TIME_BITS != 0 {
                        runs.push(u64::from_le_bytes(*key))?;
                    }
                    same += 1;
                }
                one.skip(same);
                other.skip(same);
                if let (Some(key), Some(beside)) = (one.keys.first(), other.keys.first()) {
                    let (key, beside) = (u64::from_le_bytes(*key), u64::from_le_bytes(*beside));
                    runs.push(key.min(beside))?;
                    if key < beside { one.skip(1) } else { other.skip(1) }
                }
            }
        }
    }
}

/// Passes on all entries that one side has left of a leaf.
fn take_all<'b, E>(entries: &mut Entries<'b, impl Iterator<Item = Node<'b, NUMBER>>>, runs: &mut Runs<'_, E>) -> Result<(), E> {
    for key in entries.keys {
        runs.push(u64::from_le_bytes(*key))?;
    }
    entries.skip(entries.keys.len());
    Ok(())
}
