//! csi-sanity, the CSI project's own conformance suite, against the real node over a real pool. What it skips is printed with its
//! reason.

#![allow(dead_code, reason = "each test binary uses a part of this")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is a failed test")]

use std::fs;

use super::common::GIB;
use super::common::fixture::{Bench, PoolFileSystem};
use super::common::program::{built_tool, command, run};
use serde::Deserialize;

/// The part of Ginkgo's JSON report that is of interest.
#[derive(Deserialize)]
struct Suite {
    #[serde(rename = "SpecReports")]
    specs: Option<Vec<Spec>>,
}

#[derive(Deserialize)]
struct Spec {
    #[serde(rename = "ContainerHierarchyTexts")]
    containers: Option<Vec<String>>,
    #[serde(rename = "LeafNodeText")]
    text: String,
    #[serde(rename = "LeafNodeType")]
    kind: String,
    #[serde(rename = "State")]
    state: String,
    #[serde(rename = "Failure")]
    failure: Option<Failure>,
}

#[derive(Deserialize)]
struct Failure {
    #[serde(rename = "Message")]
    message: String,
}

impl Spec {
    fn name(&self) -> String {
        let containers = self.containers.clone().unwrap_or_default();
        format!("{} {}", containers.join(" "), self.text)
    }

    fn reason(&self) -> String {
        match (&self.failure, self.state.as_str()) {
            (Some(failure), _) if !failure.message.is_empty() => failure.message.lines().next().unwrap_or_default().to_owned(),
            (_, "pending") => "marked pending by csi-sanity itself".to_owned(),
            _ => "csi-sanity gives no reason".to_owned(),
        }
    }
}

/// Runs the suite in one access mode (`mount`, `block`).
pub fn conforms(file_system: PoolFileSystem, access: &str) {
    let bench = Bench::with_pool(file_system, 16 * GIB);
    let node = bench.start();
    println!("csi-sanity on {}", file_system.name());
    passes(&bench, &Endpoints::one(node.endpoint()), access, None);
    assert_eq!(node.csi().volume_ids(), Vec::<String>::new(), "volumes are left");
    assert_eq!(node.csi().snapshot_ids(), Vec::<String>::new(), "snapshots are left");
    node.stop();
    assert_eq!(bench.attached(), Vec::<String>::new());
}

/// Where the services are.
pub struct Endpoints {
    /// Identity and Node.
    pub node: String,
    /// The controllers, if they are elsewhere.
    pub controller: Option<String>,
}

impl Endpoints {
    /// All on one socket.
    pub fn one(node: String) -> Self {
        Self { node, controller: None }
    }
}

/// Runs the suite against what serves there, but for the specs that a regular expression leaves out.
pub fn passes(bench: &Bench, endpoints: &Endpoints, access: &str, left_out: Option<&str>) {
    let report = bench.path().join("report.json");
    let ended = run(command(built_tool("csi-sanity"))
        .args(left_out.map(|specs| format!("-ginkgo.skip={specs}")))
        .arg(format!("-csi.endpoint={}", endpoints.node))
        .args(endpoints.controller.as_ref().map(|controller| format!("-csi.controllerendpoint={controller}")))
        .arg(format!("-csi.mountdir={}", bench.root().join("sanity-target").display()))
        .arg(format!("-csi.stagingdir={}", bench.root().join("sanity-staging").display()))
        .arg(format!("-csi.testvolumesize={GIB}"))
        .arg(format!("-csi.testvolumeexpandsize={}", 2 * GIB))
        .arg(format!("-csi.testvolumeaccesstype={access}"))
        .arg(format!("-ginkgo.json-report={}", report.display()))
        .args(["-ginkgo.no-color", "-ginkgo.seed=1"]));

    let text =
        fs::read_to_string(&report).unwrap_or_else(|error| panic!("no report ({error})\n{}\n{}", ended.text(), ended.stderr));
    let suites: Vec<Suite> = serde_json::from_str(&text).unwrap();
    let specs: Vec<Spec> =
        suites.into_iter().flat_map(|suite| suite.specs.unwrap_or_default()).filter(|spec| spec.kind == "It").collect();
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for spec in &specs {
        match spec.state.as_str() {
            "passed" => passed += 1,
            "skipped" | "pending" => {
                skipped += 1;
                println!("skipped: {}: {}", spec.name(), spec.reason());
            }
            state => {
                failed += 1;
                println!("{state}: {}: {}", spec.name(), spec.reason());
            }
        }
    }
    println!("csi-sanity {access}: {passed} passed, {failed} failed, {skipped} skipped");

    assert!(failed == 0 && ended.code == Some(0), "csi-sanity ended with {:?}\n{}", ended.code, ended.text());
    // Were the services not offered, everything would be skipped and nothing fail.
    assert!(passed >= 60 || left_out.is_some() && passed >= 40, "only {passed} specs ran");
}
