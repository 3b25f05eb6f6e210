//! Windlass: a CSI driver for node-local block storage whose snapshots leave the cluster by themselves.
//!
//! # The map: who may use whom
//!
//! Every room may use `types` and `failpoint`, which use nothing of ours. Beyond these two:
//!
//! * [`types`]: the words that all share: ids, sizes, ranges, what is said of a volume.
//! * [`failpoint`]: where a test may cut the process.
//! * [`hash`], [`scratch`]: SHA-256 kernels; lists too long for memory. Nothing more.
//! * [`block`]: block devices and files. Nothing more.
//! * [`dm`], [`mount`]: device-mapper; mkfs, probe, mount, grow; both use `block`.
//! * [`pool`]: pools, their catalogue, intents and recovery; uses `block`, `dm`, `scratch`.
//! * [`repository`]: the restic format on an object store; uses `hash`, `scratch`, `telemetry`.
//! * [`transfer`]: export and restore between a block source or sink and a repository; uses `repository`,
//!   `block`, `hash`, `scratch`.
//! * [`csi`]: what every layer needs to speak CSI; uses `telemetry`.
//! * [`blocks`]: what a node hands out to an agent: leases, targets, records; uses `block`.
//! * [`node`]: the node layer: CSI over the pools and the mount table; uses `csi`, `blocks`, `pool`, `mount`,
//!   `block`, `telemetry`.
//! * [`agent`]: the agent layer: exports and restores; uses `csi`, `blocks`, `transfer`, `repository`,
//!   `telemetry`. It knows no pool and no mount.
//! * [`k8s`]: the API server: publishes the agent's events and reads a Secret by its name; implements traits of
//!   `agent`.
//! * [`telemetry`]: logs, and the metrics that whoever owns what is counted counts in. Nothing more.
//! * [`cli`]: one file for each command; uses all.
//!
//! `repository` and `pool` never meet except in `transfer`, through block sources and sinks. `tonic::Status`
//! is made only in `csi`, `node` and `agent`. Unsafe code is in `dm`, `block`, `blocks` (descriptors that
//! come in), the hash kernels and the mapping of the repository's index. No files of one room use each other in a circle. `tests/layering.rs`
//! holds all of this page.
//!
//! # Invariants
//!
//! Comments cite them by number.
//!
//! 1. **No data is lost by formatting.** mkfs runs only on a volume that was never formatted, never given out
//!    writable, has no content source, and on which a direct probe finds nothing; any doubt is an error. The
//!    state `formatting` is committed first, and only an unmounted volume in that state may be formatted
//!    again. A copy within the pool of an object that was never formatted nor given out is itself "never
//!    formatted". *Kept by* `node::mounts::format` (decides), `block::probe`, `mount::mkfs`;
//!    `pool::owned::volumes` and `pool::owned::create` (the steps of the state).
//! 2. **No data is lost by collection.** What was acknowledged is deleted by an explicit delete only, never
//!    because some other record is missing. An object without a record is quarantined and reported. *Kept by*
//!    `pool::owned::delete`, `pool::owned::copies`, `pool::owned::recovery`; `agent::protecting` (takes away only
//!    what a protection has made).
//! 3. **Intent, act, commit.** Each change is recorded before it is made, can be repeated, and is settled at
//!    the next start. A crash between two steps leaves nothing leaked and nothing half visible. *Kept by*
//!    `pool::intent`, `pool::owned` and its `recovery` and `settle`, `pool::catalogue::change`.
//! 4. **Every freeze ends.** File systems and devices are stopped with a deadline, and a watchdog sets them
//!    going. What somebody else froze is cut and not thawed. If the watchdog fired before the cut returned,
//!    the snapshot is discarded. *Kept by* `pool::quiesce` (the contract), `node::quiesce`, `pool::stopped`,
//!    `pool::reflink::stall`, `pool::owned::recovery`.
//! 5. **Locks reject, they do not queue.** One operation works on an object; a second is told ABORTED. Work
//!    outlives the call that began it. *Kept by* `csi::locks`, `csi::call`, `pool::locks`.
//! 6. **Codes tell the truth to the program that reads them.** Nothing is left behind a final code; what
//!    could not be undone is UNAVAILABLE; a fault that stays is never ABORTED; what another pool or node
//!    could do is RESOURCE_EXHAUSTED. *Kept by* `csi::status`, `node::status`, `agent::transfers::status`,
//!    `agent::exporting`, `agent::restoring`, `agent::protecting`.
//! 7. **A full pool is a state that we own.** Warn, refuse volumes, then snapshots, give up anchors; what
//!    exists stays whole and can be deleted. *Kept by* `pool` (`PoolUsage`), `pool::catalogue::room`,
//!    `pool::owned::promise`, `pool::owned::retention`, `pool::thin::monitor`, `pool::thin::spare`.
//! 8. **A clean end of a stream means complete.** A truncated list, export or restore is an error. *Kept by*
//!    `node::snapshot_metadata`, `node::controller::lists`, `csi::token`, `blocks::client`,
//!    `repository::store`, `transfer::export::commit`, `transfer::restore`.
//! 9. **Verify before publish.** Checksums travel with the bytes; a restored volume is visible only when it
//!    is whole. *Kept by* `repository::id`, `repository::crypto`, `transfer::restore::worker`,
//!    `pool::owned::restore`.
//! 10. **Secrets never reach a log, a catalogue, a metric or a `Debug` text.** *Kept by* `csi-proto/build.rs`
//!     (`Debug` of messages), `blocks::wire::secret`, `repository::password`, `repository::environment`,
//!     `repository::store::http::fault`, `agent::secrets`, `agent::secret_source`,
//!     `agent::credentials`, `agent::events`, `k8s::client`,
//!     `cli::agent::confine` (no core, no look into the memory), `pool::record` (holds none).

pub mod agent;
pub mod block;
pub mod blocks;
pub mod cli;
pub mod csi;
pub mod dm;
pub mod failpoint;
pub mod hash;
pub mod k8s;
pub mod mount;
pub mod node;
pub mod pool;
pub mod repository;
pub mod scratch;
pub mod telemetry;
pub mod transfer;
pub mod types;
