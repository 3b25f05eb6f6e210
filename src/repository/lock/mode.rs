//! The modes in which a repository is locked.

/// How its holder uses a locked repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockMode {
    /// Beside others: export, restore, forget of one snapshot, listing, checking.
    Shared,
    /// Alone: work that deletes blobs.
    Exclusive,
}

/// Whether work that only reads locks the repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Locking {
    /// It takes a shared lock, where one can be stored: nobody prunes meanwhile.
    #[default]
    Shared,
    /// It takes none. A prune meanwhile makes a restore fail, and a check report what the prune removed; what is read is never wrong.
    None,
}
