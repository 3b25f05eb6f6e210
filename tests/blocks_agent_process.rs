//! An agent that is another process: the kernel tells the node which, and it is killed in the midst of what it does.
//!
//! The other process is this test's own program, started anew with the sockets of the node in its environment and asked for the one test that is
//! the agent. It says what it has reached, a line each, and goes on when it is told to.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is a failed test")]
#![allow(clippy::disallowed_types, reason = "the callers' side of the gRPC boundary")]

#[path = "support/disks/mod.rs"]
mod disks;
#[path = "support/figures.rs"]
mod figures;
#[path = "support/disks/pool.rs"]
mod pool_disks;
#[path = "support/served_blocks.rs"]
mod served_blocks;

use std::env;
use std::io::{BufRead, BufReader, Lines, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use csi_proto::windlass::v1 as proto;
use csi_proto::windlass::v1::blocks_client::BlocksClient as Calls;
use data_encoding::HEXLOWER;
use disks::{Disks, delete_when_let_go, new_volume};
use figures::Figures;
use pool_disks::PoolDisks;
use served_blocks::ServedBlocks;
use tonic::transport::Endpoint;
use windlass::blocks::client::{self, BlocksClient};
use windlass::blocks::descriptor::{self, FetchError, ReceiveError};
use windlass::blocks::wire::secret::Secret;
use windlass::blocks::{Blocks, CommitName, TargetStart};
use windlass::types::poll::{self, Patience};
use windlass::types::{NewVolume, OnLoss, PoolId, VolumeMode};

const MIB: u64 = 1 << 20;
/// Where the agent finds the sockets, and what it does: unset in every other test.
const SOCKETS: &str = "WINDLASS_TEST_AGENT_SOCKETS";
const TASK: &str = "WINDLASS_TEST_AGENT_TASK";
const OBJECTS: &str = "WINDLASS_TEST_AGENT_OBJECTS";
const PATIENCE: Patience = Patience { limit: Duration::from_secs(60), every: Duration::from_millis(5) };

fn raw(text: &str) -> NewVolume {
    new_volume(text, 4 * MIB, VolumeMode::Block)
}

/// The agent's side of a conversation.
fn say(line: &str) {
    // libtest shows what is printed; this goes past it.
    let mut output = std::io::stdout().lock();
    writeln!(output, "agent: {line}").unwrap();
    output.flush().unwrap();
}

fn listen() -> String {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    line.trim().to_owned()
}

/// Not a test of its own: the agent of the others. Without the environment it has nothing to do.
#[test]
fn agent() {
    let Ok(sockets) = env::var(SOCKETS) else { return };
    let (task, objects) = (env::var(TASK).unwrap(), env::var(OBJECTS).unwrap());
    let (pool, snapshot) = objects.split_once(' ').unwrap();
    let (pool, snapshot): (PoolId, _) = (pool.parse().unwrap(), snapshot.to_owned());
    let calls = Endpoint::from_shared(format!("unix://{sockets}/agent.sock")).unwrap();
    let descriptors = PathBuf::from(sockets).join("descriptors.sock");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let channel = client::endpoint(calls).connect_lazy();
        let client = BlocksClient::connect(channel.clone(), descriptors.clone());
        match task.as_str() {
            "token" => {
                let request = proto::LeaseSnapshotRequest { snapshot_id: snapshot };
                let mut stream = Calls::new(channel).lease_snapshot(request).await.unwrap().into_inner();
                let held = stream.message().await.unwrap().unwrap();
                say(&HEXLOWER.encode(&held.descriptor_token));
                assert_eq!(listen(), "fetch");
                let token = Secret::from_bytes(&held.descriptor_token).unwrap();
                drop(descriptor::fetch(&descriptors, &token).unwrap());
                say("fetched");
            }
            "lease" => {
                let lease = client.lease(snapshot.parse().unwrap()).await.unwrap();
                let _ranges = lease.allocated().await.unwrap();
                say("holds");
                listen();
            }
            "target" | "commit" => {
                let TargetStart::Target(target) = client.begin(pool, raw("new"), OnLoss::Delete).await.unwrap() else { panic!() };
                target.file.write_all_at(&[3; 8192], 0).unwrap();
                let volume = target.volume;
                if task == "commit" {
                    drop(target);
                    client.commit(volume, CommitName::AsBegun).await.unwrap();
                    say("holds");
                    listen();
                } else {
                    say("holds");
                    listen();
                    drop(target);
                }
            }
            other => panic!("{other}"),
        }
    });
}

