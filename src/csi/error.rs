//! What is wrong with a request, or with the state it asks about: refusals that mean the same whatever the call.
//!
//! A refusal has its code from [`super::status`]. What the things below a layer report means different things to different callers; each
//! layer carries it as it is and chooses the code for each call.

use std::borrow::Cow;

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
