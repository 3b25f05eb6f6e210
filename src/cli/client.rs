//! A running node, seen from the command line: connection, calls, and what their failures mean here.
//!
//! The one place of the command line that reads gRPC codes. Every verb is a CSI call or one of the internal services, so the
//! command line can do nothing that an orchestrator could not.

#![allow(clippy::disallowed_types, reason = "the client end of the gRPC boundary")]

use std::collections::BTreeMap;
use std::time::Duration;

use csi_proto::csi::v1 as csi;
use csi_proto::csi::v1::controller_client::ControllerClient;
use csi_proto::csi::v1::node_client::NodeClient;
use csi_proto::windlass::v1 as windlass;
use csi_proto::windlass::v1::pools_client::PoolsClient;
use csi_proto::windlass::v1::transfers_client::TransfersClient;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Uri};
use tonic::{Code, Response, Status, Streaming};
use tower::service_fn;

use crate::types::error::chain;
use crate::types::{SnapshotHandle, VolumeHandle};

use super::endpoint::Endpoint;
use super::exit::{CliError, Exit};
use super::repository_access;

/// A local socket answers at once or not at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The status of a pool with a hundred thousand objects has about 20 MB.
const MAX_ANSWER: usize = 64 << 20;

/// A connection to a node.
#[derive(Debug, Clone)]
pub struct Node {
    channel: Channel,
}

/// What is named on a command line: by its handle, or by the name it was created with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Volume,
    Snapshot,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Volume => "volume",
            Self::Snapshot => "snapshot",
        }
    }

    fn is_handle(self, text: &str) -> bool {
        match self {
            Self::Volume => text.parse::<VolumeHandle>().is_ok(),
            Self::Snapshot => text.parse::<SnapshotHandle>().is_ok(),
        }
    }
}

impl Node {
    /// Connects to the socket of a node.
    ///
    /// # Errors
    /// [`Exit::Unavailable`] when nobody listens there.
    pub async fn connect(endpoint: &Endpoint) -> Result<Self, CliError> {
        Self::connect_to("node", endpoint).await
    }

    /// Connects to what serves there, which errors call `who`: a node, or the agent that passes its services on.
    ///
    /// # Errors
    /// As for [`Node::connect`].
    pub async fn connect_to(who: &str, endpoint: &Endpoint) -> Result<Self, CliError> {
        let path = endpoint.path().to_owned();
        let connector = service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        // The address is not used: the connector knows the socket.
        let channel = tonic::transport::Endpoint::from_static("http://windlass")
            .connect_timeout(CONNECT_TIMEOUT)
            .connect_with_connector(connector)
            .await
            .map_err(|error| {
                // What the transport adds to the system's reason is only that it is the transport.
                let reason = std::error::Error::source(&error).map_or_else(|| chain(&error), chain);
                CliError::because(Exit::Unavailable, format!("cannot reach the {who} at {endpoint}"), reason).advise(
                    "is it running? `windlass node --standalone --pool PATH` starts it; `--endpoint` names another socket",
                )
            })?;
        Ok(Self { channel })
    }

