//! The kernels, which of them this machine has, and the rule that chooses between them.

use std::fmt;

#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512, sha_ni};
use super::{lanes, plan, portable, single};

/// A way to compute SHA-256 of several messages. All give the same digests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kernel {
    /// Sixteen messages in 512-bit vectors; x86-64 with AVX-512 F and BW.
    Avx512,
    /// Eight messages in 256-bit vectors; x86-64 with AVX2.
    Avx2,
    /// Two messages interleaved over the SHA extensions of x86-64.
    ShaNi,
    /// One message after the other in plain Rust; everywhere.
    Portable,
    /// One message after the other by aws-lc, which has assembly for each processor of interest; everywhere.
    Single,
}

/// The kernel asked for does not run on this processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this processor cannot run the SHA-256 kernel {kernel}")]
pub struct Unavailable {
    pub kernel: Kernel,
}

impl Kernel {
    /// All kernels, whether this processor has them or not.
    pub const ALL: [Self; 5] = [Self::Avx512, Self::Avx2, Self::ShaNi, Self::Portable, Self::Single];

    /// The kernels this processor can run.
    pub fn available() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|kernel| kernel.is_available())
    }

    /// True where this processor, and the operating system with regard to its registers, can run the kernel.
    #[must_use]
    pub fn is_available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => avx512::Avx512::detect().is_some(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => avx2::Avx2::detect().is_some(),
            #[cfg(target_arch = "x86_64")]
            Self::ShaNi => sha_ni::ShaNi::detect().is_some(),
            #[cfg(not(target_arch = "x86_64"))]
            Self::Avx512 | Self::Avx2 | Self::ShaNi => false,
            Self::Portable | Self::Single => true,
        }
    }

    /// The kernel this machine hashes `streams` messages of one length with. What [`super::sha256_many`] does with ragged
    /// lengths, it does from the lengths themselves.
    ///
    /// Callers that can choose how much to gather before they hash should gather a multiple of
    /// `Kernel::best(usize::MAX).lanes()` messages.
    #[must_use]
    pub fn best(streams: usize) -> Self {
        tiers().iter().find(|tier| tier.worth_from <= streams).map_or(Self::Single, |tier| tier.kernel)
    }

    /// How many messages the kernel advances at once.
    #[must_use]
    pub const fn lanes(self) -> usize {
        match self {
            Self::Avx512 => 16,
            Self::Avx2 => 8,
            Self::ShaNi => 2,
            Self::Portable | Self::Single => 1,
        }
    }

    /// As [`super::sha256_many`], by this kernel alone, even where another would be faster: for tests and measurements.
    ///
    /// # Errors
    /// When this processor does not have the kernel; nothing has been written then.
    ///
    /// # Panics
    /// When there are not as many digests as inputs.
    pub fn sha256_many(self, inputs: &[&[u8]], digests: &mut [[u8; 32]]) -> Result<(), Unavailable> {
        assert_eq!(inputs.len(), digests.len(), "one digest for each input");
        self.hash_ordered(&plan::longest_first(inputs), inputs, digests)
    }

    /// Hashes `inputs[i]` into `digests[i]` for each `i` of `order`, which is longest first.
    pub(super) fn hash_ordered(self, order: &[usize], inputs: &[&[u8]], digests: &mut [[u8; 32]]) -> Result<(), Unavailable> {
        let unavailable = Unavailable { kernel: self };
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => lanes::hash(avx512::Avx512::detect().ok_or(unavailable)?, order, inputs, digests),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => lanes::hash(avx2::Avx2::detect().ok_or(unavailable)?, order, inputs, digests),
            #[cfg(target_arch = "x86_64")]
            Self::ShaNi => lanes::hash(sha_ni::ShaNi::detect().ok_or(unavailable)?, order, inputs, digests),
            #[cfg(not(target_arch = "x86_64"))]
            Self::Avx512 | Self::Avx2 | Self::ShaNi => return Err(unavailable),
            Self::Portable => lanes::hash(portable::Portable, order, inputs, digests),
            Self::Single => {
                for index in order {
                    digests[*index] = single::sha256(inputs[*index]);
                }
            }
        }
        Ok(())
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Avx512 => "avx512",
            Self::Avx2 => "avx2",
            Self::ShaNi => "sha-ni",
            Self::Portable => "portable",
            Self::Single => "single",
        })
    }
}

