//! The nodes of a tree.

use super::list::IdList;
use crate::repository::id::Id;

/// The kind of a node, with what it holds.
#[derive(Debug, Clone)]
pub enum NodeKind {
    /// A regular file: its blobs in order.
    File(IdList),
    /// A folder: its tree.
    Folder(Id),
    /// Anything else, by its name in the format (`symlink`, `dev`, ...).
    Other(String),
}

/// An entry of a tree.
#[derive(Debug, Clone)]
pub struct Node {
    /// Name within its folder; bytes that are not UTF-8 show as `\xHH`.
    pub name: String,
    /// Length in bytes as recorded; the sum of the blobs decides.
    pub size: u64,
    pub kind: NodeKind,
}
