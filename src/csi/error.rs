//! Why a call failed, before a code is chosen.
//!
//! Two kinds of failure meet here. What is wrong with the request, or with the state it asks about, is known by this layer
//! and has the same code whatever the call ([`Fault`]). What a pool or a mount reports means different things to different
//! callers, so it is carried as it is and gets its code from one function for each call in [`super::status`].

use std::borrow::Cow;

use crate::mount::MountError;
use crate::pool::PoolError;

use super::call::Lost;

/// What a [`RequestError`] means to the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A field is missing or malformed.
    Invalid,
    /// A field asks for something that this driver never supports.
    Unsupported,
    /// A size lies outside of what is possible.
    OutOfRange,
    /// The object does not exist, and its owner says so.
    NotFound,
    /// A well-formed handle of a pool that is not here: only its owner may say "not found".
    PoolElsewhere,
    /// The name or path is taken by something that was asked for differently.
    AlreadyExists,
    /// The object is in a state that does not allow this call.
    Precondition,
    /// No pool that is here can satisfy the request.
    Exhausted,
    /// Another call on the same object is running.
    InFlight,
    /// The list token was not issued by us.
    Token,
    /// The call did not end in the time it may take.
    Deadline,
}

/// A refusal of this layer. The text names the field that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct RequestError {
    /// What it means.
    pub fault: Fault,
    /// The field of the request, as the protocol spells it.
    pub field: Cow<'static, str>,
    /// What is wrong with it, and what to do.
    pub reason: String,
}

macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident: $fault:ident,)*) => {
        impl RequestError {
            $(
                $(#[$doc])*
                pub fn $name(field: impl Into<Cow<'static, str>>, reason: impl Into<String>) -> Self {
                    Self { fault: Fault::$fault, field: field.into(), reason: reason.into() }
                }
            )*
        }
    };
}

constructors! {
    /// [`Fault::Invalid`].
    invalid: Invalid,
    /// [`Fault::Unsupported`].
    unsupported: Unsupported,
    /// [`Fault::OutOfRange`].
    out_of_range: OutOfRange,
    /// [`Fault::NotFound`].
    not_found: NotFound,
    /// [`Fault::PoolElsewhere`].
    pool_elsewhere: PoolElsewhere,
    /// [`Fault::AlreadyExists`].
    already_exists: AlreadyExists,
    /// [`Fault::Precondition`].
    precondition: Precondition,
    /// [`Fault::Exhausted`].
    exhausted: Exhausted,
    /// [`Fault::InFlight`].
    in_flight: InFlight,
    /// [`Fault::Token`].
    token: Token,
    /// [`Fault::Deadline`].
    deadline: Deadline,
}

/// The refusal of a handle that names nothing.
pub fn no_such(field: &'static str) -> RequestError {
    RequestError::not_found(field, "does not exist")
}

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
    #[error("{cause}; {left}: repeat the call")]
    Unfinished {
        /// Why it failed.
        cause: String,
        /// What is left.
        left: &'static str,
    },
    /// The thread that did the work ended without an answer: what it did is not known.
    #[error(transparent)]
    Lost(#[from] Lost),
}

impl CallError {
    /// [`CallError::Unfinished`], with what is `left`.
    pub fn unfinished(cause: impl std::fmt::Display, left: &'static str) -> Self {
        Self::Unfinished { cause: cause.to_string(), left }
    }
}
