//! The bytes of a client's HTTP/2 connection, passed on as they come but for the header blocks, which `authority` mends.
//!
//! Only as much of HTTP/2 is understood as it takes to find the header blocks (RFC 9113, sections 3.4, 4.1 and 6.2). Bytes that do
//! not begin like such a connection are passed on as they are. A frame of headers is held until it is whole, which is at
//! most what the server takes in one frame; a longer one is passed on unread, to be refused there. What follows in
//! CONTINUATION frames is passed on: the authority is among the first fields.

use super::authority;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEAD: usize = 9;
const HEADERS: u8 = 1;
const PADDED: u8 = 0x08;
const PRIORITY: u8 = 0x20;
/// The largest frame that the server takes: what HTTP/2 has by default, and our server does not change.
const MAX_FRAME_BYTES: usize = 1 << 14;

#[derive(Debug)]
enum State {
    /// So many bytes of the preface have come.
    Preface(usize),
    /// A frame's head, or the whole frame of headers, is being held.
    Frame,
    /// So many bytes of a frame are still to be passed on.
    Body(usize),
    /// This is no HTTP/2.
    Foreign,
}

/// Where in the connection its bytes are.
#[derive(Debug)]
pub(super) struct Frames {
    state: State,
    held: Vec<u8>,
}

impl Frames {
    pub(super) fn new() -> Self {
        Self { state: State::Preface(0), held: Vec::new() }
    }

    /// Takes the next bytes of the client, and appends what the server is to see to `out`.
    pub(super) fn pass(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        while !bytes.is_empty() {
            let taken = match self.state {
                State::Foreign => bytes.len(),
                State::Preface(seen) => {
                    let count = bytes.len().min(PREFACE.len() - seen);
                    self.state = match bytes[..count] == PREFACE[seen..seen + count] {
                        false => State::Foreign,
                        true if seen + count == PREFACE.len() => State::Frame,
                        true => State::Preface(seen + count),
                    };
                    count
                }
                State::Body(left) => {
                    let count = bytes.len().min(left);
                    self.state = if count == left { State::Frame } else { State::Body(left - count) };
                    count
                }
                State::Frame => {
                    let count = bytes.len().min(self.wanted() - self.held.len());
                    self.held.extend(&bytes[..count]);
                    bytes = &bytes[count..];
                    self.release(out);
                    continue;
                }
            };
            out.extend(&bytes[..taken]);
            bytes = &bytes[taken..];
        }
    }

    /// What is held of a frame that will never be whole: the client has ended.
    pub(super) fn end(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.held);
    }

    /// How much must be held before the frame can be passed on.
    fn wanted(&self) -> usize {
        match self.held.get(..HEAD) {
            Some(head) if head[3] == HEADERS && length(head) <= MAX_FRAME_BYTES => HEAD + length(head),
            _ => HEAD,
        }
    }

    fn release(&mut self, out: &mut Vec<u8>) {
        // The head, once it is there, may want more.
        if self.held.len() < self.wanted() {
            return;
        }
        let body = self.held.len() - HEAD;
        let left = length(&self.held) - body;
        if body > 0 {
            let (head, payload) = self.held.split_at_mut(HEAD);
            authority::mend(block(head[4], payload));
        }
        out.append(&mut self.held);
        if left > 0 {
            self.state = State::Body(left);
        }
    }
}

fn length(head: &[u8]) -> usize {
    usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2])
}

/// The header block in the payload of a frame with these flags; nothing if the payload contradicts them.
fn block(flags: u8, payload: &mut [u8]) -> &mut [u8] {
    let padding = if flags & PADDED != 0 { usize::from(payload[0]) } else { 0 };
    let start = usize::from(flags & PADDED != 0) + if flags & PRIORITY != 0 { 5 } else { 0 };
    let end = payload.len().saturating_sub(padding);
    payload.get_mut(start..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    /// A connection with headers of each kind, its authority being this.
    fn connection(authority: &[u8; 3]) -> Vec<u8> {
        let block = [&[0x83, 0x41, 3], authority.as_slice()].concat();
        let padded = [&[2], block.as_slice(), b"%%"].concat();
        let prioritized = [b"%%%%%", block.as_slice()].concat();
        [
            PREFACE.to_vec(),
            frame(4, 0, b""),
            frame(HEADERS, 4, &block),
            frame(0, 0, b"A/%"),
            frame(HEADERS, 4 | PADDED, &padded),
            frame(HEADERS, 4 | PRIORITY, &prioritized),
            frame(HEADERS, 4, b""),
            frame(6, 0, b"a%2F----"),
            frame(HEADERS, PADDED, &[200, 0x41, 1, b'%']),
            frame(HEADERS, PADDED | PRIORITY, &[0]),
            frame(HEADERS, 4, &block),
        ]
        .concat()
    }

    fn passed(bytes: &[u8], step: usize) -> Vec<u8> {
        let (mut frames, mut out) = (Frames::new(), Vec::new());
        for piece in bytes.chunks(step) {
            frames.pass(piece, &mut out);
        }
        frames.end(&mut out);
        out
    }

    #[test]
    fn only_authorities_change_however_the_bytes_come() {
        let (sent, seen) = (connection(b"a%b"), connection(b"a-b"));
        for step in 1..sent.len() + 1 {
            assert_eq!(passed(&sent, step), seen, "in steps of {step}");
        }
        // And the end may come anywhere.
        for end in 0..sent.len() {
            assert_eq!(passed(&sent[..end], 7).len(), end);
        }
    }

    #[test]
    fn what_is_no_http_2_is_passed_on() {
        let sent = b"PRI * HTTP/1.1\r\n\r\n\x00\x00\x04\x01\x04\x00\x00\x00\x01\x41\x02a%";
        assert_eq!(passed(sent, 5), sent);
    }

    #[test]
    fn a_frame_that_is_too_long_is_not_held() {
        let mut long = vec![0; MAX_FRAME_BYTES + 1];
        long[..3].copy_from_slice(&[0x41, 1, b'%']);
        let sent = [PREFACE.to_vec(), frame(HEADERS, 4, &long)].concat();
        let (mut frames, mut out) = (Frames::new(), Vec::new());
        frames.pass(&sent[..100], &mut out);
        assert_eq!(out, sent[..100]);
        frames.pass(&sent[100..], &mut out);
        assert_eq!(out, sent);
    }
}
