//! How a repository is locked.

/// How a repository is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockMode {
    /// Beside others: export, restore, forget of one snapshot, listing, checking.
    Shared,
    /// Alone: whatever deletes blobs.
    Exclusive,
}

/// Whether work that only reads locks the repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Locking {
    /// A shared lock, where one can be stored: nobody prunes meanwhile.
    #[default]
    Shared,
    /// None. A prune meanwhile makes a restore fail, and a check report what the prune removed; what is read is never wrong.
    None,
}
