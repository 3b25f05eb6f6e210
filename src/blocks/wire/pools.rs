//! What is said of pools.

use csi_proto::windlass::v1 as proto;
use csi_proto::windlass::v1::pool_state::State;

use super::{FieldError, name, pool_id, snapshot, text};
use crate::blocks::{OpenPool, PoolSpace, PoolState};

/// The pool of a message.
///
/// # Errors
/// [`FieldError`].
pub fn read(message: Option<proto::OpenPool>) -> Result<OpenPool, FieldError> {
    let message = message.ok_or_else(|| FieldError::new("pool", "is required"))?;
    Ok(OpenPool {
        id: pool_id("pool_id", &message.pool_id)?,
        name: message.name.parse().map_err(|error: crate::types::PoolNameError| FieldError::new("name", error.to_string()))?,
        logical_block_size: snapshot::block_size("logical_block_bytes", message.logical_block_bytes)?,
    })
}

/// The message of a pool.
pub fn message(pool: &OpenPool) -> proto::OpenPool {
    proto::OpenPool {
        pool_id: pool.id.to_string(),
        name: pool.name.to_string(),
        logical_block_bytes: pool.logical_block_size.bytes(),
    }
}

/// The state of a message.
///
/// # Errors
/// [`FieldError`].
pub fn read_state(message: proto::PoolState) -> Result<PoolState, FieldError> {
    match message.state {
        Some(State::Open(open)) => Ok(PoolState::Open {
            pool: read(open.pool)?,
            space: PoolSpace { total: open.total_bytes, free: open.free_bytes, available: open.available_bytes },
            problem: (!open.problem.is_empty()).then_some(open.problem),
            kept: open.kept_targets.iter().map(|kept| name("kept_targets", kept)).collect::<Result<_, _>>()?,
        }),
        Some(State::Failed(failed)) => {
            let id = if failed.pool_id.is_empty() { None } else { Some(pool_id("pool_id", &failed.pool_id)?) };
            Ok(PoolState::Failed { id, reason: failed.reason })
        }
        None => Err(FieldError::new("state", "is required")),
    }
}

/// The message of a state.
pub fn state_message(state: &PoolState) -> proto::PoolState {
    let state = match state {
        PoolState::Open { pool, space, problem, kept } => State::Open(proto::OpenPoolState {
            pool: Some(message(pool)),
            total_bytes: space.total,
            free_bytes: space.free,
            available_bytes: space.available,
            problem: problem.as_deref().map(text).unwrap_or_default(),
            kept_targets: kept.iter().map(ToString::to_string).collect(),
        }),
        PoolState::Failed { id, reason } => State::Failed(proto::FailedPoolState {
            pool_id: id.map(|id| id.to_string()).unwrap_or_default(),
            reason: text(reason),
        }),
    };
    proto::PoolState { state: Some(state) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{LogicalBlockSize, PoolId, PoolName};

    #[test]
    fn states_read_back() {
        let pool = OpenPool { id: PoolId::random(), name: PoolName::default(), logical_block_size: LogicalBlockSize::B512 };
        let space = PoolSpace { total: u64::MAX, free: 7, available: 0 };
        let kept = vec!["pvc-1".to_owned().try_into().unwrap()];
        let open = |problem: Option<&str>| {
            let (pool, problem, kept) = (pool.clone(), problem.map(str::to_owned), kept.clone());
            PoolState::Open { pool, space, problem, kept }
        };
        let failed = |id| PoolState::Failed { id, reason: "no disk".to_owned() };
        for state in [open(None), open(Some("nearly full")), failed(None), failed(Some(pool.id))] {
            assert_eq!(read_state(state_message(&state)), Ok(state));
        }
        assert!(read_state(proto::PoolState { state: None }).is_err());
    }
}