    /// The connection, for any service of the node.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// CSI's Controller service.
    pub fn controller(&self) -> ControllerClient<Channel> {
        ControllerClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER)
    }

    /// CSI's Node service.
    pub fn node(&self) -> NodeClient<Channel> {
        NodeClient::new(self.channel.clone())
    }

    /// The transfers of this node.
    pub fn transfers(&self) -> TransfersClient<Channel> {
        TransfersClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER)
    }

    /// State of every pool.
    pub async fn pools(&self) -> Result<Vec<windlass::PoolStatus>, CliError> {
        let mut pools = PoolsClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER);
        Ok(pools.get_pool_status(windlass::GetPoolStatusRequest {}).await.answer("the pools cannot be listed")?.pools)
    }

    /// What is recorded of every volume and snapshot.
    pub async fn records(&self) -> Result<Vec<windlass::ObjectRecord>, CliError> {
        let mut pools = PoolsClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER);
        Ok(pools.list_records(windlass::ListRecordsRequest {}).await.answer("the records cannot be listed")?.objects)
    }

    /// Changes what was chosen for a pool.
    pub async fn set_pool_properties(
        &self,
        request: windlass::SetPoolPropertiesRequest,
    ) -> Result<windlass::SetPoolPropertiesResponse, CliError> {
        let mut pools = PoolsClient::new(self.channel.clone());
        pools.set_pool_properties(request).await.answer("the pool's properties cannot be set")
    }

    /// Names by handle, of everything that is stored.
    pub async fn names(&self) -> Result<BTreeMap<String, windlass::ObjectUsage>, CliError> {
        let objects = self.pools().await?.into_iter().flat_map(|pool| pool.objects);
        Ok(objects.map(|object| (object.handle.clone(), object)).collect())
    }

    /// The handle of a volume that is named by its handle or its name.
    ///
    /// # Errors
    /// [`Exit::NotFound`] when there is none, [`Exit::Refused`] when two pools have one.
    pub async fn volume_handle(&self, named: &str) -> Result<String, CliError> {
        self.handle(Kind::Volume, named).await
    }

    /// The handle of a snapshot that is named by its handle or its name.
    ///
    /// # Errors
    /// As for [`Node::volume_handle`].
    pub async fn snapshot_handle(&self, named: &str) -> Result<String, CliError> {
        self.handle(Kind::Snapshot, named).await
    }

    async fn handle(&self, kind: Kind, named: &str) -> Result<String, CliError> {
        if kind.is_handle(named) {
            return Ok(named.to_owned());
        }
        let named_so = |object: &&windlass::ObjectUsage| object.kind == kind.name() && object.name == named;
        let pools = self.pools().await?;
        let found: Vec<_> =
            pools.iter().flat_map(|pool| &pool.objects).filter(named_so).map(|object| object.handle.clone()).collect();
        let failed = pools.iter().find(|pool| pool.state == "failed");
        match found.as_slice() {
            [handle] => Ok(handle.clone()),
            [] if let Some(failed) = failed => {
                let what = format!("no open pool has a {} `{named}`, and the pool at {} has failed", kind.name(), failed.path);
                Err(CliError::because(Exit::Unavailable, what, failed.problem.clone())
                    .advise("`windlass pool status` shows the pools"))
            }
            [] => Err(CliError::new(Exit::NotFound, format!("there is no {} `{named}`", kind.name()))
                .advise(format!("`windlass {} list` shows what there is", kind.name()))),
            _ => Err(CliError::new(Exit::Refused, format!("more than one {} is named `{named}`", kind.name()))
                .advise(format!("give its handle: {}", found.join(" or ")))),
        }
    }

    /// Every volume.
    ///
    /// # Errors
    /// As the node answers; a list that broke off is an error, never a short list.
    pub async fn volumes(&self) -> Result<Vec<csi::Volume>, CliError> {
        let mut volumes = Vec::new();
        let mut starting_token = String::new();
        loop {
            let request = csi::ListVolumesRequest { starting_token, ..Default::default() };
            let page = self.controller().list_volumes(request).await.answer("the volumes cannot be listed")?;
            volumes.extend(page.entries.into_iter().filter_map(|entry| entry.volume));
            if page.next_token.is_empty() {
                return Ok(volumes);
            }
            starting_token = page.next_token;
        }
    }

    /// Every snapshot, or those of one volume.
    ///
    /// # Errors
    /// As for [`Node::volumes`].
    pub async fn snapshots(&self, source_volume_id: Option<String>) -> Result<Vec<csi::Snapshot>, CliError> {
        let mut snapshots = Vec::new();
        let mut request =
            csi::ListSnapshotsRequest { source_volume_id: source_volume_id.unwrap_or_default(), ..Default::default() };
        loop {
            let page = self.controller().list_snapshots(request.clone()).await.answer("the snapshots cannot be listed")?;
            snapshots.extend(page.entries.into_iter().filter_map(|entry| entry.snapshot));
            if page.next_token.is_empty() {
                return Ok(snapshots);
            }
            request.starting_token = page.next_token;
        }
    }
}

/// The answer of a call, or what its failure means to the caller of the command.
pub trait Answer<T> {
    /// The message, or an error that begins with `what` failed.
    fn answer(self, what: &str) -> Result<T, CliError>;

    /// Whether the node has answered, be it with an error.
    fn is_of_the_node(&self) -> bool;
}

impl<T> Answer<T> for Result<Response<T>, Status> {
    fn answer(self, what: &str) -> Result<T, CliError> {
        self.map(Response::into_inner).map_err(|status| refused(what, &status))
    }

    fn is_of_the_node(&self) -> bool {
        self.as_ref().err().is_none_or(|status| !is_disconnection(status))
    }
}

/// The next message of a stream; `None` at its clean end.
///
/// # Errors
/// As for [`Answer::answer`].
pub async fn next_message<T>(stream: &mut Streaming<T>, what: &str) -> Result<Option<T>, CliError> {
    stream.message().await.map_err(|status| refused(what, &status))
}

/// The exit code for a status. InvalidArgument and OutOfRange name a wrong value of the command line.
fn exit_for(code: Code) -> Exit {
    match code {
        Code::Ok => Exit::Success,
        Code::InvalidArgument | Code::OutOfRange => Exit::Usage,
        Code::NotFound => Exit::NotFound,
        Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::ResourceExhausted
        | Code::PermissionDenied
        | Code::Unauthenticated => Exit::Refused,
        Code::Unavailable | Code::DeadlineExceeded => Exit::Unavailable,
        Code::Cancelled => Exit::Interrupted,
        Code::Unknown | Code::Unimplemented | Code::Internal | Code::DataLoss => Exit::Failed,
    }
}

/// Whether a status says that the connection broke: nothing of a cause crosses a connection, so one that has a cause was made at this end
/// by the transport. Its code says little: Unknown or Internal for a node that died in the middle of an answer.
fn is_disconnection(status: &Status) -> bool {
    std::error::Error::source(status).is_some()
}

