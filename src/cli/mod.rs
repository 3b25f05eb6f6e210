//! The command line: one file per subcommand, each parse → options → call.
//!
//! Conventions of every command:
//! * results on standard output, as text or (`--output json`) as one JSON document; progress, logs and errors on standard error;
//! * exit codes as in [`exit::EXIT_CODES`];
//! * SIGINT, SIGTERM and the end of the terminal end it with 130, after whatever it had begun was cancelled or undone. What a node was asked to do
//!   before runs on there, except transfers, which are cancelled;
//! * passwords come from the environment or from files, never from the command line;
//! * a path is the bytes that were given; whatever has to be text and is not UTF-8 is a wrong command line.

mod agent;
mod choice;
pub mod client;
pub mod endpoint;
pub mod exit;
pub mod output;
pub mod progress;
pub mod repository_access;
pub mod size;
pub mod transfer;

mod demo;
mod export;
mod format;
mod interruptible;
mod metrics;
mod node;
mod node_name;
mod open_pool;
mod pool;
mod pool_config;
mod probe;
mod repository;
mod restore;
mod restore_file;
mod restore_request;
mod serving;
mod snapshot;
mod snapshot_objects;
mod status;
mod volume;
mod wait;
mod yaml;

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::Level;

use crate::block::buffer::give_freed_memory_back;
use crate::csi::server::STOP_GRACE;
use crate::telemetry::{self, LogFormat};

use exit::{CliError, Exit};
use interruptible::unless;
use output::Format;
use probe::Asked;

/// Node-local volumes whose snapshots leave the machine by themselves
#[derive(Debug, Parser)]
#[command(name = "windlass", version, after_help = exit::EXIT_CODES, propagate_version = true, arg_required_else_help = true)]
pub struct Cli {
    /// How results and errors are printed
    #[arg(long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
    /// How log lines are written; WINDLASS_LOG filters them, such as WINDLASS_LOG=debug
    #[arg(long, global = true, value_enum, default_value_t, value_name = "FORMAT", env = "WINDLASS_LOG_FORMAT", hide_env = true)]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
enum Command {
    /// Serve pools of this machine as a CSI plugin
    Node(node::NodeCommand),
    /// Serve what needs a network, over a node, without privilege
    Agent(agent::AgentCommand),
    /// Show on one screen how a node is, what is wrong and what to do
    Status(status::StatusArgs),
    /// Make pools and look at them
    #[command(subcommand)]
    Pool(pool::PoolCommand),
    /// Create, list, grow and delete volumes of a running node
    #[command(subcommand)]
    Volume(volume::VolumeCommand),
    /// Create, list and delete snapshots of a running node
    #[command(subcommand)]
    Snapshot(snapshot::SnapshotCommand),
    /// Copy a snapshot into a repository
    Export(export::ExportArgs),
    /// Restore a snapshot of a repository to a volume or a file
    Restore(restore::RestoreArgs),
    /// Make, list, check and thin out repositories
    #[command(subcommand)]
    Repository(repository::RepositoryCommand),
    /// Show the whole chain on this machine: provision, snapshot, export, destroy, restore, compare
    Demo(demo::DemoArgs),
}

impl Command {
    /// A node or agent tells what it does; the other commands only what is wrong.
    fn log_level(&self) -> Level {
        if self.serves() { Level::INFO } else { Level::WARN }
    }

    /// Whether it runs until it is told to end.
    fn serves(&self) -> bool {
        match self {
            Self::Node(command) => command.serves(),
            Self::Agent(command) => command.serves(),
            _ => false,
        }
    }

    /// Gives up what the process does not need, while it has one thread.
    fn prepare(&self) -> Result<(), CliError> {
        match self {
            Self::Node(command) => command.prepare(),
            Self::Agent(command) => command.prepare(),
            _ => Ok(()),
        }
    }
}

/// Parses the command line of this process and does what it says.
pub fn run() -> ExitCode {
    // Before any thread is there that allocates.
    give_freed_memory_back();
    let format = requested_format(std::env::args_os());
    let parsed = Cli::command().try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => return not_parsed(&error, format),
    };
    let format = cli.output;
    match execute(cli) {
        Ok(()) => Exit::Success.into(),
        Err(error) => {
            report(&error.render(format));
            error.exit().into()
        }
    }
}

