//! Random bytes for secrets, counters and ids.

/// The operating system gave no random numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the system's random number generator failed")]
pub struct NoRandomness(#[from] getrandom::Error);

/// Fresh bytes of the operating system's cryptographic random number generator. A library's own would have to be seeded first, by each
/// process: that of aws-lc takes 30 ms for it.
pub fn random<const N: usize>() -> Result<[u8; N], NoRandomness> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}
