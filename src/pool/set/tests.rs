use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use super::watcher::delay;
use super::*;
use crate::pool::PoolError;
use crate::pool::catalogue::Catalogue;
use crate::pool::memory::{HealthHook, MemoryPool};
use crate::pool::owned::OwnedPool;
use crate::pool::quiesce::NothingToHold;
use crate::types::{AccessMode, CapacityRange, NewVolume, VolumeMode, VolumeSize};
use crate::types::{ObjectName, PoolId};

/// A wait that ends with the test when it is not over by then.
const BOUND: Duration = Duration::from_secs(30);

/// Everything at once, but for a disk that hangs.
const QUICK: Pace = Pace {
    look: Duration::from_millis(1),
    answer: Duration::from_secs(60),
    retry: Duration::from_millis(1),
    retry_most: Duration::from_millis(4),
    start: BOUND,
    close: BOUND,
};

/// A disk in memory, which outlives the pools that are opened from it.
#[derive(Clone)]
pub(crate) struct Disk {
    name: &'static str,
    pub(crate) pool: Arc<MemoryPool>,
    catalogue: Catalogue,
    /// How many attempts to open it still fail.
    failures: Arc<AtomicU32>,
    opened: Arc<AtomicU32>,
}

impl Disk {
    pub(crate) fn new(name: &'static str) -> Self {
        Self::of(name, MemoryPool::with_capacity(8 << 30))
    }

    pub(crate) fn of(name: &'static str, pool: MemoryPool) -> Self {
        Self {
            name,
            pool: Arc::new(pool),
            catalogue: Catalogue::in_memory().unwrap(),
            failures: Arc::default(),
            opened: Arc::default(),
        }
    }

    /// One whose catalogue is this.
    pub(crate) fn with_catalogue(self, catalogue: Catalogue) -> Self {
        Self { catalogue, ..self }
    }

    fn failing(self, failures: u32) -> Self {
        self.failures.store(failures, Ordering::Relaxed);
        self
    }

    pub(crate) fn id(&self) -> PoolId {
        self.catalogue.id()
    }

    /// From now on it answers nothing, and does not open.
    pub(crate) fn die(&self) {
        self.failures.store(u32::MAX, Ordering::Relaxed);
        let dead: HealthHook = Arc::new(|| Err(PoolError::io("look at the disk", io::Error::from_raw_os_error(5))));
        self.pool.set_health_hook(Some(dead));
    }

    pub(crate) fn come_back(&self) {
        self.pool.set_health_hook(None);
        self.failures.store(0, Ordering::Relaxed);
    }
}

impl PoolSource for Disk {
    fn place(&self) -> String {
        self.name.to_owned()
    }

    fn open(&self) -> Result<OpenedPool, String> {
        let failing = |left: u32| if left == u32::MAX { Some(left) } else { left.checked_sub(1) };
        if self.failures.fetch_update(Ordering::Relaxed, Ordering::Relaxed, failing).is_ok() {
            return Err("there is no such disk".to_owned());
        }
        self.opened.fetch_add(1, Ordering::Relaxed);
        let pool = OwnedPool::open(self.pool.clone(), self.catalogue.clone(), Arc::new(NothingToHold));
        Ok(OpenedPool { pool: Arc::new(pool.map_err(|error| error.to_string())?), foundation: Box::new(()) })
    }
}

pub(crate) fn start(disks: &[Disk]) -> PoolSet {
    start_at(disks, QUICK)
}

/// Nobody looks at these pools unless it is asked for.
pub(crate) fn start_unwatched(disks: &[Disk]) -> PoolSet {
    start_at(disks, Pace { look: BOUND * 100, ..QUICK })
}

fn start_at(disks: &[Disk], pace: Pace) -> PoolSet {
    PoolSet::start(disks.iter().map(|disk| Box::new(disk.clone()) as Box<dyn PoolSource>).collect(), pace).unwrap()
}

/// Waits until the set is as asked for.
pub(crate) fn wait_for(set: &PoolSet, what: &str, is_so: impl Fn(&PoolSet) -> bool) {
    let deadline = Instant::now() + BOUND;
    while !is_so(set) {
        let left = deadline.saturating_duration_since(Instant::now());
        assert!(!left.is_zero(), "not within {BOUND:?}: {what}; the set is {set:?}");
        // Every change is announced; what depends on the clock alone is looked at again.
        drop(set.shared.wait(set.shared.state(), left.min(Duration::from_millis(20))));
    }
}

fn volume(name: &str) -> NewVolume {
    let size = VolumeSize::at_least(1 << 20).unwrap();
    NewVolume {
        name: name.to_owned().try_into().unwrap(),
        capacity: CapacityRange::exactly(size),
        minimum: size,
        mode: VolumeMode::Block,
        access_modes: vec![AccessMode::SingleNodeWriter],
        mount_flags: Vec::new(),
        parameters: BTreeMap::new(),
        checksum: Default::default(),
        source: None,
        foreign_source: None,
        kubernetes: Default::default(),
    }
}

#[test]
fn a_pool_that_does_not_open_keeps_no_other_from_it_and_joins_when_it_does() {
    let (absent, well) = (Disk::new("absent").failing(3), Disk::new("well"));
    let set = start(&[absent.clone(), well.clone()]);
    assert!(set.get(well.id()).is_ok());
    wait_for(&set, "the absent pool is open", |set| set.get(absent.id()).is_ok());
    assert_eq!(
        set.pools().iter().map(|pool| pool.id()).collect::<Vec<_>>(),
        [absent.id(), well.id()],
        "in the order of their places"
    );
    assert_eq!(set.failed(), []);
    set.close();
}

