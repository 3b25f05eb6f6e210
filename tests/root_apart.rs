#![cfg(feature = "root-tests")]
//! `windlass node` and `windlass agent` as processes apart: what each serves and to whom, what each may do, exports and restores through
//! both, and what is left when either is killed. Needs root.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is a failed test")]
#![allow(clippy::disallowed_types, reason = "the gRPC codes are what the tests look at")]

#[path = "support/basics.rs"]
mod basics;
#[path = "support/common/mod.rs"]
mod common;
#[path = "support/metrics_text.rs"]
mod metrics_text;
#[path = "support/pair.rs"]
mod pair;

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use common::csi::{Csi, Source, Use, new_volume};
use common::fixture::{Bench, PoolFileSystem};
use common::program::{run, run_ok, windlass};
use common::{GIB, MIB, wait_for};
use csi_proto::csi::v1 as proto;
use metrics_text::Text;
use pair::{AGENT, Place, STRANGER, endpoint};
use tonic::Code;

/// Only bounds a hang.
const BOUND: Duration = Duration::from_secs(60);

fn place() -> Place {
    Place::new(Bench::with_pool(PoolFileSystem::Xfs, GIB))
}

fn is_ready(csi: &Csi) -> Option<bool> {
    csi.probe(proto::ProbeRequest {}).unwrap().ready
}

#[test]
fn the_kubelet_is_served_mounting_the_agent_all_else_and_a_volume_lives_by_both() {
    let place = place();
    let (node, agent) = (place.start_node(), place.start_agent());
    let (kubelet, csi, for_agent) = (place.kubelet(), place.csi(), Csi::connect(&place.for_agent()));

    let refused = kubelet.create_volume(new_volume("data", 64 * MIB, Use::Block, &Source::Blank)).unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented, "{refused}");
    for socket in [&csi, &for_agent] {
        let refused = socket.node_get_info(proto::NodeGetInfoRequest {}).unwrap_err();
        assert_eq!(refused.code(), Code::Unimplemented, "{refused}");
    }
    for socket in [&kubelet, &csi, &for_agent] {
        assert_eq!(is_ready(socket), Some(true));
        assert_eq!(socket.pools().unwrap().len(), 1);
    }

    let volume = csi.make_volume("data", 400 * MIB, Use::Mount("xfs"), &Source::Blank);
    let paths = kubelet.bring_up(&place.bench.root(), "data", &volume, Use::Mount("xfs"));
    fs::write(paths.target.join("file"), "precious").unwrap();
    let snapshot = csi.make_snapshot("cut", &volume);
    let grown = csi.controller_expand_volume(proto::ControllerExpandVolumeRequest {
        volume_id: volume.clone(),
        capacity_range: Some(common::csi::capacity(500 * MIB)),
        ..Default::default()
    });
    assert_eq!(u64::try_from(grown.unwrap().capacity_bytes).unwrap(), 500 * MIB);
    let copy = csi.make_volume("copy", 400 * MIB, Use::Mount("xfs"), &Source::Snapshot(snapshot.clone()));
    let copied = kubelet.bring_up(&place.bench.root(), "copy", &copy, Use::Mount("xfs"));
    assert_eq!(fs::read_to_string(copied.target.join("file")).unwrap(), "precious");
    kubelet.take_down(&copy, &copied);
    kubelet.take_down(&volume, &paths);
    csi.drop_snapshot(&snapshot);
    csi.drop_volume(&copy);
    csi.drop_volume(&volume);
    assert_eq!(csi.volume_ids(), Vec::<String>::new());
    agent.stop();
    node.stop();
    assert_eq!(place.bench.attached(), Vec::<String>::new());
    for socket in [place.kubelets(), place.for_agent(), place.agents()] {
        assert!(!socket.exists(), "{} is left", socket.display());
    }
}

#[test]
fn nobody_but_the_agent_and_root_stays_connected_to_the_nodes_socket_for_it() {
    let place = place();
    let _node = place.start_node();
    let pool_status = |user: u32, group: u32, socket: &Path| {
        run(place.as_user(user, group).args(["pool", "status", "--endpoint"]).arg(endpoint(socket)))
    };
    let mode = |socket: &Path| {
        let metadata = fs::metadata(socket).unwrap();
        (metadata.mode() & 0o777, metadata.uid(), metadata.gid())
    };
    assert_eq!(mode(&place.kubelets()), (0o600, 0, 0));
    assert_eq!(mode(&place.for_agent()), (0o660, 0, AGENT));

    pool_status(AGENT, AGENT, &place.for_agent()).success();
    run_ok(windlass().args(["pool", "status", "--endpoint"]).arg(endpoint(&place.for_agent())));
    assert!(pool_status(AGENT, AGENT, &place.kubelets()).failure().contains("Permission denied"));
    assert!(pool_status(STRANGER, STRANGER, &place.for_agent()).failure().contains("Permission denied"));
    // The mode lets this one in, its user does not.
    for _ in 0..3 {
        assert_eq!(pool_status(STRANGER, AGENT, &place.for_agent()).code, Some(5));
    }
    let told: Vec<String> = place.logged("node").lines().filter(|line| line.contains("turned away")).map(str::to_owned).collect();
    assert!(told.len() == 1 && told[0].contains(&STRANGER.to_string()), "{told:?}");
    pool_status(AGENT, AGENT, &place.for_agent()).success();
}

