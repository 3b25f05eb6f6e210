//! All families, by what they are about. `docs/metrics.md` documents each.

use super::description::Description;

/// Every family that any process has.
pub const ALL: &[Description] = &[
    CALL_DURATION,
    NODE_UP,
    BUILD_INFO,
    PROCESS_START,
    PROCESS_CPU,
    PROCESS_RESIDENT,
    PROCESS_FDS,
    PROCESS_MAX_FDS,
    PROCESS_THREADS,
    POOL_UP,
    POOL_STATE,
    POOL_SIZE,
    POOL_FREE,
    POOL_RESERVE,
    POOL_AVAILABLE,
    POOL_PROMISED,
    POOL_PROMISE_LIMIT,
    POOL_METADATA_SIZE,
    POOL_METADATA_FREE,
    POOL_VOLUMES,
    POOL_SNAPSHOTS,
    POOL_ANCHORS,
    POOL_RESTORES,
    POOL_KEPT_RESTORES,
    POOL_QUARANTINED,
    POOL_DAMAGED,
    POOL_MOST_EXTENTS,
    POOL_EXPORTS_PENDING,
    POOL_EXPORTS_FAILED,
    POOL_EXPORTS_OLDEST,
    CLAIM_LAST_EXPORT,
    CLAIM_EXTENTS,
    TRANSFERS_RUNNING,
    TRANSFER_DURATION,
    TRANSFER_VOLUME_BYTES,
    TRANSFER_REPOSITORY_BYTES,
    TRANSFER_LAST_SUCCESS,
    EXPORTS,
    EXPORT_CHANGED_RATIO,
    STORE_CALL_DURATION,
    STORE_RETRIES,
    STORE_SENT,
    STORE_RECEIVED,
];

/// Calls of all services of all sockets.
pub const CALL_DURATION: Description = Description::histogram(
    "windlass_call_duration_seconds",
    &["method", "code"],
    "Time from a gRPC call's arrival to its answer, or to the first message of a stream, by method and gRPC code",
);

/// Of an agent alone.
pub const NODE_UP: Description =
    Description::gauge("windlass_node_up", &[], "Whether the node gave the agent its metrics at this scrape");

pub const BUILD_INFO: Description =
    Description::gauge("windlass_build_info", &["version", "build"], "1, with the version of the program and how it was built");
pub const PROCESS_START: Description =
    Description::gauge("windlass_process_start_time_seconds", &[], "When the process began, in seconds since 1970");
pub const PROCESS_CPU: Description = Description::counter(
    "windlass_process_cpu_seconds_total",
    &[],
    "Time of processors that the process has used, user and system",
);
pub const PROCESS_RESIDENT: Description =
    Description::gauge("windlass_process_resident_memory_bytes", &[], "Memory of the process that is resident");
pub const PROCESS_FDS: Description = Description::gauge("windlass_process_open_fds", &[], "Open file descriptors");
pub const PROCESS_MAX_FDS: Description =
    Description::gauge("windlass_process_max_fds", &[], "File descriptors that the process may open");
pub const PROCESS_THREADS: Description = Description::gauge("windlass_process_threads", &[], "Threads of the process");

/// Labels of everything that is told of an open pool.
const OF_POOL: &[&str] = &["pool", "name"];
const OF_CLAIM: &[&str] = &["pool", "namespace", "persistentvolumeclaim"];

pub const POOL_UP: Description =
    Description::gauge("windlass_pool_up", &["place", "pool", "name"], "Whether a pool that the node was given can be used");
pub const POOL_STATE: Description =
    Description::gauge("windlass_pool_state", &["pool", "name", "state"], "1 for the state that a pool is in, 0 for the others");
pub const POOL_SIZE: Description = Description::gauge("windlass_pool_size_bytes", OF_POOL, "Size of a pool");
pub const POOL_FREE: Description =
    Description::gauge("windlass_pool_free_bytes", OF_POOL, "Free space of a pool, the reserve included");
pub const POOL_RESERVE: Description =
    Description::gauge("windlass_pool_reserve_bytes", OF_POOL, "What a pool keeps free of new volumes");
pub const POOL_AVAILABLE: Description =
    Description::gauge("windlass_pool_available_bytes", OF_POOL, "What new volumes may still take; 0 when they are refused");
pub const POOL_PROMISED: Description =
    Description::gauge("windlass_pool_promised_bytes", OF_POOL, "Sizes of all volumes together");
pub const POOL_PROMISE_LIMIT: Description =
    Description::gauge("windlass_pool_promise_limit_bytes", OF_POOL, "What the sizes of all volumes may be together");
pub const POOL_METADATA_SIZE: Description =
    Description::gauge("windlass_pool_metadata_size_bytes", OF_POOL, "Size of the metadata of a pool on a device");
pub const POOL_METADATA_FREE: Description =
    Description::gauge("windlass_pool_metadata_free_bytes", OF_POOL, "Free metadata of a pool on a device");
