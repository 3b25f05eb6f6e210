//! The SnapshotMetadata service over real pools: what is written through devices and file systems, by every way there is to write,
//! is named by the next delta.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail loudly, wherever it does")]
#![allow(clippy::disallowed_types, reason = "the callers' side of the gRPC boundary")]

mod cases;
mod node;
mod random;

use csi_proto::csi::v1::volume_capability::access_mode::Mode;
use node::Node;
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::common::GIB;
use crate::common::fixture::{Bench, PoolFileSystem};

const WRITER: Mode = Mode::SingleNodeWriter;
/// Size of a volume at its creation.
const SMALL: u64 = 4 << 20;
/// No volume grows beyond this.
const LARGE: u64 = 6 << 20;

/// Runs all cases over one pool, with this parameter `checksum` of all volumes.
pub fn nothing_is_missed(kind: PoolFileSystem, checksum: &'static str) {
    let bench = Bench::with_pool(kind, GIB);
    // Ends before the bench goes, also on a panic, and with it all that holds the pool.
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let node = Node::start(&bench, kind, checksum).await;
        let mut random = StdRng::seed_from_u64(4);
        cases::deltas_are_small(&node).await;
        cases::cuts_of_the_connection(&node, &mut random).await;
        cases::writes_in_flight(&node, &mut random).await;
        cases::file_system(&node, &mut random).await;
        random::operations(&node, &mut random).await;
    });
}
