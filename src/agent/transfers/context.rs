//! What every transfer of a node shares.

use std::sync::Arc;

use crate::agent::events::EventSink;
use crate::agent::secret_source::SecretSource;
use crate::blocks::Blocks;
use crate::types::SnapshotHandle;

use super::paces::Paces;
use super::registry::Registry;
use crate::repository::Workspace;

/// The disks, the node and the transfers that run. Clones are the same.
#[derive(Clone)]
pub(in crate::agent) struct Context {
    pub(in crate::agent) blocks: Arc<dyn Blocks>,
    /// Host that exports name when the caller names none.
    pub(in crate::agent) node: Arc<str>,
    pub(in crate::agent) registry: Registry,
    /// Who tells people how transfers go.
    pub(in crate::agent) events: Arc<dyn EventSink>,
    /// Who shares a line to a store.
    pub(in crate::agent) paces: Paces,
    /// Where repositories keep their lists and copies.
    pub(in crate::agent) workspace: Workspace,
    /// Who reads the Secrets that classes name, where there is anybody.
    pub(in crate::agent) secrets: Option<Arc<dyn SecretSource>>,
}

/// The tag by which an export is found again.
pub(in crate::agent) fn handle_tag(handle: SnapshotHandle) -> String {
    format!("handle={handle}")
}
