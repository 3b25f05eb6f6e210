//! The object `config`: what makes a store a repository.

/// The only format version read and written here: the first with compression.
pub const VERSION: u32 = 2;
