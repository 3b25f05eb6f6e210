#![cfg(all(feature = "thin-tests", feature = "failpoints"))]
//! The command line over thin pools on the real kernel: make, serve, look, repair, every verb of a node (`verbs`), and the whole demo.

// vm: disks=4G limit=900

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "support/basics.rs"]
mod basics;
#[path = "support/common/mod.rs"]
mod common;
#[path = "support/verbs.rs"]
mod verbs;

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use basics::turn;
use common::fixture::{Bench, PoolFileSystem};
use common::leak::{self, files_beneath, loops_beneath, mounts_beneath};
use common::program::{Ended, command, run, run_ok, wait_child, windlass};
use common::{MIB, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use windlass::dm::DeviceMapper;

/// What a command that succeeds says in JSON.
fn ask(arguments: &[&str]) -> Value {
    serde_json::from_str(&run_ok(windlass().args(arguments).args(["--output", "json"])).text()).unwrap()
}

fn refused(arguments: &[&str]) -> Ended {
    let ended = run(windlass().args(arguments));
    assert_eq!(ended.code, Some(4), "{arguments:?}: {}\n{}", ended.text(), ended.stderr);
    ended
}

/// The kernel has no device of ours. The last of them goes a moment after its last descriptor.
fn assert_no_devices(when: &str) {
    wait_for(&format!("no devices are left {when}"), Duration::from_secs(10), || {
        let listed = DeviceMapper::open().unwrap().list().unwrap();
        (!listed.iter().any(|device| device.name.starts_with("windlass-"))).then_some(())
    });
}

#[test]
fn a_pool_is_made_served_looked_at_and_repaired() {
    let _turn = turn();
    let bench = Bench::with_pool(PoolFileSystem::Thin, 1024 * MIB);
    let device = bench.pool();
    let device = device.to_str().unwrap();
    let listed = ask(&["pool", "import"]);
    let ours = listed["devices"].as_array().unwrap().iter().find(|found| found["path"] == device).unwrap();
    let (pool, state) = (ours["pool_id"].as_str().unwrap(), ours["state"].as_str().unwrap());
    assert_eq!(state, "ready");
    assert_no_devices("after a pool was made");

    let node = bench.start();
    let endpoint = node.endpoint();
    ask(&["volume", "create", "data", "--size", "256MiB", "--block", "--endpoint", &endpoint]);
    ask(&["snapshot", "create", "cut", "--volume", "data", "--endpoint", &endpoint]);
    let status = &ask(&["pool", "status", "--endpoint", &endpoint])["pools"][0];
    assert_eq!((&status["kind"], &status["state"], &status["problem"]), (&"thin".into(), &"ready".into(), &Value::Null));
    let thin = &status["thin"];
    assert_eq!((&thin["metadata_total_bytes"], &thin["transaction_id"]), (&(16 * MIB).into(), &2.into()), "{status}");
    // The kernel keeps a tenth back, and says that it is used.
    assert!(thin["metadata_used_bytes"].as_u64().is_some_and(|used| used > 0 && used < 4 * MIB), "{thin}");
    assert_eq!(status["objects"].as_array().unwrap().len(), 2);

    // In use: whatever would change it is refused, and says by what.
    let text = refused(&["pool", "create", "--device", device, "--force"]).stderr;
    assert!(text.contains("is in use") && text.contains(&format!("windlass-{pool}")), "{text}");
    let text = refused(&["pool", "create", "--device", device, "--force", "--replace-pool", pool]).stderr;
    assert!(text.contains("in use by another process"), "{text}");
    refused(&["pool", "repair", "--device", device]);
    let active = ask(&["pool", "import", "--device", device]);
    assert_eq!((&active["active"], &active["catalogue"]), (&true.into(), &Value::Null));
    node.stop();

    // As another machine would see it.
    let found = ask(&["pool", "import", "--device", device]);
    assert_eq!(
        (&found["pool_id"], &found["active"], &found["problems"]),
        (&pool.into(), &false.into(), &Value::Array(Vec::new()))
    );
    assert_eq!(found["catalogue"]["volumes"][0]["name"], "data");
    assert_eq!(found["catalogue"]["snapshots"][0]["name"], "cut");
    assert_eq!(found["catalogue"]["epoch"], found["transaction_id"]);
    let repaired = ask(&["pool", "repair", "--device", device]);
    assert_eq!((&repaired["outcome"], &repaired["missing"]), (&"sound".into(), &Value::Array(Vec::new())));
    assert_no_devices("after a repair");

    // It is still a pool, so nothing but its name gives it up.
    let text = refused(&["pool", "create", "--device", device, "--force"]).stderr;
    assert!(text.contains(&format!("--replace-pool {pool}")), "{text}");
    let made = ask(&["pool", "create", "--device", device, "--replace-pool", pool, "--block-size", "128KiB"]);
    assert_ne!(made["pool_id"], pool);
    let node = bench.start();
    assert_eq!(ask(&["volume", "list", "--endpoint", &node.endpoint()])["volumes"], Value::Array(Vec::new()));
    node.stop();
}

#[test]
fn a_device_of_a_file_of_pools_is_brought_about_once_and_never_written_over() {
    let _turn = turn();
    let bench = Bench::empty();
    let disk = bench.path().join("disk");
    std::fs::File::create_new(&disk).unwrap().set_len(1024 * MIB).unwrap();
    let device = run_ok(command("losetup").args(["--find", "--show"]).arg(&disk)).text().trim().to_owned();
    let ensure = |name: &str, reserve: &str| {
        let config = bench.path().join("pools.json");
        let pool = serde_json::json!({ "name": name, "device": device, "reserve": reserve });
        std::fs::write(&config, serde_json::json!({ "pools": [pool] }).to_string()).unwrap();
        let mut ensure = windlass();
        ensure
            .args(["pool", "ensure", "--node-id", "n", "--endpoint"])
            .arg(format!("unix://{}", bench.path().join("csi.sock").display()));
        run(ensure.arg("--pool-config").arg(config))
    };
    let says = |ended: Ended, part: &str| {
        let text = ended.success().text();
        assert!(text.contains(part) && text.lines().count() == 1, "{part} is not in {text}");
    };
    // Of somebody else.
    run_ok(command("mkfs.ext4").args(["-q", "-F"]).arg(&device));
    let refused = ensure("fast", "5%");
    assert_eq!(refused.code, Some(4), "{}", refused.text());
    assert!(refused.stderr.contains("there is") && refused.stderr.contains("ext4"), "{}", refused.stderr);
    run_ok(command("e2fsck").args(["-fn"]).arg(&device));
    run_ok(command("wipefs").args(["-a", "-q"]).arg(&device));

    says(ensure("fast", "5%"), ": made (pool ");
    says(ensure("fast", "5%"), ": unchanged (pool ");
    says(ensure("fast", "7%"), ": reserve 7% (was 5%) (pool ");
    assert_no_devices("after it was brought about");
    let node = common::node::Node::start(&common::node::NodeOptions { pools: vec![(&device).into()], ..bench.options() });
    ask(&["volume", "create", "data", "--size", "64MiB", "--block", "--endpoint", &node.endpoint()]);
    says(ensure("fast", "7%"), ": unchanged (pool ");
    says(ensure("fast", "8%"), ": reserve 8% (was 7%) (pool ");
    let status = &ask(&["pool", "status", "--endpoint", &node.endpoint()])["pools"][0];
    assert_eq!((&status["name"], &status["reserve"]), (&"fast".into(), &"8%".into()));
    assert_eq!(status["reserve_bytes"].as_u64().unwrap(), status["total_bytes"].as_u64().unwrap() * 8 / 100);
    assert_eq!(ensure("slow", "8%").code, Some(4), "it has a volume, and so keeps its name");
    let by_node = run_ok(windlass().args(["pool", "manifests", "--endpoint", &node.endpoint()])).text();
    node.stop();
    assert_no_devices("after the node has stopped");
    let by_disk = run_ok(windlass().args(["pool", "manifests", "--pool", &device])).text();
    assert_eq!(by_disk, by_node);
    assert!(by_disk.contains("kind: \"PersistentVolume\""), "{by_disk}");
    run_ok(command("losetup").args(["-d"]).arg(&device));
}

#[test]
fn every_verb_works_against_a_node_and_its_exit_codes_tell_outcomes_apart() {
    let _turn = turn();
    verbs::every_verb_works(PoolFileSystem::Thin);
}

#[test]
fn a_second_node_is_refused_and_a_node_that_was_killed_can_start_again() {
    let _turn = turn();
    verbs::a_second_node_is_refused(PoolFileSystem::Thin);
}

#[test]
fn a_pool_lies_on_two_devices_and_is_served_by_either() {
    let _turn = turn();
    let bench = Bench::empty();
    let (metadata, data) = (disk(bench.path(), "metadata", 64 * MIB), disk(bench.path(), "data", 512 * MIB));
    let made = ask(&["pool", "create", "--metadata-device", &metadata, "--data-device", &data]);
    for device in [&metadata, &data] {
        let options = common::node::NodeOptions { pools: vec![device.into()], ..bench.options() };
        let node = common::node::Node::start(&options);
        let status = &ask(&["pool", "status", "--endpoint", &node.endpoint()])["pools"][0];
        assert_eq!((&status["pool_id"], &status["path"]), (&made["pool_id"], &metadata.as_str().into()));
        node.stop();
    }
    let found = ask(&["pool", "import", "--device", &data]);
    assert_eq!(found["devices"].as_array().unwrap().len(), 2);
    assert_no_devices("after the node");
}

/// A loop device over a new, sparse file.
fn disk(folder: &Path, name: &str, bytes: u64) -> String {
    let path = folder.join(name);
    std::fs::File::create_new(&path).unwrap().set_len(bytes).unwrap();
    run_ok(command("losetup").args(["--find", "--show"]).arg(path)).text().trim().to_owned()
}

#[test]
fn a_making_that_is_killed_at_any_step_is_no_obstacle_to_the_next() {
    let _turn = turn();
    let bench = Bench::empty();
    let device = disk(bench.path(), "disk", 128 * MIB);
    let trace = bench.path().join("trace");
    let create = |arguments: &[&str]| {
        let mut create = windlass();
        create.args(["pool", "create", "--device", &device]).args(arguments);
        create
    };
    run_ok(create(&[]).env("WINDLASS_FAILPOINT_TRACE", &trace));
    let mut points: Vec<String> = std::fs::read_to_string(&trace).unwrap().lines().map(str::to_owned).collect();
    let mut seen = std::collections::BTreeMap::new();
    // Each name at its first and at its last.
    for point in &points {
        *seen.entry(point.clone()).or_insert(0_u32) += 1;
    }
    points = seen.iter().flat_map(|(name, count)| [format!("kill:1:{name}"), format!("kill:{count}:{name}")]).collect();
    points.dedup();
    assert!(points.iter().any(|point| point.ends_with("thin.format.labelled")), "{points:?}");
    for point in &points {
        let pool = ask(&["pool", "import"])["devices"].clone();
        let named = pool.as_array().unwrap().iter().find(|found| found["path"] == device.as_str() && found["state"] == "ready");
        let replaced: Vec<&str> =
            named.into_iter().flat_map(|found| ["--replace-pool", found["pool_id"].as_str().unwrap()]).collect();
        let killed = run(create(&replaced).env("WINDLASS_FAILPOINT", point));
        assert_eq!(killed.code, None, "{point}: {}", killed.stderr);
        // Ready already when it was killed, or still in the making: then nothing has to be given up.
        let found = ask(&["pool", "import"])["devices"].clone();
        let state =
            found.as_array().unwrap().iter().find(|found| found["path"] == device.as_str()).map(|found| found["state"].clone());
        if state != Some("ready".into()) {
            run_ok(&mut create(&[]));
        }
    }
    println!("killed at {} steps", points.len());
    let node = common::node::Node::start(&common::node::NodeOptions { pools: vec![(&device).into()], ..bench.options() });
    node.stop();
    assert_no_devices("after the node");
}

/// A file system on the machine's disk, for what is too large for its memory. It must be a real one: loop devices read past caches.
struct Ground(tempfile::TempDir);

impl Ground {
    fn new() -> Self {
        let disks = std::env::var("WINDLASS_VM_DISKS").expect("WINDLASS_VM_DISKS names the disks of the virtual machine");
        let disk = disks.split(':').next().unwrap();
        let ground = Self(tempfile::tempdir().unwrap());
        run_ok(command("mkfs.ext4").args(["-q", "-F", disk]));
        run_ok(command("mount").arg(disk).arg(ground.0.path()));
        std::fs::create_dir(ground.path()).unwrap();
        ground
    }

    fn path(&self) -> std::path::PathBuf {
        self.0.path().join("ground")
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        leak::tear_down(&self.path());
        run(command("umount").arg(self.0.path()));
    }
}

fn assert_nothing_left(ground: &Path) {
    assert_eq!(mounts_beneath(ground), Vec::<std::path::PathBuf>::new(), "mounts are left");
    assert_eq!(loops_beneath(ground), Vec::<leak::Loop>::new(), "loop devices are left");
    assert!(files_beneath(ground).is_empty(), "files are left: {:?}", files_beneath(ground));
}

#[test]
fn the_demo_runs_over_a_thin_pool_and_leaves_nothing() {
    let _turn = turn();
    let ground = Ground::new();
    let ended = run_ok(windlass().args(["demo", "--pool", "thin", "--bytes", "16MiB"]).env("TMPDIR", ground.path()));
    let text = ended.text();
    println!("{text}");
    assert!(text.contains("make a pool (thin)"), "{text}");
    assert!(text.lines().last().is_some_and(|last| last.ends_with(" passed, 0 failed")), "{text}");
    assert_nothing_left(&ground.path());
    assert_no_devices("after the demo");
}

#[test]
fn a_demo_that_is_interrupted_while_its_volume_is_mounted_leaves_nothing() {
    let _turn = turn();
    let ground = Ground::new();
    let mut child = windlass()
        .args(["demo", "--pool", "thin", "--bytes", "64MiB"])
        .env("TMPDIR", ground.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_for("the volume is mounted", Duration::from_secs(240), || {
        assert!(child.try_wait().unwrap().is_none(), "the demo ended before its volume was mounted");
        (!mounts_beneath(&ground.path()).is_empty()).then_some(())
    });
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGINT).unwrap();
    let status = wait_child("the interrupted demo to end", &mut child, Duration::from_secs(120));
    assert!(!status.success(), "an interrupted demo must not report success");
    assert_nothing_left(&ground.path());
    assert_no_devices("after the demo");
}
