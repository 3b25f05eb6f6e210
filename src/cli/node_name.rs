//! What this machine is called as a node.

use crate::csi::NodeName;

use super::exit::{CliError, Exit};

/// The name of this node: the one that was given, or the host's. Cheap, but asks the system.
///
/// # Errors
/// [`Exit::Usage`] for what cannot be the name of a node.
pub fn node_name(given: Option<&str>) -> Result<NodeName, CliError> {
    let name = match given {
        Some(name) => name.to_owned(),
        None => nix::sys::utsname::uname()
            .map_err(|error| CliError::because(Exit::Failed, "cannot tell the host's name", error))?
            .nodename()
            .to_string_lossy()
            .into_owned(),
    };
    NodeName::try_from(name)
        .map_err(|error| CliError::because(Exit::Usage, "this node has no usable name", error).advise("give one by --node-id"))
}