/// Writes to standard error. If nobody reads that, nobody misses the text.
fn report(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Help and version are printed as results; everything else is a wrong command line.
fn not_parsed(error: &clap::Error, format: Format) -> ExitCode {
    if !error.use_stderr() || format == Format::Text {
        let _ = error.print();
    } else {
        let text = error.render().to_string();
        report(&CliError::usage(text.trim_start_matches("error: ").trim_end()).render(format));
    }
    if error.use_stderr() { Exit::Usage.into() } else { Exit::Success.into() }
}

/// The format that a command line asks for, as far as that can be told without parsing it.
fn requested_format(arguments: impl Iterator<Item = OsString>) -> Format {
    let arguments: Vec<OsString> = arguments.collect();
    let json = arguments.windows(2).any(|pair| pair[0] == "--output" && pair[1] == "json")
        || arguments.iter().any(|argument| argument == "--output=json");
    if json { Format::Json } else { Format::Text }
}

fn execute(cli: Cli) -> Result<(), CliError> {
    telemetry::start(cli.command.log_level(), cli.log_format)
        .map_err(|error| CliError::because(Exit::Usage, "logging cannot be started", error))?;
    cli.command.prepare()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::because(Exit::Failed, "cannot start", error))?;
    let serves = cli.command.serves();
    let result = runtime.block_on(async {
        let interrupt = interrupt(&cli.command)?;
        dispatch(cli.command, cli.output, &interrupt).await
    });
    if serves {
        // What hangs there, in the kernel or in a program, must not keep the process and with it the pools. Other commands wait for what
        // they began: it undoes what it must, and a person waits for it.
        runtime.shutdown_timeout(BLOCKED_GRACE);
    }
    result
}

/// How long work on blocking threads may go on when everything else of a node or agent has ended. What is cut then is recovered at the next start,
/// as after a crash.
const BLOCKED_GRACE: Duration = Duration::from_secs(3);
/// How long a node or agent may take to stop, without that: its calls' grace, and as long as blocked work to let go of the pools. In all
/// that is 26 s; the kubelet kills after 30.
const SERVER_GRACE: Duration = STOP_GRACE.saturating_add(BLOCKED_GRACE);

/// Waits for the end of what serves; once `stop` is cancelled no longer than `grace`.
async fn end_within(
    grace: Duration,
    mut server: JoinHandle<Result<(), CliError>>,
    stop: &CancellationToken,
) -> Result<(), CliError> {
    let ended = tokio::select! {
        ended = &mut server => Ok(ended),
        () = stop.cancelled() => tokio::time::timeout(grace, server).await,
    };
    match ended {
        Ok(Ok(result)) => result,
        Ok(Err(error)) => Err(CliError::because(Exit::Failed, "serving failed", error)),
        // It was asked to stop, and stops: that is not a failure.
        Err(_) => {
            tracing::warn!(
                seconds = grace.as_secs(),
                "stopping with work under way that does not end; the next start recovers it"
            );
            Ok(())
        }
    }
}

async fn dispatch(command: Command, format: Format, interrupt: &CancellationToken) -> Result<(), CliError> {
    match command {
        Command::Node(command) => match command.verb() {
            Ok(node::NodeVerb::Probe(args)) => unless(interrupt, probe::run(Asked::Node, args)).await,
            Err(args) => {
                let stop = interrupt.clone();
                end_within(SERVER_GRACE, tokio::spawn(async move { node::run(*args, &stop).await }), interrupt).await
            }
        },
        Command::Agent(command) => match command.verb() {
            Ok(agent::AgentVerb::Probe(args)) => unless(interrupt, probe::run(Asked::Agent, args)).await,
            Err(args) => {
                let stop = interrupt.clone();
                end_within(SERVER_GRACE, tokio::spawn(async move { agent::run(*args, &stop).await }), interrupt).await
            }
        },
        Command::Export(args) => export::run(args, format, interrupt).await,
        Command::Restore(args) => restore::run(args, format, interrupt).await,
        Command::Demo(args) => demo::run(args, format, interrupt).await,
        Command::Status(args) => unless(interrupt, status::run(&args, format)).await,
        Command::Pool(command) => unless(interrupt, pool::run(command, format)).await,
        Command::Volume(command) => unless(interrupt, volume::run(command, format)).await,
        Command::Snapshot(command) => unless(interrupt, snapshot::run(command, format)).await,
        Command::Repository(command) => repository::run(command, format, interrupt).await,
    }
}

