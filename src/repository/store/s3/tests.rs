use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::repository::id::Id;
use crate::repository::location::Location;
use crate::repository::store::retry::Patience;
use crate::repository::store::{self, Endurance, Key, Kind, PutMode, Store, StoreError};
use crate::types::error::chain;

fn connected(location: &S3Location, environment: &Environment) -> Result<BucketStore, StoreError> {
    connect(location, environment, Limits::default(), Arc::new(Patient::new(Patience::default())))
}

#[test]
fn a_store_without_credentials_is_refused_before_any_request() {
    let location = S3Location { endpoint: "https://host".into(), bucket: "bucket".into(), prefix: String::new() };
    let error = connected(&location, &Environment::new()).unwrap_err();
    assert_eq!(chain(&error), "the store cannot be used: AWS_ACCESS_KEY_ID is not set");
}

#[test]
fn what_would_be_no_header_is_refused_before_any_request() {
    let location = S3Location { endpoint: "https://host".into(), bucket: "bucket".into(), prefix: String::new() };
    let whole =
        [("AWS_ACCESS_KEY_ID", "AKIA"), ("AWS_SECRET_ACCESS_KEY", "a secret"), ("AWS_SESSION_TOKEN", "t"), ("AWS_REGION", "r")];
    connected(&location, &Environment::from_pairs(whole)).unwrap();
    for (name, value) in whole {
        let mut pairs = whole.to_vec();
        let with_its_line = format!("{value}\n");
        pairs.push((name, &with_its_line));
        let error = connected(&location, &Environment::from_pairs(pairs)).unwrap_err();
        assert!(chain(&error).starts_with(&format!("the store cannot be used: {name} holds")), "{error:?}");
    }
}

#[test]
fn an_identity_is_used_where_there_are_no_keys_and_one_that_is_half_named_is_refused() {
    use crate::repository::identity::{CloudIdentity, CredentialSource};
    let location = S3Location { endpoint: "https://host".into(), bucket: "bucket".into(), prefix: String::new() };
    let source = CredentialSource::Instance { service: "http://127.0.0.1:1".to_owned() };
    let identity = CloudIdentity { source, authorities: None };
    connected(&location, &Environment::new().with_identity(identity.clone())).unwrap();
    let half = Environment::from_pairs([("AWS_ACCESS_KEY_ID", "AKIA")]).with_identity(identity);
    assert_eq!(chain(&connected(&location, &half).unwrap_err()), "the store cannot be used: AWS_SECRET_ACCESS_KEY is not set");
}

#[test]
fn amazon_s_names_tell_their_region() {
    for (endpoint, region) in [
        ("https://s3.eu-central-1.amazonaws.com", Some("eu-central-1")),
        ("https://s3-eu-west-1.amazonaws.com", Some("eu-west-1")),
        ("https://s3.dualstack.us-west-2.amazonaws.com", Some("us-west-2")),
        ("https://s3-fips.us-gov-west-1.amazonaws.com", Some("us-gov-west-1")),
        ("https://s3.cn-north-1.amazonaws.com.cn", Some("cn-north-1")),
        ("https://s3.amazonaws.com", None),
        ("https://minio.example:9000", None),
    ] {
        assert_eq!(region_of(endpoint), region, "{endpoint}");
    }
}

#[test]
fn the_bucket_stands_in_the_host_s_name_where_that_is_asked_for_and_can_be() {
    for (endpoint, bucket, in_host) in [
        ("https://s3.eu-central-1.amazonaws.com", "backups", true),
        ("https://oss-eu-central-1.aliyuncs.com", "backups", true),
        ("https://s3.amazonaws.com", "backups.example", false),
        ("https://s3.amazonaws.com", "Backups_2014", false),
        ("https://minio.example:9000", "backups", false),
        ("https://amazonaws.com.example", "backups", false),
    ] {
        let location = S3Location { endpoint: endpoint.into(), bucket: bucket.into(), prefix: String::new() };
        assert_eq!(addresses_by_host(&location), in_host, "{endpoint} {bucket}");
    }
    let location = S3Location { endpoint: "https://host".into(), bucket: "bucket".into(), prefix: String::new() };
    let with = |lookup| {
        Environment::from_pairs([
            ("AWS_ACCESS_KEY_ID", "a"),
            ("AWS_SECRET_ACCESS_KEY", "b"),
            ("WINDLASS_S3_BUCKET_LOOKUP", lookup),
        ])
    };
    assert!(connected(&location, &with("dns")).is_ok());
    let error = connected(&location, &with("virtual")).unwrap_err();
    assert!(chain(&error).contains("must be auto, dns or path"), "{error:?}");
}

