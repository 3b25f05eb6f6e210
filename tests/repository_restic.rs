//! Our repositories under stock restic, and restic's under us.
//!
//! `restic` must be on PATH (Debian's package will do). A second, newer one is put to the same tests: that which `RESTIC_NEW` names, or
//! the one that e2e/setup.sh built.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a broken expectation is a failed test")]

#[path = "support/basics.rs"]
mod basics;

use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use basics::tool_path;
use windlass::repository::check::Depth;
use windlass::repository::snapshot::LATEST;
use windlass::repository::store::local::LocalStore;
use windlass::repository::tree::{FileSelector, NewFile, pack_tree};
use windlass::repository::{
    BlobKind, Claim, Compressor, Id, IndexWriter, KdfCost, LockMode, PackBuilder, Password, Repository, RepositoryError,
    Snapshot, Store, Verification,
};
use windlass::types::Timestamp;
use windlass::types::error::chain;

const PASSWORD: &str = "correct horse";
const CHUNK: usize = 256 << 10;
const PACK: usize = 2 << 20;

/// A restic binary.
struct Restic(PathBuf);

impl Restic {
    /// Those to test with.
    fn all() -> Vec<Self> {
        let found = Command::new("restic").arg("version").output();
        assert!(
            found.is_ok_and(|output| output.status.success()),
            "`restic` is not on PATH: install it (apt-get install restic)"
        );
        let built = tool_path("restic");
        let newer = std::env::var_os("RESTIC_NEW").map(PathBuf::from).or_else(|| built.exists().then_some(built));
        let all: Vec<_> = [Some(PathBuf::from("restic")), newer].into_iter().flatten().map(Self).collect();
        for restic in &all {
            let version = Command::new(&restic.0).arg("version").output().expect("restic runs");
            println!("{}", String::from_utf8_lossy(&version.stdout).trim());
        }
        all
    }

