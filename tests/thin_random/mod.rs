//! What the random operations on thin pools are compared with.

#![allow(clippy::unwrap_used, clippy::panic, reason = "called by tests only")]

pub mod content;
pub mod oracle;
