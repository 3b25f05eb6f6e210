//! Events, from the agent to the API server.

mod index;
mod object;
mod publisher;

pub use publisher::{EventPublisher, Pace};
