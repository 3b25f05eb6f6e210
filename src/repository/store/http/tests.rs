use std::pin::Pin;

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
    // One that drips is no better than one that stands still.
    let slow = read(pieces(u64::MAX, true), long, short).await.unwrap_err();
    assert!(matches!(Fault::behind(&slow), Some(Fault::Slow(_))), "{slow:?}");
}
