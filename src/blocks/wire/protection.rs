//! Protected volumes and the snapshots of their protection.

use csi_proto::windlass::v1 as proto;

use super::{FieldError, copies, handle, kubernetes, name, object_id, pool_id, timestamp, timestamp_message};
use crate::blocks::{ProtectedVolume, Protection, ProtectionPage, ProtectionQuery, ProtectionSnapshot};
use crate::types::{FormatState, ProtectionOrder, VolumeId};

/// The query of a message. A limit beyond what there may be is the most that may be.
///
/// # Errors
/// [`FieldError`].
pub fn read_query(message: &proto::ListProtectedRequest) -> Result<ProtectionQuery, FieldError> {
    Ok(ProtectionQuery {
        pool: pool_id("pool_id", &message.pool_id)?,
        after: read_id("after", &message.after)?,
        limit: usize::try_from(message.limit).unwrap_or(usize::MAX).min(ProtectionQuery::MAX),
    })
}

/// The message of a query.
pub fn query_message(query: &ProtectionQuery) -> proto::ListProtectedRequest {
    proto::ListProtectedRequest {
        pool_id: query.pool.to_string(),
        after: query.after.map(|after| after.to_string()).unwrap_or_default(),
        limit: u32::try_from(query.limit.min(ProtectionQuery::MAX)).unwrap_or(u32::MAX),
    }
}

/// The page of a message.
///
/// # Errors
/// [`FieldError`].
pub fn read_page(message: proto::ListProtectedResponse) -> Result<ProtectionPage, FieldError> {
    Ok(ProtectionPage {
        volumes: message.volumes.into_iter().map(read).collect::<Result<_, _>>()?,
        next: read_id("next", &message.next)?,
    })
}

/// The message of a page.
pub fn page_message(page: ProtectionPage) -> proto::ListProtectedResponse {
    let next = page.next.map(|next| next.to_string()).unwrap_or_default();
    proto::ListProtectedResponse { volumes: page.volumes.into_iter().map(message).collect(), next }
}

fn read_id(field: &'static str, text: &str) -> Result<Option<VolumeId>, FieldError> {
    if text.is_empty() { Ok(None) } else { object_id(field, text).map(Some) }
}

fn read(message: proto::ProtectedVolume) -> Result<ProtectedVolume, FieldError> {
    let protection = message.protection.map(read_protection).transpose()?;
    let snapshots = message.snapshots.into_iter().map(read_snapshot).collect::<Result<_, _>>()?;
    Ok(ProtectedVolume { volume: handle("volumes.volume_id", &message.volume_id)?, protection, snapshots })
}

fn read_protection(message: proto::VolumeProtection) -> Result<Protection, FieldError> {
    const PARAMETERS: &str = "volumes.protection.parameters";
    let order = ProtectionOrder::parse(&message.parameters.into_iter().collect());
    let order = order.map_err(|error| FieldError::new(PARAMETERS, format!("{}: {error}", error.key)))?;
    let restored_from = Some(message.restored_from).filter(|text| !text.is_empty());
    Ok(Protection {
        order: order.ok_or_else(|| FieldError::new(PARAMETERS, "must contain a protection"))?,
        created: timestamp("volumes.protection.created", message.created)?,
        format: read_format(&message.format)?,
        kubernetes: kubernetes::read(message.kubernetes)?,
        restored_from,
    })
}

const FORMATS: [FormatState; 4] = [FormatState::Never, FormatState::Formatting, FormatState::Copied, FormatState::Content];

fn format_text(format: FormatState) -> &'static str {
    match format {
        FormatState::Never => "never",
        FormatState::Formatting => "formatting",
        FormatState::Copied => "copied",
        FormatState::Content => "content",
    }
}

fn read_format(text: &str) -> Result<FormatState, FieldError> {
    let known = FORMATS.into_iter().find(|format| format_text(*format) == text);
    known.ok_or_else(|| FieldError::new("volumes.protection.format", "must be a state of a format"))
}

