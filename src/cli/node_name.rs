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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_without_a_usable_name_says_how_to_give_one() {
        assert_eq!(node_name(Some("worker-1")).unwrap().as_str(), "worker-1");
        let error = node_name(Some("no name")).unwrap_err();
        assert_eq!((error.exit(), error.advice()), (Exit::Usage, Some("give one by --node-id")));
    }
}