    fn command(&self, repository: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.0);
        command.arg("--no-cache").arg("--repo").arg(repository).args(arguments).env("RESTIC_PASSWORD", PASSWORD);
        command
    }

    fn try_run(&self, repository: &Path, arguments: &[&str]) -> Output {
        self.command(repository, arguments).output().expect("restic runs")
    }

    /// Runs restic, which must succeed, and returns what it printed.
    fn run(&self, repository: &Path, arguments: &[&str]) -> Vec<u8> {
        let output = self.try_run(repository, arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    fn backup_stdin(&self, repository: &Path, name: &str, bytes: &[u8]) {
        let arguments = ["backup", "--stdin", "--stdin-filename", name];
        let mut child =
            self.command(repository, &arguments).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("restic runs");
        std::io::Write::write_all(&mut child.stdin.take().expect("a pipe"), bytes).expect("restic reads");
        assert!(child.wait().expect("restic ends").success());
    }
}

fn store(folder: &Path) -> Arc<dyn Store> {
    Arc::new(LocalStore::new(folder.to_owned()))
}

fn password() -> Password {
    Password::new(PASSWORD).unwrap()
}

/// A few megabytes: random, zero and repetitive, and an odd end.
fn image() -> Vec<u8> {
    let mut image: Vec<u8> = (0..3 << 20).map(|_| rand::random()).collect();
    image.resize(image.len() + (2 << 20), 0);
    image.extend((0..1 << 20).map(|position: u32| (position / 7 % 251) as u8));
    image.extend_from_slice(b"the end");
    image
}

/// Stores `image` as an exporter does: packs, index, tree, index, snapshot.
async fn export(repository: &Repository, image: &[u8]) -> Id {
    export_of(repository, image, Timestamp::now()).await
}

/// The same of a volume as it was at the time `now`.
async fn export_of(repository: &Repository, image: &[u8], now: Timestamp) -> Id {
    let lock = repository.lock(LockMode::Shared).await.unwrap();
    let index = repository.load_index().await.unwrap();
    let mut writer = IndexWriter::new(repository.clone());
    let mut compressor = Compressor::new(1).unwrap();
    let new_pack = |kind| PackBuilder::new(repository.sealer(), kind, PACK, Verification::Decode);
    let metadata = br#"{"chunk":262144}"#;
    let mut packs = Vec::new();
    let mut builder = new_pack(BlobKind::Data);
    let mut content = Vec::new();
    for chunk in image.chunks(CHUNK).chain([&metadata[..]]) {
        let id = Id::of(chunk);
        content.push(id);
        if index.claim(BlobKind::Data, &id).unwrap() == Claim::Yours {
            builder.add(id, chunk, &mut compressor).unwrap();
        }
        if builder.is_full() {
            packs.extend(std::mem::replace(&mut builder, new_pack(BlobKind::Data)).finish().unwrap());
        }
    }
    packs.extend(builder.finish().unwrap());
    let metadata_content = vec![content.pop().unwrap()];
    let tree = pack_tree(
        repository.scratch(),
        &repository.sealer(),
        &[
            NewFile { name: "meta.json", size: metadata.len() as u64, modified: now, content: &metadata_content },
            NewFile { name: "disk.img", size: image.len() as u64, modified: now, content: &content },
        ],
    )
    .unwrap();
    for pack in packs {
        repository.put_pack(&pack).await.unwrap();
        writer.add(pack.record).await.unwrap();
    }
    repository.put_tree(&tree).await.unwrap();
    writer.add(tree.record.clone()).await.unwrap();
    writer.finish().await.unwrap();
    let snapshot = Snapshot {
        time: windlass::repository::time::rfc3339(now),
        tree: tree.id,
        paths: vec!["/default/data/disk.img".into()],
        hostname: "cluster".into(),
        username: "windlass".into(),
        tags: vec!["pvc=data".into()],
        parent: None,
        original: None,
        program_version: "windlass".into(),
        summary: None,
    };
    let id = repository.save_snapshot(&snapshot, &lock).await.unwrap();
    lock.release().await.unwrap();
    id
}

/// The bytes of a file of the snapshot named `snapshot`.
async fn read_back(repository: &Repository, snapshot: &str, which: FileSelector) -> Vec<u8> {
    let stored = repository.find_snapshot(snapshot).await.unwrap();
    let index = repository.load_index().await.unwrap();
    let file = repository.find_file(&index, &stored.snapshot.tree, &which).await.unwrap();
    let mut bytes = Vec::new();
    for id in &file.content.to_vec().unwrap() {
        bytes.extend(repository.read_blob(&index, BlobKind::Data, id).await.unwrap());
    }
    assert_eq!(bytes.len() as u64, file.size);
    bytes
}

#[tokio::test]
async fn restic_accepts_what_we_write_and_we_read_what_it_adds() {
    for restic in Restic::all() {
        let folder = tempfile::tempdir().unwrap();
        let repository = Repository::init(store(folder.path()), &password(), KdfCost::STANDARD).await.unwrap();
        let image = image();
        let id = export(&repository, &image).await;

        let listed = String::from_utf8(restic.run(folder.path(), &["snapshots", "--json"])).unwrap();
        assert!(listed.contains(&id.to_string()) && listed.contains("/default/data/disk.img"), "{listed}");
        let checked = String::from_utf8(restic.run(folder.path(), &["check", "--read-data"])).unwrap();
        assert!(checked.contains("no errors were found"), "{checked}");
        assert!(restic.run(folder.path(), &["dump", "latest", "/disk.img"]) == image, "the dump differs");
        assert_eq!(restic.run(folder.path(), &["dump", "latest", "/meta.json"]), br#"{"chunk":262144}"#);
        assert_eq!(read_back(&repository, &id.to_string(), FileSelector::Only).await, image);

        // restic cuts this into chunks by the polynomial that we chose.
        let other: Vec<u8> = (0..5 << 20).map(|_| rand::random()).collect();
        restic.backup_stdin(folder.path(), "other.img", &other);
        assert!(read_back(&repository, LATEST, FileSelector::Only).await == other, "restic's backup reads back differently");
        assert_eq!(repository.snapshots().await.unwrap().len(), 2);

        // What one of them forgets and prunes, the other no longer has; the rest stays whole for both.
        restic.run(folder.path(), &["forget", "--prune", &id.to_string()]);
        assert!(matches!(repository.find_snapshot(&id.to_string()).await, Err(RepositoryError::NoSuchSnapshot(_))));
        let report = repository.check(Depth::ReadData, &|_, _| {}).await.unwrap();
        assert!(report.is_clean(), "{report:?}");
        let again = export(&repository, &image).await;
        assert_eq!(read_back(&repository, &again.to_string(), FileSelector::Only).await, image);
        restic.run(folder.path(), &["check", "--read-data"]);
        assert_eq!(std::fs::read_dir(folder.path().join("locks")).unwrap().count(), 0);
    }
}

#[tokio::test]
async fn we_accept_what_restic_makes() {
    for restic in Restic::all() {
        let folder = tempfile::tempdir().unwrap();
        let source = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(source.path().join("deep/er")).unwrap();
        let odd = "o\"d\\d\tname ü";
        // Two names that differ in bytes which are no text.
        for byte in [0xe9, 0xe8] {
            let name = std::ffi::OsString::from_vec([b"latin".as_slice(), &[byte], b".img"].concat());
            std::fs::write(source.path().join(name), [byte]).unwrap();
        }
        for (name, text) in [("deep/er/disk.img", "disk"), ("deep/empty", ""), (odd, "odd")] {
            std::fs::write(source.path().join(name), text).unwrap();
        }
        restic.run(folder.path(), &["init"]);
        restic.run(folder.path(), &["backup", &source.path().display().to_string()]);

        let repository = Repository::open(store(folder.path()), &password()).await.unwrap();
        let within = |name: &str| FileSelector::Path(format!("{}/{name}", source.path().display()));
        assert_eq!(read_back(&repository, LATEST, within("deep/er/disk.img")).await, b"disk");
        assert_eq!(read_back(&repository, LATEST, within("deep/empty")).await, b"");
        assert_eq!(read_back(&repository, LATEST, within(odd)).await, b"odd");
        assert_eq!(read_back(&repository, LATEST, within("latin\\xe9.img")).await, [0xe9]);
        assert_eq!(read_back(&repository, LATEST, within("latin\\xe8.img")).await, [0xe8]);
        let report = repository.check(Depth::ReadData, &|_, _| {}).await.unwrap();
        assert!(report.is_clean() && report.snapshots == 1, "{report:?}");

        let image = image();
        export(&repository, &image).await;
        restic.run(folder.path(), &["check", "--read-data"]);
        assert!(restic.run(folder.path(), &["dump", "latest", "/disk.img"]) == image, "the dump differs");

        let wrong = Repository::open(store(folder.path()), &Password::new("wrong").unwrap()).await;
        assert!(matches!(wrong, Err(RepositoryError::WrongPassword)));
        let again = Repository::init(store(folder.path()), &password(), KdfCost::TEST).await;
        assert!(matches!(again, Err(RepositoryError::AlreadyInitialized)));
    }
}

#[tokio::test]
async fn restic_rewrites_and_copies_what_we_write() {
    for restic in Restic::all() {
        let [folder, other] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let repository = Repository::init(store(folder.path()), &password(), KdfCost::TEST).await.unwrap();
        let image = image();
        // Go drops the zeros at a fraction's end, and restic refuses to rewrite what it would write otherwise.
        for (seconds, nanoseconds) in [(1_795_983_021, 430_173_920), (1_795_983_022, 500_000_000), (1_795_983_023, 0)] {
            export_of(&repository, &image, Timestamp { seconds, nanoseconds }).await;
        }
        restic.run(other.path(), &["init"]);
        let destination = other.path().display().to_string();
        let ours = folder.path().display().to_string();
        // The older release names the destination where the newer one names the source.
        let mut copy = restic.command(folder.path(), &["copy", "--repo2", &destination]);
        copy.env("RESTIC_PASSWORD2", PASSWORD);
        let mut newer_copy = restic.command(other.path(), &["copy", "--from-repo", &ours]);
        newer_copy.env("RESTIC_FROM_PASSWORD", PASSWORD);
        let copied = newer_copy.output().expect("restic runs");
        let copied = if copied.status.success() { copied } else { copy.output().expect("restic runs") };
        assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
        let copy = Repository::open(store(other.path()), &password()).await.unwrap();
        assert_eq!(copy.snapshots().await.unwrap().len(), 3);
        assert!(read_back(&copy, LATEST, FileSelector::Only).await == image, "the copy differs");

        if !restic.try_run(folder.path(), &["rewrite", "--help"]).status.success() {
            println!("NOT CHECKED: this release of restic has no `rewrite`");
            continue;
        }
        restic.run(folder.path(), &["rewrite", "--forget", "--exclude", "/meta.json"]);
        let rewritten = repository.snapshots().await.unwrap();
        assert!(rewritten.len() == 3 && rewritten.iter().all(|stored| stored.snapshot.original.is_some()), "{rewritten:?}");
        assert!(read_back(&repository, LATEST, FileSelector::Only).await == image, "what was rewritten differs");
        restic.run(folder.path(), &["check", "--read-data"]);
    }
}

#[tokio::test]
async fn restic_and_we_respect_each_other_s_locks() {
    for restic in Restic::all() {
        let folder = tempfile::tempdir().unwrap();
        let repository = Repository::init(store(folder.path()), &password(), KdfCost::TEST).await.unwrap();
        let excluded = |arguments: &[&str]| {
            let output = restic.try_run(folder.path(), arguments);
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(!output.status.success() && text.contains("already locked"), "{arguments:?}: {text}");
        };
        let exclusive = repository.lock(LockMode::Exclusive).await.unwrap();
        excluded(&["snapshots"]);
        exclusive.release().await.unwrap();
        let shared = repository.lock(LockMode::Shared).await.unwrap();
        restic.run(folder.path(), &["snapshots"]);
        excluded(&["prune"]);
        // One that is held is not stale for restic either.
        restic.run(folder.path(), &["unlock"]);
        shared.check().await.unwrap();
        // Nor does it send a signal to a process of this host: its name is in no lock of ours.
        let listed = String::from_utf8(restic.run(folder.path(), &["list", "locks"])).unwrap();
        let lock = String::from_utf8(restic.run(folder.path(), &["cat", "lock", listed.trim()])).unwrap();
        let host = nix::sys::utsname::uname().unwrap().nodename().to_string_lossy().into_owned();
        assert!(lock.contains(&format!("\"hostname\": \"{host}/")), "{lock}");
        shared.release().await.unwrap();
        restic.run(folder.path(), &["prune"]);
    }
}

#[tokio::test]
async fn a_repository_of_version_1_is_refused_with_advice() {
    let restic = &Restic::all()[0];
    let folder = tempfile::tempdir().unwrap();
    restic.run(folder.path(), &["init", "--repository-version", "1"]);
    let error = Repository::open(store(folder.path()), &password()).await.unwrap_err();
    assert!(
        matches!(error, RepositoryError::UnsupportedVersion { found: 1, .. }) && chain(&error).contains("upgrade_repo_v2"),
        "{error}"
    );
}
