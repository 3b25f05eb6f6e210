//! A token service whose credentials the server of these tests takes, each for so many requests.

use std::collections::HashMap;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tempfile::TempDir;
use tokio::net::TcpListener;
use windlass::repository::Environment;
use windlass::repository::identity::{CloudIdentity, CredentialSource};

use super::{ACCESS_KEY, SECRET_KEY, Trouble};

/// Gives out a new session token each time it is asked.
pub struct TokenService {
    address: String,
    folder: TempDir,
    issued: Arc<AtomicU64>,
}

impl TokenService {
    /// One that asks for what is in its file.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("token"), "this-workload").unwrap();
        let issued = Arc::new(AtomicU64::new(0));
        let number = Arc::clone(&issued);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let number = Arc::clone(&number);
                let service = service_fn(move |request: Request<Incoming>| {
                    let number = Arc::clone(&number);
                    async move {
                        let form = request.into_body().collect().await.unwrap().to_bytes();
                        assert!(form.ends_with(b"&WebIdentityToken=this-workload"), "{form:?}");
                        let number = number.fetch_add(1, Ordering::SeqCst) + 1;
                        let text = format!(
                            "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>\
                             <AccessKeyId>{ACCESS_KEY}</AccessKeyId><SecretAccessKey>{SECRET_KEY}</SecretAccessKey>\
                             <SessionToken>session-{number}</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration>\
                             </Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
                        );
                        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(text))))
                    }
                });
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { address, folder, issued }
    }

    /// An environment without keys, which may use a role of this service.
    pub fn environment(&self) -> Environment {
        let source = CredentialSource::WebIdentity {
            role: "arn:aws:iam::1:role/backup".to_owned(),
            token_file: self.token_file(),
            session: "windlass".to_owned(),
            service: self.address.clone(),
        };
        Environment::new().with_identity(CloudIdentity { source, authorities: None })
    }

    /// The file that says who asks.
    pub fn token_file(&self) -> PathBuf {
        self.folder.path().join("token")
    }

    /// How many tokens it has given out.
    pub fn issued(&self) -> u64 {
        self.issued.load(Ordering::SeqCst)
    }

    /// What a server does that takes each token for so many requests, and then says that it has expired.
    pub fn takes_each_for(&self, requests: u64) -> impl Fn(u64, &Request<Incoming>) -> Option<Trouble> + Send + Sync + 'static {
        let taken: Mutex<HashMap<String, u64>> = Mutex::default();
        move |_, request| {
            let Some(token) = request.headers().get("x-amz-security-token") else {
                return Some(Trouble::Answers(403, "AccessDenied"));
            };
            let mut taken = taken.lock().unwrap();
            let times = taken.entry(token.to_str().unwrap().to_owned()).or_default();
            *times += 1;
            (*times > requests).then_some(Trouble::Answers(400, "ExpiredToken"))
        }
    }
}