#[test]
fn the_agent_has_no_privilege_and_the_node_no_network() {
    let place = place();
    let (node, agent) = (place.start_node(), place.start_agent());
    assert_eq!(is_ready(&place.csi()), Some(true));

    for capabilities in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(u64::from_str_radix(&agent.status(capabilities), 16), Ok(0), "{capabilities}");
    }
    let user = AGENT.to_string();
    assert_eq!(agent.status("Uid").split_whitespace().collect::<Vec<_>>(), [user.as_str(); 4]);
    assert_eq!(agent.status("NoNewPrivs"), "1");
    let limits = fs::read_to_string(format!("/proc/{}/limits", agent.id())).unwrap();
    let cores = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(cores.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{cores}");
    // What cannot be dumped belongs to root in /proc, whoever runs it.
    assert_eq!(fs::metadata(format!("/proc/{}/mem", agent.id())).unwrap().uid(), 0);
    let devices: Vec<_> =
        agent.open_files().into_iter().filter(|file| file.starts_with("/dev") && file != Path::new("/dev/null")).collect();
    assert_eq!(devices, Vec::<std::path::PathBuf>::new());

    let interfaces = |process: &str| {
        let table = fs::read_to_string(format!("/proc/{process}/net/dev")).unwrap();
        let names = table.lines().skip(2).map(|line| line.split(':').next().unwrap().trim().to_owned());
        names.collect::<Vec<_>>()
    };
    assert_eq!(interfaces(&node.id().to_string()), ["lo"]);
    let network = |process: &str| fs::read_link(format!("/proc/{process}/ns/net")).unwrap();
    assert_ne!(network(&node.id().to_string()), network("self"));
    assert_eq!(network(&agent.id().to_string()), network("self"));
    // All of its threads are there, not only the first.
    for thread in fs::read_dir(format!("/proc/{}/task", node.id())).unwrap() {
        let thread = thread.unwrap().path();
        assert_eq!(fs::read_link(thread.join("ns/net")).unwrap(), network(&node.id().to_string()), "{}", thread.display());
    }
}

/// What is scraped at a port of this machine.
fn scrape(port: u16) -> Text {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: agent\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, text) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    Text::read(text)
}

#[test]
fn the_agent_is_scraped_for_both_and_tells_when_its_node_is_gone() {
    let place = place();
    // Given back just before the agent takes it.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut command = place.agent_command();
    command.args(["--metrics-address", &format!("127.0.0.1:{port}")]);
    let node = place.start_node();
    let agent = place.start(command, "agent", &[place.agents()]);
    let (kubelet, csi) = (place.kubelet(), place.csi());
    let volume = csi.make_volume("data", 400 * MIB, Use::Mount("xfs"), &Source::Blank);
    let paths = kubelet.bring_up(&place.bench.root(), "data", &volume, Use::Mount("xfs"));
    fs::write(paths.target.join("file"), "precious").unwrap();
    let snapshot = csi.make_snapshot("cut", &volume);

    // Counted for the cut of a volume that is in use, and told from the next look at the pool on.
    let extents = || scrape(port).value("windlass_pool_volume_extents_max", &[("process", "node")]);
    assert!(wait_for("the extents of what was cut", BOUND, extents) >= 1.0);
    let text = scrape(port);
    assert_eq!(text.value("windlass_node_up", &[]), Some(1.0));
    for process in ["node", "agent"] {
        // Of itself the agent can tell too, which nobody else may look into.
        for figure in ["windlass_process_open_fds", "windlass_process_resident_memory_bytes", "windlass_process_threads"] {
            assert!(text.value(figure, &[("process", process)]).is_some_and(|value| value > 0.0), "{process} {figure}");
        }
        let calls = [("process", process), ("method", "/csi.v1.Controller/CreateVolume"), ("code", "OK")];
        assert_eq!(text.value("windlass_call_duration_seconds_count", &calls), Some(1.0));
    }
    assert_eq!(text.value("windlass_pool_up", &[("process", "node")]), Some(1.0));
    assert!(text.value("windlass_pool_size_bytes", &[("process", "node")]).is_some_and(|bytes| bytes > 0.0));

    csi.drop_snapshot(&snapshot);
    kubelet.take_down(&volume, &paths);
    csi.drop_volume(&volume);
    node.kill();
    let text = scrape(port);
    assert_eq!(text.value("windlass_node_up", &[("process", "agent")]), Some(0.0));
    assert_eq!(text.value("windlass_build_info", &[("process", "agent")]), Some(1.0));
    assert_eq!(text.value("windlass_build_info", &[("process", "node")]), None);
    agent.stop();
}

