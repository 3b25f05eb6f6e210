//! Watching the pool: growth of its device, and how full and how well it is.
//!
//! A thread of its own, for as long as the pool is owned. It wakes up when the kernel reports an event (low water, a change of mode),
//! and every [`PERIOD`] all the same: events are told once, and some changes, the device's size among them, have none. Events of other
//! devices of the machine are told apart by the pool's own count of events, for to ask for the pool's status makes it commit. Each time it
//!
//! 1. grows the pool when its device was enlarged ([`Growth`]), so that space that was added is used without a restart; a pool that
//!    is short of metadata gets more of them;
//! 2. says what has changed since the last time: one line for each change, none while all is as it was.
//!
//! Requests do not depend on it: whoever makes something asks for the pool's space and health at that moment. It changes nothing
//! but the pool's size. It ends when the pool is dropped, at once.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::growth::{Grown, Growth};
use super::health;
use super::layout::MetadataNeed;
use crate::dm::DeviceMapper;
use crate::dm::DmName;
use crate::dm::units::DataBlockSize;
use crate::dm::{Stopper, Woken};
use crate::pool::{Demand, PoolError, PoolUsage};
use crate::types::error::chain;

/// Longest time between two looks.
const PERIOD: Duration = Duration::from_secs(10);

/// How much room there is, as far as it makes a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Room {
    Plenty,
    /// New volumes are refused.
    ForSnapshots,
    /// New snapshots are refused too.
    None,
}

impl Room {
    fn of(usage: &PoolUsage) -> Self {
        match (usage.available_to(Demand::Volume), usage.available_to(Demand::Snapshot)) {
            (1.., _) => Self::Plenty,
            (0, 1..) => Self::ForSnapshots,
            (0, 0) => Self::None,
        }
    }
}

/// What was seen at a look.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    problem: Option<String>,
    room: Room,
}

/// What the monitor looks at.
pub(super) struct Watched {
    pub(super) dm: Arc<DeviceMapper>,
    pub(super) name: DmName,
    pub(super) place: String,
    pub(super) block_size: DataBlockSize,
    pub(super) growth: Growth,
}

impl Watched {
    /// How many events the pool had.
    fn events(&self) -> Option<u32> {
        self.dm.info(&self.name).ok().flatten().map(|info| info.event_nr)
    }

    fn look(&mut self, before: &mut Option<Seen>) {
        let status = match self.dm.thin_pool_status(&self.name) {
            Ok(status) => status,
            Err(error) => {
                tracing::warn!(pool = %self.name, error = %chain(&error), "the pool's status could not be asked for");
                return;
            }
        };
        let usage = health::usage(&status, self.block_size);
        let need = if usage.available_to(Demand::Volume) == 0 && usage.free > usage.reserve {
            MetadataNeed::Short
        } else {
            MetadataNeed::BySize
        };
        match self.growth.grow(need) {
            // It is looked at anew, as it is now: its own resume was an event.
            Ok(Grown::Yes) => return,
            Ok(Grown::No) => {}
            // The pool is as large as it was; the next look tries again.
            Err(error) => tracing::warn!(pool = %self.name, error = %chain(&error), "the pool was not grown with its device"),
        }
        let now = Seen { problem: health::judge(&status, &self.place).problem, room: Room::of(&usage) };
        if before.as_ref() != Some(&now) {
            say(&self.name, before.as_ref(), &now, &usage);
            *before = Some(now);
        }
    }
}

fn say(pool: &DmName, before: Option<&Seen>, now: &Seen, usage: &PoolUsage) {
    let was_well = before.is_none_or(|before| before.problem.is_none());
    if before.is_none_or(|before| before.problem != now.problem) {
        match &now.problem {
            Some(problem) => tracing::error!(%pool, %problem, "the pool is not well"),
            None if !was_well => tracing::info!(%pool, "the pool is well again"),
            None => {}
        }
    }
    let had_room = before.is_none_or(|before| before.room == Room::Plenty);
    let (free, metadata_free) = (usage.free, usage.metadata.map(|metadata| metadata.free));
    if before.is_none_or(|before| before.room != now.room) {
        match now.room {
            Room::Plenty if had_room => {}
            Room::Plenty => tracing::info!(%pool, free, metadata_free, "the pool has room again"),
            Room::ForSnapshots => {
                tracing::warn!(%pool, free, metadata_free, "the pool is nearly full: new volumes are refused");
            }
            Room::None => {
                tracing::error!(%pool, free, metadata_free, "the pool is nearly full: new volumes and snapshots are refused");
            }
        }
    }
}

/// The running monitor. Dropping it ends it.
pub(super) struct Monitor {
    stopper: Stopper,
    thread: Option<JoinHandle<()>>,
}

impl Monitor {
    /// Starts it.
    ///
    /// # Errors
    /// When the kernel's events cannot be waited for, or no thread be started.
    pub(super) fn start(mut watched: Watched) -> Result<Self, PoolError> {
        let io = |error| PoolError::io("watch the pool", std::io::Error::other(error));
        let (waiter, stopper) = watched.dm.events().map_err(io)?;
        let run = move || {
            let mut before = None;
            loop {
                let events = watched.events();
                watched.look(&mut before);
                let next_look = Instant::now() + PERIOD;
                loop {
                    match waiter.wait(next_look.saturating_duration_since(Instant::now())) {
                        Ok(Woken::Stopped) => return,
                        Ok(Woken::Timeout) => break,
                        // What cannot be told is looked at.
                        Ok(Woken::Event) if events.is_none() || watched.events() != events => break,
                        Ok(Woken::Event) => {}
                        Err(error) => {
                            tracing::error!(pool = %watched.name, error = %chain(&error), "the pool is not watched any more");
                            return;
                        }
                    }
                }
            }
        };
        let thread = thread::Builder::new().name("pool-monitor".to_owned()).spawn(run);
        let thread = thread.map_err(|error| PoolError::io("start the pool's monitor", error))?;
        Ok(Self { stopper, thread: Some(thread) })
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.stopper.stop();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the pool's monitor ended by a panic");
        }
    }
}
