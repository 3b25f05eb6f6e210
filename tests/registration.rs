//! The registration with the kubelet, against a client that plays the kubelet.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is a failed test")]
#![allow(clippy::disallowed_types, reason = "the client end of the gRPC boundary")]

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use csi_proto::pluginregistration::v1::registration_client::RegistrationClient;
use csi_proto::pluginregistration::v1::{InfoRequest, PluginInfo, RegistrationStatus};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;
use windlass::node::registration::Registration;
use windlass::node::registration::RegistrationError;

/// Only bounds a hang.
const BOUND: Duration = Duration::from_secs(60);
const ENDPOINT: &str = "/var/lib/kubelet/plugins/csi.windlass.dev/csi.sock";

type Kubelet = RegistrationClient<Channel>;

/// A registration that runs.
struct Running {
    socket: PathBuf,
    stop: CancellationToken,
    task: JoinHandle<Result<(), RegistrationError>>,
}

impl Running {
    fn start(directory: &Path, patience: Duration) -> Self {
        let registration = Registration::new(directory, Path::new(ENDPOINT)).unwrap().with_patience(patience);
        let (socket, stop) = (registration.socket().to_owned(), CancellationToken::new());
        let stopped = stop.clone();
        let task = tokio::spawn(async move { registration.keep(&stopped).await });
        Self { socket, stop, task }
    }

    /// Connects, as soon as somebody listens.
    async fn kubelet(&self) -> Kubelet {
        let connecting = async {
            let mut again = tokio::time::interval(Duration::from_millis(10));
            loop {
                again.tick().await;
                if let Ok(kubelet) = connect(&self.socket).await {
                    return kubelet;
                }
            }
        };
        tokio::time::timeout(BOUND, connecting).await.expect("nobody listens on the registration socket")
    }

    async fn end(self) -> Result<(), RegistrationError> {
        tokio::time::timeout(BOUND, self.task).await.expect("the registration does not end").unwrap()
    }
}

async fn connect(socket: &Path) -> Result<Kubelet, tonic::transport::Error> {
    let path = socket.to_owned();
    let connector = service_fn(move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://kubelet").connect_with_connector(connector).await.map(RegistrationClient::new)
}

async fn info(kubelet: &mut Kubelet) -> PluginInfo {
    kubelet.get_info(InfoRequest {}).await.unwrap().into_inner()
}

async fn notify(kubelet: &mut Kubelet, error: &str) {
    let status = RegistrationStatus { plugin_registered: error.is_empty(), error: error.to_owned() };
    kubelet.notify_registration_status(status).await.unwrap();
}

#[tokio::test]
async fn the_kubelet_learns_what_the_plugin_is_and_the_socket_goes_at_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let running = Running::start(directory.path(), BOUND);
    let mut kubelet = running.kubelet().await;
    let expected = PluginInfo {
        r#type: "CSIPlugin".to_owned(),
        name: "csi.windlass.dev".to_owned(),
        endpoint: ENDPOINT.to_owned(),
        supported_versions: vec!["1.0.0".to_owned()],
    };
    assert_eq!(info(&mut kubelet).await, expected);
    notify(&mut kubelet, "").await;
    assert_eq!(running.socket.file_name().unwrap(), "csi.windlass.dev-reg.sock");
    let socket = running.socket.clone();
    running.stop.cancel();
    running.end().await.unwrap();
    assert!(!socket.exists());
}

#[tokio::test]
async fn a_socket_that_was_removed_with_its_directory_or_without_is_there_again() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("plugins_registry");
    fs::create_dir(&directory).unwrap();
    let running = Running::start(&directory, BOUND);
    for round in 0..4 {
        let mut kubelet = running.kubelet().await;
        assert_eq!(info(&mut kubelet).await.name, "csi.windlass.dev", "{round}");
        notify(&mut kubelet, "").await;
        drop(kubelet);
        match round {
            0 | 1 => fs::remove_file(&running.socket).unwrap(),
            // Another one of the same name, as a kubelet makes it that is installed anew.
            _ => {
                fs::rename(&directory, parent.path().join(format!("old-{round}"))).unwrap();
                fs::create_dir(&directory).unwrap();
            }
        }
    }
    assert_eq!(info(&mut running.kubelet().await).await.endpoint, ENDPOINT);
    running.stop.cancel();
    running.end().await.unwrap();
}

#[tokio::test]
async fn the_socket_of_a_dead_predecessor_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("csi.windlass.dev-reg.sock");
    drop(UnixListener::bind(&socket).unwrap());
    assert!(socket.exists());
    let running = Running::start(directory.path(), BOUND);
    assert_eq!(info(&mut running.kubelet().await).await.name, "csi.windlass.dev");
    running.stop.cancel();
    running.end().await.unwrap();
}

#[tokio::test]
async fn a_predecessor_that_is_still_stopping_is_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("csi.windlass.dev-reg.sock");
    let predecessor = UnixListener::bind(&socket).unwrap();
    let running = Running::start(directory.path(), BOUND);
    // It has been found in use once: whoever looks connects.
    let predecessor = tokio::task::spawn_blocking(move || {
        predecessor.accept().unwrap();
        predecessor
    });
    let predecessor = tokio::time::timeout(BOUND, predecessor).await.unwrap().unwrap();
    fs::remove_file(&socket).unwrap();
    drop(predecessor);
    assert_eq!(info(&mut running.kubelet().await).await.name, "csi.windlass.dev");
    running.stop.cancel();
    running.end().await.unwrap();
}

#[tokio::test]
async fn what_is_no_socket_is_left_alone_and_ends_the_registration() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("csi.windlass.dev-reg.sock");
    fs::write(&socket, "precious").unwrap();
    let running = Running::start(directory.path(), Duration::ZERO);
    let error = running.end().await.unwrap_err();
    assert!(matches!(error, RegistrationError::Socket(_)), "{error}");
    assert_eq!(fs::read(&socket).unwrap(), b"precious");
}

#[tokio::test]
async fn a_refusal_that_stands_ends_the_registration_with_its_reason() {
    let directory = tempfile::tempdir().unwrap();
    let running = Running::start(directory.path(), Duration::from_millis(50));
    let mut kubelet = running.kubelet().await;
    notify(&mut kubelet, "detected topology value collision").await;
    let error = running.end().await.unwrap_err();
    assert_eq!(error.to_string(), "the kubelet does not register this node: detected topology value collision");
    assert!(!directory.path().join("csi.windlass.dev-reg.sock").exists());
}

#[tokio::test]
async fn what_cannot_be_registered_is_refused_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    for place in [file.as_path(), Path::new("/nonexistent"), &directory.path().join("a".repeat(90))] {
        let error = Registration::new(place, Path::new(ENDPOINT)).unwrap_err();
        assert!(matches!(error, RegistrationError::Directory { .. }), "{error}");
    }
    for endpoint in ["", "csi.sock", "/csi/", &format!("/{}", "a".repeat(107))] {
        let error = Registration::new(directory.path(), Path::new(endpoint)).unwrap_err();
        assert!(matches!(error, RegistrationError::Endpoint(_)), "{error}");
    }
}
