//! Registration with the kubelet: the node makes itself known, without a sidecar.
//!
//! The kubelet watches a directory (`plugins_registry`) for sockets. On one that appears it asks GetInfo, looks whether a driver answers at
//! the endpoint that is named there (and asks that for NodeGetInfo, from which it makes the node's topology), and says what came of it by
//! NotifyRegistrationStatus. So the service lies on a socket of its own, and is bound when the driver's own socket is served.
//!
//! * **Again.** Our socket may go: whoever cleans up after the kubelet, or a reinstallation of it, empties the directory. The kubelet then
//!   counts the plugin as gone. The directory is watched ([`directory`]), and the socket is bound again. A kubelet that only starts anew
//!   finds the socket and asks by itself.
//! * **A predecessor's socket** that nobody answers on is replaced, like that of any of our sockets; on one that somebody answers on, this
//!   waits for as long as a stopping predecessor may take.
//! * **Refusals.** The kubelet asks again by itself after a refusal, with growing pauses. One is logged for each reason. If it stands for longer
//!   than [`PATIENCE`], [`Registration::keep`] ends with it: the process ends, and whoever starts it anew makes the refusal seen. The same
//!   goes for a socket that cannot be bound for so long. Mounts stay.
//!
//! At the end the socket is removed, so that the kubelet knows. Nothing else is ever removed or written in the directory.

mod directory;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use csi_proto::pluginregistration::v1 as proto;
use csi_proto::pluginregistration::v1::registration_server::RegistrationServer;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use self::directory::DirectoryWatch;

use crate::csi::DRIVER_NAME;
use crate::csi::server::{PrivateSocket, SocketError, caller_watch, spans};
use crate::types::error::chain;

/// What the kubelet calls a CSI plugin.
const PLUGIN_TYPE: &str = "CSIPlugin";
/// What the kubelet understands as CSI 1.
const CSI_VERSION: &str = "1.0.0";
/// How long a refusal may stand, and how long the socket may not be bound: longer than the longest pause of the kubelet (two minutes).
pub const PATIENCE: Duration = Duration::from_secs(150);
/// Between two attempts to bind the socket.
const PAUSE: Duration = Duration::from_secs(1);
/// The kubelet calls one at a time.
const CALLS_OF_A_CONNECTION: u32 = 16;
/// Longest path of a unix socket in bytes.
const MAX_SOCKET_PATH: usize = 107;

/// Why the node is not registered.
#[derive(Debug, thiserror::Error)]
pub enum RegistrationError {
    /// What was given for the directory is none.
    #[error("{}: {reason}", .path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The path of the driver's socket is none that the kubelet could take.
    #[error("`{}` must be the absolute path of a socket, of at most {MAX_SOCKET_PATH} bytes", .0.display())]
    Endpoint(PathBuf),
    /// The kubelet refuses the plugin.
    #[error("the kubelet does not register this node: {0}")]
    Refused(String),
    /// The socket cannot be bound.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The socket cannot be served or watched.
    #[error("the registration socket cannot be served")]
    Serve(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// The registration of one node.
#[derive(Debug, Clone)]
pub struct Registration {
    directory: PathBuf,
    socket: PathBuf,
    endpoint: String,
    patience: Duration,
}

impl Registration {
    /// A registration by a socket in `directory` for the driver whose socket the kubelet finds at `kubelet_endpoint`.
    ///
    /// # Errors
    /// [`RegistrationError::Directory`], [`RegistrationError::Endpoint`].
    pub fn new(directory: &Path, kubelet_endpoint: &Path) -> Result<Self, RegistrationError> {
        let wrong = |reason: &str| RegistrationError::Directory { path: directory.to_owned(), reason: reason.to_owned() };
        match std::fs::metadata(directory) {
            Ok(found) if !found.is_dir() => return Err(wrong("must be a directory")),
            Ok(_) => {}
            Err(error) => return Err(wrong(&error.to_string())),
        }
        let socket = directory.join(format!("{DRIVER_NAME}-reg.sock"));
        if socket.as_os_str().len() > MAX_SOCKET_PATH {
            return Err(wrong("its path is too long for a socket in it"));
        }
        let endpoint = kubelet_endpoint.to_str().filter(|text| text.len() <= MAX_SOCKET_PATH && !text.contains('\0'));
        match endpoint {
            Some(text) if kubelet_endpoint.is_absolute() && !text.ends_with('/') => {
                Ok(Self { directory: directory.to_owned(), socket, endpoint: text.to_owned(), patience: PATIENCE })
            }
            _ => Err(RegistrationError::Endpoint(kubelet_endpoint.to_owned())),
        }
    }

    /// The same with another patience.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// The socket that the kubelet finds.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Serves the registration, and again whenever the socket has gone, until `stop` is cancelled.
    ///
    /// # Errors
    /// [`RegistrationError::Refused`], [`RegistrationError::Socket`] and [`RegistrationError::Serve`] when they stand for longer than its
    /// patience.
    pub async fn keep(self, stop: &CancellationToken) -> Result<(), RegistrationError> {
        let (verdicts, said) = watch::channel(Verdict::NotAsked);
        let service = Service { info: self.info(), verdicts: Arc::new(verdicts) };
        tokio::select! {
            () = stop.cancelled() => Ok(()),
            reason = refused(said, || over(self.patience)) => Err(RegistrationError::Refused(reason)),
            error = self.serve_ever_again(&service) => Err(error),
        }
    }

    fn info(&self) -> proto::PluginInfo {
        proto::PluginInfo {
            r#type: PLUGIN_TYPE.to_owned(),
            name: DRIVER_NAME.to_owned(),
            endpoint: self.endpoint.clone(),
            supported_versions: vec![CSI_VERSION.to_owned()],
        }
    }

    async fn serve_ever_again(&self, service: &Service) -> RegistrationError {
        let mut failing_since = None;
        let mut told = String::new();
        let mut pause = tokio::time::interval(PAUSE);
        pause.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // The first one is at once; a directory that is emptied all the time does not make a busy loop.
            pause.tick().await;
            let error = match self.serve(service).await {
                Ok(()) => {
                    tracing::info!(socket = %self.socket.display(), "the registration socket has gone; registering again");
                    failing_since = None;
                    told.clear();
                    continue;
                }
                Err(error) => error,
            };
            let text = chain(&error);
            if text != told {
                tracing::warn!(error = text, "the registration socket cannot be served yet; it is tried again");
                told = text;
            }
            if failing_since.get_or_insert_with(Instant::now).elapsed() >= self.patience {
                return error;
            }
        }
    }

    /// Serves until the socket is no longer there.
    async fn serve(&self, service: &Service) -> Result<(), RegistrationError> {
        // Before the socket is there, so that its going is not missed.
        let watch = DirectoryWatch::start(&self.directory).map_err(not_served)?;
        let path = self.socket.clone();
        let bound = tokio::task::spawn_blocking(move || PrivateSocket::bind(&path)).await;
        let socket = bound.map_err(|error| RegistrationError::Serve(error.into()))??;
        let identity = socket.identity();
        let server = tonic::transport::Server::builder()
            .max_concurrent_streams(CALLS_OF_A_CONNECTION)
            .layer(spans())
            .layer(caller_watch())
            .add_service(RegistrationServer::new(service.clone()))
            .serve_with_incoming(socket.into_incoming().map_err(not_served)?);
        tokio::select! {
            served = server => match served {
                Ok(()) => Err(RegistrationError::Serve("no more connections are accepted".into())),
                Err(error) => Err(RegistrationError::Serve(error.into())),
            },
            gone = watch.until_gone(&self.socket, identity) => gone.map_err(not_served),
        }
    }
}

fn not_served(error: io::Error) -> RegistrationError {
    RegistrationError::Serve(error.into())
}

/// What the kubelet said last.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    NotAsked,
    Registered,
    Refused(String),
}

