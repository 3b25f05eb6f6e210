//! The client of the API server.

use std::future::Future;
use std::time::Duration;

use kube::Client;
use kube::config::{Config, InClusterError};

use crate::types::error::chain;

/// How long a call may take in all. The server's own limit is a minute, but what is asked here are single small objects, which take
/// milliseconds; a server that takes longer is not well, and is asked again later.
pub const CALL_DEADLINE: Duration = Duration::from_secs(10);

/// How long it may take to connect, of that.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The process does not run in a pod that has a token.
    #[error("this process is not in a pod whose account has a token")]
    NotInPod(#[source] InClusterError),
    /// The client cannot be made.
    #[error("the client of the API server cannot be made")]
    Client(#[source] Box<kube::Error>),
}

/// The API server of a cluster. Clones are the same.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
}

impl Cluster {
    /// The cluster of the pod that this process runs in, by what the kubelet puts there: address, token and root certificate. Nobody is
    /// called for it.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub fn of_this_pod() -> Result<Self, ClusterError> {
        let mut config = Config::incluster().map_err(ClusterError::NotInPod)?;
        config.connect_timeout = Some(CONNECT_WITHIN);
        config.read_timeout = Some(CALL_DEADLINE);
        config.write_timeout = Some(CALL_DEADLINE);
        // From the request on, and not from when the connection was last used.
        config.reset_reader_on_write = true;
        // Who calls decides about that.
        config.default_retry = false;
        Client::try_from(config).map(Self::over).map_err(|error| ClusterError::Client(Box::new(error)))
    }

    /// The cluster behind this client.
    pub fn over(client: Client) -> Self {
        Self { client }
    }

    pub(super) fn client(&self) -> Client {
        self.client.clone()
    }
}

/// How a call ended that did not succeed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum CallFault {
    /// There is no such object.
    NotFound,
    /// It exists.
    Exists,
    /// The account has no right to it.
    Forbidden,
    /// It is not to be; the same call would end so again.
    Refused(String),
    /// The server is away, or has no time.
    Away(String),
}

impl CallFault {
    /// For people.
    pub(super) fn text(&self) -> String {
        match self {
            Self::NotFound => "the API server does not know it".to_owned(),
            Self::Exists => "the API server has it already".to_owned(),
            Self::Forbidden => "the API server does not allow it".to_owned(),
            Self::Refused(text) | Self::Away(text) => text.clone(),
        }
    }
}

/// Makes a call, within the deadline.
///
/// # Errors
/// [`CallFault`].
pub(super) async fn call<T>(deadline: Duration, call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, CallFault> {
    match tokio::time::timeout(deadline, call).await {
        Ok(answered) => answered.map_err(|error| fault(&error)),
        Err(_) => Err(CallFault::Away(format!("the API server has not answered within {} s", deadline.as_secs_f32()))),
    }
}

/// What an error means. An answer that does not read is told without its text, which may be part of what was asked for.
fn fault(error: &kube::Error) -> CallFault {
    match error {
        kube::Error::Api(status) => match status.code {
            404 => CallFault::NotFound,
            409 => CallFault::Exists,
            403 => CallFault::Forbidden,
            401 => CallFault::Away("the API server does not accept the agent's token".to_owned()),
            408 | 429 | 500.. => CallFault::Away(format!("the API server answers {} {}", status.code, status.reason)),
            code => CallFault::Refused(format!("the API server answers {code} {}", status.reason)),
        },
        kube::Error::SerdeError(_) | kube::Error::FromUtf8(_) => {
            CallFault::Refused("the API server's answer does not read".to_owned())
        }
        error => CallFault::Away(format!("the API server cannot be reached: {}", chain(error))),
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    fn answered(code: u16) -> CallFault {
        let status = Status { code, reason: "Reason".to_owned(), message: "canary".to_owned(), ..Status::default() };
        fault(&kube::Error::Api(Box::new(status)))
    }

    #[test]
    fn what_may_pass_is_told_from_what_stays() {
        assert_eq!((answered(404), answered(409), answered(403)), (CallFault::NotFound, CallFault::Exists, CallFault::Forbidden));
        for code in [401, 408, 429, 500, 503, 504] {
            assert!(matches!(answered(code), CallFault::Away(_)), "{code}");
        }
        for code in [400, 405, 422] {
            assert!(matches!(answered(code), CallFault::Refused(_)), "{code}");
        }
    }

    #[test]
    fn the_text_of_an_answer_is_not_passed_on() {
        let unreadable = kube::Error::SerdeError(serde_json::from_str::<u64>("\"canary\"").unwrap_err());
        for fault in [answered(500), answered(422), fault(&unreadable)] {
            assert!(!fault.text().contains("canary"), "{fault:?}");
        }
    }

    #[tokio::test]
    async fn a_server_that_hangs_is_away_after_the_deadline() {
        let hung = call(Duration::from_millis(500), std::future::pending::<Result<(), kube::Error>>()).await;
        assert_eq!(hung, Err(CallFault::Away("the API server has not answered within 0.5 s".to_owned())));
    }

    #[test]
    fn outside_of_a_pod_there_is_no_cluster() {
        assert!(matches!(Cluster::of_this_pod(), Err(ClusterError::NotInPod(_))));
    }
}
