//! Walks over one tree: all its leaves, or the one of a key.

use super::batch::{Batch, LEAVES};
use super::blocks::MetadataBlock;
use super::check::{NODE_SEED, verify};
use super::cursor::Cursor;
use super::error::MetadataError;
use super::node::{Node, ValueSize};
use super::reader::Reader;

/// Shows every leaf of a tree whose keys are all below `high`, in the order of the keys.
pub(super) fn each_leaf<E: From<MetadataError>>(
    reader: &mut Reader<'_>,
    root: MetadataBlock,
    value_size: ValueSize,
    high: u64,
    visit: &mut dyn FnMut(Node<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let mut cursor = Cursor::open(reader, root, value_size, high)?;
    let mut batch = Batch::new(LEAVES);
    loop {
        while let Some(place) = cursor.current()
            && !batch.is_full()
        {
            if place.level > 0 {
                cursor.descend(reader)?;
            } else {
                batch.push(place);
                cursor.step(reader)?;
            }
        }
        batch.load(reader, value_size)?;
        batch.nodes().try_for_each(|(_, node)| visit(node))?;
        if cursor.current().is_none() {
            return Ok(());
        }
        batch.clear();
    }
}

/// What `take` makes of the entry with this key; nothing when there is none.
pub(super) fn lookup<T>(
    reader: &mut Reader<'_>,
    root: MetadataBlock,
    value_size: ValueSize,
    high: u64,
    key: u64,
    take: impl FnOnce(&Node<'_>, usize) -> T,
) -> Result<Option<T>, MetadataError> {
    let mut cursor = Cursor::open(reader, root, value_size, high)?;
    while cursor.current().is_some_and(|place| place.level > 0) {
        cursor.descend_towards(reader, key)?;
    }
    let Some(place) = cursor.current() else { return Ok(None) };
    let bytes = reader.single(place.block)?;
    verify(bytes, NODE_SEED, place.block)?;
    let node = Node::check(bytes, place, value_size)?;
    Ok(node.find(key).filter(|&index| node.key(index) == key).map(|index| take(&node, index)))
}
