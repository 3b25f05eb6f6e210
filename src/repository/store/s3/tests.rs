use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use super::*;

#[test]
fn a_store_without_credentials_is_refused_before_any_request() {
    let location = S3Location { endpoint: "https://host".into(), bucket: "bucket".into(), prefix: String::new() };
    let error = S3Store::connect(&location, &Environment::new()).unwrap_err();
    assert_eq!(error.to_string(), "the store cannot be used: AWS_ACCESS_KEY_ID is not set");
}

#[test]
fn amazon_s_names_tell_their_region() {
    for (endpoint, region) in [
        ("https://s3.eu-central-1.amazonaws.com", Some("eu-central-1")),
        ("https://s3-eu-west-1.amazonaws.com", Some("eu-west-1")),
        ("https://s3.dualstack.us-west-2.amazonaws.com", Some("us-west-2")),
        ("https://s3.amazonaws.com", None),
        ("https://minio.example:9000", None),
    ] {
        assert_eq!(region_of(endpoint), region, "{endpoint}");
    }
}

#[test]
fn debug_of_a_store_shows_no_secret() {
    let location = S3Location { endpoint: "https://host".into(), bucket: "bucket".into(), prefix: "a/b".into() };
    let environment = Environment::from_pairs([("AWS_ACCESS_KEY_ID", "AKIA"), ("AWS_SECRET_ACCESS_KEY", "hidden-word")]);
    let store = S3Store::connect(&location, &environment).unwrap();
    assert!(!format!("{store:?}").contains("hidden-word"));
    assert_eq!(store.path(Key::Config).as_ref(), "a/b/config");
}

const QUICK: BackoffConfig =
    BackoffConfig { init_backoff: Duration::from_millis(1), max_backoff: Duration::from_millis(2), base: 1.5 };

fn store_at(address: std::net::SocketAddr) -> S3Store {
    let location = S3Location { endpoint: format!("http://{address}"), bucket: "bucket".into(), prefix: String::new() };
    let environment = Environment::from_pairs([("AWS_ACCESS_KEY_ID", "AKIA"), ("AWS_SECRET_ACCESS_KEY", "secret")]);
    let retry = RetryConfig { backoff: QUICK, max_retries: 3, retry_timeout: Duration::from_secs(10) };
    S3Store::connect_with(&location, &environment, retry).unwrap()
}

/// A server that gives these status codes and bodies one after another, and what it was asked.
async fn scripted(answers: &[(u16, &'static str)]) -> (S3Store, Arc<Mutex<Vec<(Method, bool)>>>) {
    let answers = Arc::new(Mutex::new(answers.iter().copied().collect::<VecDeque<_>>()));
    let asked = Arc::new(Mutex::new(Vec::new()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let store = store_at(listener.local_addr().unwrap());
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
    let (store, asked) = scripted(&[(501, ""), (404, ""), (200, "")]).await;
    store.put(Key::Config, Bytes::from_static(b"x"), PutMode::IfAbsent).await.unwrap();
    assert_eq!(*asked.lock().unwrap(), [(Method::PUT, true), (Method::HEAD, false), (Method::PUT, false)]);

    let (store, _) = scripted(&[(501, ""), (200, "there")]).await;
    let present = store.put(Key::Config, Bytes::from_static(b"x"), PutMode::IfAbsent).await;
    assert!(matches!(present, Err(StoreError::AlreadyExists { .. })));
}

#[tokio::test]
async fn a_conditional_put_that_met_a_busy_store_is_repeated() {
    let (store, asked) = scripted(&[(503, ""), (503, ""), (200, "")]).await;
    store.put(Key::Config, Bytes::from_static(b"x"), PutMode::IfAbsent).await.unwrap();
    assert_eq!(*asked.lock().unwrap(), [(Method::PUT, true), (Method::PUT, true), (Method::PUT, true)]);
}

#[tokio::test]
async fn a_store_that_is_busy_for_a_while_is_asked_again() {
    let (store, asked) = scripted(&[(503, ""), (500, ""), (200, "text")]).await;
    assert_eq!(store.get(Key::Config).await.unwrap(), "text");
    assert_eq!(asked.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn what_no_retry_mends_is_told_from_what_may_pass() {
    let (store, _) = scripted(&[(503, ""); 4]).await;
    let busy = store.get(Key::Config).await.unwrap_err();
    assert!(busy.is_transient(), "{busy:?}");
    let (store, _) = scripted(&[(403, ""), (400, "")]).await;
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
    let error = store_at(address).get(Key::Config).await.unwrap_err();
    assert!(error.is_transient() && error.to_string().contains("config"), "{error:?}");
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_an_error() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let store = store_at(listener.local_addr().unwrap());
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