/// An agent in a process of its own, killed when dropped.
struct Agent {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
    input: ChildStdin,
}

impl Agent {
    fn start(task: &str, sockets: &Path, objects: &str) -> Self {
        let mut process = Command::new(env::current_exe().unwrap())
            .args(["--exact", "agent", "--nocapture", "--test-threads=1"])
            .env(SOCKETS, sockets)
            .env(TASK, task)
            .env(OBJECTS, objects)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (lines, input) = (BufReader::new(process.stdout.take().unwrap()).lines(), process.stdin.take().unwrap());
        Self { process, lines, input }
    }

    /// The next thing that it says.
    fn says(&mut self) -> String {
        let said = self.lines.by_ref().find_map(|line| Some(line.unwrap().split_once("agent: ")?.1.to_owned()));
        said.expect("the agent ended without a word")
    }

    fn tell(&mut self, line: &str) {
        writeln!(self.input, "{line}").unwrap();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// All of it in one test: the figures are of the process.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_of_one_process_and_a_killed_agent_leaves_nothing() {
    if env::var(SOCKETS).is_ok() {
        return;
    }
    let disks: Arc<dyn Disks> = Arc::new(PoolDisks::new());
    let volume = disks.create(&raw("data"), &[(0, &[7; 8192])]).await;
    let snapshot = disks.cut("cut", volume);
    let node = ServedBlocks::over(disks.blocks());
    let sockets = node.call_socket().parent().unwrap().to_owned();
    let objects = format!("{} {snapshot}", disks.pool_id());
    let start = |task: &'static str| Agent::start(task, &sockets, &objects);

    // Another process has no use of a token, and does not spoil it.
    let mut agent = start("token");
    let said = agent.says();
    let token = Secret::from_bytes(&HEXLOWER.decode(said.as_bytes()).unwrap()).unwrap();
    let stolen = descriptor::fetch(&node.descriptor_socket(), &token);
    assert!(matches!(stolen, Err(FetchError::Answer(ReceiveError::Refused))), "{stolen:?}");
    agent.tell("fetch");
    assert_eq!(agent.says(), "fetched");
    drop(agent);

    let before = Figures::now();
    for _ in 0..3 {
        let mut agent = start("lease");
        assert_eq!(agent.says(), "holds");
        assert!(disks.delete_snapshot(snapshot).is_err(), "it is leased");
        drop(agent);

        let mut agent = start("target");
        assert_eq!(agent.says(), "holds");
        assert_eq!(disks.targets(), 1);
        drop(agent);
        let waiting = Arc::clone(&disks);
        let question = move || poll::until(PATIENCE, || Ok::<_, ()>((waiting.targets() == 0).then_some(())));
        assert_eq!(tokio::task::spawn_blocking(question).await.unwrap(), Ok(Some(())), "a half volume is left");
        assert_eq!(disks.volumes().len(), 1);
    }
    before.again(64 * MIB).await;
    // What was committed stays, and is a file in memory.
    let mut agent = start("commit");
    assert_eq!(agent.says(), "holds");
    drop(agent);
    Figures { descriptors: before.descriptors + 1, ..before }.again(64 * MIB).await;
    assert_eq!(disks.volumes().len(), 2);
    let made = disks.blocks().find_volume(&disks::name("new")).await.unwrap().unwrap();
    let content = disks.content(disks.cut("look", made)).await;
    assert!(content[..8192].iter().all(|&byte| byte == 3));
    delete_when_let_go(&disks, snapshot).await;
}
