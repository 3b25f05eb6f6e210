//! Exports of snapshot classes whose agent ends meanwhile: the next agent goes on where it was. Needs `restic` in PATH.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail loudly, wherever it does")]
#![allow(clippy::disallowed_types, reason = "the callers' side of the gRPC boundary")]

#[path = "support/csi_harness.rs"]
mod csi_harness;
#[path = "support/exporting.rs"]
mod exporting;
#[path = "support/common/restic.rs"]
mod restic_output;
#[path = "support/s3/mod.rs"]
mod s3;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use csi_harness::*;
use csi_proto::csi::v1::volume_capability::access_mode::Mode;
use csi_proto::windlass::v1::TransferState;
use exporting::{Bench, class};
use hyper::Method;
use rand::{Rng, SeedableRng};
use s3::Trouble;
use windlass::repository::{BlobKind, Id, Workspace};

const CHUNK: usize = 256 << 10;
/// Two packs and a half of the largest.
const WRITTEN: usize = 40 << 20;

impl Bench {
    /// A volume of bytes that neither compress nor repeat.
    async fn noisy_volume(&self, name: &str) -> (String, Vec<u8>) {
        let volume = self.node.volume(name, block(Mode::SingleNodeWriter)).await;
        let mut noise = vec![0; WRITTEN];
        rand::rngs::StdRng::seed_from_u64(11).fill_bytes(&mut noise);
        self.write(&volume, 0, &noise);
        (volume, noise)
    }

    /// From now on the store takes one pack more, and says nothing to the others.
    fn takes_one_pack(&self) {
        let seen = AtomicU64::new(0);
        self.server.misbehaves(move |_, request| {
            let is_pack = request.method() == Method::PUT && request.uri().path().contains("/data/");
            (is_pack && seen.fetch_add(1, Ordering::SeqCst) > 0).then_some(Trouble::Stalls)
        });
    }

    /// Waits until a transfer that runs has stored something.
    async fn until_stored(&self) {
        let begun = std::time::Instant::now();
        let mut tick = tokio::time::interval(std::time::Duration::from_millis(20));
        while !self.transfers().await.iter().any(|one| one.state() == TransferState::Running && one.bytes_stored > 0) {
            assert!(begun.elapsed().as_secs() < 120, "{:?}", self.transfers().await);
            tick.tick().await;
        }
    }

    /// Chunks of `bytes` that the repository's index names.
    async fn indexed(&self, prefix: &str, bytes: &[u8]) -> usize {
        let index = self.open(prefix).await.load_index().await.unwrap();
        let is_there = |chunk: &&[u8]| index.get(BlobKind::Data, &Id::of(chunk)).unwrap().is_some();
        bytes.chunks(CHUNK).filter(is_there).count()
    }
}

/// Files of checkpoints in a cache.
fn checkpoints(cache: &Path) -> usize {
    let folders = std::fs::read_dir(cache).unwrap().map(|folder| folder.unwrap().path());
    let files = folders.flat_map(|folder| std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name()));
    files.filter(|name| name.to_str().unwrap().starts_with("checkpoint-")).count()
}

fn restic(repository: &Path, secrets: &exporting::Secret, arguments: &[&str]) -> Vec<u8> {
    let mut command = std::process::Command::new("restic");
    command.arg("--no-cache").arg("--repo").arg(repository).args(arguments).env("RESTIC_PASSWORD", &secrets["RESTIC_PASSWORD"]);
    let output = command.output().unwrap_or_else(|error| panic!("restic is needed in PATH (apt-get install restic): {error}"));
    assert!(output.status.success(), "restic {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_agent_reads_only_what_no_index_names_yet() {
    let cache = Arc::new(tempfile::tempdir().unwrap());
    let mut bench = Bench::start_in(Workspace::default().with_cache_in(cache.path().to_owned())).await;
    bench.repository("exports").await;
    let (volume, noise) = bench.noisy_volume("data").await;
    let (secrets, mut class) = (bench.secret("exports"), class("existing", "keep"));
    class.insert("verification".to_owned(), "skip".to_owned());
    let mut before = 0;
    for attempt in 0..2 {
        bench.takes_one_pack();
        let cut = bench.create("nightly", &volume, class.clone(), &secrets).await.unwrap();
        assert!(!cut.ready_to_use);
        bench.until_stored().await;
        bench.restart_agent().await;
        bench.server.behaves();
        let durable = bench.indexed("exports", &noise).await;
        assert!(durable > before, "attempt {attempt} left nothing");
        before = durable;
    }
    assert_eq!(checkpoints(cache.path()), 1);
    let ready = bench.until_ready("nightly", &volume, class, &secrets).await;
    let last = bench.last_export().await;
    assert_eq!(last.data_bytes as usize, noise.len() - before * CHUNK, "of {} bytes {before} chunks were durable", noise.len());
    assert_eq!(checkpoints(cache.path()), 0);
    let held = bench.repository_snapshots("exports").await;
    assert_eq!(held.len(), 1);
    assert!(held[0].tags.contains(&format!("handle={}", ready.snapshot_id)));
    let folder = bench.server.file("exports");
    let dumping = tokio::task::spawn_blocking(move || {
        restic(&folder, &secrets, &["check", "--read-data"]);
        let listed = restic(&folder, &secrets, &["ls", "--json", "latest"]);
        let path = restic_output::volume_file(std::str::from_utf8(&listed).unwrap());
        restic(&folder, &secrets, &["dump", "latest", &path])
    });
    let dumped = dumping.await.unwrap();
    assert!(dumped.starts_with(&noise) && dumped[noise.len()..].iter().all(|byte| *byte == 0), "restic dumps something else");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_is_deleted_leaves_nothing_of_its_unfinished_export_here() {
    let cache = tempfile::tempdir().unwrap();
    let bench = Bench::start_in(Workspace::default().with_cache_in(cache.path().to_owned())).await;
    bench.repository("exports").await;
    let (volume, noise) = bench.noisy_volume("data").await;
    let secrets = bench.secret("exports");
    bench.takes_one_pack();
    let cut = bench.create("nightly", &volume, class("existing", "keep"), &secrets).await.unwrap();
    bench.until_stored().await;
    bench.until_deleted(&cut.snapshot_id, &secrets).await;
    assert!(bench.indexed("exports", &noise).await > 0);
    assert_eq!(checkpoints(cache.path()), 0);
    assert_eq!(bench.repository_snapshots("exports").await.len(), 0);
}
