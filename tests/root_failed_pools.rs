#![cfg(feature = "root-tests")]
//! Pools that fail and come back, beside one that is well: real XFS images, one of which is not there at the start, and one whose file
//! system shuts down while the node runs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is a failed test")]
#![allow(clippy::disallowed_types, reason = "the gRPC codes are what the tests look at")]

#[path = "support/basics.rs"]
mod basics;
#[path = "support/common/mod.rs"]
mod common;
#[path = "support/sanity.rs"]
mod sanity;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::csi::{Csi, Source, Use, new_volume};
use common::fixture::{Bench, PoolFileSystem};
use common::node::{Node, NodeOptions};
use common::program::{command, run_ok};
use common::{GIB, MIB, wait_for};
use csi_proto::csi::v1 as proto;
use tonic::Code;
use windlass::mount::image;

/// A failed pool is tried again at least once a minute, and the machine may be busy.
const BACK_BOUND: Duration = Duration::from_secs(150);
const EXT4: Use = Use::Mount("ext4");

struct Place {
    image: PathBuf,
    /// Where the image is mounted, by which a class can name the pool.
    directory: PathBuf,
}

impl Place {
    fn new(bench: &Bench, name: &str) -> Self {
        let image = bench.path().join(name);
        bench.create_pool(&image, PoolFileSystem::Xfs, GIB);
        Self { directory: bench.path().join(format!("{name}.mount")), image }
    }

    /// A volume in this pool with a file in it; its id.
    fn volume(&self, bench: &Bench, csi: &Csi, name: &str) -> String {
        let parameters = [("pool".to_owned(), self.directory.display().to_string())].into();
        let request = proto::CreateVolumeRequest { parameters, ..new_volume(name, 32 * MIB, EXT4, &Source::Blank) };
        let volume = csi.create_volume(request).unwrap().volume.unwrap().volume_id;
        write(bench, csi, &volume, name);
        volume
    }
}

fn write(bench: &Bench, csi: &Csi, volume: &str, text: &str) {
    let paths = csi.bring_up(&bench.root(), text, volume, EXT4);
    fs::write(paths.target.join("file"), text).unwrap();
    csi.take_down(volume, &paths);
}

fn read(bench: &Bench, csi: &Csi, volume: &str) -> String {
    let paths = csi.bring_up(&bench.root(), "reader", volume, EXT4);
    let text = fs::read_to_string(paths.target.join("file")).unwrap();
    csi.take_down(volume, &paths);
    text
}

/// The states of the pools, in the order in which they were named.
fn states(csi: &Csi) -> Vec<String> {
    csi.pools().unwrap().into_iter().map(|pool| pool.state).collect()
}

fn wait_for_states(csi: &Csi, wanted: &[&str]) {
    wait_for(&format!("pools that are {wanted:?}"), BACK_BOUND, || (states(csi) == wanted).then_some(()));
}

fn shut_down(directory: &Path) {
    run_ok(command("xfs_io").args(["-x", "-c", "shutdown"]).arg(directory));
}

#[test]
fn a_node_serves_the_pools_that_work_and_the_others_again_when_they_are_back() {
    let bench = Bench::with_pool(PoolFileSystem::Xfs, 16 * GIB);
    let (absent, dying) = (Place::new(&bench, "absent.img"), Place::new(&bench, "dying.img"));
    let pools = vec![absent.image.clone(), dying.image.clone(), bench.pool()];
    let options = NodeOptions { pools, ..bench.options() };
    let node = Node::start(&options);
    let csi = node.csi();
    assert_eq!(states(&csi), ["ready"; 3]);
    let in_absent = absent.volume(&bench, &csi, "in-absent");
    let in_dying = dying.volume(&bench, &csi, "in-dying");
    drop(csi);
    node.stop();

    // The disk of one is gone when the node starts.
    image::open(&absent.image).unwrap().close().unwrap();
    let elsewhere = bench.path().join("elsewhere");
    fs::rename(&absent.image, &elsewhere).unwrap();
    let node = Node::start(&options);
    let csi = node.csi();
    assert_eq!(states(&csi), ["failed", "ready", "ready"]);
    assert_eq!(read(&bench, &csi, &in_dying), "in-dying");

    // That of another goes while it runs. Somebody who still has a file in it keeps it from being mounted anew at once.
    let visitor = File::open(&dying.directory).unwrap();
    shut_down(&dying.directory);
    wait_for_states(&csi, &["failed", "failed", "ready"]);
    let problem = csi.pools().unwrap()[1].problem.clone();
    assert!(problem.contains("nput/output error"), "{problem}");
    for lost in [&in_absent, &in_dying] {
        let request = proto::DeleteVolumeRequest { volume_id: lost.clone(), ..Default::default() };
        assert_eq!(csi.delete_volume(request).unwrap_err().code(), Code::Unavailable);
    }
    let again = new_volume("in-dying", 32 * MIB, EXT4, &Source::Blank);
    assert_eq!(csi.create_volume(again).unwrap_err().code(), Code::Unavailable, "no second volume of that name");
    assert_eq!(csi.list_volumes(proto::ListVolumesRequest::default()).unwrap_err().code(), Code::Unavailable);
    let in_well = csi.make_volume("in-well", 32 * MIB, EXT4, &Source::Blank);
    write(&bench, &csi, &in_well, "in-well");
    csi.drop_volume(&in_well);
    // All but the lists, which would lack what the failed pools hold.
    sanity::passes(&bench, &sanity::Endpoints::one(node.endpoint()), "mount", Some("ListVolumes|ListSnapshots"));

    drop(visitor);
    fs::rename(&elsewhere, &absent.image).unwrap();
    wait_for_states(&csi, &["ready"; 3]);
    for (volume, text) in [(&in_absent, "in-absent"), (&in_dying, "in-dying")] {
        assert_eq!(read(&bench, &csi, volume), text);
        csi.drop_volume(volume);
    }
    assert_eq!(csi.volume_ids(), [""; 0]);
    drop(csi);
    node.stop();
}
