//! Where a node's socket is.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Longest path of a unix socket in bytes: `sun_path` has 108, the last is the terminating zero.
const MAX_SOCKET_PATH: usize = 107;

/// Used when neither the command line nor the environment names a socket.
pub const DEFAULT_ENDPOINT: &str = "unix:///run/windlass/csi.sock";

/// A unix socket, written as CSI does: `unix:///path`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint(PathBuf);

/// Why an endpoint was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// Another scheme, or a relative path.
    #[error("`{0}` must be the absolute path of a unix socket: write unix:///run/windlass/csi.sock")]
    NotAbsolute(String),
    /// Only unix sockets are served.
    #[error("`{0}`: only unix sockets are served, such as unix:///run/windlass/csi.sock")]
    Scheme(String),
    /// Longer than the kernel takes.
    #[error("`{0}`: a socket's path has at most {MAX_SOCKET_PATH} bytes")]
    TooLong(String),
}

impl Endpoint {
    /// The socket's path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The socket beside an agent's, over which descriptors travel: node and agent derive it alike.
    pub fn of_descriptors(&self) -> PathBuf {
        let mut path = self.0.clone().into_os_string();
        path.push(".fd");
        path.into()
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let path = match text.split_once("://") {
            Some(("unix", path)) => path,
            Some(_) => return Err(EndpointError::Scheme(text.to_owned())),
            None => text.strip_prefix("unix:").unwrap_or(text),
        };
        if !path.starts_with('/') || path.ends_with('/') {
            return Err(EndpointError::NotAbsolute(text.to_owned()));
        }
        if path.len() > MAX_SOCKET_PATH {
            return Err(EndpointError::TooLong(text.to_owned()));
        }
        Ok(Self(PathBuf::from(path)))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unix://{}", self.0.display())
    }
}

/// How a command finds the node.
#[derive(Debug, Clone, clap::Args)]
pub struct EndpointArgs {
    /// Socket of the node; else WINDLASS_ENDPOINT, CSI_ENDPOINT, unix:///run/windlass/csi.sock, in this order
    #[arg(long, env = "WINDLASS_ENDPOINT", hide_env = true, value_name = "unix:///PATH")]
    endpoint: Option<Endpoint>,

    /// What CSI's own deployments set.
    #[arg(long = "csi-endpoint", env = "CSI_ENDPOINT", hide = true)]
    csi_endpoint: Option<Endpoint>,
}

impl EndpointArgs {
    /// The socket that was named, or the default.
    pub fn endpoint(&self) -> Endpoint {
        let named = self.endpoint.as_ref().or(self.csi_endpoint.as_ref());
        named.cloned().unwrap_or_else(|| Endpoint(PathBuf::from("/run/windlass/csi.sock")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_usual_spelling_of_a_socket_is_read() {
        for text in ["unix:///run/a.sock", "unix:/run/a.sock", "/run/a.sock"] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), "unix:///run/a.sock", "{text}");
        }
        let default = EndpointArgs { endpoint: None, csi_endpoint: None }.endpoint();
        assert_eq!(default.to_string(), DEFAULT_ENDPOINT);
    }

    #[test]
    fn other_schemes_relative_and_long_paths_are_refused() {
        let refused = |text: &str| text.parse::<Endpoint>().unwrap_err();
        assert!(matches!(refused("tcp://0.0.0.0:9000"), EndpointError::Scheme(_)));
        for text in ["", "unix://", "unix://run/a.sock", "a.sock", "unix:///run/"] {
            assert!(matches!(refused(text), EndpointError::NotAbsolute(_)), "{text}");
        }
        assert!(matches!(refused(&format!("/{}", "a".repeat(107))), EndpointError::TooLong(_)));
        assert!(format!("/{}", "a".repeat(106)).parse::<Endpoint>().is_ok());
    }
}
