//! A repository over a long time, and many who use it at once.
//!
//! In short here; `make soak-repository` runs the whole: `WINDLASS_SOAK_EXPORTS` is how many exports a year has, `WINDLASS_SOAK_SECONDS` how long
//! the others go on, `WINDLASS_SOAK_SEED` repeats the choices of a run, though not its timing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a broken expectation is a failed test")]

#[path = "support/basics.rs"]
mod basics;
#[path = "support/transfer_fixture.rs"]
mod transfer_fixture;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use basics::tool_path;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio_util::sync::CancellationToken;
use transfer_fixture::{PASSWORD, Volume, budget, check, init, options, reopen, restored};
use windlass::repository::forget::{Count, Filter, GroupBy, Policy, plan};
use windlass::repository::prune::{PruneError, PruneOptions, PruneStats};
use windlass::repository::store::fault::{Call, Fault, FaultyStore};
use windlass::repository::store::local::LocalStore;
use windlass::repository::store::{Key, Kind};
use windlass::repository::{Id, LockMode, Repository, RepositoryError, Store};
use windlass::transfer::{ChunkSize, ExportError, ExportSource, Locking, Progress, export};
use windlass::types::Timestamp;

const CHUNK: usize = 256 << 10;
/// Of each chunk this much is noise; the rest compresses to nothing, so that a year is a matter of bookkeeping.
const NOISE: usize = 8 << 10;
const VOLUMES: usize = 5;
const CHUNKS: usize = 12;

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).ok().map_or(otherwise, |text| text.parse().unwrap())
}

fn seed() -> u64 {
    let seed = number("WINDLASS_SOAK_SEED", rand::random());
    println!("WINDLASS_SOAK_SEED={seed}");
    seed
}

/// Debian's restic, and the newest one, which `e2e/setup.sh` builds.
fn restics() -> [PathBuf; 2] {
    let built = tool_path("restic");
    [PathBuf::from("restic"), std::env::var_os("RESTIC_NEW").map_or(built, PathBuf::from)]
}

fn restic(program: &Path, repository: &Path, arguments: &[&str]) -> Result<(), String> {
    let mut command = Command::new(program);
    command.arg("--no-cache").arg("--repo").arg(repository).args(arguments).env("RESTIC_PASSWORD", PASSWORD);
    let output = command.output().expect("restic is there: e2e/setup.sh installs it");
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

fn store(folder: &Path) -> Arc<dyn Store> {
    Arc::new(LocalStore::new(folder.to_owned()))
}

fn overwrite(volume: &mut Volume, chunk: usize, random: &mut StdRng) {
    volume.bytes[chunk * CHUNK..][..NOISE].fill_with(|| random.random());
}

fn new_volume(random: &mut StdRng) -> Volume {
    let mut volume = Volume::empty(CHUNKS * CHUNK).with(0, CHUNKS * CHUNK, |_| 7);
    (0..CHUNKS).for_each(|chunk| overwrite(&mut volume, chunk, random));
    volume
}

async fn export_as(repository: &Repository, name: &str, volume: &Volume, seconds: u64) -> Result<Id, ExportError> {
    let mut options = options(volume, ChunkSize::MIN);
    options.path = format!("/{name}/volume.img");
    options.time.seconds += seconds;
    options.budget = budget(1);
    let (progress, cancel) = (Progress::new(), CancellationToken::new());
    Ok(export(ExportSource::new(volume.source(), volume.stream()), repository, &options, &progress, &cancel).await?.snapshot)
}

async fn prune(repository: &Repository) -> Result<PruneStats, PruneError> {
    repository.prune(PruneOptions::default(), &|_, _, _| {}, &CancellationToken::new()).await
}

/// What `restic unlock --remove-all` does, after a process was killed.
async fn unlock(store: &dyn Store) {
    for listed in store.list(Kind::Lock).await.unwrap() {
        store.delete(Key::File(Kind::Lock, listed.id)).await.unwrap();
    }
}

/// The repository in `folder`, from some call on away for good or with one lost answer; or without any fault.
async fn perhaps_faulty(folder: &Path, random: &mut StdRng) -> Result<Repository, RepositoryError> {
    let (is_faulty, is_gone, nth) = (random.random_bool(0.4), random.random_bool(0.5), random.random_range(1..60_u64));
    let mut calls = 0;
    let faulty = FaultyStore::new(store(folder), move |_: &Call| {
        calls += 1;
        match (is_faulty, is_gone) {
            (true, true) if calls >= nth => Some(Fault::Unavailable),
            (true, false) if calls == nth => Some(Fault::AnswerLost),
            _ => None,
        }
    });
    reopen(Arc::new(faulty)).await
}

/// A prune in a process of its own, which in a build for tests may be killed at one of its durable steps.
fn prune_by_a_process(folder: &Path, random: &mut StdRng) {
    let steps = ["pack.before", "pack.after", "index.after", "delete.before", "delete.after", "unlock.before"];
    let (step, nth) = (steps[random.random_range(0..steps.len())], random.random_range(1..5));
    let mut command = Command::new(env!("CARGO_BIN_EXE_windlass"));
    command.args(["repository", "prune", "--repository"]).arg(folder).env("RESTIC_PASSWORD", PASSWORD);
    command.env("WINDLASS_FAILPOINT", format!("kill:{nth}:repository.{step}"));
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() || output.status.code().is_none(), "{}: {text}", output.status);
}

