//! A gate that a call waits at, so that a test sees it on its way.

use std::sync::{Condvar, Mutex};

/// A gate that a verb of a double waits at until the test opens it.
#[derive(Default)]
pub struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    is_reached: bool,
    is_open: bool,
}

impl Gate {
    /// Tells that somebody is here, and waits until the gate is open.
    pub fn wait_here(&self) {
        let mut state = self.state.lock().unwrap();
        state.is_reached = true;
        self.changed.notify_all();
        while !state.is_open {
            state = self.changed.wait(state).unwrap();
        }
    }

    /// Waits until somebody is at the gate.
    pub fn wait_for_arrival(&self) {
        let mut state = self.state.lock().unwrap();
        while !state.is_reached {
            state = self.changed.wait(state).unwrap();
        }
    }

    pub fn open(&self) {
        self.state.lock().unwrap().is_open = true;
        self.changed.notify_all();
    }
}
