//! What each object takes, for people.
//!
//! How much of a thin device is its own and how much it shares is known only after all of the pool's metadata was walked. So the
//! figures of all objects are made together, and told again for a few seconds: a status that lists a hundred volumes walks once.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::metadata::{MetadataGate, WalkError};
use crate::dm::metadata::DeviceUsage;
use crate::dm::units::{DataBlockSize, ThinId};
use crate::pool::{ObjectUsage, PoolError};

/// Longest age of a figure.
const FRESH: Duration = Duration::from_secs(10);

struct Figures {
    made: Instant,
    of: BTreeMap<ThinId, DeviceUsage>,
}

/// The figures of one pool.
#[derive(Default)]
pub(super) struct UsageTable {
    figures: Mutex<Option<Figures>>,
}

impl UsageTable {
    /// Figures of a thin device, at most [`FRESH`] old; `None` when there was no such device then.
    pub(super) fn of(
        &self,
        id: ThinId,
        gate: &MetadataGate,
        block_size: DataBlockSize,
    ) -> Result<Option<ObjectUsage>, PoolError> {
        // Held for the walk: whoever asks meanwhile waits for the same figures.
        let mut figures = self.figures.lock().unwrap_or_else(PoisonError::into_inner);
        let is_usable = figures.as_ref().is_some_and(|figures| figures.made.elapsed() < FRESH && figures.of.contains_key(&id));
        if !is_usable {
            let made = Instant::now();
            let of = gate.walk(|metadata| Ok::<_, WalkError>(metadata.usage()?))?;
            *figures = Some(Figures { made, of });
        }
        let bytes = block_size.bytes();
        Ok(figures.as_ref().and_then(|figures| figures.of.get(&id)).map(|usage| ObjectUsage {
            allocated: usage.mapped_blocks.saturating_mul(bytes),
            exclusive: usage.exclusive_blocks.saturating_mul(bytes),
            extents: usage.mapped_blocks,
        }))
    }
}