#[test]
fn two_nodes_without_network_have_one_owner_for_a_pool_all_the_same() {
    for kind in [PoolFileSystem::Xfs, PoolFileSystem::Btrfs] {
        let place = Place::new(Bench::with_pool(kind, GIB));
        let node = place.start_node();
        let another = |network: &[&str]| {
            let mut second = windlass();
            second.args(["node", "--allow-private-mounts", "--endpoint"]).arg(endpoint(&place.bench.path().join("second.sock")));
            second.arg("--root").arg(place.bench.root()).arg("--pool").arg(place.bench.pool()).args(network);
            let ended = run(&mut second);
            assert_eq!(ended.code, Some(4), "{network:?}: {}", ended.stderr);
        };
        let agents = endpoint(&place.bench.path().join("node/second.sock"));
        let user = AGENT.to_string();
        let apart = ["--agent-endpoint", &agents, "--agent-user", &user, "--agent-group", &user];
        another(&apart);
        another(&[apart.as_slice(), &["--keep-network", "a test"]].concat());
        another(&["--standalone"]);
        node.stop();
    }
}

#[test]
fn an_agent_waits_for_a_node_that_comes_late_or_again() {
    let place = place();
    let mut agent = place.start_agent();
    let csi = place.csi();
    let probe = |arguments: &[&str]| {
        run(windlass().args(["agent", "probe", "--endpoint"]).arg(endpoint(&place.agents())).args(arguments))
    };
    let new = |name: &str| csi.create_volume(new_volume(name, 64 * MIB, Use::Block, &Source::Blank));
    let told = || {
        let log = place.logged("agent");
        let count = |text: &str| log.lines().filter(|line| line.contains(text)).count();
        (count("the node is not there"), count("connected to the node"))
    };
    let without_node = || {
        for _ in 0..3 {
            assert_eq!(is_ready(&csi), Some(false));
        }
        assert_eq!(new("early").unwrap_err().code(), Code::Unavailable);
        assert_eq!(csi.pools().unwrap_err().code(), Code::Unavailable);
        assert_eq!(probe(&[]).code, Some(1));
        probe(&["--live"]).success();
    };
    without_node();
    assert_eq!(told(), (1, 0));
    let mut volumes = Vec::new();
    for round in 1..=3 {
        let node = place.start_node();
        assert_eq!(is_ready(&csi), Some(true), "round {round}");
        probe(&[]).success();
        volumes.push(new(&format!("data-{round}")).unwrap().volume.unwrap().volume_id);
        if round == 2 {
            node.stop()
        } else {
            node.kill()
        }
        without_node();
        assert_eq!(told(), (round + 1, round));
    }
    assert!(agent.runs());
    let node = place.start_node();
    let (mut listed, mut made) = (csi.volume_ids(), volumes);
    listed.sort();
    made.sort();
    assert_eq!(listed, made);
    agent.stop();
    node.stop();
}

#[test]
fn an_agent_refuses_to_be_root_unless_it_is_told_to() {
    let place = place();
    let as_root = || {
        let mut agent = windlass();
        agent.args(["agent", "--node-endpoint"]).arg(endpoint(&place.for_agent()));
        agent.arg("--endpoint").arg(endpoint(&place.agents()));
        agent
    };
    let refused = run(&mut as_root());
    assert_eq!(refused.code, Some(4), "{}", refused.stderr);
    assert!(refused.stderr.contains("must not be root"), "{}", refused.stderr);
    assert!(!place.agents().exists());
    let mut told = as_root();
    told.arg("--allow-root");
    place.start(told, "root-agent", &[place.agents()]).stop();
}

#[test]
fn a_client_that_takes_every_connection_of_the_agents_socket_does_not_disturb_the_kubelet() {
    let place = place();
    let (node, agent) = (place.start_node(), place.start_agent());
    let (kubelet, csi) = (place.kubelet(), place.csi());
    let volume = csi.make_volume("data", 64 * MIB, Use::Block, &Source::Blank);
    // More than there are for an agent; those that are too many wait in the kernel.
    let clients: Vec<_> = (0..200).map(|_| std::os::unix::net::UnixStream::connect(place.for_agent()).unwrap()).collect();
    wait_for("all connections to be taken", BOUND, || {
        place.logged("node").contains("as many clients are connected as may be").then_some(())
    });
    let paths = kubelet.bring_up(&place.bench.root(), "data", &volume, Use::Block);
    kubelet.take_down(&volume, &paths);
    // Nor the agent, which has its connection.
    assert_eq!(csi.volume_ids(), [volume.as_str()]);
    drop(clients);
    assert_eq!(is_ready(&Csi::connect(&place.for_agent())), Some(true));
    csi.drop_volume(&volume);
    agent.stop();
    node.stop();
}
