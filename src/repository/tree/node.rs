//! What a tree lists.

use super::list::IdList;
use crate::repository::id::Id;

/// What a node of a tree is.
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
    /// Name within its folder; bytes that are no UTF-8 show as `\xHH`.
    pub name: String,
    /// Length in bytes as recorded; what the blobs add up to decides.
    pub size: u64,
    /// What it is.
    pub kind: NodeKind,
}
