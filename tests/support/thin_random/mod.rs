//! Random operations on thin pools, and what they are compared with.

#![allow(clippy::unwrap_used, clippy::panic, reason = "called by tests only")]

pub mod compare;
pub mod content;
pub mod model;
pub mod oracle;
