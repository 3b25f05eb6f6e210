//! Whole transfers over stores that misbehave in the ways that stores do: they complete, and what they leave is sound.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

#[path = "support/s3/mod.rs"]
mod s3;
#[path = "support/transfer_fixture.rs"]
mod transfer_fixture;

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use hyper::Method;
use s3::line::Line;
use s3::tokens::TokenService;
use s3::{S3Server, Trouble};
use transfer_fixture::*;
use windlass::repository::store::http::Limits;
use windlass::repository::store::retry::Patience;
use windlass::repository::store::{Endurance, connect_with};
use windlass::repository::{Id, Repository, RepositoryError, Store};
use windlass::transfer::{ChunkSize, ExportError, Locking};
use windlass::types::error::chain;

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
    let text = chain(&error);
    assert!(text.contains("could not be reached") && text.contains("the last time"), "{text}");
    server.behaves();
    restic_check(&server).unwrap();
    let snapshot = export(&repository, &volume).await.unwrap();
    assert!(restored(&repository, &snapshot, volume.bytes.len(), Locking::Shared).await.unwrap() == volume.bytes);
    restic_check(&server).unwrap();
}

/// A volume of so many bytes through `store` and back.
async fn goes_out_and_comes_back(way: &str, store: Arc<dyn Store>, server: &S3Server, bytes: usize) {
    let begin = std::time::Instant::now();
    let repository = reopen(store).await.unwrap();
    let volume = Volume::random(bytes, 1);
    let snapshot = export(&repository, &volume).await.unwrap_or_else(|error| panic!("{way}: {error:?}"));
    let exported = begin.elapsed();
    let read = restored(&repository, &snapshot, volume.bytes.len(), Locking::Shared).await;
    assert!(read.unwrap_or_else(|error| panic!("{way}: {error}")) == volume.bytes, "{way}");
    println!("{way}: exported in {exported:.1?}, restored in {:.1?}", begin.elapsed() - exported);
    server.behaves();
    restic_check(server).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_line_is_no_stalled_one() {
    let server = S3Server::start().await;
    init(store(&server, QUICK)).await;
    let line = Line::to(server.address(), 16_000_000).await;
    // A piece of 8 KiB takes 4 ms; a whole pack takes longer than nothing may move.
    let limits = Limits { least_rate: 64 << 10, ..QUICK.limits };
    let slow = connect_with(&S3Server::location_at(line.address, "r"), &server.credentials(), Endurance { limits, ..QUICK });
    goes_out_and_comes_back("16 Mbit/s", slow.unwrap(), &server, 4 << 20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_outlives_its_credentials() {
    let (server, tokens) = (S3Server::start().await, TokenService::start().await);
    init(store(&server, QUICK)).await;
    server.misbehaves(tokens.takes_each_for(9));
    let renewed = connect_with(&server.location("r"), &tokens.environment(), QUICK).unwrap();
    goes_out_and_comes_back("tokens for nine requests", Arc::clone(&renewed), &server, 6 << 20).await;
    assert!(tokens.issued() > 2, "{}", tokens.issued());

    // Where no others are to be had, that is an error, and no wrong one.
    server.misbehaves(tokens.takes_each_for(0));
    std::fs::remove_file(tokens.token_file()).unwrap();
    let error = renewed.get(windlass::repository::store::Key::Config).await.unwrap_err();
    let text = chain(&error);
    assert!(text.contains("no credentials: arn:aws:iam::1:role/backup") && text.contains("cannot be read"), "{text}");
    assert!(!error.is_transient(), "{error:?}");
}

/// The same faults as above at their full length, against the patience of the product. By hand: `make outages`, which takes half an
/// hour.
mod outages {
    use super::*;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    use std::time::Instant;

    use tokio::sync::Notify;
    use windlass::repository::{Environment, Location};

    const BYTES: usize = 24 << 20;

    /// A server with a repository, and a store as the product connects to it.
    async fn product() -> (S3Server, Arc<dyn Store>) {
        let server = S3Server::start().await;
        init(store(&server, QUICK)).await;
        let patient = store(&server, Endurance::default());
        (server, patient)
    }

    fn is_pack(request: &hyper::Request<hyper::body::Incoming>, method: Method) -> bool {
        request.method() == method && request.uri().path().contains("/data/")
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[ignore = "takes minutes"]
    async fn sixty_seconds_of_503_in_an_export() {
        let (server, store) = product().await;
        let since = OnceLock::new();
        server.misbehaves(move |_, request| {
            if is_pack(request, Method::PUT) {
                since.get_or_init(Instant::now);
            }
            let away = since.get().is_some_and(|since| since.elapsed() < Duration::from_secs(60));
            away.then_some(Trouble::Answers(503, "SlowDown"))
        });
        goes_out_and_comes_back("503 for 60 s", store, &server, BYTES).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[ignore = "takes minutes"]
    async fn sixty_seconds_of_503_in_a_restore() {
        let (server, store) = product().await;
        let since = OnceLock::new();
        server.misbehaves(move |_, request| {
            if is_pack(request, Method::GET) {
                since.get_or_init(Instant::now);
            }
            let away = since.get().is_some_and(|since| since.elapsed() < Duration::from_secs(60));
            away.then_some(Trouble::Answers(503, "SlowDown"))
        });
        goes_out_and_comes_back("503 for 60 s in the restore", store, &server, BYTES).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[ignore = "takes minutes"]
    async fn a_connection_that_stalls_for_ever() {
        let (server, store) = product().await;
        let (put, got) = (AtomicBool::new(false), AtomicBool::new(false));
        server.misbehaves(move |_, request| {
            let first = |seen: &AtomicBool| !seen.swap(true, Ordering::Relaxed);
            let stalls = (is_pack(request, Method::PUT) && first(&put)) || (is_pack(request, Method::GET) && first(&got));
            stalls.then_some(Trouble::Stalls)
        });
        goes_out_and_comes_back("a stalled put and a stalled get", store, &server, BYTES).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[ignore = "takes minutes"]
    async fn every_third_request_answered_by_429() {
        let (server, store) = product().await;
        server.misbehaves(|number, _| number.is_multiple_of(3).then_some(Trouble::Answers(429, "TooManyRequests")));
        goes_out_and_comes_back("429 for every third", store, &server, BYTES).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[ignore = "takes minutes"]
    async fn every_fifth_connection_reset() {
        let (server, store) = product().await;
        server.misbehaves(|number, _| number.is_multiple_of(5).then_some(Trouble::Resets));
        goes_out_and_comes_back("a reset of every fifth", store, &server, BYTES).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[ignore = "takes minutes"]
    async fn a_line_of_four_megabits() {
        let (server, _) = product().await;
        let line = Line::to(server.address(), 4_000_000).await;
        let location = S3Server::location_at(line.address, "r");
        let store = connect_with(&location, &server.credentials(), Endurance::default()).unwrap();
        goes_out_and_comes_back("4 Mbit/s", store, &server, BYTES).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[ignore = "takes a quarter of an hour"]
    async fn sixteen_minutes_of_absence_end_an_export_with_a_clear_error_and_a_sound_repository() {
        let (server, store) = product().await;
        let repository = reopen(store).await.unwrap();
        let volume = Volume::random(BYTES, 1);
        let (packs, second) = (AtomicU64::new(0), Arc::new(Notify::new()));
        let told = Arc::clone(&second);
        server.misbehaves(move |_, request| {
            if is_pack(request, Method::PUT) && packs.fetch_add(1, Ordering::Relaxed) == 1 {
                told.notify_one();
            }
            None
        });
        let begin = Instant::now();
        let (exported, ()) = tokio::join!(export(&repository, &volume), async {
            second.notified().await;
            server.leaves();
        });
        let error = exported.unwrap_err();
        println!("absent: ended after {:.1?}: {error:?}", begin.elapsed());
        assert!(error.is_transient(), "{error:?}");
        assert!(chain(&error).contains("for 15 minutes, the last time"), "{error:?}");

        // What it has stored is where it was.
        restic_check(&server).unwrap();
        let folder = connect_with(&Location::Local(server.file("r")), &Environment::new(), QUICK).unwrap();
        // A bucket has no folders that are empty.
        folder.prepare().await.unwrap();
        let repository = reopen(folder).await.unwrap();
        let snapshot = export(&repository, &volume).await.unwrap();
        assert!(restored(&repository, &snapshot, volume.bytes.len(), Locking::Shared).await.unwrap() == volume.bytes);
        restic_check(&server).unwrap();
    }
}
