//! Single fields.

use std::str::FromStr;

use prost_types::Timestamp as TimeMessage;

use crate::types::{ObjectName, PoolId, Timestamp, VolumeSize};

use super::MAX_TEXT_BYTES;

/// A field that is not what it must be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct FieldError {
    /// Which, as the protocol spells it.
    pub field: &'static str,
    /// What it must be.
    pub reason: String,
}

impl FieldError {
    /// The refusal of a field.
    pub fn new(field: &'static str, reason: impl Into<String>) -> Self {
        Self { field, reason: reason.into() }
    }
}

/// A handle of a volume or a snapshot.
///
/// # Errors
/// [`FieldError`] for any other text.
pub fn handle<T: FromStr>(field: &'static str, text: &str) -> Result<T, FieldError> {
    text.parse().map_err(|_| FieldError::new(field, "must be a handle of this driver"))
}

/// The id of a pool.
///
/// # Errors
/// [`FieldError`] for any other text.
pub fn pool_id(field: &'static str, text: &str) -> Result<PoolId, FieldError> {
    text.parse().map_err(|_| FieldError::new(field, "must be the id of a pool"))
}

/// The id of a volume or a snapshot within its pool.
///
/// # Errors
/// [`FieldError`] for any other text.
pub fn object_id<T: FromStr>(field: &'static str, text: &str) -> Result<T, FieldError> {
    text.parse().map_err(|_| FieldError::new(field, "must be the id of an object"))
}

/// The name of an object.
///
/// # Errors
/// [`FieldError`] for a text that is none.
pub fn name(field: &'static str, text: &str) -> Result<ObjectName, FieldError> {
    ObjectName::try_from(text.to_owned()).map_err(|error| FieldError::new(field, error.to_string()))
}

/// The size of a volume.
///
/// # Errors
/// [`FieldError`] for one that no volume has.
pub fn size(field: &'static str, bytes: u64) -> Result<VolumeSize, FieldError> {
    VolumeSize::new(bytes).map_err(|error| FieldError::new(field, error.to_string()))
}

/// A point in time.
///
/// # Errors
/// [`FieldError`] for none, and for one before 1970.
pub fn timestamp(field: &'static str, message: Option<TimeMessage>) -> Result<Timestamp, FieldError> {
    let message = message.ok_or_else(|| FieldError::new(field, "is required"))?;
    let time = Timestamp::from_signed(message.seconds, message.nanos);
    time.ok_or_else(|| FieldError::new(field, "must be a time since 1970"))
}

/// A point in time as a message.
pub fn timestamp_message(time: Timestamp) -> TimeMessage {
    let (seconds, nanos) = time.to_signed();
    TimeMessage { seconds, nanos }
}

/// A text for people, cut to what a message may carry.
pub fn text(text: &str) -> String {
    text[..text.floor_char_boundary(MAX_TEXT_BYTES)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{SnapshotHandle, VolumeHandle, VolumeId};

    #[test]
    fn what_is_no_handle_id_or_name_is_refused_by_its_field() {
        for bad in ["", "/dev/sda", "../../etc/passwd", "v-a-b", "\0"] {
            assert!(handle::<VolumeHandle>("volume_id", bad).is_err(), "{bad}");
            assert!(handle::<SnapshotHandle>("snapshot_id", bad).is_err(), "{bad}");
            assert!(pool_id("pool_id", bad).is_err(), "{bad}");
            assert!(object_id::<VolumeId>("volume", bad).is_err(), "{bad}");
        }
        assert_eq!(name("name", "").unwrap_err().to_string(), "name: must not be empty");
        assert_eq!(size("size_bytes", 5).unwrap_err().field, "size_bytes");
    }

    #[test]
    fn a_time_reads_back_and_others_are_refused() {
        let time = Timestamp { seconds: 1_700_000_000, nanoseconds: 999_999_999 };
        assert_eq!(timestamp("created", Some(timestamp_message(time))), Ok(time));
        for (seconds, nanos) in [(-1, 0), (0, -1), (0, 1_000_000_000)] {
            assert!(timestamp("created", Some(TimeMessage { seconds, nanos })).is_err(), "{seconds} {nanos}");
        }
        assert!(timestamp("created", None).is_err());
    }

    #[test]
    fn a_long_text_is_cut_between_two_letters() {
        let long = "ä".repeat(MAX_TEXT_BYTES);
        assert_eq!(text(&format!("a{long}")).len(), MAX_TEXT_BYTES - 1);
        assert_eq!(text("short"), "short");
    }
}
