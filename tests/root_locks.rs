#![cfg(feature = "root-tests")]
//! Exports beside a prune of stock restic that another pid namespace runs under this host's name, stopped at its steps: they are refused,
//! or wait, and what a successful one refers to is there. Needs root, for the namespace.
//!
//! And a repository on a medium that takes no lock is read all the same. Needs root for its mounts.
//!
//! `WINDLASS_LOCK_ROUNDS` is how many rounds, for a long run by hand.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is a failed test")]

#[path = "support/basics.rs"]
mod basics;
#[path = "support/common/mod.rs"]
mod common;
#[path = "support/transfer_fixture.rs"]
mod transfer_fixture;

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::program::{BOUND, built_tool, command, run_ok, windlass};
use common::{require_root, wait_for};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio_util::sync::CancellationToken;
use transfer_fixture::{PASSWORD, Volume, export_volume, init, options, restored};
use windlass::repository::store::local::LocalStore;
use windlass::repository::{Id, Repository, RepositoryError};
use windlass::transfer::{ChunkSize, ExportError, ExportReport, ExportSource, Locking, Progress, export};

const SIZE: usize = 2 << 20;
const ROUNDS: u64 = 4;

/// When a prune is stopped: each but the first after what it does with its lock held.
#[derive(Debug, Clone, Copy)]
enum Moment {
    Locked,
    IndexWritten,
    PackDeleted,
}

const MOMENTS: [Moment; 3] = [Moment::Locked, Moment::IndexWritten, Moment::PackDeleted];

/// A repository in a directory.
struct Place(PathBuf);

impl Place {
    fn files(&self, folder: &str) -> Vec<PathBuf> {
        fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let path = entry.path();
                // What is half written has a longer name.
                if path.is_dir() {
                    walk(&path, found);
                } else if path.file_name().is_some_and(|name| name.len() == 64) {
                    found.push(path);
                }
            }
        }
        let mut found = Vec::new();
        walk(&self.0.join(folder), &mut found);
        found.sort();
        found
    }

    fn restic(&self, program: &Path, arguments: &[&str]) -> Command {
        let mut command = command(program);
        command.args(["--no-cache", "--repo"]).arg(&self.0).args(arguments).env("RESTIC_PASSWORD", PASSWORD);
        command
    }
}

/// A prune in a pid namespace of its own, where it has the process id 1 under this host's name.
struct Prune {
    child: Child,
    group: Pid,
}

impl Prune {
    fn start(restic: &Path, place: &Place) -> Self {
        let inner = place.restic(restic, &["prune", "--max-unused", "0"]);
        let mut command = command("unshare");
        command.args(["--pid", "--fork", "--kill-child", "--mount-proc"]).arg(inner.get_program()).args(inner.get_args());
        let child = command.env("RESTIC_PASSWORD", PASSWORD).stdout(Stdio::null());
        let child = child.process_group(0).spawn().unwrap();
        let group = Pid::from_raw(i32::try_from(child.id()).unwrap());
        Self { child, group }
    }

    /// Stops it at `moment`; `false` when it ended before that was seen.
    fn stop_at(&mut self, moment: Moment, place: &Place) -> bool {
        let (index, data) = (place.files("index"), place.files("data").len());
        let start = Instant::now();
        loop {
            let is_there = match moment {
                Moment::Locked => !place.files("locks").is_empty(),
                Moment::IndexWritten => place.files("index") != index,
                Moment::PackDeleted => place.files("data").len() < data,
            };
            let ended = self.child.try_wait().unwrap().is_some();
            if is_there || ended {
                break;
            }
            assert!(start.elapsed() < BOUND, "waited in vain for {moment:?}");
            // Far more often than others look: what is waited for may last a few milliseconds.
            windlass::types::poll::pause(Duration::from_micros(200));
        }
        self.signal(Signal::SIGSTOP);
        self.child.try_wait().unwrap().is_none()
    }

    fn signal(&self, signal: Signal) {
        // One that has ended has no group any more.
        let _ = killpg(self.group, signal);
    }

    /// Lets it go on to its end.
    fn wait(mut self) -> ExitStatus {
        self.signal(Signal::SIGCONT);
        self.child.wait().unwrap()
    }
}

