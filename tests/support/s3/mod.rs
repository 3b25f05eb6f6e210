//! An S3 server in this process: s3s over a temporary folder, on a free port of the loopback interface.

#![allow(dead_code, reason = "each test file uses what it needs")]

pub mod line;
pub mod tokens;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper::{Request, Response};
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

/// What the server does instead of what it is asked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Answers with this status, and a code in the words of S3.
    Answers(u16, &'static str),
    /// Closes the connection.
    Resets,
    /// Does it, and closes the connection instead of answering.
    LosesTheAnswer,
    /// Never answers.
    Stalls,
}

/// Shown each request's number (from 1) and each request.
type Script = dyn Fn(u64, &Request<Incoming>) -> Option<Trouble> + Send + Sync;

/// The script that all connections follow; none: no trouble.
#[derive(Clone, Default)]
struct Director {
    script: Arc<Mutex<Option<Arc<Script>>>>,
    requests: Arc<AtomicU64>,
}

impl Director {
    fn trouble(&self, request: &Request<Incoming>) -> Option<Trouble> {
        let script = self.script.lock().unwrap().clone()?;
        script(self.requests.fetch_add(1, Ordering::Relaxed) + 1, request)
    }
}

/// A server with one empty bucket. It stops when dropped.
pub struct S3Server {
    director: Director,
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
        let director = Director::default();
        let directed = director.clone();
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (service, director) = (service.clone(), directed.clone());
                let service = service_fn(move |request: Request<Incoming>| {
                    let (service, trouble) = (service.clone(), director.trouble(&request));
                    async move {
                        let answer = match trouble {
                            None => return Service::call(&service, request).await.map_err(|error| format!("{error:?}")),
                            Some(Trouble::Answers(status, code)) => {
                                let body = format!("<Error><Code>{code}</Code></Error>");
                                return Ok(Response::builder().status(status).body(s3s::Body::from(body)).unwrap());
                            }
                            Some(Trouble::LosesTheAnswer) => {
                                Service::call(&service, request).await.map_err(|error| format!("{error:?}"))
                            }
                            Some(Trouble::Resets) => Err(String::new()),
                            Some(Trouble::Stalls) => std::future::pending().await,
                        };
                        Err(format!("made for a test instead of {:?}", answer.map(|answer| answer.status())))
                    }
                });
                connections.spawn(async move {
                    // A connection that breaks is the client's to notice.
                    let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { director, folder, address, task }
    }

    /// From now on requests, counted from 1, meet the trouble that `script` says.
    pub fn misbehaves(&self, script: impl Fn(u64, &Request<Incoming>) -> Option<Trouble> + Send + Sync + 'static) {
        self.director.requests.store(0, Ordering::Relaxed);
        *self.director.script.lock().unwrap() = Some(Arc::new(script));
    }

    /// From now on it does as it is asked.
    pub fn behaves(&self) {
        *self.director.script.lock().unwrap() = None;
    }

    /// Goes away for good: nobody answers at its address. What it has stored stays.
    pub fn leaves(&self) {
        self.task.abort();
    }

    /// Where it is.
    pub fn address(&self) -> std::net::SocketAddr {
        self.address
    }

    /// The repository at `prefix` in the bucket.
    pub fn location(&self, prefix: &str) -> Location {
        Self::location_at(self.address, prefix)
    }

    /// The same, for who comes by another address.
    pub fn location_at(address: std::net::SocketAddr, prefix: &str) -> Location {
        format!("s3:http://{address}/{BUCKET}/{prefix}").parse().unwrap()
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