#[test]
fn a_pool_whose_disk_dies_fails_alone_and_works_again_without_a_restart_when_the_disk_is_back() {
    let (dying, well) = (Disk::new("dying"), Disk::new("well"));
    let set = start(&[dying.clone(), well.clone()]);
    let made = set.get(dying.id()).unwrap().create_volume(&volume("data")).unwrap().into_inner();
    dying.die();
    set.suspect(dying.id());
    wait_for(&set, "the pool has failed", |set| set.pools().len() == 1);
    assert_eq!(set.pools()[0].id(), well.id());
    assert!(matches!(set.get(dying.id()).unwrap_err(), Absent::Failed(failed) if failed.place == "dying"), "{set:?}");
    assert_eq!(set.known_ids(), [dying.id(), well.id()]);
    dying.come_back();
    wait_for(&set, "the pool is back", |set| set.pools().len() == 2);
    assert_eq!(set.get(dying.id()).unwrap().volume(made.id).unwrap(), Some(made));
    set.close();
}

#[test]
fn a_failed_pool_is_not_opened_anew_while_a_call_still_has_it() {
    let disk = Disk::new("dying");
    let set = start(std::slice::from_ref(&disk));
    let held = set.get(disk.id()).unwrap();
    disk.die();
    set.suspect(disk.id());
    wait_for(&set, "the pool has failed", |set| set.pools().is_empty());
    disk.come_back();
    let looked = set.failed();
    set.suspect(disk.id());
    wait_for(&set, "it was tried again", |set| set.failed().first().is_some_and(|failed| failed.next_attempt.is_some()));
    assert_eq!((set.pools().len(), disk.opened.load(Ordering::Relaxed)), (0, 1));
    assert_eq!(set.failed()[0].since, looked[0].since, "it has been failed all the time");
    drop(held);
    wait_for(&set, "the pool is back", |set| set.pools().len() == 1);
    assert_eq!(disk.opened.load(Ordering::Relaxed), 2);
    set.close();
}

#[test]
fn a_disk_that_hangs_is_no_open_pool_until_it_answers() {
    let disk = Disk::new("hanging");
    let (answer, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let set =
        start_at(std::slice::from_ref(&disk), Pace { answer: Duration::from_millis(5), look: Duration::from_millis(1), ..QUICK });
    disk.pool.set_health_hook(Some(Arc::new(move || {
        // Until the sender is gone.
        let _ = wait.lock().unwrap().recv();
        Ok(())
    })));
    wait_for(&set, "the look hangs", |set| set.pools().is_empty());
    let failed = set.failed().remove(0);
    assert!(failed.reason.contains("has not answered") && failed.id == Some(disk.id()), "{failed:?}");
    drop(answer);
    wait_for(&set, "it answered", |set| set.pools().len() == 1);
    assert_eq!(disk.opened.load(Ordering::Relaxed), 1, "it was never closed");
    set.close();
}

#[test]
fn two_places_of_one_pool_are_one_pool_and_a_refusal() {
    let disk = Disk::new("first");
    let copy = Disk { name: "second", ..disk.clone() };
    let set = start(&[disk.clone(), copy]);
    assert_eq!(set.pools().len(), 1);
    let failed = set.failed().remove(0);
    assert_eq!(failed.place, "second");
    assert!(failed.reason.contains("the same pool") && failed.reason.contains("first"), "{}", failed.reason);
    assert!(set.get(disk.id()).is_ok());
    set.close();
}

#[test]
fn the_names_in_a_pool_are_known_while_it_has_failed() {
    let (dying, well) = (Disk::new("dying"), Disk::new("well"));
    let set = start(&[dying.clone(), well.clone()]);
    let name = |name: &str| ObjectName::try_from(name.to_owned()).unwrap();
    set.get(dying.id()).unwrap().create_volume(&volume("looked")).unwrap();
    set.suspect(dying.id());
    wait_for(&set, "it was looked at", |set| {
        set.shared.state().entries.iter().any(|entry| entry.names.looked.contains(&name("looked")))
    });
    set.made(dying.id(), &name("made"));
    assert_eq!(set.failed_owner(&name("looked")), None, "it can be asked");
    dying.die();
    wait_for(&set, "the pool has failed", |set| set.pools().len() == 1);
    assert!(set.failed_owner(&name("looked")).is_some_and(|failed| failed.id == Some(dying.id())));
    assert_eq!(set.failed_owner(&name("never")), None);
    set.close();
}

#[test]
fn a_panic_in_one_pool_is_the_failure_of_that_pool() {
    let (bad, well) = (Disk::new("bad"), Disk::new("well"));
    let set = start(&[bad.clone(), well]);
    bad.pool.set_health_hook(Some(Arc::new(|| panic!("this pool is bad"))));
    wait_for(&set, "the pool has failed", |set| set.pools().len() == 1);
    assert!(set.failed()[0].reason.contains("panicked"));
    set.close();
    assert!(set.pools().is_empty());
}

#[test]
fn the_wait_between_attempts_doubles_to_a_bound() {
    let pace = Pace::default();
    let waits: Vec<u64> = [0, 1, 2, 5, 6, 40].map(|failures| delay(&pace, failures).as_secs()).to_vec();
    assert_eq!(waits, [1, 2, 4, 32, 60, 60]);
}
