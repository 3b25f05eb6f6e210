//! Names of chunks and packs: SHA-256, several at a time.
//!
//! The one place where the pipelines hash. How many chunks make a good batch, and how many finished packs are worth waiting
//! for, depends on the processor; the [`budget`](super::budget) decides how many of those the memory allows.

use crate::hash::{self, Kernel};
use crate::repository::Id;

/// How many chunks of one length are hashed fastest together: as many as the widest kernel of this processor has lanes.
pub fn lanes() -> usize {
    Kernel::best(usize::MAX).lanes()
}

/// How many finished packs are hashed fastest together. A pack is one long stream that no other work of its worker can fill the
/// lanes beside; with SHA instructions two are enough (1.8 times the speed of one on Zen 4), without them it takes as many as
/// there are lanes (up to seven times).
pub fn pack_lanes() -> usize {
    match Kernel::best(2) {
        Kernel::ShaNi => Kernel::ShaNi.lanes(),
        _ => lanes(),
    }
}

/// The ids of `inputs`, in their order; `ids` is cleared first.
pub fn sha256_many(inputs: &[&[u8]], ids: &mut Vec<Id>) {
    let mut digests = vec![[0; Id::LENGTH]; inputs.len()];
    hash::sha256_many(inputs, &mut digests);
    ids.clear();
    ids.extend(digests.into_iter().map(Id::from_bytes));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_those_of_the_inputs_in_order() {
        let inputs: Vec<Vec<u8>> = (0..40_usize).map(|number| vec![number as u8; number * 37]).collect();
        let inputs: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
        let mut ids = vec![Id::of(b"left over")];
        sha256_many(&inputs, &mut ids);
        assert_eq!(ids, inputs.iter().map(|input| Id::of(input)).collect::<Vec<_>>());
        assert!(lanes() >= pack_lanes() && pack_lanes() >= 1);
    }
}
