//! One client's connection, as the HTTP/2 library sees it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::sync::OwnedSemaphorePermit;
use tonic::transport::server::Connected;

use super::frames::Frames;

/// Bytes that are read at once; what is ready but not taken yet is at most this and a frame of headers.
const READ_BYTES: usize = 16 << 10;

/// A connection whose requests have an authority that HTTP accepts.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    _slot: OwnedSemaphorePermit,
    frames: Frames,
    ready: Vec<u8>,
    /// How much of that was taken.
    taken: usize,
    ended: bool,
}

impl Connection {
    /// A connection that takes a slot as long as it lasts.
    pub(super) fn new(stream: UnixStream, slot: OwnedSemaphorePermit) -> Self {
        Self { stream, _slot: slot, frames: Frames::new(), ready: Vec::new(), taken: 0, ended: false }
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.taken == this.ready.len() && !this.ended {
            this.ready.clear();
            this.taken = 0;
            let mut space = [0; READ_BYTES];
            let mut space = ReadBuf::new(&mut space);
            ready!(Pin::new(&mut this.stream).poll_read(cx, &mut space))?;
            if space.filled().is_empty() {
                this.frames.end(&mut this.ready);
                this.ended = true;
            } else {
                this.frames.pass(space.filled(), &mut this.ready);
            }
        }
        let count = into.remaining().min(this.ready.len() - this.taken);
        into.put_slice(&this.ready[this.taken..this.taken + count]);
        this.taken += count;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Connected for Connection {
    type ConnectInfo = <UnixStream as Connected>::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream.connect_info()
    }
}
