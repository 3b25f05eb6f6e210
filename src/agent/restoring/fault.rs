//! Why a restore failed, in texts that do not change from one attempt to the next, for events. The call is told more.

use tonic::Code;

use crate::agent::transfers::registry::TransferFailure;

/// For people. It names no value.
pub(super) fn text(failure: &TransferFailure) -> &'static str {
    let code = match failure {
        TransferFailure::Failed { code, .. } => *code,
        TransferFailure::Refused(_) => return MISFIT,
        TransferFailure::Cancelled => return CANCELLED,
    };
    match code {
        Code::PermissionDenied => DENIED,
        Code::NotFound => MISSING,
        Code::Unavailable => UNREACHABLE,
        Code::Aborted => LOCKED,
        Code::InvalidArgument | Code::FailedPrecondition => CONFIGURATION,
        Code::OutOfRange => TOO_SMALL,
        Code::DataLoss => DAMAGED,
        Code::ResourceExhausted => NO_ROOM,
        Code::AlreadyExists => NAME_TAKEN,
        _ => UNKNOWN,
    }
}

const DENIED: &str = "restore: the repository's store refuses access, or RESTIC_PASSWORD does not open the repository: check the keys of the \
                      provisioner's Secret";
const MISSING: &str =
    "restore: there is no repository where RESTIC_REPOSITORY of the Secret says, or it does not hold the snapshot";
const UNREACHABLE: &str = "restore: the repository's store does not answer; it is tried again";
const LOCKED: &str = "restore: somebody else has locked the repository, or the volume's name is in use; it is tried again";
const CONFIGURATION: &str = "restore: the claim asks for what the snapshot is not, its class lets no volume begin empty, or the store cannot be used as \
                             the Secret says; the event of the provisioner says which";
const TOO_SMALL: &str = "restore: the claim asks for less than the snapshot's size, or for more than a volume may have";
const DAMAGED: &str = "restore: the repository is damaged: `windlass repository check` says what is wrong";
const NO_ROOM: &str = "restore: there is no room in the pool, or for the agent's lists (WINDLASS_SCRATCH_DIR)";
const NAME_TAKEN: &str = "restore: there is a volume of this name already";
const MISFIT: &str =
    "restore: what the repository holds is of no use on this pool's devices; the event of the provisioner says more";
const CANCELLED: &str = "restore: it was cancelled";
const UNKNOWN: &str = "restore: it failed; the log of the agent says why";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_store_has_said_is_in_no_text_and_the_text_stays_the_same() {
        let failed = |code, reason: &str| text(&TransferFailure::Failed { code, reason: reason.to_owned() });
        for code in (1..=16).map(Code::from_i32) {
            let told = failed(code, "canary");
            assert!(told.starts_with("restore: ") && !told.contains("canary"), "{code:?}: {told}");
            assert_eq!(told, failed(code, "another"));
        }
        assert_ne!(failed(Code::PermissionDenied, ""), failed(Code::Unavailable, ""));
        assert!(!text(&TransferFailure::Refused("canary".to_owned())).contains("canary"));
    }
}
