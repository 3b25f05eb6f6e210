//! What an agent's process gives up before it begins: being root, and letting anybody look into its memory.

use nix::sys::prctl::set_dumpable;
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{Uid, geteuid};

use crate::cli::exit::{CliError, Exit};

/// As whom an agent may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AllowedUser {
    /// As anybody but root.
    NotRoot,
    /// As root too.
    Any,
}

/// Confines the process. To be called while it has one thread: a core is written of the process whole.
///
/// # Errors
/// [`Exit::Refused`] for root that was not told to be; [`Exit::Failed`] when the system refuses.
pub fn confine(allowed: AllowedUser) -> Result<(), CliError> {
    check_user(geteuid(), allowed)?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(|error| CliError::because(Exit::Failed, "cannot forbid cores", error))?;
    // A handler of cores (a pipe in core_pattern) is not bound by the limit; it gets none of what cannot be dumped.
    set_dumpable(false).map_err(|error| CliError::because(Exit::Failed, "cannot keep others from this process's memory", error))
}

fn check_user(user: Uid, allowed: AllowedUser) -> Result<(), CliError> {
    if user.is_root() && allowed == AllowedUser::NotRoot {
        return Err(CliError::new(Exit::Refused, "an agent speaks to the network and holds credentials, and must not be root")
            .advise("run it as a user of its own, the node's --agent-user; --allow-root if there is no other way"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_must_be_told_that_it_may() {
        let (root, user) = (Uid::from_raw(0), Uid::from_raw(65532));
        assert!(check_user(user, AllowedUser::NotRoot).is_ok());
        assert!(check_user(root, AllowedUser::Any).is_ok());
        assert_eq!(check_user(root, AllowedUser::NotRoot).unwrap_err().exit(), Exit::Refused);
    }
}
