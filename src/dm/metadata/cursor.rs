//! A cursor over the inner nodes of one tree: which leaves there are, in order, without reading them.
//!
//! It stands on one node at a time, the root at first, and is moved by its user: down to the node's first child, or on to what
//! follows, past everything below. Opening it finds the height of the tree on the way to its first leaf; from then on every node is
//! demanded to be a leaf exactly where its height says so, which makes a cycle impossible.

use super::blocks::{BLOCK_BYTES, MetadataBlock};
use super::check::{NODE_SEED, verify};
use super::damage::Damage;
use super::error::ThinMetadataError;
use super::node::{NUMBER, Node, Place, is_leaf};
use super::reader::{Reader, whole};
use crate::block::AlignedBuffer;

/// Most inner nodes above a leaf. The kernel keeps nodes a third full, of 252 entries: with 84 a node, four levels reach more blocks than
/// metadata can have. Deletions may leave nodes with fewer for a while, hence the multiple.
const MAX_HEIGHT: u8 = 16;

/// An inner node on the way to where the cursor stands.
struct Frame {
    buffer: AlignedBuffer,
    /// What was read into the buffer, and passed its checks.
    place: Place,
    position: usize,
}

/// A position in a tree.
pub(super) struct Cursor {
    current: Option<Place>,
    frames: Vec<Frame>,
    /// Frames that are above the current position; those beyond keep their memory for later.
    depth: usize,
}

impl Cursor {
    /// Stands on the root of a tree whose keys are all below `high`.
    pub(super) fn open(reader: &mut Reader<'_>, root: MetadataBlock, high: u64) -> Result<Self, ThinMetadataError> {
        let mut frames = Vec::new();
        let mut place = Place { block: root, root, level: 1, low: 0, high };
        loop {
            let bytes = reader.single(place.block)?;
            verify(bytes, NODE_SEED, place.block)?;
            if is_leaf(bytes, place)? {
                break;
            }
            if frames.len() >= usize::from(MAX_HEIGHT) {
                return Err(ThinMetadataError::damaged(root, Damage::TooHigh));
            }
            Node::<NUMBER>::check(bytes, place)?;
            let mut buffer = AlignedBuffer::zeroed(BLOCK_BYTES);
            buffer.copy_from_slice(bytes);
            let frame = Frame { buffer, place, position: 0 };
            place = Place { level: 1, ..frame.child(reader)? };
            frames.push(frame);
        }
        let mut level = u8::try_from(frames.len()).unwrap_or(MAX_HEIGHT);
        let current = Some(Place { block: root, root, level, low: 0, high });
        for frame in &mut frames {
            frame.place.level = level;
            level -= 1;
        }
        Ok(Self { current, frames, depth: 0 })
    }

    /// The node it stands on; nothing at the end.
    pub(super) const fn current(&self) -> Option<Place> {
        self.current
    }

    /// Nodes above the one it stands on.
    pub(super) const fn depth(&self) -> usize {
        self.depth
    }

    /// Goes to the first child of the node it stands on, which is no leaf.
    pub(super) fn descend(&mut self, reader: &Reader<'_>) -> Result<(), ThinMetadataError> {
        let Some(place) = self.current else { return Ok(()) };
        match self.frames.get_mut(self.depth) {
            Some(frame) if frame.place == place => frame.position = 0,
            Some(frame) => frame.load(reader, place)?,
            None => {
                let mut frame = Frame { buffer: AlignedBuffer::zeroed(BLOCK_BYTES), place, position: 0 };
                frame.load(reader, place)?;
                self.frames.push(frame);
            }
        }
        self.depth += 1;
        self.arrive(reader)
    }

    /// Goes to the child of the node it stands on that has the key if any has.
    pub(super) fn descend_towards(&mut self, reader: &Reader<'_>, key: u64) -> Result<(), ThinMetadataError> {
        self.descend(reader)?;
        if let Some(frame) = self.depth.checked_sub(1).and_then(|above| self.frames.get_mut(above)) {
            frame.position = frame.node().find(key).unwrap_or(0);
        }
        self.arrive(reader)
    }

    /// Goes on to the node that follows everything below the one it stands on.
    pub(super) fn step(&mut self, reader: &Reader<'_>) -> Result<(), ThinMetadataError> {
        while let Some(frame) = self.depth.checked_sub(1).and_then(|above| self.frames.get_mut(above)) {
            frame.position += 1;
            if frame.position < frame.node().count() {
                return self.arrive(reader);
            }
            self.depth -= 1;
        }
        self.current = None;
        Ok(())
    }

    fn arrive(&mut self, reader: &Reader<'_>) -> Result<(), ThinMetadataError> {
        self.current = match self.depth.checked_sub(1).and_then(|above| self.frames.get(above)) {
            Some(frame) => Some(frame.child(reader)?),
            None => None,
        };
        Ok(())
    }
}

impl Frame {
    fn load(&mut self, reader: &Reader<'_>, place: Place) -> Result<(), ThinMetadataError> {
        // An error ends the cursor's use: what is half read here is not looked at again.
        reader.fill(place.block, &mut self.buffer)?;
        verify(whole(&self.buffer), NODE_SEED, place.block)?;
        Node::<NUMBER>::check(whole(&self.buffer), place)?;
        (self.place, self.position) = (place, 0);
        Ok(())
    }

    fn node(&self) -> Node<'_, NUMBER> {
        Node::of(whole(&self.buffer))
    }

    /// The child at the position.
    fn child(&self, reader: &Reader<'_>) -> Result<Place, ThinMetadataError> {
        let node = self.node();
        let next = self.position + 1;
        Ok(Place {
            block: reader.pointer(self.place.block, node.number(self.position))?,
            level: self.place.level - 1,
            root: self.place.root,
            low: node.key(self.position),
            high: if next < node.count() { node.key(next) } else { self.place.high },
        })
    }
}