fn read_snapshot(message: proto::ProtectionSnapshot) -> Result<ProtectionSnapshot, FieldError> {
    Ok(ProtectionSnapshot {
        name: name("volumes.snapshots.name", &message.name)?,
        created: timestamp("volumes.snapshots.created", message.created)?,
        copies: copies::read(message.copies)?,
    })
}

fn message(known: ProtectedVolume) -> proto::ProtectedVolume {
    let protection = known.protection.map(|protection| proto::VolumeProtection {
        parameters: protection.order.to_parameters().into_iter().collect(),
        created: Some(timestamp_message(protection.created)),
        format: format_text(protection.format).to_owned(),
        kubernetes: Some(kubernetes::message(protection.kubernetes)),
        restored_from: protection.restored_from.unwrap_or_default(),
    });
    let snapshot = |snapshot: ProtectionSnapshot| proto::ProtectionSnapshot {
        name: snapshot.name.to_string(),
        created: Some(timestamp_message(snapshot.created)),
        copies: Some(copies::message(snapshot.copies)),
    };
    let snapshots = known.snapshots.into_iter().map(snapshot).collect();
    proto::ProtectedVolume { volume_id: known.volume.to_string(), protection, snapshots }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::blocks::SnapshotCopies;
    use crate::types::{Copies, KubernetesNames, PoolId, SnapshotHandle, SnapshotId, Timestamp, VolumeHandle};

    #[test]
    fn protected_volumes_and_what_outlives_one_read_back() {
        let (pool, volume) = (PoolId::random(), VolumeId::random());
        let parameters = [
            ("protect", "6h"),
            ("keepHourly", "24"),
            ("keepMonthly", "2"),
            ("restore", "latestOrEmpty"),
            ("repositorySecret", "${pvc.namespace}/windlass"),
            ("repository", "createIfMissing"),
            ("localCopy", "drop"),
        ];
        let parameters: BTreeMap<_, _> = parameters.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        let order = ProtectionOrder::parse(&parameters).unwrap().unwrap();
        let copies = SnapshotCopies {
            snapshot: SnapshotHandle { pool, snapshot: SnapshotId::random() },
            order: Some(order.export),
            copies: Copies::default(),
        };
        let name = "protection-1".to_owned().try_into().unwrap();
        let known = ProtectedVolume {
            volume: VolumeHandle { pool, volume },
            protection: Some(Protection {
                order,
                created: Timestamp::now(),
                format: FormatState::Copied,
                kubernetes: KubernetesNames::default(),
                restored_from: Some(copies.snapshot.to_string()),
            }),
            snapshots: vec![ProtectionSnapshot { name, created: Timestamp::now(), copies }],
        };
        let left = ProtectedVolume { protection: None, ..known.clone() };
        let page = ProtectionPage { volumes: vec![known, left], next: Some(volume) };
        assert_eq!(read_page(page_message(page.clone())), Ok(page));
        let query = ProtectionQuery { pool, after: Some(volume), limit: 3 };
        assert_eq!(read_query(&query_message(&query)), Ok(query));
    }

    #[test]
    fn every_state_of_a_format_reads_back_and_no_other_text_does() {
        assert!(FORMATS.into_iter().all(|format| read_format(format_text(format)) == Ok(format)));
        assert!(read_format("").is_err());
    }

    #[test]
    fn a_protection_that_is_none_is_refused() {
        let message = proto::VolumeProtection { created: Some(timestamp_message(Timestamp::now())), ..Default::default() };
        let volume_id = VolumeHandle { pool: PoolId::random(), volume: VolumeId::random() }.to_string();
        let volume = proto::ProtectedVolume { volume_id, protection: Some(message), snapshots: Vec::new() };
        assert_eq!(read(volume).unwrap_err().field, "volumes.protection.parameters");
    }
}
