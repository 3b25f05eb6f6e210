//! Where events go.

use super::event::Event;

/// Whoever makes events known. Transfers do not wait for it.
pub trait EventSink: Send + Sync {
    /// Takes an event, and returns at once. One that cannot be made known is dropped, which the sink counts and logs.
    fn publish(&self, event: Event);

    /// Whether anybody listens: for who is not heard no names are looked up.
    fn is_heard(&self) -> bool {
        true
    }
}

/// Nobody is told: there is no cluster.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silence;

impl EventSink for Silence {
    fn publish(&self, _event: Event) {}

    fn is_heard(&self) -> bool {
        false
    }
}
