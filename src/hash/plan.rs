//! Which messages go through the wide lanes, and which are left to the narrow kernel.
//!
//! A pass of the wide kernel costs the same however few of its lanes are busy. Seventeen equal messages over sixteen lanes
//! would pay for two full runs, and one long message among short ones for all of its own length; the messages that would
//! cause this are better hashed apart. Which ones is decided before anything is hashed, from the lengths alone.

use std::cmp::Reverse;

/// A way to hash: its lanes, and what one step of all of them costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cost {
    pub(super) lanes: usize,
    /// Cost of compressing one block in every lane, in blocks of the narrow kernel with its own lanes full.
    pub(super) step: usize,
}

/// How many of the messages, from the longest on, are left to `narrow`; the others go through `wide`.
///
/// `blocks` are the messages' lengths in blocks, in descending order. Either all are left to `narrow`, or fewer than `wide`
/// has lanes: no more than that can be left over from full runs.
pub(super) fn left_to_narrow(blocks: &[u64], wide: Cost, narrow: Cost) -> usize {
    let cost = |left: usize| {
        let (apart, together) = blocks.split_at(left);
        narrow.step as u64 * steps(apart, narrow.lanes) + wide.step as u64 * steps(together, wide.lanes)
    };
    // Of equals the first: what costs the same is worth no second kernel.
    (0..blocks.len().min(wide.lanes)).chain([blocks.len()]).min_by_key(|left| cost(*left)).unwrap_or(0)
}

/// Steps in which messages of these lengths (descending) pass through `lanes` lanes, longest first: the largest of three
/// lower bounds, which that order comes close to. No lane ends before the longest message; all lanes together take as many
/// steps as there are blocks; and of the first `q * lanes + 1` messages some lane carries `q + 1`, none of them shorter than
/// the last.
fn steps(blocks: &[u64], lanes: usize) -> u64 {
    let total = blocks.iter().sum::<u64>().div_ceil(lanes as u64);
    let stacked = blocks.iter().step_by(lanes).zip(1..).map(|(length, carried)| length * carried).max();
    total.max(stacked.unwrap_or(0))
}

/// Indices of the inputs, longest first; of equals the first first.
pub(super) fn longest_first(inputs: &[&[u8]]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..inputs.len()).collect();
    order.sort_by_key(|index| Reverse(inputs[*index].len()));
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 14;
    const SIXTEEN: Cost = Cost { lanes: 16, step: 3 };
    const ONE: Cost = Cost { lanes: 1, step: 1 };

    #[test]
    fn full_lanes_take_everything() {
        for count in [16, 32, 160] {
            assert_eq!(left_to_narrow(&vec![MIB; count], SIXTEEN, ONE), 0, "{count} messages");
        }
    }

    #[test]
    fn too_few_messages_for_the_lanes_are_hashed_apart() {
        for count in 0..16 {
            let expected = if count < 3 { count } else { 0 };
            assert_eq!(left_to_narrow(&vec![MIB; count], SIXTEEN, ONE), expected, "{count} messages");
        }
    }

    #[test]
    fn what_is_left_over_from_full_runs_is_hashed_apart_when_that_is_cheaper() {
        assert_eq!(left_to_narrow(&[MIB; 17], SIXTEEN, ONE), 1);
        assert_eq!(left_to_narrow(&[MIB; 18], SIXTEEN, ONE), 2);
        assert_eq!(left_to_narrow(&[MIB; 20], SIXTEEN, ONE), 0);
        let dearer = Cost { step: 12, ..SIXTEEN };
        assert_eq!(left_to_narrow(&[MIB; 20], dearer, ONE), 4);
        assert_eq!(left_to_narrow(&[MIB; 30], dearer, ONE), 0);
    }

    #[test]
    fn a_short_last_message_does_not_empty_the_lanes() {
        let mut blocks = vec![MIB; 15];
        blocks.push(3);
        assert_eq!(left_to_narrow(&blocks, SIXTEEN, ONE), 0);
        blocks.insert(0, MIB);
        assert_eq!(left_to_narrow(&blocks, SIXTEEN, ONE), 0);
    }

    #[test]
    fn a_message_far_longer_than_the_others_is_hashed_apart() {
        let mut blocks = vec![2; 40];
        blocks.insert(0, 16 * MIB);
        assert_eq!(left_to_narrow(&blocks, SIXTEEN, ONE), 1);
    }

    #[test]
    fn steps_are_those_of_the_fullest_lane() {
        assert_eq!(steps(&[], 16), 0);
        assert_eq!(steps(&[7; 16], 16), 7);
        assert_eq!(steps(&[7; 17], 16), 14);
        assert_eq!(steps(&[100, 1, 1, 1], 2), 100);
        assert_eq!(steps(&[5, 4, 3, 3, 3], 2), 9);
    }
}
