//! What every layer of the driver needs to speak CSI, wherever it runs and whatever it stands on.
//!
//! * [`validate`] turns requests into checked values; [`error`] says what is wrong with one, and [`status`] which code that is.
//! * [`call`] runs a call: check, then work that outlives its caller. [`locks`] let one operation work on an object at a time.
//! * [`plugin`] is what a layer is to those above it, [`remote`] one behind a connection ([`channel`]), and [`server`] serves one on a private
//!   unix socket.
//! * [`topology`] and [`token`] are how places and pages of lists are written.
//!
//! Nothing here knows a pool, a mount or a repository.

#![allow(clippy::disallowed_types, reason = "the gRPC boundary")]

mod allowance;
pub mod call;
pub mod channel;
pub mod error;
pub mod locks;
pub mod plugin;
pub mod remote;
pub mod server;
pub mod status;
pub mod time;
pub mod token;
pub mod topology;
pub mod validate;

pub use topology::{NodeName, NodeNameError};

/// Name of the driver.
pub const DRIVER_NAME: &str = "csi.windlass.dev";
