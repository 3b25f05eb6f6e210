//! Any number of messages of any lengths over a fixed number of lanes.
//!
//! A lane carries one message at a time: first its whole blocks where they lie, then its ending (rest and padding) from a
//! buffer of the lane's own. All lanes advance together, by as many blocks as the lane nearest to a boundary has before it;
//! a lane that finishes takes the next message in the order given. Lanes without a message repeat the blocks of one that has
//! (already in the cache), and what comes out is never looked at.

use super::block::{BLOCK, Compress, Ending, State};

/// Hashes `inputs[i]` into `digests[i]` for each `i` of `order`, in lanes. Longest first keeps the lanes busy to the end.
pub(super) fn hash<const LANES: usize>(
    kernel: impl Compress<LANES>,
    order: &[usize],
    inputs: &[&[u8]],
    digests: &mut [[u8; 32]],
) {
    let mut waiting = order.iter().copied();
    let mut state = State::initial();
    let mut lanes: [Option<Message<'_>>; LANES] = std::array::from_fn(|_| None);
    loop {
        for (number, lane) in lanes.iter_mut().enumerate() {
            if lane.is_none()
                && let Some(index) = waiting.next()
            {
                *lane = Some(Message::new(index, inputs[index]));
                state.restart(number);
            }
        }
        // The segment of the message nearest to a boundary; idle lanes repeat it.
        let Some(shortest) = lanes.iter().flatten().map(Message::segment).min_by_key(|segment| segment.len()) else {
            return;
        };
        let step = shortest.len();
        let blocks = std::array::from_fn(|i| lanes[i].as_ref().map_or(shortest, |message| &message.segment()[..step]));
        kernel.compress(&mut state, &blocks);
        for (number, lane) in lanes.iter_mut().enumerate() {
            if let Some(message) = lane
                && message.advance(step) == Progress::Finished
            {
                digests[message.index] = state.digest(number);
                *lane = None;
            }
        }
    }
}

#[derive(PartialEq, Eq)]
enum Progress {
    Unfinished,
    Finished,
}

/// A message on its way through a lane.
struct Message<'a> {
    index: usize,
    /// Whole blocks still to come.
    body: &'a [u8],
    ending: Ending,
    /// Bytes of the ending already compressed.
    ended: usize,
}

impl<'a> Message<'a> {
    fn new(index: usize, input: &'a [u8]) -> Self {
        let (body, rest) = input.split_at(input.len() - input.len() % BLOCK);
        Self { index, body, ending: Ending::new(rest, input.len() as u64), ended: 0 }
    }

    /// What comes next and lies in one piece; never empty before the message is finished.
    fn segment(&self) -> &[u8] {
        if self.body.is_empty() { &self.ending.blocks()[self.ended..] } else { self.body }
    }

    /// Notes that `step` bytes of the segment have been compressed.
    fn advance(&mut self, step: usize) -> Progress {
        if self.body.is_empty() {
            self.ended += step;
        } else {
            self.body = &self.body[step..];
        }
        if self.segment().is_empty() { Progress::Finished } else { Progress::Unfinished }
    }
}
