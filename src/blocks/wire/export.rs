//! What is remembered of an export.

use csi_proto::windlass::v1 as proto;

use super::{FieldError, object_id, size, timestamp, timestamp_message};
use crate::types::ExportRecord;

/// Length of an id in a repository: hexadecimal digits.
const ID_DIGITS: usize = 64;

/// The record of a message.
///
/// # Errors
/// [`FieldError`].
pub fn read(message: Option<proto::ExportRecord>) -> Result<ExportRecord, FieldError> {
    let message = message.ok_or_else(|| FieldError::new("record", "is required"))?;
    if message.chunk_bytes == 0 {
        return Err(FieldError::new("record.chunk_bytes", "must not be 0"));
    }
    Ok(ExportRecord {
        repository: repository_id("record.repository", message.repository)?,
        volume: object_id("record.volume", &message.volume)?,
        snapshot: object_id("record.snapshot", &message.snapshot)?,
        repository_snapshot: repository_id("record.repository_snapshot", message.repository_snapshot)?,
        size: size("record.size_bytes", message.size_bytes)?,
        chunk_size: message.chunk_bytes,
        finished: timestamp("record.finished", message.finished)?,
    })
}

/// The message of a record.
pub fn message(record: ExportRecord) -> proto::ExportRecord {
    proto::ExportRecord {
        repository: record.repository,
        volume: record.volume.to_string(),
        snapshot: record.snapshot.to_string(),
        repository_snapshot: record.repository_snapshot,
        size_bytes: record.size.bytes(),
        chunk_bytes: record.chunk_size,
        finished: Some(timestamp_message(record.finished)),
    }
}

pub(super) fn repository_id(field: &'static str, text: String) -> Result<String, FieldError> {
    let is_id = text.len() == ID_DIGITS && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if is_id { Ok(text) } else { Err(FieldError::new(field, "must be an id of a repository: 64 hexadecimal digits")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{SnapshotId, Timestamp, VolumeId, VolumeSize};

    fn record() -> ExportRecord {
        ExportRecord {
            repository: "ab".repeat(32),
            volume: VolumeId::random(),
            snapshot: SnapshotId::random(),
            repository_snapshot: "cd".repeat(32),
            size: VolumeSize::DEFAULT,
            chunk_size: 1 << 20,
            finished: Timestamp::now(),
        }
    }

    #[test]
    fn a_record_reads_back_and_what_is_no_id_is_refused() {
        let record = record();
        assert_eq!(read(Some(message(record.clone()))), Ok(record.clone()));
        for bad in ["", "/etc/passwd", &"AB".repeat(32), &"ab".repeat(33)] {
            let wrong = ExportRecord { repository: bad.to_owned(), ..record.clone() };
            assert_eq!(read(Some(message(wrong))).unwrap_err().field, "record.repository");
        }
        assert!(read(Some(message(ExportRecord { chunk_size: 0, ..record }))).is_err());
    }
}
