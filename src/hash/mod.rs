//! SHA-256, of many messages at once where that is faster.
//!
//! Chunks and packs are named by SHA-256, and every byte is hashed at least once on its way out and once on its way back.
//! One stream cannot use the width of a processor: each round waits for the last. Many messages can. The module owns the
//! kernels for that, the choice between them, and the spreading of messages of different lengths over lanes. It knows
//! nothing of what it hashes, keeps no state between calls, starts no threads, never blocks, and allocates one list of
//! indices a call. A call is not interruptible: it takes what its bytes take (16 MiB: 5 to 50 ms), and callers that must
//! stop early hash in batches.
//!
//! # Layout
//! A lane is one message on its way through a kernel. Kernels for vectors ([`Kernel::Avx512`] and
//! [`Kernel::Avx2`]) keep word `w` of all lanes in one vector, so that a round is the textbook's round with every
//! operation done for all lanes. The messages lie one after the other in memory, their words side by side in the vectors:
//! each block is loaded as one or two vectors a lane, its bytes swapped to big-endian words, and the matrix of 32-bit words
//! transposed in registers by unpacks and quarter shuffles (80 instructions of some 1,800 per sixteen blocks). Gathers would
//! do the same work at one load a word. Nothing asks for alignment: loads are unaligned ones, which cost the same on aligned
//! data. The matrix is 16 registers and the state 8 of AVX-512's 32; AVX2 has 16 and spills part of the schedule.
//! [`Kernel::ShaNi`] has instructions for the rounds of one message, and interleaves two.
//!
//! Chaining values pass from call to call of a kernel word by word (`block::State`), so that loading them is one load a word
//! and a lane can be restarted without touching its neighbours.
//!
//! # Ragged lengths
//! All lanes advance together. `lanes::hash` runs them to the nearest boundary (the end of a message's whole blocks, or of its
//! padding), takes out what is finished, puts in the next message, and goes on. Each such boundary costs about as much as one
//! block of all lanes: nothing for chunks, half of the speed for messages of 200 bytes, still no slower than one by one.
//! Padding is built per lane in a buffer of one or two blocks and compressed in the lane like the rest. The order is longest
//! first, so that what remains at the end is short. Which messages do not go through the lanes at all is decided before, from
//! the lengths (`plan`): a pass costs the same with one busy lane as with all.
//!
//! # The rule
//! Chosen from processor features alone; no calibration, whose result would depend on who else is running at start, and would
//! make two nodes of one kind differ. Measured in GB/s on one core, 16 messages of 1 MiB:
//!
//! | | AVX-512 x16 | AVX2 x8 | SHA x2 | aws-lc, one stream | the same without SHA |
//! |---|---|---|---|---|---|
//! | AMD Zen 4 | 3.3 | 1.9 | 3.25 | 1.8 | 0.37 |
//! | Intel, AVX-512 without SHA (Skylake-SP to Cascade Lake) | 2.4 | 1.06 | none | none | 0.35 |
//!
//! * With SHA and AVX-512, sixteen lanes: equal on Zen 4 (measured), where a 512-bit operation takes two passes; so to be
//!   expected ahead where it takes one (Zen 5). On Intel since Ice Lake it is ahead by others' reports, not measured here: on
//!   Tiger Lake interleaving two streams gains nothing, and one is no faster than eight lanes of AVX2.
//! * So the number of messages from which sixteen lanes pay is 16 on Zen 4 and should be near 8 on Intel. The rule takes the
//!   geometric middle, 12, where either errs least: by a fifth on Zen 4 (2.7 against 3.3 GB/s at 12). Full batches, which
//!   callers should make, are not affected.
//! * With SHA and no AVX-512 (Zen 1 to 3, small cores): two streams interleaved, never AVX2.
//! * Without SHA, three messages are worth lanes: a lane runs at 0.13 GB/s or more, the single stream at 0.35.
//! * One message, and all of them where there is neither: aws-lc. On aarch64 it uses the SHA instructions that every server
//!   part has. [`Kernel::Portable`] (0.36 on Zen 4) is never chosen while aws-lc is at hand; it is what the other kernels
//!   can be read against, and tests run it everywhere.
//!
//! # Safety
//! `unsafe` is confined to the three kernels for x86-64, each of which can be called only with a value that its feature
//! detection alone makes, and reads no further into any slice than the shortest of them reaches.

mod block;
mod kernel;
mod lanes;
mod plan;
mod portable;
mod single;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod sha_ni;

#[cfg(test)]
mod tests;

pub use kernel::{Kernel, Unavailable};
pub use single::{Hasher, sha256};

use kernel::Tier;
use plan::Cost;

/// SHA-256 of each input, `inputs[i]` into `digests[i]`, in the way that is fastest for these lengths on this machine.
///
/// Inputs may be of any length and alignment, and may overlap. Fastest in multiples of `Kernel::best(usize::MAX).lanes()`
/// inputs of about the same length.
///
/// # Panics
/// When there are not as many digests as inputs.
pub fn sha256_many(inputs: &[&[u8]], digests: &mut [[u8; 32]]) {
    assert_eq!(inputs.len(), digests.len(), "one digest for each input");
    hash_by(kernel::tiers(), inputs, digests);
}

/// Each tier takes the messages worth its lanes and leaves the longest others to the next; the single stream takes the rest,
/// also that of a tier this processor turns out not to have.
fn hash_by(tiers: &[Tier], inputs: &[&[u8]], digests: &mut [[u8; 32]]) {
    let order = plan::longest_first(inputs);
    let blocks: Vec<u64> = order.iter().map(|index| block::block_count(inputs[*index].len())).collect();
    let mut left = order.len();
    for (wide, narrow) in tiers.iter().zip(tiers.iter().skip(1)) {
        // In units of one block at the narrow kernel's full rate, at which `worth_from` blocks take as long as one step of
        // the wide one.
        let wide_cost = Cost { lanes: wide.kernel.lanes(), step: wide.worth_from };
        let narrow_cost = Cost { lanes: narrow.kernel.lanes(), step: narrow.kernel.lanes() };
        let apart = plan::left_to_narrow(&blocks[..left], wide_cost, narrow_cost);
        if wide.kernel.hash_ordered(&order[apart..left], inputs, digests).is_ok() {
            left = apart;
        }
    }
    for index in &order[..left] {
        digests[*index] = sha256(inputs[*index]);
    }
}