#[tokio::test]
async fn a_bucket_is_asked_for_its_region_once_and_requests_are_signed_for_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let location = format!("s3:http://{}/bucket", listener.local_addr().unwrap()).parse().unwrap();
    let environment = Environment::from_pairs([
        ("AWS_ACCESS_KEY_ID", "AKIA"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("AWS_SSE_KMS_KEY_ID", "our-key"),
        ("WINDLASS_S3_STORAGE_CLASS", "STANDARD_IA"),
    ]);
    let store = store::connect_with(&location, &environment, ONCE).unwrap();
    let puts = async {
        for bytes in [Bytes::from_static(b"one"), Bytes::from_static(b"two")] {
            store.put(Key::File(Kind::Data, Id::of(&bytes)), bytes, PutMode::Overwrite).await.unwrap();
        }
    };
    let answers = async {
        let mut stream = listener.accept().await.unwrap().0;
        let asked = read_head(&mut stream).await;
        assert!(asked.starts_with("HEAD /bucket HTTP/1.1\n") && !asked.contains("authorization"), "{asked}");
        let forbidden = b"HTTP/1.1 403 Forbidden\r\nx-amz-bucket-region: eu-west-3\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(forbidden).await.unwrap();
        for _ in 0..2 {
            let put = read_head(&mut stream).await;
            assert!(put.starts_with("PUT /bucket/data/") && put.contains("/eu-west-3/s3/aws4_request"), "{put}");
            assert!(put.contains("x-amz-storage-class: STANDARD_IA"), "{put}");
            assert!(put.contains("x-amz-server-side-encryption-aws-kms-key-id: our-key"), "{put}");
            stream.read_exact(&mut [0; 3]).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\netag: \"1\"\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        }
    };
    tokio::join!(puts, answers);
}

/// A server that takes uploads in parts, of which the third is never answered, and what it was asked.
async fn takes_two_parts() -> (Arc<dyn Store>, tokio::sync::mpsc::UnboundedReceiver<(Method, String, bool)>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let patient = Endurance { limits: Limits { idle: Duration::from_secs(600), ..QUICK.limits }, ..QUICK };
    let store = store_at(listener.local_addr().unwrap(), patient);
    let (asked, requests) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let asked = asked.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                let asked = asked.clone();
                async move {
                    let (parts, body) = request.into_parts();
                    let query = parts.uri.query().unwrap_or_default().to_owned();
                    http_body_util::BodyExt::collect(body).await.unwrap();
                    let checksum = parts.headers.contains_key("x-amz-checksum-sha256");
                    asked.send((parts.method.clone(), query.clone(), checksum)).unwrap();
                    let answer = match parts.method {
                        Method::POST => "<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>",
                        Method::PUT if query.contains("partNumber=3") => std::future::pending().await,
                        _ => "",
                    };
                    let response = Response::builder().header("etag", "\"1\"");
                    Ok::<_, Infallible>(response.body(Full::new(Bytes::from_static(answer.as_bytes()))).unwrap())
                }
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    (store, requests)
}

#[tokio::test]
async fn parts_carry_checksums_and_an_upload_that_is_dropped_is_aborted() {
    let (store, mut requests) = takes_two_parts().await;
    let folder = tempfile::tempdir().unwrap();
    let mut spill = crate::scratch::Spill::new(&crate::scratch::Scratch::new(folder.path(), 1 << 30, 1 << 20));
    for _ in 0..20 {
        spill.append(&[7; 1 << 20]).unwrap();
    }
    let put = tokio::spawn(async move { store.put_spill(Key::File(Kind::Data, Id::of(b"long")), Arc::new(spill)).await });
    let (method, query, _) = requests.recv().await.unwrap();
    assert_eq!((method, query.as_str()), (Method::POST, "uploads="));
    let mut parts = 0;
    while parts < 3 {
        let (method, query, checksum) = requests.recv().await.unwrap();
        assert!(method == Method::PUT && query.contains("partNumber=") && checksum, "{method} {query}");
        parts += 1;
    }
    put.abort();
    let (method, query, _) = requests.recv().await.unwrap();
    assert_eq!((method, query.as_str()), (Method::DELETE, "uploadId=u"));
}

#[test]
fn debug_of_a_store_shows_no_secret() {
    let location = S3Location { endpoint: "https://host".into(), bucket: "bucket".into(), prefix: "a/b".into() };
    let environment = Environment::from_pairs([("AWS_ACCESS_KEY_ID", "AKIA"), ("AWS_SECRET_ACCESS_KEY", "hidden-word")]);
    let store = connected(&location, &environment).unwrap();
    assert!(!format!("{store:?}").contains("hidden-word"));
}

/// Enough for what these tests do on a machine that does other things too, and not a quarter of an hour.
const QUICK: Endurance = Endurance {
    patience: Patience {
        first_pause: Duration::from_millis(1),
        longest_pause: Duration::from_millis(5),
        limit: Duration::from_secs(20),
    },
    limits: Limits { connect: Duration::from_secs(5), idle: Duration::from_millis(500), least_rate: 4 << 20 },
};

/// Gives up at the first failure.
const ONCE: Endurance = Endurance { patience: Patience { limit: Duration::ZERO, ..QUICK.patience }, ..QUICK };

fn store_at(address: std::net::SocketAddr, endurance: Endurance) -> Arc<dyn Store> {
    let location = S3Location { endpoint: format!("http://{address}"), bucket: "bucket".into(), prefix: String::new() };
    let environment = Environment::from_pairs([
        ("AWS_ACCESS_KEY_ID", "AKIA"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("AWS_REGION", "us-east-1"),
    ]);
    store::connect_with(&Location::S3(location), &environment, endurance).unwrap()
}

/// A server that gives these status codes and bodies one after another, and what it was asked.
async fn scripted(answers: &[(u16, &'static str)], endurance: Endurance) -> (Arc<dyn Store>, Arc<Mutex<Vec<(Method, bool)>>>) {
    let answers = Arc::new(Mutex::new(answers.iter().copied().collect::<VecDeque<_>>()));
    let asked = Arc::new(Mutex::new(Vec::new()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let store = store_at(listener.local_addr().unwrap(), endurance);
    let requests = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (answers, asked) = (Arc::clone(&answers), Arc::clone(&requests));
            let service = service_fn(move |request: Request<Incoming>| {
                asked.lock().unwrap().push((request.method().clone(), request.headers().contains_key("if-none-match")));
                let (status, body) = answers.lock().unwrap().pop_front().expect("no more requests");
                let response = Response::builder()
                    .status(status)
                    .header("etag", "\"1\"")
                    .header("last-modified", "Mon, 23 Nov 2026 06:00:00 GMT");
                std::future::ready(Ok::<_, Infallible>(response.body(Full::new(Bytes::from_static(body.as_bytes()))).unwrap()))
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    (store, asked)
}

#[tokio::test]
async fn a_store_without_conditional_puts_is_looked_into_first() {
    let (store, asked) = scripted(&[(501, ""), (404, ""), (200, "")], QUICK).await;
    store.put(Key::Config, Bytes::from_static(b"x"), PutMode::IfAbsent).await.unwrap();
    assert_eq!(*asked.lock().unwrap(), [(Method::PUT, true), (Method::HEAD, false), (Method::PUT, false)]);

    let (store, _) = scripted(&[(501, ""), (200, "there")], QUICK).await;
    let present = store.put(Key::Config, Bytes::from_static(b"x"), PutMode::IfAbsent).await;
    assert!(matches!(present, Err(StoreError::AlreadyExists { .. })));
}

#[tokio::test]
async fn a_conditional_put_that_met_a_busy_store_is_repeated() {
    let (store, asked) = scripted(&[(503, ""), (503, ""), (200, "")], QUICK).await;
    store.put(Key::Config, Bytes::from_static(b"x"), PutMode::IfAbsent).await.unwrap();
    assert_eq!(*asked.lock().unwrap(), [(Method::PUT, true), (Method::PUT, true), (Method::PUT, true)]);
}

#[tokio::test]
async fn a_store_that_is_busy_for_a_while_is_asked_again() {
    let (store, asked) = scripted(&[(503, ""), (500, ""), (200, "text")], QUICK).await;
    assert_eq!(store.get(Key::Config).await.unwrap(), "text");
    assert_eq!(asked.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn what_no_retry_mends_is_told_from_what_may_pass() {
    let (store, _) = scripted(&[(503, "")], ONCE).await;
    let busy = store.get(Key::Config).await.unwrap_err();
    assert!(busy.is_transient(), "{busy:?}");
    let (store, _) = scripted(&[(403, ""), (400, "")], QUICK).await;
    let denied = store.get(Key::Config).await.unwrap_err();
    assert!(matches!(denied, StoreError::Denied { .. }), "{denied:?}");
    let malformed = store.get(Key::Config).await.unwrap_err();
    assert!(!malformed.is_transient(), "{malformed:?}");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unavailable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let error = store_at(address, ONCE).get(Key::Config).await.unwrap_err();
    assert!(error.is_transient() && error.to_string().contains("config"), "{error:?}");
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_an_error() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let store = store_at(listener.local_addr().unwrap(), ONCE);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let half = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\nlast-modified: Mon, 23 Nov 2026 06:00:00 GMT\r\n\r\nhalf";
            // Whether the client still listens is its business.
            let _ = stream.write_all(half.as_bytes()).await;
        }
    });
    let error = store.get(Key::Config).await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
}

#[tokio::test]
async fn every_put_carries_the_checksum_of_its_bytes() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let store = store_at(listener.local_addr().unwrap(), ONCE);
    let (bytes, config) = (Bytes::from_static(b"a pack"), Bytes::from_static(b"a config"));
    let puts = async {
        store.put(Key::File(Kind::Data, Id::of(&bytes)), bytes.clone(), PutMode::Overwrite).await.unwrap();
        store.put(Key::Config, config.clone(), PutMode::IfAbsent).await.unwrap();
    };
    let answers = async {
        let mut stream = listener.accept().await.unwrap().0;
        for body in [&bytes, &config] {
            let head = read_head(&mut stream).await;
            let digest = Id::of(body);
            let checksum = format!("x-amz-checksum-sha256: {}", data_encoding::BASE64.encode(digest.as_bytes()));
            assert!(head.contains(&checksum), "{head}");
            assert!(head.contains(&format!("x-amz-content-sha256: {digest}")), "{head}");
            stream.read_exact(&mut vec![0; body.len()]).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\netag: \"1\"\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        }
    };
    tokio::join!(puts, answers);
}

/// The head of a request.
async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap().replace("\r\n", "\n")
}

/// What a connection does that does not work.
#[derive(Debug, Clone, Copy)]
enum Trouble {
    /// Reads the head, and nothing happens any more.
    Silence,
    /// It sends half of the answer.
    HalfAnAnswer,
    /// Is closed after the head.
    Reset,
}

/// A server of whose connections all but each third are in trouble.
async fn troubled(trouble: Trouble) -> Arc<dyn Store> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let store = store_at(listener.local_addr().unwrap(), QUICK);
    tokio::spawn(async move {
        let mut kept = Vec::new();
        for number in 1.. {
            let mut stream = listener.accept().await.unwrap().0;
            let head = read_head(&mut stream).await;
            if number % 3 == 0 {
                let length =
                    head.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |text| text.parse().unwrap());
                stream.read_exact(&mut vec![0; length]).await.unwrap();
                let answer = "HTTP/1.1 200 OK\r\netag: \"1\"\r\nlast-modified: Mon, 23 Nov 2026 06:00:00 GMT\r\nconnection: close\r\n\
                    content-length: 4\r\n\r\ntext";
                stream.write_all(answer.as_bytes()).await.unwrap();
            } else {
                match trouble {
                    Trouble::Silence => kept.push(stream),
                    Trouble::HalfAnAnswer => {
                        let half =
                            "HTTP/1.1 200 OK\r\ncontent-length: 100\r\nlast-modified: Mon, 23 Nov 2026 06:00:00 GMT\r\n\r\nhalf";
                        stream.write_all(half.as_bytes()).await.unwrap();
                        kept.push(stream);
                    }
                    Trouble::Reset => drop(stream),
                }
            }
        }
    });
    store
}

#[tokio::test]
async fn connections_that_stall_or_break_are_given_up_and_the_request_repeated() {
    // More than the kernel takes, so that a put stalls half way.
    let long = Bytes::from(vec![7; 12 << 20]);
    let key = Key::File(Kind::Data, Id::of(&long));
    for trouble in [Trouble::Silence, Trouble::HalfAnAnswer, Trouble::Reset] {
        let store = troubled(trouble).await;
        assert_eq!(store.get(Key::Config).await.unwrap(), "text", "{trouble:?}");
        // Half an answer to a put is a whole one: its head says that it is done.
        if !matches!(trouble, Trouble::HalfAnAnswer) {
            store.put(key, long.clone(), PutMode::Overwrite).await.unwrap();
        }
        assert_eq!(store.away_since(), None);
    }
}

#[tokio::test]
async fn a_host_that_does_not_exist_is_a_wrong_address_at_once() {
    let location: Location = "s3:http://no-such-host.invalid/bucket".parse().unwrap();
    let environment =
        Environment::from_pairs([("AWS_ACCESS_KEY_ID", "AKIA"), ("AWS_SECRET_ACCESS_KEY", "secret"), ("AWS_REGION", "r")]);
    let error = store::connect(&location, &environment).unwrap().get(Key::Config).await.unwrap_err();
    // Where there is no name server at all, its failure may pass, and is waited for.
    assert!(matches!(error, StoreError::Configuration(_)), "{error:?}");
}
