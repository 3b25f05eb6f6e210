use std::path::Path;
use std::thread;
use std::time::Instant;

use crate::mount::memory::{Failure, MemoryMounter, Verb};
use crate::mount::{Formatting, MountRequest};
use crate::types::{Access, FsType};

use super::*;

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(20);

struct Fixture {
    directory: tempfile::TempDir,
    mounter: Arc<MemoryMounter>,
    quiesce: MountQuiesce,
}

impl Fixture {
    fn new() -> Self {
        let mounter = Arc::new(MemoryMounter::new());
        let quiesce = MountQuiesce::new(Arc::clone(&mounter) as Arc<dyn Mounter>);
        Self { directory: tempfile::tempdir().unwrap(), mounter, quiesce }
    }

    fn mounted(&self, name: &str) -> PathBuf {
        let device = PathBuf::from(format!("/dev/{name}"));
        let target = self.directory.path().join(name);
        std::fs::create_dir(&target).unwrap();
        self.mounter.make_file_system(&device, FsType::Ext4, Formatting::Blank).unwrap();
        let request = MountRequest {
            device: device.clone(),
            target,
            fs_type: FsType::Ext4,
            options: Vec::new(),
            access: Access::ReadWrite,
        };
        self.mounter.mount(&request).unwrap();
        device
    }

    /// Waits until the watchdog has acted, on a condition: it ends the hold, which nothing else does here.
    fn wait_until_thawed(&self, device: &Path) {
        let limit = Instant::now() + LONG;
        while self.mounter.is_frozen(device) {
            assert!(Instant::now() < limit, "the watchdog did not thaw");
            thread::yield_now();
        }
    }
}

#[test]
fn a_hold_writes_out_freezes_each_file_system_once_and_thaws_at_its_end() {
    let fixture = Fixture::new();
    let (one, two) = (fixture.mounted("one"), fixture.mounted("two"));
    let hold = fixture.quiesce.hold(&[one.clone(), two.clone(), one.clone()], LONG).unwrap();
    assert!(fixture.mounter.is_frozen(&one) && fixture.mounter.is_frozen(&two));
    assert_eq!(fixture.mounter.count(Verb::Freeze), 2);
    let order: Vec<_> = fixture.mounter.calls().into_iter().map(|call| call.0).collect();
    let last_sync = order.iter().rposition(|verb| *verb == Verb::Sync).unwrap();
    assert!(last_sync < order.iter().position(|verb| *verb == Verb::Freeze).unwrap());
    assert_eq!(hold.release(), Release::InTime);
    assert!(!fixture.mounter.is_frozen(&one) && !fixture.mounter.is_frozen(&two));
    assert_eq!(fixture.mounter.count(Verb::Thaw), 2);
}

#[test]
fn the_deadline_thaws_while_the_cut_hangs_and_the_release_says_so() {
    let fixture = Fixture::new();
    let device = fixture.mounted("one");
    let hold = fixture.quiesce.hold(std::slice::from_ref(&device), SHORT).unwrap();
    fixture.wait_until_thawed(&device);
    assert_eq!(hold.release(), Release::Expired);
    assert_eq!(fixture.mounter.count(Verb::Thaw), 1);
}

#[test]
fn a_panic_during_the_cut_thaws() {
    let fixture = Fixture::new();
    let device = fixture.mounted("one");
    let (quiesce, held) = (fixture.quiesce.clone(), device.clone());
    let cut = thread::spawn(move || {
        let _hold = quiesce.hold(&[held], LONG).unwrap();
        panic!("as it were");
    });
    assert!(cut.join().is_err());
    assert!(!fixture.mounter.is_frozen(&device));
}

#[test]
fn what_somebody_else_froze_is_cut_and_stays_frozen() {
    let fixture = Fixture::new();
    let (theirs, ours) = (fixture.mounted("theirs"), fixture.mounted("ours"));
    fixture.mounter.freeze_by_others(&theirs);
    let hold = fixture.quiesce.hold(&[theirs.clone(), ours.clone()], LONG).unwrap();
    assert_eq!(hold.foreign(), std::slice::from_ref(&theirs));
    assert_eq!(hold.release(), Release::InTime);
    assert!(fixture.mounter.is_frozen(&theirs));
    assert!(!fixture.mounter.is_frozen(&ours));
}

#[test]
fn a_failed_freeze_thaws_the_ones_before_it() {
    let fixture = Fixture::new();
    let (one, two) = (fixture.mounted("one"), fixture.mounted("two"));
    for (verb, failure) in [(Verb::Freeze, Failure::Io(std::io::ErrorKind::Other)), (Verb::FlushDevice, Failure::Busy)] {
        // The second device to be frozen, or the raw one behind both, fails.
        let devices = match verb {
            Verb::Freeze => {
                let _foreign = fixture.quiesce.hold(std::slice::from_ref(&one), LONG).unwrap();
                vec![two.clone()]
            }
            _ => vec![one.clone(), two.clone(), PathBuf::from("/dev/raw")],
        };
        fixture.mounter.fail_next(verb, failure);
        assert!(fixture.quiesce.hold(&devices, LONG).is_err());
        assert!(!fixture.mounter.is_frozen(&one) && !fixture.mounter.is_frozen(&two));
    }
}

#[test]
fn what_is_unmounted_during_the_cut_is_thawed_all_the_same() {
    let fixture = Fixture::new();
    let device = fixture.mounted("one");
    let hold = fixture.quiesce.hold(std::slice::from_ref(&device), LONG).unwrap();
    // As `umount --lazy` does.
    fixture.mounter.unmount(&fixture.directory.path().join("one")).unwrap();
    assert_eq!(hold.release(), Release::InTime);
    assert!(!fixture.mounter.is_frozen(&device));
}

#[test]
fn faults_that_end_by_themselves_are_told_from_those_that_last() {
    let fixture = Fixture::new();
    let device = fixture.mounted("one");
    let fault = |verb, failure| {
        fixture.mounter.fail_next(verb, failure);
        fixture.quiesce.hold(std::slice::from_ref(&device), LONG).map(drop).unwrap_err()
    };
    for failure in [Failure::Busy, Failure::NotFound, Failure::Io(std::io::ErrorKind::Interrupted)] {
        assert!(matches!(fault(Verb::OpenMounted, failure), QuiesceError::Transient(_)), "{failure:?}");
    }
    for verb in [Verb::Sync, Verb::Freeze] {
        // A file system that shut down; one that cannot be frozen.
        for kind in [std::io::ErrorKind::Other, std::io::ErrorKind::Unsupported, std::io::ErrorKind::NotADirectory] {
            assert!(matches!(fault(verb, Failure::Io(kind)), QuiesceError::Lasting(_)), "{verb:?} {kind:?}");
        }
    }
}

#[test]
fn raw_devices_are_flushed_and_not_frozen() {
    let fixture = Fixture::new();
    let hold = fixture.quiesce.hold(&[PathBuf::from("/dev/raw")], LONG).unwrap();
    assert_eq!(fixture.mounter.count(Verb::FlushDevice), 1);
    assert_eq!(fixture.mounter.count(Verb::Freeze), 0);
    assert_eq!(hold.release(), Release::InTime);
}

#[test]
fn what_a_dead_process_left_frozen_is_thawed_at_the_start() {
    let fixture = Fixture::new();
    let device = fixture.mounted("one");
    fixture.mounter.freeze_by_others(&device);
    fixture.quiesce.release_leftovers(&[device.clone(), PathBuf::from("/dev/raw")]).unwrap();
    assert!(!fixture.mounter.is_frozen(&device));
}
