#![cfg(feature = "root-tests")]
//! A node as a kubelet has it: its pools from one file for all nodes, registered by itself, asked by exec probes; and what makes, describes
//! and finds those pools again. Needs root.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is a failed test")]
#![allow(clippy::disallowed_types, reason = "the gRPC codes are what the tests look at")]

#[path = "support/basics.rs"]
mod basics;
#[path = "support/common/mod.rs"]
mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::csi::{Csi, Source, Use};
use common::fixture::Bench;
use common::program::{Ended, command, run, run_ok, wait_child, windlass};
use common::{MIB, wait_for};
use csi_proto::pluginregistration::v1::registration_client::RegistrationClient;
use csi_proto::pluginregistration::v1::{InfoRequest, PluginInfo};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tonic::transport::Endpoint;

/// Only bounds a hang.
const BOUND: Duration = Duration::from_secs(60);
const NODE: &str = "node-1";

/// A folder for the pools, the file that names them, and the sockets of one node.
struct Place {
    bench: Bench,
}

impl Place {
    fn new() -> Self {
        Self { bench: Bench::empty() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.bench.path().join(name)
    }

    /// Writes the file of pools, and says where it is.
    fn config(&self, pools: &Value) -> PathBuf {
        let path = self.path("pools.json");
        fs::write(&path, json!({ "pools": pools }).to_string()).unwrap();
        path
    }

    fn image(&self, name: &str, fields: &Value) -> Value {
        let mut pool = json!({ "name": name, "image": self.path(&format!("{name}.img")), "imageSize": "512Mi" });
        pool.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        pool
    }

    fn ensure(&self, pools: &Value) -> Command {
        let mut command = windlass();
        command.args(["pool", "ensure", "--node-id", NODE, "--endpoint"]).arg(self.endpoint());
        command.arg("--pool-config").arg(self.config(pools));
        command
    }

    fn endpoint(&self) -> String {
        format!("unix://{}", self.path("csi.sock").display())
    }

    fn probe(&self, arguments: &[&str]) -> Ended {
        run(windlass().args(["node", "probe", "--endpoint"]).arg(self.endpoint()).args(arguments))
    }

    fn node(&self, pools: &Value) -> Command {
        fs::create_dir_all(self.path("registration")).unwrap();
        let mut command = windlass();
        command.args(["node", "--standalone", "--allow-private-mounts", "--no-repositories", "--node-id", NODE, "--endpoint"]);
        command.arg(self.endpoint()).arg("--root").arg(self.bench.root());
        command.arg("--kubelet-registration").arg(self.path("registration"));
        command.arg("--kubelet-endpoint").arg(self.path("csi.sock"));
        command.arg("--pool-config").arg(self.config(pools));
        command
    }

    fn start(&self, pools: &Value) -> Served {
        let log = fs::File::create(self.bench.log()).unwrap();
        let mut child = self.node(pools).stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, format!("ready {}\n", self.endpoint()), "{}", fs::read_to_string(self.bench.log()).unwrap());
        Served { child }
    }

    fn csi(&self) -> Csi {
        Csi::connect(&self.path("csi.sock"))
    }

    /// What the kubelet is told, once it finds the socket.
    fn registered(&self) -> PluginInfo {
        let socket = self.path("registration/csi.windlass.dev-reg.sock");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        wait_for("the registration", BOUND, || {
            runtime.block_on(async {
                let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display())).unwrap();
                let mut kubelet = RegistrationClient::new(endpoint.connect().await.ok()?);
                Some(kubelet.get_info(InfoRequest {}).await.unwrap().into_inner())
            })
        })
    }

    fn manifests(&self, arguments: &[&Path]) -> String {
        let mut command = windlass();
        command.args(["pool", "manifests", "--storage-class", "windlass"]).args(arguments);
        run_ok(&mut command).text()
    }
}

struct Served {
    child: Child,
}

impl Served {
    fn stop(mut self) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), Signal::SIGTERM).unwrap();
        assert!(wait_child("the node to stop", &mut self.child, BOUND).success());
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn topology(csi: &Csi) -> Vec<String> {
    let info = csi.node_get_info(csi_proto::csi::v1::NodeGetInfoRequest {}).unwrap();
    let mut keys: Vec<String> = info.accessible_topology.unwrap().segments.into_keys().collect();
    keys.sort_unstable();
    keys
}

