//! Things that were stopped, each of which is set going again, whatever happens (invariant 4).
//!
//! What is stopped (a file system frozen, a device suspended) blocks somebody's writers. So there are three ways out, and one of
//! them is always taken:
//! * [`Stopped::release`] sets everything going and says whether it had stood still until then; dropping does the same, so that a
//!   panic is no exception;
//! * a watchdog, started before anything is stopped, does it at the deadline. It holds the mutex that `release` needs, so whoever
//!   reads "in time" knows that nothing had gone on before;
//! * what was stopped only after the deadline is set going by [`Stopped::add`].
//!
//! A process that dies leaves things stopped. That is for the next start to find, from what was recorded or from the kernel.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::Release;

/// The deadline passed before the last thing stood still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Late;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Holding,
    Released,
    Expired,
}

#[derive(Debug)]
struct State<T> {
    phase: Phase,
    /// What stands still, in the order in which it was stopped.
    things: Vec<T>,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    ended: Condvar,
    set_going: Box<dyn Fn(&T) + Send + Sync>,
}

impl<T> Shared<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        // Nothing that holds it leaves the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the hold with `phase`, unless it has ended; sets everything going; says how it ended.
    fn end(&self, phase: Phase) -> Phase {
        let mut state = self.state();
        if state.phase == Phase::Holding {
            state.phase = phase;
        }
        // The last that was stopped goes first: it may stand upon the others.
        while let Some(thing) = state.things.pop() {
            (self.set_going)(&thing);
        }
        self.ended.notify_all();
        state.phase
    }

    /// Ends the hold at the deadline, unless it ends before.
    fn watch(&self, deadline: Instant) {
        let mut state = self.state();
        while state.phase == Phase::Holding {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                drop(state);
                tracing::error!("a cut took longer than the deadline; its volumes go on");
                self.end(Phase::Expired);
                return;
            }
            state = self.ended.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Things that stand still until this is released or dropped, or the deadline passes.
pub struct Stopped<T: Send + 'static> {
    shared: Arc<Shared<T>>,
}

impl<T: Send + 'static> Stopped<T> {
    /// Nothing yet. The watchdog counts from now; `set_going` must not fail silently, and is called once for each thing.
    ///
    /// # Errors
    /// When no thread can be started for the watchdog.
    pub fn until(deadline: Duration, set_going: impl Fn(&T) + Send + Sync + 'static) -> io::Result<Self> {
        let state = Mutex::new(State { phase: Phase::Holding, things: Vec::new() });
        let shared = Arc::new(Shared { state, ended: Condvar::new(), set_going: Box::new(set_going) });
        let watched = Arc::clone(&shared);
        let until = Instant::now() + deadline;
        thread::Builder::new().name("freeze-watchdog".to_owned()).spawn(move || watched.watch(until))?;
        Ok(Self { shared })
    }

    /// Adds what the caller has just stopped. The mutex is not held while things are stopped, so that the watchdog can set the
    /// others going meanwhile.
    ///
    /// # Errors
    /// [`Late`] when the deadline had passed: the thing was set going again.
    pub fn add(&self, thing: T) -> Result<(), Late> {
        let mut state = self.shared.state();
        if state.phase == Phase::Holding {
            state.things.push(thing);
            return Ok(());
        }
        (self.shared.set_going)(&thing);
        Err(Late)
    }

    /// Sets everything going.
    pub fn release(self) -> Release {
        match self.shared.end(Phase::Released) {
            Phase::Expired => Release::Expired,
            Phase::Holding | Phase::Released => Release::InTime,
        }
    }
}

impl<T: Send + 'static> Drop for Stopped<T> {
    fn drop(&mut self) {
        self.shared.end(Phase::Released);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const LONG: Duration = Duration::from_secs(600);

    fn recorder(deadline: Duration) -> (Stopped<u32>, mpsc::Receiver<u32>) {
        let (sender, going) = mpsc::channel();
        let stopped = Stopped::until(deadline, move |&thing: &u32| sender.send(thing).unwrap()).unwrap();
        (stopped, going)
    }

    #[test]
    fn a_release_in_time_sets_everything_going_the_last_first() {
        let (stopped, going) = recorder(LONG);
        stopped.add(1).unwrap();
        stopped.add(2).unwrap();
        assert_eq!(stopped.release(), Release::InTime);
        assert_eq!(going.iter().collect::<Vec<_>>(), [2, 1]);
    }

    #[test]
    fn dropping_sets_everything_going_once() {
        let (stopped, going) = recorder(LONG);
        stopped.add(1).unwrap();
        drop(stopped);
        assert_eq!(going.iter().collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn the_watchdog_sets_everything_going_and_what_comes_later_at_once() {
        let (stopped, going) = recorder(Duration::from_millis(20));
        // It may have passed already; then this is set going at once, and by the watchdog otherwise.
        let _ = stopped.add(1);
        assert_eq!(going.recv_timeout(LONG), Ok(1));
        assert_eq!(stopped.add(2), Err(Late));
        assert_eq!(going.recv_timeout(LONG), Ok(2));
        assert_eq!(stopped.release(), Release::Expired);
        assert_eq!(going.iter().count(), 0);
    }
}