/// A kernel in the order of preference, and the number of equal messages from which it is worth using: with fewer, so many
/// of its lanes idle that the next tier is faster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tier {
    pub(super) kernel: Kernel,
    pub(super) worth_from: usize,
}

const SINGLE: Tier = Tier { kernel: Kernel::Single, worth_from: 0 };
/// Two streams take 1.1 times as long as one (Zen 4), or at worst twice as long, which costs nothing (see the module).
const SHA_NI: Tier = Tier { kernel: Kernel::ShaNi, worth_from: 2 };
/// One lane of sixteen runs at 150 (Cascade Lake) to 205 MB/s (Zen 4), aws-lc without SHA instructions at 350 to 375.
const AVX512_OVER_SINGLE: Tier = Tier { kernel: Kernel::Avx512, worth_from: 3 };
/// Even at 16 lanes on Zen 4, presumably at about 8 on Intel since Ice Lake: the geometric middle.
const AVX512_OVER_SHA_NI: Tier = Tier { kernel: Kernel::Avx512, worth_from: 12 };
/// One lane of eight runs at 130 (Cascade Lake) to 235 MB/s (Zen 4), aws-lc without SHA instructions at 350 to 375.
const AVX2_OVER_SINGLE: Tier = Tier { kernel: Kernel::Avx2, worth_from: 3 };

/// What this machine uses, widest first; the last is always [`Kernel::Single`].
pub(super) fn tiers() -> &'static [Tier] {
    rule(Kernel::is_available)
}

/// The static rule; the module says why it is this one.
pub(super) fn rule(has: impl Fn(Kernel) -> bool) -> &'static [Tier] {
    match (has(Kernel::Avx512), has(Kernel::ShaNi), has(Kernel::Avx2)) {
        (true, true, _) => &[AVX512_OVER_SHA_NI, SHA_NI, SINGLE],
        (true, false, _) => &[AVX512_OVER_SINGLE, SINGLE],
        (false, true, _) => &[SHA_NI, SINGLE],
        (false, false, true) => &[AVX2_OVER_SINGLE, SINGLE],
        (false, false, false) => &[SINGLE],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(has: &[Kernel], streams: usize) -> Kernel {
        let tiers = rule(|kernel| has.contains(&kernel));
        tiers.iter().find(|tier| tier.worth_from <= streams).unwrap().kernel
    }

    #[test]
    fn few_streams_never_go_through_wide_lanes() {
        use Kernel::{Avx2, Avx512, ShaNi, Single};
        for (has, streams, expected) in [
            (&[Avx512, ShaNi, Avx2][..], 1, Single),
            (&[Avx512, ShaNi, Avx2], 2, ShaNi),
            (&[Avx512, ShaNi, Avx2], 11, ShaNi),
            (&[Avx512, ShaNi, Avx2], 16, Avx512),
            (&[Avx512, Avx2], 2, Single),
            (&[Avx512, Avx2], 3, Avx512),
            (&[ShaNi, Avx2], 1, Single),
            (&[ShaNi, Avx2], 40, ShaNi),
            (&[Avx2], 2, Single),
            (&[Avx2], 3, Avx2),
            (&[], 40, Single),
        ] {
            assert_eq!(chosen(has, streams), expected, "{has:?} with {streams} streams");
        }
    }

    #[test]
    fn the_best_kernel_is_one_this_machine_has() {
        for streams in 0..64 {
            assert!(Kernel::best(streams).is_available());
        }
        assert_eq!(Kernel::best(0), Kernel::Single);
    }

    #[test]
    fn a_kernel_this_machine_lacks_says_so_and_writes_nothing() {
        for kernel in Kernel::ALL {
            let mut digests = [[0; 32]];
            let result = kernel.sha256_many(&[b"abc"], &mut digests);
            assert_eq!(result.is_ok(), kernel.is_available(), "{kernel}");
            assert_eq!(digests[0] != [0; 32], kernel.is_available(), "{kernel}");
        }
    }
}
