//! Why a call failed, before a code is chosen.
//!
//! A refusal of the request has the same code whatever the call. What a pool or a mount reports means different things to different
//! callers, so it is carried as it is and gets its code from one function for each call in [`super::status`].

use crate::csi::call::Lost;
use crate::csi::error::RequestError;
use crate::mount::MountError;
use crate::pool::PoolError;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The request, or the state it asks about.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The pool.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// A mount, a device or a path.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// It failed, and what it had made or was to undo is there still: only a repetition ends it. Never told by a final code.
    #[error("it failed, and {left}: repeat the call")]
    Unfinished {
        /// Why it failed.
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
        /// What is left.
        left: &'static str,
    },
    /// The thread that did the work ended without an answer: what it did is not known.
    #[error(transparent)]
    Lost(#[from] Lost),
}

impl CallError {
    /// [`CallError::Unfinished`], with what is `left`.
    pub fn unfinished(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>, left: &'static str) -> Self {
        Self::Unfinished { cause: cause.into(), left }
    }
}
