use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::*;
use crate::repository::identity::CredentialSource;
use crate::repository::time::rfc3339;
use crate::types::error::chain;

/// What a service was asked: method, path, headers, body.
#[derive(Debug, Clone)]
struct Asked {
    line: String,
    headers: hyper::HeaderMap,
    body: String,
}

type Answers = dyn Fn(&Asked) -> (u16, String) + Send + Sync;

/// A service that gives out credentials.
struct Service {
    address: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    /// One permit for each answer.
    answers: Arc<Semaphore>,
}

impl Service {
    /// One that answers at once.
    async fn start(answers: impl Fn(&Asked) -> (u16, String) + Send + Sync + 'static) -> Self {
        let service = Self::held(answers).await;
        service.answers.add_permits(1 << 20);
        service
    }

    /// One that answers as often as it is told to.
    async fn held(answers: impl Fn(&Asked) -> (u16, String) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let service = Self { address, asked: Arc::default(), answers: Arc::new(Semaphore::new(0)) };
        let (asked, permits, answers) =
            (Arc::clone(&service.asked), Arc::clone(&service.answers), Arc::<Answers>::from(Box::new(answers) as Box<Answers>));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (asked, permits, answers) = (Arc::clone(&asked), Arc::clone(&permits), Arc::clone(&answers));
                let service = service_fn(move |request: Request<Incoming>| {
                    let (asked, permits, answers) = (Arc::clone(&asked), Arc::clone(&permits), Arc::clone(&answers));
                    async move {
                        let (parts, body) = request.into_parts();
                        let body = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
                        let question = Asked { line: format!("{} {}", parts.method, parts.uri), headers: parts.headers, body };
                        asked.lock().unwrap().push(question.clone());
                        permits.acquire().await.unwrap().forget();
                        let (status, text) = answers(&question);
                        Ok::<_, Infallible>(Response::builder().status(status).body(Full::new(Bytes::from(text))).unwrap())
                    }
                });
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        service
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

/// A clock that is put forward by hand.
#[derive(Clone, Default)]
struct Hands(Arc<AtomicU64>);

impl Hands {
    fn put(&self, seconds: u64) {
        self.0.store(seconds, Ordering::SeqCst);
    }

    fn clock(&self) -> Clock {
        let hands = self.clone();
        Arc::new(move || at(hands.0.load(Ordering::SeqCst)))
    }
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
}

fn time(seconds: u64) -> String {
    rfc3339(at(seconds).into())
}

/// As Amazon's and MinIO's token services write it.
fn session(token: &str, until: &str) -> String {
    format!(
        "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>\
         <AccessKeyId>ASIA</AccessKeyId><SecretAccessKey>hidden-secret</SecretAccessKey>\
         <SessionToken>{token}</SessionToken><Expiration>{until}</Expiration></Credentials>\
         </AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
    )
}

fn document(token: &str, until: &str) -> String {
    format!(
        r#"{{"Code":"Success","Type":"AWS-HMAC","AccessKeyId":"ASIA","SecretAccessKey":"hidden-secret","Token":"{token}","Expiration":"{until}"}}"#
    )
}

/// An identity as a process's variables name it.
fn identity(pairs: &[(&str, &str)]) -> CloudIdentity {
    let pairs: HashMap<&str, &str> = pairs.iter().copied().collect();
    CloudIdentity::from_variables(|name| pairs.get(name).map(|value| (*value).to_owned())).unwrap().unwrap()
}

/// A role at `service`, for the token in a file.
struct Role {
    folder: tempfile::TempDir,
    credentials: Renewing,
}

impl Role {
    fn at(service: &Service, hands: &Hands) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        std::fs::write(&file, "first-identity\n").unwrap();
        let identity = identity(&[
            ("AWS_WEB_IDENTITY_TOKEN_FILE", file.to_str().unwrap()),
            ("AWS_ROLE_ARN", "arn:aws:iam::1:role/backup & restore"),
            ("AWS_ENDPOINT_URL_STS", &service.address),
        ]);
        Self { folder, credentials: Renewing::by_clock(&identity, hands.clock()).unwrap() }
    }

    fn put_token(&self, token: &str) {
        std::fs::write(self.folder.path().join("token"), token).unwrap();
    }

    async fn token(&self) -> Result<String, Refusal> {
        Ok(self.credentials.credential().await?.token.clone().unwrap())
    }
}

/// Gives out `token-1`, `token-2` and so on, each for an hour from when it is asked for.
async fn hourly(hands: &Hands) -> Service {
    let (hands, number) = (hands.clone(), AtomicU64::new(0));
    Service::start(move |_| {
        let until = time(hands.0.load(Ordering::SeqCst) + 3600);
        (200, session(&format!("token-{}", number.fetch_add(1, Ordering::SeqCst) + 1), &until))
    })
    .await
}

#[tokio::test]
async fn a_role_is_assumed_for_the_token_that_the_file_holds_when_it_is_renewed() {
    let hands = Hands::default();
    let service = hourly(&hands).await;
    let role = Role::at(&service, &hands);
    assert_eq!(role.token().await.unwrap(), "token-1");
    hands.put(3000);
    assert_eq!(role.token().await.unwrap(), "token-1");
    role.put_token("second-identity");
    hands.put(3400);
    assert_eq!(role.token().await.unwrap(), "token-2", "before it expires");
    let asked = service.asked();
    assert_eq!(asked.len(), 2);
    assert_eq!(asked[0].line, "POST /");
    let form = "Action=AssumeRoleWithWebIdentity&Version=2011-06-15&RoleArn=arn%3Aaws%3Aiam%3A%3A1%3Arole%2Fbackup%20%26%20restore\
                &RoleSessionName=windlass&WebIdentityToken=";
    assert_eq!(asked[0].body, format!("{form}first-identity"));
    assert_eq!(asked[1].body, format!("{form}second-identity"));
}

#[tokio::test]
async fn all_requests_wait_for_one_question_and_none_once_there_are_credentials_to_use() {
    let hands = Hands::default();
    let number = AtomicU64::new(0);
    let service =
        Service::held(move |_| (200, session(&format!("token-{}", number.fetch_add(1, Ordering::SeqCst) + 1), &time(3600))))
            .await;
    let role = Role::at(&service, &hands);
    let all = futures::future::join_all((0..40).map(|_| role.token()));
    let (tokens, ()) = tokio::join!(all, async { service.answers.add_permits(1) });
    assert!(tokens.iter().all(|token| token.as_deref() == Ok("token-1")), "{tokens:?}");
    assert_eq!(service.asked().len(), 1);

    hands.put(3500);
    let mut renewing = Box::pin(role.token());
    assert!(futures::poll!(&mut renewing).is_pending());
    assert_eq!(role.token().await.unwrap(), "token-1", "another does not wait");
    // The request that asks may be dropped; the next one asks again.
    drop(renewing);
    service.answers.add_permits(2);
    assert_eq!(role.token().await.unwrap(), "token-2");
}

#[tokio::test]
async fn a_source_that_refuses_is_no_trouble_before_the_end_and_a_clear_error_after_it() {
    let hands = Hands::default();
    let broken = Arc::new(AtomicU64::new(0));
    let status = Arc::clone(&broken);
    let service = Service::start(move |_| match status.load(Ordering::SeqCst) {
        0 => (200, session("token-1", &time(3600))),
        503 => (503, String::new()),
        status => (
            u16::try_from(status).unwrap(),
            "<ErrorResponse><Error><Code>AccessDenied</Code><Message>Not authorized: first-identity</Message></Error></ErrorResponse>"
                .to_owned(),
        ),
    })
    .await;
    let role = Role::at(&service, &hands);
    assert_eq!(role.token().await.unwrap(), "token-1");
    broken.store(403, Ordering::SeqCst);
    hands.put(3400);
    assert_eq!(role.token().await.unwrap(), "token-1");
    assert_eq!(role.token().await.unwrap(), "token-1");
    assert_eq!(service.asked().len(), 2, "it is left in peace for a while");
    hands.put(3600);
    let object = |refusal: Refusal| refusal.fault().meaning("config".to_owned());
    let refused = object(role.token().await.unwrap_err());
    assert!(matches!(refused, StoreError::Denied { .. }), "{refused:?}");
    let words = chain(&refused);
    assert!(words.starts_with("access to config was denied: no credentials: arn:aws:iam::1:role/backup"), "{words}");
    assert!(words.contains("403 Forbidden: AccessDenied") && !words.contains("first-identity"), "{words}");
    broken.store(503, Ordering::SeqCst);
    let away = object(role.token().await.unwrap_err());
    assert!(away.is_transient(), "{away:?}");
    std::fs::remove_file(role.folder.path().join("token")).unwrap();
    let gone = object(role.token().await.unwrap_err());
    assert!(matches!(gone, StoreError::Denied { .. }) && chain(&gone).contains("cannot be read"), "{gone:?}");
}

#[tokio::test]
async fn those_that_waited_share_a_refusal() {
    let hands = Hands::default();
    let service = Service::held(|_| (403, String::new())).await;
    let role = Role::at(&service, &hands);
    let all = futures::future::join_all((0..40).map(|_| role.token()));
    let (tokens, ()) = tokio::join!(all, async { service.answers.add_permits(1) });
    assert!(tokens.iter().all(|token| matches!(token, Err(Refusal::Final(_)))), "{tokens:?}");
    assert_eq!(service.asked().len(), 1);
}

#[tokio::test]
async fn a_container_shows_the_token_of_its_file_and_gets_the_credentials_of_its_role() {
    let hands = Hands::default();
    let service = Service::start(|_| (200, document("container-token", &time(3600)))).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("authorization");
    std::fs::write(&file, "hidden-authorization").unwrap();
    let uri = format!("{}/v1/credentials", service.address);
    let identity = identity(&[
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", uri.as_str()),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", file.to_str().unwrap()),
    ]);
    let credentials = Renewing::by_clock(&identity, hands.clock()).unwrap();
    assert_eq!(credentials.credential().await.unwrap().token.as_deref(), Some("container-token"));
    let asked = &service.asked()[0];
    assert_eq!(
        (asked.line.as_str(), asked.headers["authorization"].as_bytes()),
        ("GET /v1/credentials", &b"hidden-authorization"[..])
    );
    assert!(!format!("{credentials:?} {identity:?}").contains("hidden"));
}

