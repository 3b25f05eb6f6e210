//! What objects take.

use csi_proto::windlass::v1 as proto;
use csi_proto::windlass::v1::pool_object::Object as ObjectMessage;

use super::{FieldError, object_id, pool_id};
use crate::blocks::{ObjectUsage, UsagePage, UsageQuery};
use crate::types::Object;

/// The query of a message. A limit beyond what there may be is the most that may be.
///
/// # Errors
/// [`FieldError`].
pub fn read_query(message: &proto::GetUsageRequest) -> Result<UsageQuery, FieldError> {
    Ok(UsageQuery {
        pool: pool_id("pool_id", &message.pool_id)?,
        after: message.after.as_ref().map(|after| read_object("after", after)).transpose()?,
        limit: usize::try_from(message.limit).unwrap_or(usize::MAX).min(UsageQuery::MAX),
    })
}

/// The message of a query.
pub fn query_message(query: &UsageQuery) -> proto::GetUsageRequest {
    proto::GetUsageRequest {
        pool_id: query.pool.to_string(),
        after: query.after.map(object_message),
        limit: u32::try_from(query.limit.min(UsageQuery::MAX)).unwrap_or(u32::MAX),
    }
}

/// The page of a message.
///
/// # Errors
/// [`FieldError`].
pub fn read_page(message: &proto::GetUsageResponse) -> Result<UsagePage, FieldError> {
    let usage = |usage: &proto::PoolObjectUsage| {
        let object = usage.object.as_ref().ok_or_else(|| FieldError::new("objects", "must say of what"))?;
        Ok(ObjectUsage {
            object: read_object("objects", object)?,
            allocated: usage.allocated_bytes,
            exclusive: usage.exclusive_bytes,
            extents: usage.extent_count,
        })
    };
    Ok(UsagePage {
        objects: message.objects.iter().map(usage).collect::<Result<_, FieldError>>()?,
        next: message.next.as_ref().map(|next| read_object("next", next)).transpose()?,
    })
}

/// The message of a page.
pub fn page_message(page: &UsagePage) -> proto::GetUsageResponse {
    let usage = |usage: &ObjectUsage| proto::PoolObjectUsage {
        object: Some(object_message(usage.object)),
        allocated_bytes: usage.allocated,
        exclusive_bytes: usage.exclusive,
        extent_count: usage.extents,
    };
    proto::GetUsageResponse { objects: page.objects.iter().map(usage).collect(), next: page.next.map(object_message) }
}

fn read_object(field: &'static str, message: &proto::PoolObject) -> Result<Object, FieldError> {
    match &message.object {
        Some(ObjectMessage::Volume(id)) => Ok(Object::Volume(object_id(field, id)?)),
        Some(ObjectMessage::Snapshot(id)) => Ok(Object::Snapshot(object_id(field, id)?)),
        None => Err(FieldError::new(field, "must be a volume or a snapshot")),
    }
}

fn object_message(object: Object) -> proto::PoolObject {
    let object = match object {
        Object::Volume(id) => ObjectMessage::Volume(id.to_string()),
        Object::Snapshot(id) => ObjectMessage::Snapshot(id.to_string()),
    };
    proto::PoolObject { object: Some(object) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{PoolId, SnapshotId, VolumeId};

    #[test]
    fn queries_and_pages_read_back() {
        let (volume, snapshot) = (Object::Volume(VolumeId::random()), Object::Snapshot(SnapshotId::random()));
        for after in [None, Some(volume), Some(snapshot)] {
            let query = UsageQuery { pool: PoolId::random(), after, limit: 3 };
            assert_eq!(read_query(&query_message(&query)), Ok(query));
            let usage = |object| ObjectUsage { object, allocated: 3, exclusive: 2, extents: 1 };
            let page = UsagePage { objects: vec![usage(volume), usage(snapshot)], next: after };
            assert_eq!(read_page(&page_message(&page)), Ok(page));
        }
    }

    #[test]
    fn a_limit_is_at_most_what_a_page_may_have() {
        let asked = proto::GetUsageRequest { pool_id: PoolId::random().to_string(), after: None, limit: u32::MAX };
        assert_eq!(read_query(&asked).unwrap().limit, UsageQuery::MAX);
    }
}
