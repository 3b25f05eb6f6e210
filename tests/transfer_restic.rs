//! Stock restic reads what we export, and we read what it wrote. Needs `restic` in PATH; without it these tests fail.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

#[path = "support/transfer_fixture.rs"]
mod transfer_fixture;

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use transfer_fixture::*;
use windlass::block::{FileSink, FileSource, MemorySink};
use windlass::repository::store::local::LocalStore;
use windlass::repository::tree::FileSelector;
use windlass::repository::{Repository, RepositoryError};
use windlass::transfer::{
    ChunkSize, ExportSource, Image, Locking, Progress, RestoreError, RestoreOptions, Target, export, restore,
};
use windlass::types::LogicalBlockSize;
use windlass::types::error::chain;

fn restic(repository: &Path, arguments: &[&str], input: Option<&[u8]>) -> Output {
    let mut child = Command::new("restic")
        .args(["--no-cache", "--repo"])
        .arg(repository)
        .args(arguments)
        .env("RESTIC_PASSWORD", PASSWORD)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("restic is needed in PATH (apt-get install restic): {error}"));
    let mut stdin = child.stdin.take().unwrap();
    let input = input.unwrap_or_default().to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "restic {arguments:?}: {text}{}", String::from_utf8_lossy(&output.stdout));
    output
}

