//! Whole transfers over stores that misbehave in the ways that stores do: they complete, and what they leave is sound.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod s3;
mod transfer_fixture;

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use hyper::Method;
use s3::{S3Server, Trouble};
use transfer_fixture::*;
use windlass::repository::store::http::Limits;
use windlass::repository::store::retry::Patience;
use windlass::repository::store::{Endurance, connect_with};
use windlass::repository::{Id, Repository, RepositoryError, Store};
use windlass::transfer::{ChunkSize, ExportError, Locking};

/// As patient as a product in proportion, but not in minutes.
const QUICK: Endurance = Endurance {
    patience: Patience {
        first_pause: Duration::from_millis(2),
        longest_pause: Duration::from_millis(20),
        limit: Duration::from_secs(60),
    },
    limits: Limits { connect: Duration::from_secs(5), idle: Duration::from_millis(700), least_rate: 4 << 20 },
};

fn store(server: &S3Server, endurance: Endurance) -> Arc<dyn Store> {
    connect_with(&server.location("r"), &server.credentials(), endurance).unwrap()
}

fn volume(seed: u64) -> Volume {
    Volume::random(6 << 20, seed)
}

async fn export(repository: &Repository, volume: &Volume) -> Result<Id, ExportError> {
    Ok(export_volume(repository, volume, ChunkSize::MIN).await?.snapshot)
}

/// What `restic check --read-data` says of the repository in the server's folder.
fn restic_check(server: &S3Server) -> Result<(), String> {
    let mut check = Command::new("restic");
    check.args(["check", "--read-data", "--no-cache", "--no-lock", "-r"]).arg(server.file("r")).env("RESTIC_PASSWORD", PASSWORD);
    let output = check.output().expect("`restic` is on PATH");
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_export_and_restore_completes_over_a_store_that_misbehaves() {
    let server = S3Server::start().await;
    init(store(&server, QUICK)).await;
    type Script = fn(u64) -> Option<Trouble>;
    let ways: [(&str, Script); 6] = [
        ("503 for a while", |number| (4..60).contains(&number).then_some(Trouble::Answers(503, "SlowDown"))),
        ("429 now and then", |number| number.is_multiple_of(3).then_some(Trouble::Answers(429, "TooManyRequests"))),
        ("a time-out that the store notices", |number| {
            number.is_multiple_of(4).then_some(Trouble::Answers(408, "RequestTimeout"))
        }),
        ("every seventh request is reset", |number| number.is_multiple_of(7).then_some(Trouble::Resets)),
        ("every fifth answer is lost", |number| number.is_multiple_of(5).then_some(Trouble::LosesTheAnswer)),
        ("some stall", |number| number.is_multiple_of(13).then_some(Trouble::Stalls)),
    ];
    for (seed, (way, script)) in (1..).zip(ways) {
        server.misbehaves(move |number, _| script(number));
        let repository = reopen(store(&server, QUICK)).await.unwrap();
        let volume = volume(seed);
        let snapshot = export(&repository, &volume).await.unwrap_or_else(|error| panic!("{way}: {error:?}"));
        let read = restored(&repository, &snapshot, volume.bytes.len(), Locking::Shared).await;
        assert!(read.unwrap_or_else(|error| panic!("{way}: {error}")) == volume.bytes, "{way}");
    }
    server.behaves();
    restic_check(&server).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_stays_away_ends_an_export_with_a_clear_error_and_a_sound_repository() {
    let server = S3Server::start().await;
    let endurance = Endurance { patience: Patience { limit: Duration::from_millis(500), ..QUICK.patience }, ..QUICK };
    let repository = init(store(&server, endurance)).await;
    let volume = volume(1);
    // It goes when the second pack is put.
    let packs = std::sync::atomic::AtomicU64::new(0);
    server.misbehaves(move |_, request| {
        let is_pack = request.method() == Method::PUT && request.uri().path().contains("/data/");
        let seen = packs.fetch_add(u64::from(is_pack), std::sync::atomic::Ordering::Relaxed);
        (seen >= 1).then_some(Trouble::Answers(503, "ServiceUnavailable"))
    });
    let error = export(&repository, &volume).await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    let ExportError::Repository(RepositoryError::Store(error)) = error else { panic!("{error:?}") };
    let text = error.to_string();
    assert!(text.contains("could not be reached") && text.contains("the last time"), "{text}");
    server.behaves();
    restic_check(&server).unwrap();
    let snapshot = export(&repository, &volume).await.unwrap();
    assert!(restored(&repository, &snapshot, volume.bytes.len(), Locking::Shared).await.unwrap() == volume.bytes);
    restic_check(&server).unwrap();
}
