//! The epoch of a pool: the number of times that it was taken over, by which it is known that no part of it was put back to an earlier state.
//!
//! Three things carry it: the catalogue; the metadata, as their transaction id; and the label of every device, for one of two devices may be put
//! back with everything that is on it. Raising it is, in order, each step durable before the next:
//!
//! 1. the catalogue says the new epoch, and that it is *pending*;
//! 2. the metadata;
//! 3. the labels;
//! 4. the catalogue says that it is *settled*.
//!
//! Metadata that are one behind are explained by a death between 1 and 2, which is believed only while the catalogue says "pending": one epoch
//! ago is the likeliest state that anybody would put back. Everything else that differs is refused, and a repair, which is an
//! administrator's decision, takes the metadata's.
//!
//! What changed since a snapshot is told by times that the metadata count. When they may have counted some twice, since they were put
//! back or rebuilt, the *history is broken*: every snapshot and anchor that there is ceases to be a base, so that increments begin anew.
//! It is broken as well where "one behind" is believed: that costs one full backup after a rare crash, and a wrong guess would cost more.
//!
//! A catalogue of the first versions says neither pending nor settled. One behind is believed of it, and labels without an epoch are.

use std::io;
use std::path::Path;

use super::devices::PoolDevices;
use super::health;
use super::label::Label;
use crate::dm::{DeviceMapper, DmName, PoolMessage, ThinPoolStatus, TransactionId};
use crate::failpoint;
use crate::pool::catalogue::{Catalogue, EpochStep};
use crate::pool::{Changes, PoolError};

/// How the metadata's transaction id fits the catalogue's epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carried {
    /// They are the same.
    Same,
    /// It is one behind, since somebody died between the two.
    OneBehind,
}

/// Whether the metadata carry the catalogue's epoch, or the one before it where that is explained.
///
/// # Errors
/// A text when one of the two was put back to an earlier state.
pub fn check_metadata(epoch: u64, step: EpochStep, carried: u64) -> Result<Carried, String> {
    if carried == epoch {
        return Ok(Carried::Same);
    }
    if carried.checked_add(1) == Some(epoch) && step != EpochStep::Settled {
        return Ok(Carried::OneBehind);
    }
    let which = if carried < epoch { "metadata" } else { "catalogue" };
    Err(format!(
        "its metadata has the transaction id {carried} and its catalogue the epoch {epoch}: the {which} was put back to an earlier \
         state behind our back, or another program used the pool"
    ))
}

/// Whether the label of a device carries the catalogue's epoch.
///
/// # Errors
/// A text when the device, or the one with the catalogue, was put back to an earlier state.
pub fn check_label(epoch: u64, step: EpochStep, device: &Path, stamp: Option<u64>) -> Result<(), String> {
    let fits = match (step, stamp) {
        (EpochStep::Settled, stamp) => stamp == Some(epoch),
        (EpochStep::Pending, Some(stamp)) => stamp == epoch || stamp.checked_add(1) == Some(epoch),
        // A version that writes no epochs had it since.
        (EpochStep::Unknown, Some(stamp)) => stamp <= epoch,
        (EpochStep::Pending | EpochStep::Unknown, None) => true,
    };
    if fits {
        return Ok(());
    }
    let stamp = stamp.map_or_else(|| "no epoch".to_owned(), |stamp| format!("the epoch {stamp}"));
    Err(format!(
        "the label of {} has {stamp} and the pool's catalogue the epoch {epoch}: this device, or the one with the catalogue, was put back \
         to an earlier state behind our back",
        device.display()
    ))
}

/// What of the labels does not fit the catalogue.
pub(super) fn label_problems(devices: &PoolDevices, catalogue: &Catalogue) -> Result<Vec<String>, PoolError> {
    let (epoch, step) = (catalogue.epoch()?, catalogue.epoch_step()?);
    let problem = |path: &Path, label: &Label| check_label(epoch, step, path, label.epoch).err();
    Ok(devices.all().into_iter().filter_map(|device| problem(device.path(), device.label())).collect())
}

