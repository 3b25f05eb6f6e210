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
