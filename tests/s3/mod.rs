//! An S3 server in this process: s3s over a temporary folder, on a free port of the loopback interface.

#![allow(dead_code, reason = "each test file uses what it needs")]

use std::path::PathBuf;

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use windlass::repository::{Environment, Location};

const ACCESS_KEY: &str = "AKIATEST";
const SECRET_KEY: &str = "the-secret-key";
const BUCKET: &str = "backups";

/// Credentials that the server accepts, as an environment or a Secret has them.
pub const CREDENTIALS: [(&str, &str); 2] = [("AWS_ACCESS_KEY_ID", ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", SECRET_KEY)];

/// A server with one empty bucket. It stops when dropped.
pub struct S3Server {
    folder: TempDir,
    address: std::net::SocketAddr,
    task: JoinHandle<()>,
}

impl S3Server {
    /// Starts one.
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join(BUCKET)).unwrap();
        let mut service = S3ServiceBuilder::new(s3s_fs::FileSystem::new(folder.path()).unwrap());
        service.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let service = service.build();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let service = service.clone();
                connections.spawn(async move {
                    // A connection that breaks is the client's to notice.
                    let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { folder, address, task }
    }

    /// The repository at `prefix` in the bucket.
    pub fn location(&self, prefix: &str) -> Location {
        format!("s3:http://{}/{BUCKET}/{prefix}", self.address).parse().unwrap()
    }

    /// Credentials that it accepts.
    pub fn credentials(&self) -> Environment {
        Environment::from_pairs(CREDENTIALS)
    }

    /// Credentials that it does not.
    pub fn wrong_credentials(&self) -> Environment {
        Environment::from_pairs([("AWS_ACCESS_KEY_ID", ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", "another")])
    }

    /// The file in which an object lies.
    pub fn file(&self, path: &str) -> PathBuf {
        self.folder.path().join(BUCKET).join(path)
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}
