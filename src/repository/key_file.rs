//! Key files: the master key, sealed with a key derived from a password.

/// How expensive it is to try a password (scrypt parameters).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KdfCost {
    log_n: u8,
    r: u32,
    p: u32,
}

impl KdfCost {
    /// For repositories: N = 32768, r = 8, p = 1; 32 MiB and about 0.1 s for each try.
    pub const STANDARD: Self = Self { log_n: 15, r: 8, p: 1 };
    /// For tests only: too cheap to protect anything.
    pub const TEST: Self = Self { log_n: 4, r: 8, p: 1 };
}
