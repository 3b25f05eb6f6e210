//! The command against a node over a pool: every verb, and who may serve a pool.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is a failed test")]

use std::fs;

use crate::common::GIB;
use crate::common::fixture::{Bench, PoolFileSystem};
use crate::common::node::Node;
use crate::common::program::{Ended, run, windlass};

/// A node that is asked by the command.
struct Caller(Node);

impl Caller {
    fn run(&self, arguments: &[&str]) -> Ended {
        run(windlass().args(arguments).env("WINDLASS_ENDPOINT", self.0.endpoint()).env("RESTIC_PASSWORD", "geheim"))
    }

    /// What a command that must succeed prints.
    fn ask(&self, arguments: &[&str]) -> String {
        self.run(arguments).success().text().trim_end().to_owned()
    }

    fn code(&self, arguments: &[&str]) -> Option<i32> {
        self.run(arguments).code
    }
}

/// Each verb works against a node, and its exit codes tell outcomes apart.
pub fn every_verb_works(kind: PoolFileSystem) {
    let bench = Bench::with_pool(kind, GIB);
    let node = Caller(bench.start());
    let volume = node.ask(&["volume", "create", "data", "--size", "64MiB"]);
    assert_eq!(node.ask(&["volume", "create", "data", "--size", "64MiB"]), volume);
    assert_eq!(node.code(&["volume", "create", "data", "--size", "65MiB"]), Some(4));
    assert_eq!(node.code(&["volume", "create", "odd", "--size", "64MiB", "--parameter", "nope=1"]), Some(2));
    assert_eq!(node.code(&["volume", "show", "nothing"]), Some(3));
    assert!(node.ask(&["volume", "list"]).contains(&volume));
    assert!(node.ask(&["volume", "show", "data"]).contains("64.0 MiB"));
    node.ask(&["volume", "expand", &volume, "--size", "128MiB"]);
    let snapshot = node.ask(&["snapshot", "create", "cut", "--volume", "data"]);
    assert!(node.ask(&["snapshot", "list", "--volume", "data"]).contains(&snapshot));
    assert!(node.ask(&["snapshot", "show", "cut"]).contains("128.0 MiB"));
    node.ask(&["volume", "create", "copy", "--from-snapshot", "cut", "--block"]);
    let status: serde_json::Value = serde_json::from_str(&node.ask(&["pool", "status", "--output", "json"])).unwrap();
    assert_eq!((&status["pools"][0]["volume_count"], &status["pools"][0]["state"]), (&2.into(), &"ready".into()));

    let repository = bench.path().join("repository");
    let repository = repository.to_str().unwrap();
    assert_eq!(node.code(&["export", "cut", "-r", repository]), Some(3));
    node.ask(&["repository", "init", "-r", repository]);
    node.ask(&["export", "cut", "-r", repository, "--host", "here", "--tag", "t"]);
    assert!(node.ask(&["repository", "snapshots", "-r", repository]).contains(&snapshot));
    let restored = node.ask(&["restore", "-r", repository, "--volume", "restored"]);
    assert!(node.ask(&["volume", "list"]).contains(&restored));
    assert_eq!(node.code(&["restore", "-r", repository, "--volume", "restored"]), Some(4));
    let file = bench.path().join("image");
    node.ask(&["restore", "-r", repository, "--file", file.to_str().unwrap()]);
    assert_eq!(fs::metadata(file).unwrap().len(), 128 << 20);

    for name in ["data", "copy", "restored"] {
        node.ask(&["volume", "delete", name]);
    }
    node.ask(&["volume", "delete", &volume]);
    node.ask(&["snapshot", "delete", "cut"]);
    node.0.stop();
    assert!(!bench.options().socket.exists());
    assert_eq!(bench.attached(), [""; 0]);
}

/// A pool has one node; one whose node was killed can be served again.
pub fn a_second_node_is_refused(kind: PoolFileSystem) {
    let bench = Bench::with_pool(kind, GIB);
    let node = Caller(bench.start());
    let volume = node.ask(&["volume", "create", "data", "--size", "64MiB"]);
    let other = format!("unix://{}", bench.path().join("other.sock").display());
    let mut second = windlass();
    second.args(["node", "--standalone", "--allow-private-mounts", "--node-id", "other", "--endpoint", &other]);
    second.arg("--root").arg(bench.root()).arg("--pool").arg(bench.pool());
    let refused = run(&mut second);
    assert_eq!(refused.code, Some(4));
    assert!(refused.stderr.contains("in use by another process"), "{}", refused.stderr);
    assert!(refused.stdout.is_empty(), "it must not say that it is ready");

    // SIGKILL: the socket and whatever holds the pool stay behind.
    node.0.kill();
    assert!(bench.options().socket.exists());
    let node = Caller(bench.start());
    assert!(node.ask(&["volume", "list"]).contains(&volume));
    node.0.stop();
}