fn lines(ended: &Ended) -> Vec<String> {
    ended.text().lines().map(str::to_owned).collect()
}

#[test]
fn a_node_serves_the_pools_that_name_it_and_makes_itself_known() {
    let place = Place::new();
    let pools = json!([
        place.image("fast", &json!({ "nodes": ["node-?"], "reserve": "5%" })),
        place.image("other", &json!({ "nodes": ["node-2"] })),
    ]);
    assert_eq!(place.probe(&[]).code, Some(1), "nobody is there");
    assert_eq!(place.probe(&["--live"]).code, Some(1));
    run_ok(&mut place.ensure(&pools));
    assert!(!place.path("other.img").exists());
    let served = place.start(&pools);
    place.probe(&[]).success();
    place.probe(&["--live"]).success();
    let info = place.registered();
    assert_eq!((info.r#type.as_str(), info.name.as_str()), ("CSIPlugin", "csi.windlass.dev"));
    assert_eq!(info.endpoint, place.path("csi.sock").to_string_lossy());
    let csi = place.csi();
    assert_eq!(topology(&csi).len(), 2);
    let status = csi.pools().unwrap();
    assert_eq!((status.len(), status[0].name.as_str(), status[0].reserve.as_str()), (1, "fast", "5%"));
    assert_eq!(status[0].reserve_bytes, status[0].total_bytes / 20);
    let volume = csi.make_volume("data", 64 * MIB, Use::Block, &Source::Blank);
    let cut = csi.make_snapshot("cut", &volume);
    // No transfers are served.
    let refused = run(windlass()
        .args(["export", &cut, "--repository", "/nonexistent", "--endpoint"])
        .arg(place.endpoint())
        .env("RESTIC_PASSWORD", "x"));
    assert!(refused.code == Some(1) && refused.stderr.contains("--no-repositories"), "{:?} {}", refused.code, refused.stderr);
    csi.drop_snapshot(&cut);
    csi.drop_volume(&volume);
    drop(csi);
    // The kubelet's directory is emptied, and the node is there again.
    fs::remove_file(place.path("registration/csi.windlass.dev-reg.sock")).unwrap();
    assert_eq!(place.registered().name, "csi.windlass.dev");
    served.stop();
    assert_eq!(fs::read_dir(place.path("registration")).unwrap().count(), 0);
}

#[test]
fn a_node_that_no_pool_names_serves_without_one() {
    let place = Place::new();
    let pools = json!([place.image("fast", &json!({ "nodes": ["elsewhere"] }))]);
    assert_eq!(lines(&run_ok(&mut place.ensure(&pools))), ["no pool is configured for node node-1"]);
    let served = place.start(&pools);
    place.probe(&[]).success();
    assert_eq!(place.registered().name, "csi.windlass.dev");
    let csi = place.csi();
    assert_eq!(topology(&csi), ["topology.windlass.dev/node"]);
    assert_eq!(csi.get_capacity(Default::default()).unwrap().available_capacity, 0);
    assert_eq!(csi.volume_ids(), [""; 0]);
    drop(csi);
    served.stop();
}

#[test]
fn a_node_whose_pools_have_all_failed_is_not_well_and_lives() {
    let place = Place::new();
    let pools = json!([{ "name": "gone", "device": place.path("no-such-device") }]);
    let served = place.start(&pools);
    let probed = place.probe(&[]);
    assert_eq!(probed.code, Some(1));
    assert!(
        probed.stderr.contains("no pool of this node is open") && probed.stderr.contains("no-such-device"),
        "{}",
        probed.stderr
    );
    place.probe(&["--live"]).success();
    // The same words each time, and to the sidecars no error, which would end them.
    assert_eq!(place.probe(&[]).stderr, probed.stderr);
    assert_eq!(place.csi().probe(Default::default()).unwrap().ready, Some(false));
    assert_eq!(place.registered().name, "csi.windlass.dev");
    served.stop();
}

#[test]
fn a_wrong_file_is_refused_by_pool_and_field_before_anything_is_done() {
    let place = Place::new();
    let pools = json!([place.image("fast", &json!({})), place.image("slow", &json!({ "overprovisionRatio": "0.5" }))]);
    for mut command in [place.ensure(&pools), place.node(&pools)] {
        let ended = run(&mut command);
        assert_eq!(ended.code, Some(2), "{}", ended.stderr);
        assert!(ended.stderr.contains("pool `slow` (number 2): overprovisionRatio: must be"), "{}", ended.stderr);
    }
    assert!(!place.path("fast.img").exists());
    let relative = run(place.node(&json!([])).args(["--kubelet-endpoint", "csi.sock"]));
    assert_eq!(relative.code, Some(2));
}

#[test]
fn pools_are_brought_about_once_and_left_alone_when_they_are_as_wanted() {
    let place = Place::new();
    fs::create_dir(place.path("mnt")).unwrap();
    let pools = |size: &str, reserve: &str| {
        let mut image = place.image("fast", &json!({ "reserve": reserve, "overprovisionRatio": 2 }));
        image["imageSize"] = json!(size);
        json!([image, place.image("deep", &json!({ "image": place.path("a/b/deep.img"), "imageFilesystem": "btrfs" }))])
    };
    let made = lines(&run_ok(&mut place.ensure(&pools("512Mi", "5%"))));
    assert_eq!(made.len(), 2);
    assert!(made.iter().all(|line| line.contains(": made (pool ")), "{made:?}");
    let before = fs::metadata(place.path("fast.img")).unwrap().modified().unwrap();
    let again = lines(&run_ok(&mut place.ensure(&pools("512Mi", "5%"))));
    assert!(again.iter().all(|line| line.contains(": unchanged (pool ")), "{again:?}");
    assert!(place.bench.attached().is_empty());
    let changed = lines(&run_ok(&mut place.ensure(&pools("700Mi", "7%"))));
    assert!(changed[0].contains("grown from 512.0 MiB to 700.0 MiB; reserve 7% (was 5%)"), "{changed:?}");
    assert!(changed[1].contains(": unchanged"), "{changed:?}");
    assert!(fs::metadata(place.path("fast.img")).unwrap().modified().unwrap() > before);
    let smaller = lines(&run_ok(&mut place.ensure(&pools("512Mi", "7%"))));
    assert!(smaller[0].contains("unchanged") && smaller[0].contains("images do not shrink"), "{smaller:?}");

    // Beneath a running node the same holds, through the node.
    let served = place.start(&pools("700Mi", "7%"));
    let same = lines(&run_ok(&mut place.ensure(&pools("700Mi", "7%"))));
    assert!(same.iter().all(|line| line.contains(": unchanged (pool ")), "{same:?}");
    let through = lines(&run_ok(&mut place.ensure(&pools("800Mi", "1%"))));
    assert!(through[0].contains("which the node takes into use") && through[0].contains("reserve 1% (was 7%)"), "{through:?}");
    assert_eq!(place.csi().pools().unwrap()[0].reserve, "1%");
    served.stop();
    let settled = lines(&run_ok(&mut place.ensure(&pools("800Mi", "1%"))));
    assert!(settled.iter().all(|line| line.contains(": unchanged (pool ")), "{settled:?}");
}

#[test]
fn what_belongs_to_somebody_else_is_refused_and_the_others_are_done() {
    let place = Place::new();
    let good = || place.image("good", &json!({}));
    // A file of somebody else under the name of an image, a directory with something in it, a device that is not there.
    fs::write(place.path("notes.img"), vec![7; 1 << 20]).unwrap();
    fs::create_dir(place.path("full")).unwrap();
    fs::write(place.path("full/notes"), "precious").unwrap();
    let pools = json!([
        { "name": "notes", "image": place.path("notes.img"), "imageSize": "512Mi" },
        { "name": "full", "directory": place.path("full") },
        { "name": "absent", "device": place.path("absent") },
        good(),
    ]);
    let ended = run(&mut place.ensure(&pools));
    assert_eq!(ended.code, Some(4), "{}", ended.stderr);
    assert!(ended.stderr.contains("3 of 4 pools are not as wanted: notes, full, absent"), "{}", ended.stderr);
    let told = lines(&ended);
    assert!(told[2].contains("the device") && told[2].contains("is not there"), "{told:?}");
    assert!(told[3].contains(": made (pool "), "{told:?}");
    assert_eq!(fs::read(place.path("notes.img")).unwrap(), vec![7; 1 << 20]);
    assert_eq!(fs::read(place.path("full/notes")).unwrap(), b"precious");
    let best = run_ok(place.ensure(&pools).arg("--best-effort"));
    assert_eq!(lines(&best).len(), 4);
    let only_absent = json!([{ "name": "absent", "device": place.path("absent") }, good()]);
    assert_eq!(run(&mut place.ensure(&only_absent)).code, Some(3));

    // A pool with volumes keeps its name; an empty one takes the one that is wanted.
    let renamed = |name: &str| json!([{ "name": name, "image": place.path("good.img"), "imageSize": "512Mi" }]);
    assert!(lines(&run_ok(&mut place.ensure(&renamed("better"))))[0].contains("name better (was good)"));
    let served = place.start(&renamed("better"));
    place.csi().make_volume("data", 64 * MIB, Use::Block, &Source::Blank);
    let refuse = |ended: Ended| {
        assert_eq!(ended.code, Some(4));
        assert!(ended.stderr.contains("holds the pool `better`") && ended.stderr.contains("and not `best`"), "{}", ended.stderr);
    };
    refuse(run(&mut place.ensure(&renamed("best"))));
    served.stop();
    refuse(run(&mut place.ensure(&renamed("best"))));
}

#[cfg(feature = "failpoints")]
#[test]
fn an_ensure_that_dies_at_any_step_is_finished_by_the_next() {
    let trace = {
        let place = Place::new();
        let trace = place.path("trace");
        let pools = json!([place.image("fast", &json!({ "reserve": "5%" }))]);
        run_ok(place.ensure(&pools).env("WINDLASS_FAILPOINT_TRACE", &trace));
        let mut points: Vec<String> = fs::read_to_string(trace).unwrap().lines().map(str::to_owned).collect();
        points.sort_unstable();
        points.dedup();
        points
    };
    assert!(trace.iter().any(|point| point == "image.rename.after") && trace.len() >= 6, "{trace:?}");
    for point in trace {
        let place = Place::new();
        let pools = json!([place.image("fast", &json!({ "reserve": "5%" }))]);
        let died = run(place.ensure(&pools).env("WINDLASS_FAILPOINT", format!("kill:1:{point}")));
        assert_eq!(died.code, None, "{point}: {}", died.stderr);
        run_ok(&mut place.ensure(&pools));
        let settled = lines(&run_ok(&mut place.ensure(&pools)));
        assert!(settled[0].contains(": unchanged (pool "), "{point}: {settled:?}");
        let served = place.start(&pools);
        let status = place.csi().pools().unwrap();
        assert_eq!(
            (status[0].name.as_str(), status[0].reserve.as_str(), status[0].state.as_str()),
            ("fast", "5%", "ready"),
            "{point}"
        );
        served.stop();
    }
}

#[test]
fn volumes_of_a_lost_cluster_are_described_alike_by_their_node_and_by_their_disk() {
    let place = Place::new();
    let pools = json!([place.image("fast", &json!({ "imageSize": "1Gi" }))]);
    run_ok(&mut place.ensure(&pools));
    let served = place.start(&pools);
    let csi = place.csi();
    let parameters = [
        ("csi.storage.k8s.io/pvc/namespace", "shop"),
        ("csi.storage.k8s.io/pvc/name", "data"),
        ("csi.storage.k8s.io/pv/name", "pvc-1"),
    ];
    let parameters = parameters.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    let request = csi_proto::csi::v1::CreateVolumeRequest {
        parameters,
        ..common::csi::new_volume("pvc-1", 64 * MIB, Use::Block, &Source::Blank)
    };
    let volume = csi.create_volume(request).unwrap().volume.unwrap().volume_id;
    // Given out as a file system since, as a backup program does that filled it as a raw device.
    let paths = csi.bring_up(&place.bench.root(), "reader", &volume, Use::Mount("ext4"));
    let parameters =
        [("csi.storage.k8s.io/volumesnapshot/namespace", "shop"), ("csi.storage.k8s.io/volumesnapshot/name", "nightly")];
    let parameters = parameters.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    let cut = csi_proto::csi::v1::CreateSnapshotRequest {
        name: "snapshot-1".to_owned(),
        source_volume_id: volume.clone(),
        parameters,
        ..Default::default()
    };
    csi.create_snapshot(cut).unwrap();
    let endpoint = PathBuf::from(place.endpoint());
    let by_node = place.manifests(&[Path::new("--endpoint"), &endpoint]);
    let image = place.path("fast.img");
    let refused = run(windlass().args(["pool", "manifests", "--pool"]).arg(&image));
    assert_eq!(refused.code, Some(4), "a node serves it: {}", refused.stderr);
    csi.take_down(&volume, &paths);
    drop(csi);
    served.stop();
    let by_disk = place.manifests(&[Path::new("--pool"), &image]);
    assert_eq!(by_disk, by_node);
    assert_eq!(place.manifests(&[Path::new("--pool"), &image]), by_disk);
    for expected in [
        "kind: \"PersistentVolume\"\n",
        "  name: \"pvc-1\"\n",
        "    namespace: \"shop\"\n",
        &format!("    volumeHandle: \"{volume}\"\n"),
        "    fsType: \"ext4\"\n",
        "  volumeMode: \"Filesystem\"\n",
        "  persistentVolumeReclaimPolicy: \"Retain\"\n",
        "  storageClassName: \"windlass\"\n",
        "kind: \"VolumeSnapshotContent\"\n",
        "  deletionPolicy: \"Retain\"\n",
        "kind: \"VolumeSnapshot\"\n",
    ] {
        assert!(by_disk.contains(expected), "{expected} is missing in\n{by_disk}");
    }
    assert_eq!(by_disk.matches("---\n").count(), 3);
    // Nothing of it was changed: the node finds it as it was.
    let served = place.start(&pools);
    assert_eq!(place.csi().volume_ids(), [volume]);
    served.stop();
}

#[test]
fn a_volume_that_was_filled_as_a_raw_device_is_thin_again_when_it_is_let_go_of() {
    for (file_system, pool_bytes) in [("xfs", "1Gi"), ("btrfs", "1Gi")] {
        let place = Place::new();
        let pools = json!([place.image("fast", &json!({ "imageSize": pool_bytes, "imageFilesystem": file_system }))]);
        run_ok(&mut place.ensure(&pools));
        let served = place.start(&pools);
        let csi = place.csi();
        let volume = csi.make_volume("restored", 256 * MIB, Use::Block, &Source::Blank);
        let allocated = || {
            let pools = csi.pools().unwrap();
            pools[0].objects.iter().find(|object| object.handle == volume).unwrap().allocated_bytes
        };
        let paths = csi.bring_up(&place.bench.root(), "mover", &volume, Use::Block);
        // As a mover restores a sparse source: some data, zeros written, and zeros asked of the device.
        let target = paths.target.display();
        let fill = |arguments: &str| {
            run_ok(
                command("sh").args(["-c", &format!("dd {arguments} of={target} bs=1M conv=notrunc oflag=direct status=none")]),
            );
        };
        fill("if=/dev/zero count=192");
        fill("if=/dev/urandom count=8 seek=40");
        run_ok(
            command("sh").args(["-c", &format!("blkdiscard --zeroout --offset {} --length {} {target}", 192 * MIB, 64 * MIB)]),
        );
        run_ok(command("blockdev").arg("--flushbufs").arg(&paths.target));
        let content = fs::read(&paths.target).unwrap();
        assert!(allocated() >= 192 * MIB, "{}", allocated());
        csi.take_down(&volume, &paths);
        wait_for("the zeros to give their space back", BOUND, || (allocated() <= 8 * MIB * 105 / 100).then_some(()));
        // Velero's next step: the same volume, by the other mode or again by this.
        let paths = csi.bring_up(&place.bench.root(), "user", &volume, Use::Block);
        assert!(fs::read(&paths.target).unwrap() == content, "{file_system}");
        csi.take_down(&volume, &paths);
        csi.drop_volume(&volume);
        drop(csi);
        served.stop();
        let log = fs::read_to_string(place.bench.log()).unwrap();
        let line = log.lines().find(|line| line.contains("have given their space back")).unwrap();
        assert!(line.contains("allocated_before=") && line.contains("allocated_after="), "{line}");
    }
}
