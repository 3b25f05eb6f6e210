//! Bodies that are watched while they move.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use object_store::client::{HttpError, HttpErrorKind, HttpRequestBody};
use tokio::time::{Instant, Sleep};

use super::fault::Fault;

/// Bytes of a request's body that are handed on at once: with small pieces, its movement is seen better.
const PIECE_BYTES: usize = 64 << 10;

/// When something was last seen to move. Clones share it.
#[derive(Debug, Clone)]
pub struct Pulse(Arc<Mutex<Instant>>);

impl Pulse {
    pub fn begin() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    pub fn last(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn beat(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }
}

/// The body of a request, which leaves in small pieces.
#[derive(Debug)]
pub struct Leaving {
    inner: HttpRequestBody,
    piece: Bytes,
    left: u64,
    pulse: Pulse,
}

impl Leaving {
    /// `inner`, of `bytes` bytes; each piece of it that is taken is a beat of `pulse`.
    pub fn new(inner: HttpRequestBody, bytes: u64, pulse: Pulse) -> Self {
        Self { inner, piece: Bytes::new(), left: bytes, pulse }
    }
}

impl Body for Leaving {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        while self.piece.is_empty() {
            match std::task::ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
                Some(Ok(frame)) => self.piece = frame.into_data().unwrap_or_default(),
                end => return Poll::Ready(end),
            }
        }
        let length = self.piece.len().min(PIECE_BYTES);
        let piece = self.piece.split_to(length);
        self.left = self.left.saturating_sub(length as u64);
        self.pulse.beat();
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

type Explain = Box<dyn Fn(reqwest::Error) -> Fault + Send + Sync>;

/// The body of an answer, which must go on arriving.
pub struct Arriving {
    inner: reqwest::Body,
    idle: Duration,
    whole: Duration,
    /// When the next piece must be there.
    alarm: Pin<Box<Sleep>>,
    end: Instant,
    explain: Explain,
}

impl Arriving {
    /// `inner`, of which a piece must come every `idle`, and the end within `whole`. `explain` says what an error in transit is.
    pub fn new(
        inner: reqwest::Body,
        idle: Duration,
        whole: Duration,
        explain: impl Fn(reqwest::Error) -> Fault + Send + Sync + 'static,
    ) -> Self {
        let now = Instant::now();
        let end = now + whole;
        let alarm = Box::pin(tokio::time::sleep_until(end.min(now + idle)));
        Self { inner, idle, whole, alarm, end, explain: Box::new(explain) }
    }

    /// Its first bytes, as far as they come: the text of an error, which is only for people.
    pub async fn beginning(mut self, most: usize) -> Vec<u8> {
        let mut text = Vec::new();
        while text.len() < most {
            match std::future::poll_fn(|cx| Pin::new(&mut self).poll_frame(cx)).await {
                Some(Ok(frame)) => text.extend_from_slice(&frame.into_data().unwrap_or_default()),
                Some(Err(_)) | None => break,
            }
        }
        text.truncate(most);
        text
    }
}

impl Body for Arriving {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let failed = |fault| Poll::Ready(Some(Err(HttpError::new(HttpErrorKind::Unknown, fault))));
        match Pin::new(&mut self.inner).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let next = self.end.min(Instant::now() + self.idle);
                self.alarm.as_mut().reset(next);
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => failed((self.explain)(error)),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => match self.alarm.as_mut().poll(cx) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(()) if Instant::now() >= self.end => failed(Fault::Slow(self.whole)),
                Poll::Ready(()) => failed(Fault::Stalled(self.idle)),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