pub const POOL_VOLUMES: Description = Description::gauge("windlass_pool_volumes", OF_POOL, "Volumes of a pool");
pub const POOL_SNAPSHOTS: Description = Description::gauge("windlass_pool_snapshots", OF_POOL, "Snapshots of a pool");
pub const POOL_ANCHORS: Description =
    Description::gauge("windlass_pool_anchors", OF_POOL, "Deleted snapshots that are kept as bases of the next difference");
pub const POOL_RESTORES: Description =
    Description::gauge("windlass_pool_restores", OF_POOL, "Hidden volumes that are being filled");
pub const POOL_KEPT_RESTORES: Description = Description::gauge(
    "windlass_pool_kept_restores",
    OF_POOL,
    "Hidden volumes of interrupted restores that are kept for a while, for the next attempt",
);
pub const POOL_QUARANTINED: Description =
    Description::gauge("windlass_pool_quarantined", OF_POOL, "Things in a pool that no record names");
pub const POOL_DAMAGED: Description =
    Description::gauge("windlass_pool_damaged", OF_POOL, "Objects of a pool whose data is missing or cut short");
pub const POOL_MOST_EXTENTS: Description = Description::gauge(
    "windlass_pool_volume_extents_max",
    OF_POOL,
    "Most extents that any volume had when it was last cut, where cuts take a time for each",
);
pub const POOL_EXPORTS_PENDING: Description =
    Description::gauge("windlass_pool_exports_pending", OF_POOL, "Snapshots whose class asks for an export that waits or runs");
pub const POOL_EXPORTS_FAILED: Description = Description::gauge(
    "windlass_pool_exports_failed",
    OF_POOL,
    "Snapshots whose class asks for an export of which the last attempt has failed",
);
pub const POOL_EXPORTS_OLDEST: Description = Description::gauge(
    "windlass_pool_exports_oldest_timestamp_seconds",
    OF_POOL,
    "When the oldest export that is not complete was asked for, in seconds since 1970",
);
pub const CLAIM_LAST_EXPORT: Description = Description::gauge(
    "windlass_claim_last_export_timestamp_seconds",
    OF_CLAIM,
    "When the last complete export of a claim's volume was finished, in seconds since 1970",
);
pub const CLAIM_EXTENTS: Description = Description::gauge(
    "windlass_claim_extents",
    OF_CLAIM,
    "Extents that a claim's volume had when it was last cut, where cuts take a time for each",
);

pub const TRANSFERS_RUNNING: Description =
    Description::gauge("windlass_transfers_running", &["kind"], "Exports and restores that run");
pub const TRANSFER_DURATION: Description =
    Description::histogram("windlass_transfer_duration_seconds", &["kind", "outcome"], "Time that exports and restores ran");
pub const TRANSFER_VOLUME_BYTES: Description = Description::counter(
    "windlass_transfer_volume_bytes_total",
    &["kind"],
    "Bytes that ended exports have read of volumes, and ended restores have written to them",
);
pub const TRANSFER_REPOSITORY_BYTES: Description = Description::counter(
    "windlass_transfer_repository_bytes_total",
    &["kind"],
    "Bytes that ended exports have stored in repositories, and ended restores have fetched from them",
);
pub const TRANSFER_LAST_SUCCESS: Description = Description::gauge(
    "windlass_transfer_last_success_timestamp_seconds",
    &["kind"],
    "When the last export or restore that succeeded ended, in seconds since 1970",
);
pub const EXPORTS: Description = Description::counter(
    "windlass_exports_total",
    &["mode", "reason"],
    "Exports that succeeded, by mode and by why everything was read",
);
pub const EXPORT_CHANGED_RATIO: Description = Description::histogram(
    "windlass_export_changed_ratio",
    &["mode"],
    "Part of its volume's size that an export has read: of an incremental one, what changed",
);

pub const STORE_CALL_DURATION: Description = Description::histogram(
    "windlass_store_call_duration_seconds",
    &["operation", "outcome"],
    "Time of calls to the stores of repositories, all repetitions included",
);
pub const STORE_RETRIES: Description = Description::counter(
    "windlass_store_retries_total",
    &["reason"],
    "Attempts at calls to stores that failed and were repeated",
);
pub const STORE_SENT: Description =
    Description::counter("windlass_store_sent_bytes_total", &[], "Bytes of objects that stores have taken");
pub const STORE_RECEIVED: Description =
    Description::counter("windlass_store_received_bytes_total", &[], "Bytes of objects that stores have given");

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::description::Kind;
    use super::*;

    #[test]
    fn names_are_of_this_program_say_their_unit_and_are_given_once() {
        for Description { name, kind, help, .. } in ALL {
            assert!(name.starts_with("windlass_"), "{name}");
            assert_eq!(*kind == Kind::Counter, name.ends_with("_total"), "{name}");
            assert!(!help.ends_with('.') && !help.is_empty(), "{name}");
        }
        assert_eq!(ALL.iter().map(|family| family.name).collect::<BTreeSet<_>>().len(), ALL.len());
    }
}