/// A volume with data of all kinds, duplicate and zero chunks, holes of all sizes and an end off the grid of chunks.
fn volume() -> Volume {
    let random = Volume::random(1 << 20, 4).bytes;
    Volume::empty((90 << 20) + 12_288)
        .with(0, 4096, |_| 1)
        .with(3 << 20, 3 << 20, |at| random[at % (1 << 20)] ^ (at >> 22) as u8)
        .with(8 << 20, 2 << 20, |_| 0)
        .with(70 << 20, 5_000_000, |at| (at / 1000) as u8)
        .with((90 << 20) + 8192, 4096, |_| 8)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restic_checks_dumps_and_restores_an_export() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("repository");
    let repository = init(Arc::new(LocalStore::new(path.clone()))).await;
    let volume = volume();
    for chunk_size in [ChunkSize::MIN, ChunkSize::SMALL, ChunkSize::LARGE] {
        let report = export_volume(&repository, &volume, chunk_size).await.unwrap();
        let id = report.snapshot.to_string();

        let dumped = restic(&path, &["dump", &id, "/v-test/volume.img"], None).stdout;
        assert!(dumped == volume.bytes, "the dump differs");

        let target = directory.path().join(format!("restored-{}", chunk_size.bytes()));
        restic(&path, &["restore", &id, "--target", target.to_str().unwrap()], None);
        assert!(std::fs::read(target.join("v-test/volume.img")).unwrap() == volume.bytes, "the restored image differs");
        assert!(std::fs::read(target.join("meta.json")).unwrap().starts_with(b"{"));
    }
    let snapshots = String::from_utf8(restic(&path, &["snapshots", "--json"], None).stdout).unwrap();
    assert!(snapshots.contains(r#""paths":["/v-test/volume.img"]"#) && snapshots.contains(r#""hostname":"cluster""#));
    let checked = restic(&path, &["check", "--read-data"], None);
    let text = String::from_utf8_lossy(&checked.stdout).into_owned() + &String::from_utf8_lossy(&checked.stderr);
    assert!(text.contains("no errors were found"), "{text}");
}

/// `restore --sparse` came with 0.15.
fn restores_sparsely() -> bool {
    let help = Command::new("restic").args(["restore", "--help"]).output().unwrap();
    String::from_utf8_lossy(&help.stdout).contains("--sparse")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restic_restores_a_sparse_export_sparsely() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("repository");
    let repository = init(Arc::new(LocalStore::new(path.clone()))).await;
    let volume = Volume::empty(300 << 20).with(0, 1 << 20, |at| at as u8 | 1).with(200 << 20, 1 << 20, |at| at as u8 | 1);
    export_volume(&repository, &volume, ChunkSize::SMALL).await.unwrap();
    let target = directory.path().join("restored");
    let sparse: &[&str] = if restores_sparsely() { &["--sparse"] } else { &[] };
    restic(&path, &[&["restore", "latest", "--target", target.to_str().unwrap()], sparse].concat(), None);
    let image = target.join("v-test/volume.img");
    assert!(std::fs::read(&image).unwrap() == volume.bytes);
    let allocated = std::fs::metadata(&image).unwrap().blocks() * 512;
    if restores_sparsely() {
        assert!(allocated <= 4 << 20, "{allocated} bytes are allocated");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_that_restic_backed_up_is_restored() {
    for format in ["1", "2"] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("repository");
        restic(&path, &["init", "--repository-version", format], None);
        let volume = volume();
        restic(&path, &["backup", "--stdin", "--stdin-filename", "disk.img", "--host", "laptop"], Some(&volume.bytes));
        let opened = Repository::open(Arc::new(LocalStore::new(path.clone())), &password()).await;
        let repository = match (format, opened) {
            ("1", Err(error)) => {
                assert!(chain(&error).contains("migrate upgrade_repo_v2"), "{error}");
                continue;
            }
            (_, opened) => opened.unwrap(),
        };
        let sink = fresh_sink(volume.bytes.len());
        restore_latest(&repository, sink.clone(), Target::Fresh).await.unwrap().unwrap();
        assert!(sink.content() == volume.bytes);
        // However it was cut into blobs, of 8 MiB at most, a restore goes on where an earlier one was.
        let mut left = volume.bytes.clone();
        left[70 << 20..(70 << 20) + 4096].fill(3);
        let sink = Arc::new(MemorySink::holding(left));
        let report = restore_latest(&repository, sink.clone(), Target::Partial).await.unwrap().unwrap();
        assert!(sink.content() == volume.bytes);
        assert!(report.present_bytes >= 3 << 20 && report.blobs > 0, "{report:?}");
        let image = Image::open(&repository, "latest", &FileSelector::Path("disk.img".into()), Locking::None).await.unwrap();
        assert!(image.metadata().is_none());
        image.close().await;

        // What it did not compress reads as well.
        restic(
            &path,
            &["--compression", "off", "backup", "--stdin", "--stdin-filename", "plain.img"],
            Some(&Volume::random(5_000_001, 6).bytes),
        );
        let newest = restore_latest(&repository, fresh_sink(6_000_000), Target::Fresh).await;
        assert!(matches!(newest, Err(RepositoryError::SeveralVolumes { .. })), "the newest of two images is neither");
        let newest = repository.find_snapshot("latest").await.unwrap().id;
        let found = restored(&repository, &newest, 6_000_000, Locking::Shared).await.unwrap();
        assert!(found[..5_000_001] == Volume::random(5_000_001, 6).bytes);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_are_exported_and_restored_with_their_holes() {
    let directory = tempfile::tempdir().unwrap();
    let repository = init(Arc::new(LocalStore::new(directory.path().join("repository")))).await;
    let volume = volume();
    let size = volume.bytes.len() as u64;
    let (from, to) = (directory.path().join("from"), directory.path().join("to"));
    std::fs::write(&from, &volume.bytes).unwrap();
    let source = FileSource::new(File::open(&from).unwrap(), size, LogicalBlockSize::B512).unwrap();
    let cancel = CancellationToken::new();
    let options = options(&volume, ChunkSize::SMALL);
    export(ExportSource::new(Arc::new(source), volume.stream()), &repository, &options, &Progress::new(), &cancel).await.unwrap();

    let open = || File::options().read(true).write(true).create(true).truncate(true).open(&to).unwrap();
    let file = open();
    file.set_len(size).unwrap();
    let sink = Arc::new(FileSink::new(file, size, LogicalBlockSize::B512).unwrap());
    let mut image = Image::open(&repository, "latest", &FileSelector::Only, Locking::Shared).await.unwrap();
    let restoring = RestoreOptions { target: Target::Fresh, budget: budget(2) };
    restore(&mut image, sink, &restoring, &Progress::new(), &cancel).await.unwrap();
    assert!(std::fs::read(&to).unwrap() == volume.bytes);
    let allocated = std::fs::metadata(&to).unwrap().blocks() * 512;
    assert!(allocated <= 10 << 20, "{allocated} bytes are allocated");

    cancel.cancel();
    let file = open();
    file.set_len(size).unwrap();
    let sink = Arc::new(FileSink::new(file, size, LogicalBlockSize::B512).unwrap());
    let error = restore(&mut image, sink, &restoring, &Progress::new(), &cancel).await.unwrap_err();
    assert!(matches!(error, RestoreError::Cancelled));
    image.close().await;
}