/// The newest two days' in any case; of a whole year five weeks' and ten months' too.
fn policy(exports: u64) -> Policy {
    let [hours, days, weeks, months, years] = [0, 2, exports / 80, exports / 40, 0].map(|count| Count::Of(count as u32));
    Policy { newest_of: [hours, days, weeks, months, years], ..Policy::default() }
}

async fn forget_by_policy(repository: &Repository, exports: u64) -> Result<(), RepositoryError> {
    let planned =
        plan(repository.snapshots().await?, &Filter::default(), GroupBy::default(), &policy(exports), Timestamp::now()).unwrap();
    let ids: Vec<_> = planned.iter().flat_map(|(_, verdict)| &verdict.remove).map(|stored| stored.id).collect();
    let lock = repository.lock(LockMode::Shared).await?;
    repository.forget_all(&ids, &lock, &CancellationToken::new()).await?;
    lock.release().await
}

async fn every_snapshot_is_what_was_exported(repository: &Repository, exported: &BTreeMap<Id, Vec<u8>>) -> usize {
    let report = check(repository).await;
    assert!(report.is_clean(), "{report:?}");
    let snapshots = repository.snapshots().await.unwrap();
    for stored in &snapshots {
        // One whose answer was lost is not known here; the check has seen that it is whole.
        let Some(expected) = exported.get(&stored.id) else { continue };
        let found = restored(repository, &stored.id, expected.len(), Locking::Shared).await.unwrap();
        assert!(found == *expected, "snapshot {} differs", stored.id);
    }
    snapshots.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_year_of_exports_forgets_prunes_faults_and_kills_loses_nothing_and_wastes_little() {
    let exports = number("WINDLASS_SOAK_EXPORTS", 15);
    let mut random = StdRng::seed_from_u64(seed());
    let folder = tempfile::tempdir().unwrap();
    init(store(folder.path())).await;
    let mut volumes: Vec<_> = (0..VOLUMES).map(|_| new_volume(&mut random)).collect();
    let mut exported = BTreeMap::new();
    let (mut faults, mut most_files) = (0, 0);
    for round in 0..exports {
        let name = round as usize % VOLUMES;
        (0..random.random_range(1..4)).for_each(|_| {
            let chunk = random.random_range(0..CHUNKS);
            overwrite(&mut volumes[name], chunk, &mut random);
        });
        let seconds = round * 365 * 86_400 / exports;
        loop {
            let result = match perhaps_faulty(folder.path(), &mut random).await {
                Ok(repository) => export_as(&repository, &name.to_string(), &volumes[name], seconds).await.ok(),
                Err(_) => None,
            };
            unlock(&*store(folder.path())).await;
            if let Some(id) = result {
                exported.insert(id, volumes[name].bytes.clone());
                break;
            }
            faults += 1;
        }
        if let Ok(repository) = perhaps_faulty(folder.path(), &mut random).await {
            faults += u64::from(forget_by_policy(&repository, exports).await.is_err());
        }
        unlock(&*store(folder.path())).await;
        if round % 5 == 4 {
            if random.random_bool(0.5) {
                prune_by_a_process(folder.path(), &mut random);
            } else if let Ok(repository) = perhaps_faulty(folder.path(), &mut random).await {
                faults += u64::from(prune(&repository).await.is_err());
            }
            unlock(&*store(folder.path())).await;
        }
        most_files = most_files.max(store(folder.path()).list(Kind::Index).await.unwrap().len());
    }
    let repository = reopen(store(folder.path())).await.unwrap();
    forget_by_policy(&repository, exports).await.unwrap();
    let stats = prune(&repository).await.unwrap();
    let snapshots = every_snapshot_is_what_was_exported(&repository, &exported).await;
    let stored: u64 = repository.store().list(Kind::Data).await.unwrap().iter().map(|listed| listed.bytes).sum();
    let files = repository.store().list(Kind::Index).await.unwrap().len();
    println!(
        "{exports} exports, {faults} failures, {snapshots} snapshots kept, {stored} bytes stored of {} needed, {files} index files, {most_files} at most",
        stats.bytes_used
    );
    assert!(stored <= stats.bytes_used * 110 / 100, "{stored} bytes are stored, {} are needed", stats.bytes_used);
    assert!(files <= 2, "{files} index files");
    for program in restics() {
        restic(&program, folder.path(), &["check", "--read-data"]).unwrap();
    }
}

/// What the users of one repository share.
struct Shared {
    folder: PathBuf,
    kept: Mutex<BTreeMap<Id, Vec<u8>>>,
    /// Exporters that still work.
    exporting: AtomicU64,
    pruned: AtomicU64,
    pruned_by_restic: AtomicU64,
    restored: AtomicU64,
    reading: AtomicBool,
}

impl Shared {
    async fn open(&self) -> Repository {
        reopen(store(&self.folder)).await.unwrap().with_retry_lock(Duration::from_secs(300))
    }

    fn goes_on(&self) -> bool {
        self.exporting.load(Ordering::SeqCst) > 0
    }
}

/// Time that passes between two works of a user; nothing is waited for.
async fn idle(milliseconds: u64) {
    let _ = tokio::time::timeout(Duration::from_millis(milliseconds), std::future::pending::<()>()).await;
}

async fn exporter(shared: Arc<Shared>, name: &'static str, seed: u64, until: Instant) {
    let repository = shared.open().await;
    let mut random = StdRng::seed_from_u64(seed);
    let mut volume = new_volume(&mut random);
    let mut mine = Vec::new();
    let mut round = 0;
    while round < 6 || Instant::now() < until {
        let chunk = random.random_range(0..CHUNKS);
        overwrite(&mut volume, chunk, &mut random);
        let id = export_as(&repository, name, &volume, round).await.unwrap();
        shared.kept.lock().unwrap().insert(id, volume.bytes.clone());
        mine.push(id);
        // Nothing is taken from under the one who restores.
        if mine.len() > 3 && !shared.reading.load(Ordering::SeqCst) {
            let oldest = mine.remove(0);
            shared.kept.lock().unwrap().remove(&oldest);
            let lock = repository.lock(LockMode::Shared).await.unwrap();
            repository.forget(&oldest, &lock).await.unwrap();
            lock.release().await.unwrap();
        }
        round += 1;
        // The time in which a node has nothing to export.
        idle(random.random_range(0..800)).await;
    }
    shared.exporting.fetch_sub(1, Ordering::SeqCst);
}

async fn pruner(shared: Arc<Shared>) {
    while shared.goes_on() || shared.pruned.load(Ordering::SeqCst) == 0 {
        match prune(&shared.open().await).await {
            Ok(_) => drop(shared.pruned.fetch_add(1, Ordering::SeqCst)),
            Err(PruneError::Changed | PruneError::Repository(RepositoryError::Locked { .. })) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

async fn pruner_by_restic(shared: Arc<Shared>) {
    while shared.goes_on() || shared.pruned_by_restic.load(Ordering::SeqCst) == 0 {
        let folder = shared.folder.clone();
        match tokio::task::spawn_blocking(move || restic(&restics()[1], &folder, &["prune", "--retry-lock", "20s"]))
            .await
            .unwrap()
        {
            Ok(()) => drop(shared.pruned_by_restic.fetch_add(1, Ordering::SeqCst)),
            Err(text) => assert!(text.contains("locked"), "{text}"),
        }
    }
}

async fn restorer(shared: Arc<Shared>) {
    let repository = shared.open().await;
    while shared.goes_on() {
        shared.reading.store(true, Ordering::SeqCst);
        let chosen = shared.kept.lock().unwrap().iter().next().map(|(id, bytes)| (*id, bytes.clone()));
        if let Some((id, expected)) = chosen {
            match restored(&repository, &id, expected.len(), Locking::Shared).await {
                Ok(found) => assert!(found == expected, "snapshot {id} differs"),
                // It was about to be forgotten when it was chosen.
                Err(text) => assert!(!shared.kept.lock().unwrap().contains_key(&id), "{text}"),
            }
            shared.restored.fetch_add(1, Ordering::SeqCst);
        }
        shared.reading.store(false, Ordering::SeqCst);
        idle(500).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exporters_pruners_restic_s_among_them_and_a_restore_at_once_lose_nothing() {
    let seconds = number("WINDLASS_SOAK_SECONDS", 0);
    let seed = seed();
    let folder = tempfile::tempdir().unwrap();
    init(store(folder.path())).await;
    let shared = Arc::new(Shared {
        folder: folder.path().to_owned(),
        kept: Mutex::default(),
        exporting: AtomicU64::new(2),
        pruned: AtomicU64::new(0),
        pruned_by_restic: AtomicU64::new(0),
        restored: AtomicU64::new(0),
        reading: AtomicBool::new(false),
    });
    let until = Instant::now() + Duration::from_secs(seconds);
    let users = [
        tokio::spawn(exporter(shared.clone(), "one", seed, until)),
        tokio::spawn(exporter(shared.clone(), "two", seed ^ 1, until)),
        tokio::spawn(pruner(shared.clone())),
        tokio::spawn(pruner_by_restic(shared.clone())),
        tokio::spawn(restorer(shared.clone())),
    ];
    for user in users {
        user.await.unwrap();
    }
    let repository = reopen(store(folder.path())).await.unwrap();
    let kept = shared.kept.lock().unwrap().clone();
    let snapshots = every_snapshot_is_what_was_exported(&repository, &kept).await;
    assert_eq!(snapshots, kept.len());
    for program in restics() {
        restic(&program, folder.path(), &["check", "--read-data"]).unwrap();
    }
    let of = |count: &AtomicU64| count.load(Ordering::SeqCst);
    println!(
        "{snapshots} snapshots whole after {} prunes of ours, {} of restic's, {} restores",
        of(&shared.pruned),
        of(&shared.pruned_by_restic),
        of(&shared.restored)
    );
}