#[tokio::test]
async fn a_machine_s_role_is_asked_for_by_the_second_version_alone() {
    let hands = Hands::default();
    let identity = |service: &Service| {
        identity(&[("WINDLASS_CLOUD_IDENTITY", "instance"), ("AWS_EC2_METADATA_SERVICE_ENDPOINT", service.address.as_str())])
    };
    let service = Service::start(|asked| match asked.line.as_str() {
        "PUT /latest/api/token" if asked.headers["x-aws-ec2-metadata-token-ttl-seconds"] == "60" => {
            (200, "metadata-token".into())
        }
        _ if asked.headers.get("x-aws-ec2-metadata-token").is_none_or(|token| token != "metadata-token") => (401, String::new()),
        "GET /latest/meta-data/iam/security-credentials/" => (200, "backup-role".into()),
        "GET /latest/meta-data/iam/security-credentials/backup-role" => (200, document("machine-token", &time(3600))),
        _ => (404, String::new()),
    })
    .await;
    let credentials = Renewing::by_clock(&identity(&service), hands.clock()).unwrap();
    assert_eq!(credentials.credential().await.unwrap().token.as_deref(), Some("machine-token"));

    // One that knows only the first version would answer a GET without a token: it is not asked for anything.
    let old = Service::start(|asked| match asked.line.starts_with("PUT") {
        true => (405, String::new()),
        false => (200, document("machine-token", &time(3600))),
    })
    .await;
    let refused = Renewing::by_clock(&identity(&old), hands.clock()).unwrap().credential().await.unwrap_err();
    assert!(matches!(refused, Refusal::Final(_)), "{refused:?}");
    assert_eq!(old.asked().len(), 1);

    let none = Service::start(|asked| if asked.line.starts_with("PUT") { (200, "t".into()) } else { (404, String::new()) }).await;
    let refused = Renewing::by_clock(&identity(&none), hands.clock()).unwrap().credential().await.unwrap_err();
    assert!(matches!(&refused, Refusal::Final(why) if why.contains("404")), "{refused:?}");
}

#[tokio::test]
async fn answers_that_make_no_sense_are_errors_that_show_nothing_of_them() {
    let hands = Hands::default();
    let until = time(3600);
    for answer in [
        String::new(),
        "{".to_owned(),
        document("", &until),
        document("two\\nlines-of-hidden-token", &until),
        document("token", "tomorrow"),
        r#"{"AccessKeyId":"ASIA","SecretAccessKey":"hidden-secret","Token":7}"#.to_owned(),
        "x".repeat(70_000),
    ] {
        let service = Service::start(move |_| (200, answer.clone())).await;
        let uri = format!("{}/", service.address);
        let source = CredentialSource::Container { address: uri, authorization: None };
        let identity = CloudIdentity { source, authorities: None };
        let refused = Renewing::by_clock(&identity, hands.clock()).unwrap().credential().await.unwrap_err();
        assert!(matches!(&refused, Refusal::Passing(why) if !why.contains("hidden")), "{refused:?}");
    }
}