/// What a failure means that a transfer ended with, by the code that it carries.
pub fn failure(what: &str, code: u32, reason: &str) -> CliError {
    let code = i32::try_from(code).map_or(Code::Unknown, Code::from_i32);
    // An older node tells none.
    let code = if code == Code::Ok { Code::Unknown } else { code };
    answered(what, code, reason)
}

fn refused(what: &str, status: &Status) -> CliError {
    if is_disconnection(status) {
        let reason = if status.message().is_empty() { status.code().description() } else { status.message() };
        return CliError::because(Exit::Unavailable, what, format!("the node went away: {reason}")).advise(
            "start the node again; it finishes or undoes what was under way, and its log says more. Then repeat the command",
        );
    }
    answered(what, status.code(), status.message())
}

/// What an answer of the node means.
fn answered(what: &str, code: Code, message: &str) -> CliError {
    let reason = if message.is_empty() { code.description() } else { message };
    let error = CliError::because(exit_for(code), what, reason);
    match code {
        Code::NotFound if reason.starts_with("repository:") => {
            error.advise("`windlass repository snapshots` lists what a repository holds, `windlass repository init` makes one")
        }
        Code::NotFound => error.advise("`windlass volume list` and `windlass snapshot list` show what there is"),
        Code::AlreadyExists => error.advise("choose another name, or repeat the command as it was given the first time"),
        Code::Aborted if reason.starts_with("repository:") => error.advise(repository_access::LOCKED),
        Code::Aborted => error.advise("another operation on it is running; repeat the command when that has ended"),
        Code::ResourceExhausted => error.advise("`windlass pool status` shows the space and what takes it"),
        Code::Unavailable => error.advise("repeat the command; if it keeps failing, the node's log says more"),
        Code::DataLoss => error.advise(
            "`windlass repository check --read-data` lists everything that is damaged; a restore with --skip-damaged leaves that out",
        ),
        Code::Unimplemented => {
            error.advise(
                "transfers are asked of the socket that `windlass agent` serves where the agent is another process, and of none where the node \
                 was started with --no-repositories; else the node is of another release than this command",
            )
        }
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_status_has_its_exit_code() {
        for (code, exit) in [
            (Code::InvalidArgument, Exit::Usage),
            (Code::OutOfRange, Exit::Usage),
            (Code::NotFound, Exit::NotFound),
            (Code::AlreadyExists, Exit::Refused),
            (Code::FailedPrecondition, Exit::Refused),
            (Code::Aborted, Exit::Refused),
            (Code::ResourceExhausted, Exit::Refused),
            (Code::Unavailable, Exit::Unavailable),
            (Code::DeadlineExceeded, Exit::Unavailable),
            (Code::Cancelled, Exit::Interrupted),
            (Code::Internal, Exit::Failed),
            (Code::DataLoss, Exit::Failed),
        ] {
            assert_eq!(exit_for(code), exit, "{code:?}");
        }
    }

    #[test]
    fn a_refusal_says_what_was_tried_and_what_the_node_said() {
        let error = refused("the volume cannot be deleted", &Status::failed_precondition("it is published at /x"));
        assert_eq!(chain(&error), "the volume cannot be deleted: it is published at /x");
    }

    #[test]
    fn a_connection_that_breaks_is_a_node_that_cannot_be_reached() {
        let broken = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        let error = refused("the export cannot be followed", &Status::from_error(Box::new(broken)));
        assert_eq!(error.exit(), Exit::Unavailable, "{error}");
        assert!(error.advice().is_some_and(|advice| advice.contains("repeat the command")));
        // The same code from the node is the node's own failure.
        for status in [Status::unknown("x"), Status::internal("x")] {
            assert_eq!(refused("x", &status).exit(), Exit::Failed);
        }
    }

    #[test]
    fn a_transfer_that_failed_ends_like_a_start_that_is_refused() {
        for (code, exit) in
            [(0, Exit::Failed), (10, Exit::Refused), (14, Exit::Unavailable), (5, Exit::NotFound), (u32::MAX, Exit::Failed)]
        {
            assert_eq!(failure("x", code, "y").exit(), exit, "{code}");
        }
        let locked = failure("export failed", 10, "repository: the repository is locked exclusively by a@b");
        assert!(locked.advice().is_some_and(|advice| advice.contains("restic unlock")), "{locked}");
    }

    #[test]
    fn what_is_not_in_the_repository_is_looked_for_there() {
        let advice = |text: &str| refused("x", &Status::not_found(text)).advice().unwrap_or_default().to_owned();
        assert!(advice("repository: no snapshot matches `x`").contains("windlass repository snapshots"));
        assert!(advice("snapshot_id: does not exist").contains("windlass snapshot list"));
    }

    #[tokio::test]
    async fn a_socket_where_nobody_listens_is_unavailable_with_advice() {
        let endpoint: Endpoint = "unix:///nonexistent/csi.sock".parse().unwrap();
        let error = Node::connect(&endpoint).await.unwrap_err();
        assert_eq!(error.exit(), Exit::Unavailable);
        assert!(chain(&error).starts_with("cannot reach the node at unix:///nonexistent/csi.sock: "), "{error}");
        assert!(error.advice().is_some_and(|advice| advice.contains("windlass node")));
    }
}