/// A token that SIGINT and SIGTERM cancel. A second signal is not needed: everything that waits, waits for the token too.
///
/// So does SIGHUP, the end of a terminal, except for a node, which may well outlive the terminal that it was started from.
fn interrupt(command: &Command) -> Result<CancellationToken, CliError> {
    let mut kinds = vec![SignalKind::interrupt(), SignalKind::terminate()];
    if !command.serves() {
        kinds.push(SignalKind::hangup());
    }
    let token = CancellationToken::new();
    for kind in kinds {
        let mut listener = signal(kind).map_err(|error| CliError::because(Exit::Failed, "cannot listen for signals", error))?;
        let cancelled = token.clone();
        tokio::spawn(async move {
            listener.recv().await;
            cancelled.cancel();
        });
    }
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_node_that_does_not_end_is_left_behind_after_its_grace() {
        let stop = CancellationToken::new();
        let hung = tokio::spawn(std::future::pending());
        stop.cancel();
        end_within(Duration::from_millis(20), hung, &stop).await.unwrap();
        let failed = tokio::spawn(async { Err(CliError::new(Exit::Refused, "taken")) });
        assert_eq!(end_within(SERVER_GRACE, failed, &CancellationToken::new()).await.unwrap_err().exit(), Exit::Refused);
    }

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_definition_of_the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_documented_command_parses() {
        for line in [
            "windlass node --standalone --endpoint unix:///run/a.sock --pool /srv/a --pool /srv/b.img --node-id n --root /srv/root",
            "windlass node --standalone --no-repositories --pool-config /etc/pools.json --node-id n --endpoint unix:///csi/csi.sock --kubelet-registration /registration --kubelet-endpoint /var/lib/kubelet/plugins/csi.windlass.dev/csi.sock",
            "windlass node probe --endpoint unix:///csi/csi.sock",
            "windlass node --agent-endpoint unix:///run/agent.sock --agent-user 65532 --agent-group 65532 --pool-config /etc/pools.json --endpoint unix:///csi/csi.sock",
            "windlass node --agent-endpoint unix:///run/agent.sock --agent-user 1 --agent-group 2 --keep-network forbidden --pool /srv/a",
            "windlass agent --node-endpoint unix:///node/agent.sock --endpoint unix:///run/csi.sock --endpoint-group 65532 --node-id n --scratch-directory /scratch --cache-directory /cache",
            "windlass agent --kubernetes --node-endpoint unix:///node/agent.sock --node-id n --endpoint unix:///run/csi.sock",
            "windlass agent probe --endpoint unix:///run/csi.sock --live",
            "windlass node probe --live --timeout 3s",
            "windlass status --endpoint unix:///run/a.sock --output json",
            "windlass pool create /srv/pool",
            "windlass pool create --image /srv/pool.img --size 10GiB --filesystem btrfs",
            "windlass pool create --device /dev/sdb --force --block-size 128KiB --metadata-size 1GiB",
            "windlass pool create --metadata-device /dev/vg/m --data-device /dev/vg/d --replace-pool 0f5f9a50-38e4-4b68-8a06-2e4bd2e2a2a1",
            "windlass pool ensure --pool-config /etc/pools.json --node-id n --best-effort",
            "windlass pool manifests --pool /srv/pool --pool /dev/sdb --storage-class windlass",
            "windlass pool manifests --endpoint unix:///run/a.sock --snapshot-class windlass",
            "windlass pool grow --image /srv/pool.img --size 20GiB",
            "windlass pool import",
            "windlass pool import --device /dev/sdb",
            "windlass pool repair --device /dev/sdb",
            "windlass pool close --image /srv/pool.img",
            "windlass pool adopt /srv/pool",
            "windlass pool adopt --image /srv/pool.img --all --confirm",
            "windlass pool status --endpoint unix:///run/a.sock --output json",
            "windlass volume create data --size 1GiB --fs-type xfs --parameter checksum=true",
            "windlass volume create data --from-snapshot s --block",
            "windlass volume list",
            "windlass volume show data",
            "windlass volume delete data",
            "windlass volume expand data --size 2GiB",
            "windlass snapshot create s --volume data",
            "windlass snapshot list --volume data",
            "windlass snapshot show s",
            "windlass snapshot delete s",
            "windlass export s --repository /srv/r --host h --tag a --tag b --chunk-size 1MiB --workers 2 --memory 256MiB",
            "windlass restore --repository /srv/r --volume data --size 2GiB --fs-type ext4",
            "windlass restore --repository /srv/r --snapshot abcd --path /dev/data --file /srv/image",
            "windlass repository init --repository /srv/r --password-file /srv/p",
            "windlass repository snapshots --repository s3:host/bucket",
            "windlass repository check --read-data --repository /srv/r",
            "windlass repository prune -r /srv/r --dry-run",
            "windlass repository prune -r /srv/r --max-unused 10GiB --output json",
            "windlass repository forget abcd ef01 --repository /srv/r --dry-run",
            "windlass repository forget -r /srv/r -l 3 -H 24 -d 7 -w 5 -m 12 -y unlimited --keep-within 2d --keep-tag a,b --tag c --group-by=",
            "windlass repository forget -r /srv/r --keep-within-hourly 1d --keep-within-daily 7d --host h --path /v --group-by host,tags -n",
            "windlass demo --filesystem btrfs --fs-type xfs --bytes 64MiB --keep --source /usr/share --source /usr/lib",
        ] {
            assert!(parse(line).is_ok(), "{line}: {}", parse(line).err().map(|error| error.to_string()).unwrap_or_default());
        }
    }

    #[test]
    fn contradictions_on_the_command_line_are_usage_errors() {
        for line in [
            "windlass node --standalone",
            "windlass node --pool /srv/a --pool-config /etc/pools.json",
            "windlass node --pool /srv/a --kubelet-registration /registration",
            "windlass node --pool /srv/a --kubelet-endpoint /csi/csi.sock",
            "windlass node --pool /srv/a probe",
            "windlass node --standalone --pool /srv/a --agent-endpoint unix:///run/a.sock --agent-user 1 --agent-group 1",
            "windlass node --pool /srv/a --agent-endpoint unix:///run/a.sock --agent-group 1",
            "windlass node --pool /srv/a --agent-endpoint unix:///run/a.sock --agent-user 1",
            "windlass node --standalone --pool /srv/a --agent-user 1",
            "windlass node --standalone --pool /srv/a --keep-network forbidden",
            "windlass agent",
            "windlass agent --node-endpoint unix:///node/agent.sock probe",
            "windlass node probe --pool /srv/a",
            "windlass volume create data",
            "windlass volume create data --size 1GB",
            "windlass volume create data --size 1GiB --block --fs-type ext4",
            "windlass volume create data --from-snapshot s --from-volume v",
            "windlass restore --repository /srv/r",
            "windlass restore --repository /srv/r --volume a --file /b",
            "windlass restore --repository /srv/r --file /b --size 1GiB",
            "windlass pool create",
            "windlass pool create /srv/pool --image /srv/i",
            "windlass pool create --image /srv/i",
            "windlass pool create /srv/pool --device /dev/sdb",
            "windlass pool create /srv/pool --force",
            "windlass pool create --metadata-device /dev/vg/m",
            "windlass pool create --metadata-device /dev/vg/m --data-device /dev/vg/d --metadata-size 1GiB",
            "windlass pool grow --image /srv/pool.img",
            "windlass pool ensure",
            "windlass pool repair",
            "windlass pool close",
            "windlass repository forget abcd --keep-last 1 --repository /srv/r",
            "windlass repository forget abcd --host h --repository /srv/r",
            "windlass repository forget --keep-last -1 --repository /srv/r",
            "windlass repository forget --keep-within 3 --repository /srv/r",
            "windlass pool adopt --confirm",
            "windlass pool adopt /srv/pool --image /srv/pool.img",
            "windlass pool adopt /srv/pool --all --object 0f5f9a50-38e4-4b68-8a06-2e4bd2e2a2a1",
            "windlass export s --repository relative/path",
        ] {
            assert!(parse(line).is_err_and(|error| error.exit_code() == 2), "{line}");
        }
    }

    #[test]
    fn errors_are_json_when_json_was_asked_for_before_parsing_failed() {
        let format = |line: &str| requested_format(line.split_whitespace().map(OsString::from));
        assert_eq!(format("windlass volume list --output json --bogus"), Format::Json);
        assert_eq!(format("windlass --output=json bogus"), Format::Json);
        assert_eq!(format("windlass bogus json"), Format::Text);
    }
}