/// Ends after so long.
async fn over(patience: Duration) {
    let _ = tokio::time::timeout(patience, std::future::pending::<()>()).await;
}

/// Waits until a refusal has stood until the end of `patience`, which begins with it; its reason.
async fn refused<P: Future<Output = ()>>(mut said: watch::Receiver<Verdict>, patience: impl Fn() -> P) -> String {
    loop {
        // The sender lives as long as the service, which is as long as anybody waits here.
        let is_refusal = |verdict: &Verdict| matches!(verdict, Verdict::Refused(_));
        if said.wait_for(is_refusal).await.is_err() {
            std::future::pending::<()>().await;
        }
        let stands = tokio::select! {
            _overturned = said.wait_for(|verdict| !is_refusal(verdict)) => false,
            () = patience() => true,
        };
        if stands && let Verdict::Refused(reason) = &*said.borrow() {
            return reason.clone();
        }
    }
}

/// The service that the kubelet calls.
#[derive(Debug, Clone)]
struct Service {
    info: proto::PluginInfo,
    verdicts: Arc<watch::Sender<Verdict>>,
}

#[tonic::async_trait]
impl proto::registration_server::Registration for Service {
    async fn get_info(&self, _: Request<proto::InfoRequest>) -> Result<Response<proto::PluginInfo>, Status> {
        Ok(Response::new(self.info.clone()))
    }

    async fn notify_registration_status(
        &self,
        request: Request<proto::RegistrationStatus>,
    ) -> Result<Response<proto::RegistrationStatusResponse>, Status> {
        let proto::RegistrationStatus { plugin_registered, error } = request.into_inner();
        let verdict = if plugin_registered { Verdict::Registered } else { Verdict::Refused(error) };
        self.verdicts.send_if_modified(|last| {
            let is_news = *last != verdict;
            match &verdict {
                Verdict::Refused(reason) if is_news => tracing::warn!(reason, "the kubelet did not register this node"),
                // Each time: it starts anew, and asks again.
                Verdict::Registered => tracing::info!("the kubelet has registered this node"),
                Verdict::Refused(_) | Verdict::NotAsked => {}
            }
            *last = verdict;
            is_news
        });
        Ok(Response::new(proto::RegistrationStatusResponse {}))
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn only_a_refusal_that_stands_ends_the_registration() {
        let (verdicts, said) = watch::channel(Verdict::NotAsked);
        let over = Notify::new();
        let mut waiting = std::pin::pin!(refused(said, || over.notified()));
        let say = |verdict| verdicts.send_replace(verdict);
        let refusal = |reason: &str| Verdict::Refused(reason.to_owned());
        assert_eq!(waiting.as_mut().now_or_never(), None);
        say(refusal("first"));
        assert_eq!(waiting.as_mut().now_or_never(), None, "the kubelet asks again");
        say(Verdict::Registered);
        assert_eq!(waiting.as_mut().now_or_never(), None);
        // The end of a patience that nobody has any more.
        over.notify_waiters();
        assert_eq!(waiting.as_mut().now_or_never(), None, "it was overturned");
        say(refusal("second"));
        assert_eq!(waiting.as_mut().now_or_never(), None);
        say(refusal("third"));
        assert_eq!(waiting.as_mut().now_or_never(), None, "another reason is no new patience, nor an end");
        over.notify_waiters();
        assert_eq!(waiting.as_mut().now_or_never(), Some("third".to_owned()));
    }
}