impl Drop for Prune {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

async fn export_with(repository: &Repository, volume: &Volume, progress: &Progress) -> Result<ExportReport, ExportError> {
    let options = options(volume, ChunkSize::MIN);
    export(ExportSource::new(volume.source(), volume.stream()), repository, &options, progress, &CancellationToken::new()).await
}

async fn assert_whole(place: &Place, restic: &Path, repository: &Repository, kept: &[(Id, &Volume)]) {
    run_ok(&mut place.restic(restic, &["check", "--read-data"]));
    for (id, volume) in kept {
        assert!(restored(repository, id, SIZE, Locking::Shared).await.unwrap() == volume.bytes, "{id} is not what was exported");
    }
}

async fn round(restic: &Path, number: u64) {
    let moment = MOMENTS[usize::try_from(number).unwrap() % MOMENTS.len()];
    let folder = tempfile::tempdir().unwrap();
    let place = Place(folder.path().to_owned());
    let repository = init(Arc::new(LocalStore::new(place.0.clone()))).await;
    let (kept, forgotten) = (Volume::random(SIZE, 2 * number + 1), Volume::random(SIZE, 1000 + 2 * number));
    let kept_id = export_volume(&repository, &kept, ChunkSize::MIN).await.unwrap().snapshot;
    let forgotten_id = export_volume(&repository, &forgotten, ChunkSize::MIN).await.unwrap().snapshot;
    run_ok(&mut place.restic(restic, &["forget", &forgotten_id.to_string()]));

    let mut prune = Prune::start(restic, &place);
    let stopped = prune.stop_at(moment, &place);
    let locks = place.files("locks");
    let is_locked = stopped && !locks.is_empty();
    let impatient = export_with(&repository, &forgotten, &Progress::new()).await;
    if is_locked {
        // Everything that it would refer to is about to be deleted.
        assert!(
            matches!(&impatient, Err(ExportError::Repository(RepositoryError::Locked { .. }))),
            "{moment:?}: {:?}",
            impatient.map(|report| report.snapshot)
        );
        assert_eq!(place.files("locks"), locks, "{moment:?}: the prune's lock");
    }
    let patient = repository.clone().with_retry_lock(Duration::from_secs(120));
    let progress = Progress::new();
    let waiting = tokio::spawn({
        let (volume, progress) = (forgotten.clone(), progress.clone());
        async move { export_with(&patient, &volume, &progress).await }
    });
    if is_locked {
        let reason = tokio::task::spawn_blocking(move || wait_for("the export to wait", BOUND, || progress.waiting()));
        let reason = reason.await.unwrap();
        assert!(reason.contains("locked exclusively by"), "{reason}");
    }
    let pruned = tokio::task::spawn_blocking(move || prune.wait()).await.unwrap();
    let exported = waiting.await.unwrap().unwrap_or_else(|error| panic!("{moment:?}: {error}"));
    assert!(pruned.success(), "{moment:?}: the prune ended with {pruned}");
    assert_whole(&place, restic, &repository, &[(kept_id, &kept), (exported.snapshot, &forgotten)]).await;
    assert_eq!(place.files("locks"), Vec::<PathBuf>::new());
    println!("round {number}, {moment:?}, stopped in time: {is_locked}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exports_beside_a_prune_in_another_pid_namespace_wait_for_it_and_lose_nothing() {
    require_root();
    let rounds = std::env::var("WINDLASS_LOCK_ROUNDS").map_or(ROUNDS, |text| text.parse().unwrap());
    let releases = [PathBuf::from("restic"), built_tool("restic")];
    for number in 0..rounds {
        // In six rounds each release meets each moment.
        round(&releases[usize::try_from(number).unwrap() % releases.len()], number).await;
    }
}

/// A mount of the test's own.
struct Mounted(PathBuf);

impl Mounted {
    fn new(at: PathBuf, arguments: &[&str]) -> Self {
        fs::create_dir_all(&at).unwrap();
        run_ok(command("mount").args(arguments).arg(&at));
        Self(at)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// Lists, checks and restores from the repository at `place` by the command line.
fn assert_readable(place: &Path, volume: &Volume, scratch: &Path, no_lock: &[&str]) {
    let ours = |arguments: &[&str]| {
        let mut command = windlass();
        command.args(arguments).arg("--repository").arg(place).env("RESTIC_PASSWORD", PASSWORD);
        run_ok(&mut command).stderr
    };
    ours(&["repository", "snapshots"]);
    let file = scratch.join("restored");
    let path = file.display().to_string();
    let checked = ours(&[&["repository", "check", "--read-data"], no_lock].concat());
    let restored = ours(&[&["restore", "--file", &path], no_lock].concat());
    for said in [checked, restored] {
        assert_eq!(said.contains("without a lock"), no_lock.is_empty(), "{said}");
    }
    assert!(fs::read(&file).unwrap() == volume.bytes, "what was restored differs");
    fs::remove_file(&file).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repository_that_cannot_be_written_is_listed_checked_and_restored_from() {
    require_root();
    let folder = tempfile::tempdir().unwrap();
    let small = Mounted::new(folder.path().join("small"), &["-t", "tmpfs", "-o", "size=16m", "tmpfs"]);
    let place = small.0.join("repository");
    let repository = init(Arc::new(LocalStore::new(place.clone()))).await;
    let volume = Volume::random(SIZE, 5);
    export_volume(&repository, &volume, ChunkSize::MIN).await.unwrap();

    let origin = place.display().to_string();
    let bound = Mounted::new(folder.path().join("bound"), &["--bind", "-o", "ro", &origin]);
    let before = Place(place.clone()).files("");
    for no_lock in [&[][..], &["--no-lock"]] {
        assert_readable(&bound.0, &volume, folder.path(), no_lock);
    }
    drop(bound);

    let full = fs::File::create(small.0.join("fill")).and_then(|mut file| std::io::copy(&mut std::io::repeat(1), &mut file));
    assert_eq!(full.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    assert_readable(&place, &volume, folder.path(), &[]);
    assert_eq!(Place(place).files(""), before, "nothing was stored");
}
