//! An answer of one message that stays open: what it says is held as long as the caller keeps it.

use futures::StreamExt;
use futures::stream;
use tokio_util::sync::CancellationToken;

use super::status::refusal;
use crate::blocks::BlocksError;
use crate::csi::plugin::Answers;

/// Says `message`, and holds `held` until the stream is dropped or `stop` is cancelled; then it ends with an error, for nothing is held
/// any more.
pub(super) fn open<T: Send + 'static>(message: T, held: impl Send + 'static, stop: CancellationToken) -> Answers<T> {
    let end = async move {
        stop.cancelled().await;
        drop(held);
        Err(refusal(BlocksError::Unavailable("the node is stopping".to_owned())))
    };
    Box::pin(stream::iter([Ok(message)]).chain(stream::once(end)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn it_holds_until_it_is_dropped_or_the_node_stops() {
        let (held, stop) = (Arc::new(()), CancellationToken::new());
        let mut answer = open(7, Arc::clone(&held), stop.clone());
        assert_eq!(answer.next().await.unwrap().unwrap(), 7);
        assert!(futures::poll!(answer.next()).is_pending());
        assert_eq!(Arc::strong_count(&held), 2);
        drop(answer);
        assert_eq!(Arc::strong_count(&held), 1);
        // Also one that nobody has begun to read.
        drop(open(7, Arc::clone(&held), stop.clone()));
        assert_eq!(Arc::strong_count(&held), 1);

        let mut answer = open(7, Arc::clone(&held), stop.clone());
        stop.cancel();
        assert!(answer.next().await.unwrap().is_ok());
        assert_eq!(answer.next().await.unwrap().unwrap_err().code(), tonic::Code::Unavailable);
        assert_eq!(Arc::strong_count(&held), 1);
        assert!(answer.next().await.is_none());
    }
}
