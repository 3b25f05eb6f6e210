//! Which thin ids are free: those above everything that is stored, whoever made it.

use super::metadata::{MetadataGate, WalkError};
use crate::dm::units::{ThinId, ThinTime};
use crate::pool::PoolError;

/// The first thin id, from `next` on, above everything that the metadata holds, and above its clock: every snapshot that was ever taken
/// raised it by one and had an id, so that the counter of ids is never behind it.
///
/// # Errors
/// [`PoolError::Io`] when the metadata cannot be read.
pub(super) fn first_free_id(gate: &MetadataGate, next: u64) -> Result<u64, PoolError> {
    gate.walk(|metadata| {
        let ids = metadata.devices()?.into_iter().map(|(id, _)| id);
        Ok::<_, WalkError>(above(next, ids, metadata.superblock().time))
    })
}

/// See [`first_free_id`].
pub(super) fn above(next: u64, stored: impl Iterator<Item = ThinId>, time: ThinTime) -> u64 {
    stored.map(|id| u64::from(id.number()) + 1).fold(next.max(time.number().into()), u64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_given_out_above_everything_that_is_stored() {
        let id = |number| ThinId::new(number).unwrap();
        let time = |number| ThinTime::new(number).unwrap();
        for (next, stored, clock, first) in [
            (0, vec![], 0, 0),
            (3, vec![0, 1, 2], 1, 3),
            (3, vec![0, 2], 1, 3),
            // The catalogue was put back to an earlier state, or another program made devices.
            (1, vec![0, 1, 2], 1, 3),
            (1, vec![4711], 1, 4712),
            (1, vec![(1 << 24) - 1], 1, 1 << 24),
            // All that raised the clock is deleted.
            (1, vec![0], 9, 9),
        ] {
            assert_eq!(above(next, stored.iter().copied().map(id), time(clock)), first, "{next}, {stored:?}, {clock}");
        }
    }
}
