//! Waiting for events: a low water mark passed, a pool out of space or failed, a device made or removed.
//!
//! An event says that something happened to some device, and nothing else; what it was is to be looked up. So the protocol
//! is: look, wait, look, wait. None is missed, because a waiter is armed when it is made, and armed anew before
//! [`EventWaiter::wait`] returns: what happens while the caller looks makes the next wait return at once. An event may wake
//! for nothing, or once for several.
//!
//! Events are hints. The kernel sends one when a mark is passed, not while it is; who depends on it looks from time to time
//! as well, which the timeout is for.

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::call::ask;
use super::error::DmError;
use super::raw::Verb;
use super::request::Request;

/// What ended a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Woken {
    /// Something happened to some device.
    Event,
    /// Nothing happened in this time.
    Timeout,
    /// The [`Stopper`] was used: now, or before.
    Stopped,
}

/// Waits for events, in a thread of its own.
#[derive(Debug)]
pub struct EventWaiter {
    /// A descriptor of its own: how far events were seen is kept with it.
    control: File,
    stop: Arc<EventFd>,
}

/// Ends the waiting of its [`EventWaiter`] for good.
#[derive(Debug, Clone)]
pub struct Stopper(Arc<EventFd>);

pub(super) fn pair(control: File) -> Result<(EventWaiter, Stopper), DmError> {
    let stop = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
    let stop = Arc::new(stop.map_err(|error| DmError::io("make an event descriptor")(error.into()))?);
    let waiter = EventWaiter { control, stop: Arc::clone(&stop) };
    waiter.arm()?;
    Ok((waiter, Stopper(stop)))
}

impl EventWaiter {
    /// Waits until something happened since the last wait began to return (or since this was made), for at most `timeout`, or
    /// until it is stopped.
    pub fn wait(&self, timeout: Duration) -> Result<Woken, DmError> {
        let deadline = Instant::now().checked_add(timeout);
        loop {
            let mut watched =
                [PollFd::new(self.stop.as_fd(), PollFlags::POLLIN), PollFd::new(self.control.as_fd(), PollFlags::POLLIN)];
            match poll(&mut watched, until(deadline)) {
                // A signal; what is left of the time is computed anew.
                Err(nix::Error::EINTR) => continue,
                Err(error) => return Err(DmError::io("wait for device-mapper's events")(error.into())),
                Ok(_) => {}
            }
            let [stopped, happened] = watched.map(|one| one.revents().unwrap_or(PollFlags::empty()));
            if !stopped.is_empty() {
                return Ok(Woken::Stopped);
            }
            if happened.contains(PollFlags::POLLIN) {
                self.arm()?;
                return Ok(Woken::Event);
            }
            if !happened.is_empty() {
                let source = std::io::Error::other(format!("the descriptor reports {happened:?}"));
                return Err(DmError::io("wait for device-mapper's events")(source));
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(Woken::Timeout);
            }
        }
    }

    /// From now on, what happens makes the descriptor readable.
    fn arm(&self) -> Result<(), DmError> {
        ask(&self.control, &Request::general(Verb::ArmPoll), 0, |_| Ok(()))
    }
}

impl Stopper {
    /// Ends the wait under way and those to come.
    pub fn stop(&self) {
        // It fails only if the counter is about to overflow, when it is set anyway.
        let _ = self.0.write(1);
    }
}

/// The time until then in poll's milliseconds, rounded up so that it does not turn into a busy wait at the end. Longer than a
/// month is waited for in pieces.
fn until(deadline: Option<Instant>) -> PollTimeout {
    let Some(deadline) = deadline else { return PollTimeout::MAX };
    let left = deadline.saturating_duration_since(Instant::now());
    PollTimeout::try_from(left.as_micros().div_ceil(1000)).unwrap_or(PollTimeout::MAX)
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use super::*;

    /// A waiter whose control descriptor is the reading end of a pipe, which is readable when it was written to.
    fn over_a_pipe() -> (EventWaiter, Stopper, std::io::PipeWriter) {
        let (reader, writer) = std::io::pipe().unwrap();
        let stop = Arc::new(EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC).unwrap());
        let control = File::from(OwnedFd::from(reader));
        (EventWaiter { control, stop: Arc::clone(&stop) }, Stopper(stop), writer)
    }

    #[test]
    fn a_wait_ends_with_its_time() {
        let (waiter, _stopper, _writer) = over_a_pipe();
        let began = Instant::now();
        assert_eq!(waiter.wait(Duration::from_micros(2500)).unwrap(), Woken::Timeout);
        assert!(began.elapsed() >= Duration::from_micros(2500));
        assert_eq!(waiter.wait(Duration::ZERO).unwrap(), Woken::Timeout);
    }

    #[test]
    fn who_is_stopped_stays_stopped_whoever_waits_and_whatever_happens() {
        use std::io::Write;
        let (waiter, stopper, mut writer) = over_a_pipe();
        let waiting = std::thread::spawn(move || (waiter.wait(Duration::MAX).unwrap(), waiter));
        stopper.clone().stop();
        let (woken, waiter) = waiting.join().unwrap();
        assert_eq!(woken, Woken::Stopped);
        writer.write_all(&[1]).unwrap();
        stopper.stop();
        assert_eq!(waiter.wait(Duration::ZERO).unwrap(), Woken::Stopped);
    }

    #[test]
    fn a_descriptor_that_only_reports_trouble_is_an_error_and_no_busy_wait() {
        let (waiter, _stopper, writer) = over_a_pipe();
        drop(writer);
        assert!(matches!(waiter.wait(Duration::MAX), Err(DmError::Io { .. })));
    }
}
