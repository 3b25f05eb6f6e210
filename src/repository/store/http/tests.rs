use std::io::{BufRead, BufReader};
use std::pin::Pin;
use std::process::{Command, Stdio};

use bytes::Bytes;
use futures::StreamExt;

use super::*;

#[test]
fn limits_follow_from_the_length() {
    let limits = Limits::default();
    assert_eq!(limits.whole(0).as_secs(), 60);
    assert_eq!(limits.whole(16 << 20).as_secs(), 60 + 1024);
    // What stalled is noticed earlier than what is slow is given up, by far for long bodies.
    assert_eq!(limits.sending(1000).as_secs(), 60);
    assert_eq!(limits.sending(64 << 20).as_secs(), 60 + 256);
    // A line of 4 Mbit/s, four transfers, each with packs of 16 MiB in eight requests.
    let bytes_a_second = 4_000_000 / 8;
    assert!(limits.whole(16 << 20).as_secs() > (4 * 8 * (16 << 20)) / bytes_a_second);
}

/// A body of so many pieces of 1000 bytes, one every five milliseconds, and then nothing, or its end.
fn pieces(number: u64, ends: bool) -> reqwest::Body {
    let stream = futures::stream::unfold(0, move |sent| async move {
        match (sent < number, ends) {
            (true, _) => _ = tokio::time::timeout(Duration::from_millis(5), std::future::pending::<()>()).await,
            (false, true) => return None,
            (false, false) => std::future::pending().await,
        }
        Some((Ok::<_, std::io::Error>(Bytes::from(vec![0; 1000])), sent + 1))
    });
    reqwest::Body::wrap_stream(stream.boxed())
}

async fn read(body: reqwest::Body, idle: Duration, whole: Duration) -> Result<u64, HttpError> {
    let mut body = Arriving::new(body, idle, whole, |error| Fault::Broken(error.to_string()));
    let mut length = 0;
    while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        length += frame?.into_data().unwrap().len() as u64;
    }
    Ok(length)
}

#[tokio::test]
async fn a_body_that_moves_is_waited_for_and_one_that_does_not_is_not() {
    let (short, long) = (Duration::from_millis(100), Duration::from_secs(600));
    assert_eq!(read(pieces(60, true), short, long).await.unwrap(), 60_000, "three times as long as any pause may be");
    let stalled = read(pieces(3, false), short, long).await.unwrap_err();
    assert!(matches!(Fault::behind(&stalled), Some(Fault::Stalled(_))), "{stalled:?}");
    // A body that drips is refused like one that stands still.
    let slow = read(pieces(u64::MAX, true), long, short).await.unwrap_err();
    assert!(matches!(Fault::behind(&slow), Some(Fault::Slow(_))), "{slow:?}");
}

/// What the first request to `address` means, made by a client that has had no answer yet.
async fn first_request(address: String) -> StoreError {
    let connector = Connector::new(&Environment::new(), Limits::default()).unwrap();
    connector.region_of(address, "the bucket".to_owned()).await.unwrap_err()
}

#[tokio::test]
async fn a_server_that_is_not_trusted_or_speaks_no_tls_is_a_wrong_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let (key, certificate) = (folder.path().join("key"), folder.path().join("certificate"));
    let mut make = Command::new("openssl");
    make.args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
    ]);
    make.arg("-keyout").arg(&key).arg("-out").arg(&certificate).stderr(Stdio::null());
    assert!(make.status().expect("`openssl` is on PATH").success());
    let mut server = Command::new("openssl");
    server.args(["s_server", "-accept", "127.0.0.1:0"]).arg("-cert").arg(&certificate).arg("-key").arg(&key);
    // It ends with its input, and with the reader of its output.
    let mut server = server.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines().map(Result::unwrap);
    let port = lines.find_map(|line| Some(line.strip_prefix("ACCEPT ")?.rsplit_once(':')?.1.to_owned())).unwrap();
    let error = first_request(format!("https://localhost:{port}/bucket")).await;
    server.kill().unwrap();
    server.wait().unwrap();
    assert!(matches!(&error, StoreError::Configuration(text) if text.to_string().contains("RESTIC_CACERT")), "{error:?}");

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("https://{}/bucket", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let mut stream = listener.accept().await.unwrap().0;
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        std::future::pending::<()>().await;
    });
    let error = first_request(address).await;
    assert!(matches!(&error, StoreError::Configuration(text) if text.to_string().contains("does not speak TLS")), "{error:?}");
}
