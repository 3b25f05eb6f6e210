//! A node without network: what makes devices and mounts as root speaks to nobody but over its unix sockets.
//!
//! Containers of a pod share a network namespace, and the sidecars beside the node need theirs. So the node leaves it, for an empty one of its
//! own. That works for a thread, not for a process: it is done before there is a second thread, and before anything is opened, since a socket
//! stays in the namespace in which it was made. Unix sockets with a path are found by it from every namespace, and what keeps two nodes from
//! one pool (a lock of an inode, a device opened exclusively) knows no network either.

use nix::sched::{CloneFlags, unshare};

use super::args::Network;
use crate::cli::exit::{CliError, Exit};

/// Does what the command line says of the network. To be called while the process has one thread.
///
/// # Errors
/// [`Exit::Failed`] when the system forbids it; nothing was changed.
pub fn leave(network: &Network) -> Result<(), CliError> {
    match network {
        Network::Leave => unshare(CloneFlags::CLONE_NEWNET).map_err(|error| {
            CliError::because(Exit::Failed, "cannot enter an empty network namespace", error).advise(
                "it takes CAP_SYS_ADMIN, and a kernel with network namespaces; where that cannot be had, --keep-network REASON",
            )
        }),
        Network::Keep(Some(reason)) => {
            tracing::warn!(reason, "the node stays in the network namespace that it was started in");
            Ok(())
        }
        Network::Keep(None) => Ok(()),
    }
}