/// Begins an epoch. A pool that takes no changes is left as it is, for reading.
///
/// # Errors
/// [`PoolError::Format`] when the metadata or the catalogue was put back: nothing was changed; [`PoolError::Io`],
/// [`PoolError::Catalogue`].
pub(super) fn begin(
    dm: &DeviceMapper,
    name: &DmName,
    catalogue: &Catalogue,
    devices: &mut PoolDevices,
    place: &str,
) -> Result<(), PoolError> {
    let io = |action: &str, error| PoolError::io(action, io::Error::other(error));
    let status = dm.thin_pool_status(name).map_err(|error| io("ask for the status of the pool", error))?;
    let health = health::judge(&status, place);
    let ThinPoolStatus::Running(state) = &status else {
        let problem = health.problem.unwrap_or_default();
        return Err(PoolError::io(format!("take over the pool at {place}"), io::Error::other(problem)));
    };
    let epoch = catalogue.epoch()?;
    let carried = check_metadata(epoch, catalogue.epoch_step()?, state.transaction_id.number());
    let carried = carried.map_err(|text| PoolError::Format(format!("{place}: {text}; nothing was changed").into()))?;
    if health.changes == Changes::Refused {
        tracing::error!(pool = %name, problem = health.problem, "the pool takes no changes; what it holds can be read");
        return Ok(());
    }
    let next = epoch + 1;
    catalogue.commit("begin_epoch", |change| {
        if carried == Carried::OneBehind {
            tracing::warn!(pool = %name, epoch, "the last start died half way: what changed since earlier snapshots is not told any more");
            change.break_history()?;
        }
        change.set_epoch(next, EpochStep::Pending)
    })?;
    failpoint::hit("thin.epoch.between");
    let message = PoolMessage::SetTransactionId { from: state.transaction_id, to: TransactionId::new(next) };
    dm.message(name, &message).map_err(|error| io("set the transaction id of the pool", error))?;
    failpoint::hit("thin.epoch.labels");
    settle(catalogue, devices, next)
}

/// Writes an epoch that the metadata carry into the labels and the catalogue.
pub(super) fn settle(catalogue: &Catalogue, devices: &mut PoolDevices, epoch: u64) -> Result<(), PoolError> {
    for device in devices.all_mut() {
        let label = Label { epoch: Some(epoch), ..device.label().clone() };
        device.write(label)?;
    }
    catalogue.commit("settle_epoch", |change| change.set_epoch(epoch, EpochStep::Settled))
}

#[cfg(test)]
mod tests {
    use super::EpochStep::{Pending, Settled, Unknown};
    use super::*;

    #[test]
    fn metadata_of_another_epoch_are_refused_unless_a_death_explains_it() {
        use Carried::{OneBehind, Same};
        for (epoch, step, carried, fits) in [
            (0, Unknown, 0, Some(Same)),
            (7, Settled, 7, Some(Same)),
            (7, Pending, 7, Some(Same)),
            (8, Pending, 7, Some(OneBehind)),
            (8, Unknown, 7, Some(OneBehind)),
            // Put back by one epoch, and by more.
            (8, Settled, 7, None),
            (9, Pending, 7, None),
            (9, Unknown, 7, None),
            (7, Settled, 8, None),
            (7, Pending, 8, None),
        ] {
            assert_eq!(check_metadata(epoch, step, carried).ok(), fits, "{epoch} {step:?} {carried}");
        }
        assert!(check_metadata(7, Settled, 9).unwrap_err().contains("catalogue was put back"));
        assert!(check_metadata(9, Settled, 8).unwrap_err().contains("metadata was put back"));
    }

    #[test]
    fn a_device_whose_label_is_of_another_epoch_was_put_back_or_the_other_was() {
        for (epoch, step, stamp, fits) in [
            (7, Settled, Some(7), true),
            (7, Settled, Some(6), false),
            (7, Settled, Some(8), false),
            (7, Settled, None, false),
            (7, Pending, Some(7), true),
            (7, Pending, Some(6), true),
            (7, Pending, Some(5), false),
            (7, Pending, Some(8), false),
            (1, Pending, None, true),
            (7, Unknown, None, true),
            (7, Unknown, Some(5), true),
            (7, Unknown, Some(8), false),
        ] {
            let checked = check_label(epoch, step, Path::new("/dev/sdx"), stamp);
            assert_eq!(checked.is_ok(), fits, "{epoch} {step:?} {stamp:?}");
            assert!(checked.err().is_none_or(|text| text.contains("/dev/sdx") && text.contains("put back")));
        }
    }
}
