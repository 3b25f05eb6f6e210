//! Why device-mapper did not do what it was asked.

use std::io;

use super::raw::Verb;
use super::reply::Malformed;

/// Why device-mapper did not do what it was asked. Each says what that was, and of which device.
#[derive(Debug, thiserror::Error)]
pub enum DmError {
    /// The kernel has no device-mapper, an older one, or not this target.
    #[error("the kernel offers no {what}: load its module `{module}`, or use a kernel that has it")]
    Unavailable {
        /// What is missing.
        what: String,
        /// The kernel module that brings it.
        module: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// There is no such device.
    #[error("{0}: there is no such device")]
    Missing(String),
    /// A device has the name or the uuid already.
    #[error("{0}: a device of that name or uuid exists already")]
    Exists(String),
    /// Something has it open: a process, a mount, another device; or the one metadata snapshot is taken.
    #[error("{0}: it is in use")]
    Busy(String),
    /// The pool has no thin volume of that id.
    #[error("{0}: the pool has no thin volume of that id")]
    MissingThin(String),
    /// The pool has a thin volume of that id already.
    #[error("{0}: the pool has a thin volume of that id already")]
    ExistsThin(String),
    /// The pool takes no messages: it is out of metadata, read-only or failed.
    #[error("{0}: the pool is read-only or failed and takes no messages")]
    PoolReadOnly(String),
    /// A pool's metadata has a wrong checksum or lies in the wrong place.
    #[error("{0}: the pool's metadata is damaged")]
    Damaged(String),
    /// The kernel finds the request wrong in itself, or out of place. Its log says more.
    #[error("{action}: the kernel refuses it, and its log says why")]
    Refused {
        /// What was attempted.
        action: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel's answer is not understood.
    #[error("{action}: the kernel's answer is not understood")]
    Reply {
        /// What was attempted.
        action: String,
        /// What is wrong with the answer.
        source: Malformed,
    },
    /// A call of the system failed.
    #[error("{action}")]
    Io {
        /// What was attempted.
        action: String,
        /// The system's answer; its kind may say more, `StorageFull` for a pool without room among it.
        source: io::Error,
    },
}

impl DmError {
    pub(super) fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }

    pub(super) fn reply(action: impl Into<String>) -> impl FnOnce(Malformed) -> Self {
        let action = action.into();
        move |source| Self::Reply { action, source }
    }

    /// What the kernel's answer to `verb` means. Which numbers it uses for what is nowhere written but in its sources; the tests
    /// in the virtual machine hold this to it.
    pub(super) fn from_kernel(verb: Verb, action: String, source: io::Error) -> Self {
        match (verb, source.raw_os_error()) {
            (Verb::Create, Some(libc::EBUSY)) => Self::Exists(action),
            (_, Some(libc::EBUSY)) => Self::Busy(action),
            (_, Some(libc::ENXIO)) => Self::Missing(action),
            (Verb::Message | Verb::TableLoad, Some(libc::ENODATA)) => Self::MissingThin(action),
            (Verb::Message | Verb::TableLoad, Some(libc::EILSEQ | libc::ENOTBLK)) => Self::Damaged(action),
            (Verb::Message, Some(libc::EEXIST)) => Self::ExistsThin(action),
            (Verb::Message, Some(libc::EOPNOTSUPP)) => Self::PoolReadOnly(action),
            (_, Some(libc::EINVAL | libc::ENOTTY)) => Self::Refused { action, source },
            _ => Self::Io { action, source },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::error::{chain, repeated};

    #[test]
    fn the_kernels_numbers_mean_what_they_mean_for_each_verb() {
        let error = |verb, number| DmError::from_kernel(verb, "do it".to_owned(), io::Error::from_raw_os_error(number));
        assert!(matches!(error(Verb::Create, libc::EBUSY), DmError::Exists(_)));
        assert!(matches!(error(Verb::Remove, libc::EBUSY), DmError::Busy(_)));
        assert!(matches!(error(Verb::Message, libc::EBUSY), DmError::Busy(_)));
        assert!(matches!(error(Verb::Status, libc::ENXIO), DmError::Missing(_)));
        assert!(matches!(error(Verb::Message, libc::ENODATA), DmError::MissingThin(_)));
        assert!(matches!(error(Verb::TableLoad, libc::ENODATA), DmError::MissingThin(_)));
        assert!(matches!(error(Verb::Message, libc::EEXIST), DmError::ExistsThin(_)));
        assert!(matches!(error(Verb::TableLoad, libc::EILSEQ), DmError::Damaged(_)));
        assert!(matches!(error(Verb::Message, libc::EOPNOTSUPP), DmError::PoolReadOnly(_)));
        assert!(matches!(error(Verb::TableLoad, libc::EINVAL), DmError::Refused { .. }));
        let full = error(Verb::Message, libc::ENOSPC);
        assert!(matches!(&full, DmError::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull));
    }

    #[test]
    fn the_kernels_answer_is_told_once() {
        let io = || io::Error::from_raw_os_error(libc::ENODEV);
        let unavailable = DmError::Unavailable { what: "device-mapper".to_owned(), module: "dm_mod".to_owned(), source: io() };
        let reply = DmError::Reply { action: "ask".to_owned(), source: Malformed::NoUuidFlag };
        let errors = [unavailable, DmError::Refused { action: "load".to_owned(), source: io() }, DmError::io("ask")(io()), reply];
        assert_eq!(errors.each_ref().map(|error| repeated(error)), [None, None, None, None]);
        assert_eq!(
            errors.each_ref().map(|error| chain(error)),
            [
                "the kernel offers no device-mapper: load its module `dm_mod`, or use a kernel that has it: No such device (os error 19)",
                "load: the kernel refuses it, and its log says why: No such device (os error 19)",
                "ask: No such device (os error 19)",
                "ask: the kernel's answer is not understood: it does not say whether there is a uuid",
            ]
        );
    }
}
