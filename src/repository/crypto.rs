//! Sealing: AES-256-CTR and Poly1305-AES.

/// Bytes that sealing adds: initialisation vector and authentication code.
pub const OVERHEAD: usize = 32;

/// The master key, shared: seals and opens everything but `keys/`. Cheap to clone, for each worker one.
#[derive(Clone)]
pub struct Sealer;
