//! Walks over one tree: all its leaves, or the one of a key.

use super::batch::{Batch, LEAVES};
use super::blocks::MetadataBlock;
use super::check::{NODE_SEED, verify};
use super::cursor::Cursor;
use super::error::ThinMetadataError;
use super::node::Node;
use super::reader::Reader;

/// Shows every leaf of a tree whose keys are all below `high`, in the order of the keys.
pub(super) fn each_leaf<const VALUE: usize, E: From<ThinMetadataError>>(
    reader: &mut Reader<'_>,
    root: MetadataBlock,
    high: u64,
    visit: &mut dyn FnMut(Node<'_, VALUE>) -> Result<(), E>,
) -> Result<(), E> {
    let mut cursor = Cursor::open(reader, root, high)?;
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
        batch.load::<VALUE>(reader)?;
        batch.nodes().try_for_each(|(_, node)| visit(node))?;
        if cursor.current().is_none() {
            return Ok(());
        }
        batch.clear();
    }
}

/// The value that a tree, whose keys are all below `high`, has for this key.
pub(super) fn lookup<const VALUE: usize>(
    reader: &mut Reader<'_>,
    root: MetadataBlock,
    high: u64,
    key: u64,
) -> Result<Option<[u8; VALUE]>, ThinMetadataError> {
    let mut cursor = Cursor::open(reader, root, high)?;
    while cursor.current().is_some_and(|place| place.level > 0) {
        cursor.descend_towards(reader, key)?;
    }
    let Some(place) = cursor.current() else { return Ok(None) };
    let bytes = reader.single(place.block)?;
    verify(bytes, NODE_SEED, place.block)?;
    let node = Node::check(bytes, place)?;
    Ok(node.find(key).filter(|&index| node.key(index) == key).map(|index| node.values()[index]))
}
