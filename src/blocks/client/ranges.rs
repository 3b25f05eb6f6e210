//! Ranges that a node lists, for a thread that reads them one by one.
//!
//! A task reads messages ahead: one waits in a channel, and one is read while that is worked off. The reader is a thread, as for every
//! [`RangeStream`]; dropping it ends the stream at its next message at the latest.
//!
//! Nothing is believed to be complete but what says so (invariant 8): the last message has a mark, and the task hands on that it has seen it.
//! A stream that ends without, a task that is gone, ranges that do not ascend or reach beyond the snapshot are errors, after which nothing
//! follows.

use std::io;

use csi_proto::windlass::v1 as proto;
use futures::{Stream, StreamExt};
use tokio::sync::mpsc;
use tonic::Status;

use super::told::told;
use crate::types::{ByteRange, RangeStream, VolumeSize};

/// What the task hands on.
#[derive(Debug)]
enum Portion {
    Ranges(Vec<proto::BlockRange>),
    /// Everything was said.
    End,
    Failed(io::Error),
}

/// The ranges of a snapshot of this size. Must be called within the runtime, and read outside of it.
pub(super) fn reader(
    messages: impl Stream<Item = Result<proto::ListRangesResponse, Status>> + Send + Unpin + 'static,
    size: VolumeSize,
) -> RangeStream {
    let (portions, received) = mpsc::channel(1);
    tokio::spawn(async move {
        // Whoever read them has gone: so does the stream.
        let _ = pass_on(messages, &portions).await;
    });
    Box::new(Reader { received, portion: Vec::new().into_iter(), check: Check { reached: 0, size }, has_ended: false })
}

async fn pass_on(
    mut messages: impl Stream<Item = Result<proto::ListRangesResponse, Status>> + Unpin,
    portions: &mpsc::Sender<Portion>,
) -> Result<(), mpsc::error::SendError<Portion>> {
    let cut = || io::Error::new(io::ErrorKind::UnexpectedEof, "the node's list of ranges ended before it was complete");
    loop {
        let message = tokio::select! {
            message = messages.next() => message,
            () = portions.closed() => return Ok(()),
        };
        let last = match message {
            Some(Ok(message)) => {
                portions.send(Portion::Ranges(message.ranges)).await?;
                message.is_last.then_some(Portion::End)
            }
            Some(Err(status)) => Some(Portion::Failed(io::Error::other(told(status)))),
            None => Some(Portion::Failed(cut())),
        };
        if let Some(last) = last {
            return portions.send(last).await;
        }
    }
}

struct Reader {
    received: mpsc::Receiver<Portion>,
    portion: std::vec::IntoIter<proto::BlockRange>,
    check: Check,
    has_ended: bool,
}

impl Iterator for Reader {
    type Item = io::Result<ByteRange>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.has_ended {
            if let Some(range) = self.portion.next() {
                let range = self.check.pass(&range);
                self.has_ended = range.is_err();
                return Some(range);
            }
            match self.received.blocking_recv() {
                Some(Portion::Ranges(ranges)) => self.portion = ranges.into_iter(),
                Some(Portion::End) => self.has_ended = true,
                Some(Portion::Failed(error)) => {
                    self.has_ended = true;
                    return Some(Err(error));
                }
                None => {
                    self.has_ended = true;
                    return Some(Err(io::Error::other("the list of ranges was given up: the process is stopping")));
                }
            }
        }
        None
    }
}

/// What a range must be, after those before it.
#[derive(Debug, Clone, Copy)]
struct Check {
    reached: u64,
    size: VolumeSize,
}

impl Check {
    fn pass(&mut self, range: &proto::BlockRange) -> io::Result<ByteRange> {
        let wrong = |what: &str| {
            let text = format!("a range of the node {what}: {} bytes at {}", range.length, range.offset);
            io::Error::new(io::ErrorKind::InvalidData, text)
        };
        let checked = ByteRange::new(range.offset, range.length).ok_or_else(|| wrong("is none"))?;
        if checked.offset() < self.reached {
            return Err(wrong("does not ascend"));
        }
        if checked.end() > self.size.bytes() {
            return Err(wrong("reaches beyond the snapshot"));
        }
        self.reached = checked.end();
        Ok(checked)
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;

    fn message(ranges: &[(u64, u64)], is_last: bool) -> Result<proto::ListRangesResponse, Status> {
        let ranges = ranges.iter().map(|&(offset, length)| proto::BlockRange { offset, length }).collect();
        Ok(proto::ListRangesResponse { ranges, is_last })
    }

    async fn read(messages: Vec<Result<proto::ListRangesResponse, Status>>) -> Vec<Result<(u64, u64), io::ErrorKind>> {
        let ranges = reader(stream::iter(messages), VolumeSize::new(1 << 20).unwrap());
        let read = move || ranges.map(|range| range.map(Into::into).map_err(|error| error.kind())).collect();
        tokio::task::spawn_blocking(read).await.unwrap()
    }

    #[tokio::test]
    async fn a_list_with_its_last_message_is_complete() {
        assert_eq!(read(vec![message(&[], true)]).await, []);
        let two = vec![message(&[(0, 5), (5, 5)], false), message(&[(4096, 4096)], true)];
        assert_eq!(read(two).await, [Ok((0, 5)), Ok((5, 5)), Ok((4096, 4096))]);
        let after_the_last = vec![message(&[(0, 5)], true), message(&[(9, 5)], true)];
        assert_eq!(read(after_the_last).await, [Ok((0, 5))]);
    }

    #[tokio::test]
    async fn a_list_without_its_last_message_is_an_error_however_it_ended() {
        assert_eq!(read(vec![]).await, [Err(io::ErrorKind::UnexpectedEof)]);
        assert_eq!(read(vec![message(&[(0, 5)], false)]).await, [Ok((0, 5)), Err(io::ErrorKind::UnexpectedEof)]);
        let failed = vec![message(&[(0, 5)], false), Err(Status::internal("broken")), message(&[], true)];
        assert_eq!(read(failed).await, [Ok((0, 5)), Err(io::ErrorKind::Other)]);
    }

    #[tokio::test]
    async fn ranges_that_no_snapshot_has_are_errors_and_the_last_that_is_said() {
        for wrong in [(0, 0), (3, 1), (u64::MAX, 2), (1 << 20, 1), (5, 1 << 20)] {
            let ranges = read(vec![message(&[(0, 5), wrong, (500, 5)], true)]).await;
            assert_eq!(ranges, [Ok((0, 5)), Err(io::ErrorKind::InvalidData)], "{wrong:?}");
        }
    }
}
