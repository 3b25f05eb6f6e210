//! One request to the kernel and its reply.
//!
//! A reply that did not fit is asked for again with twice the room, from 16 KiB to at most 16 MiB: 50,000 devices with the longest names
//! and uuids take 14 MiB. A message is sent exactly once.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use super::error::DmError;
use super::raw::{self, Verb};
use super::reply::{Malformed, Reply};
use super::request::Request;

/// Room for a reply without data.
pub(super) const NO_DATA: usize = 0;

/// Room for a reply at first.
pub(super) const FIRST_ROOM: usize = 16 << 10;

/// Room for a reply at most.
const MOST_ROOM: usize = 16 << 20;

/// How often a call that a signal interrupted is made again. Each time takes another signal to this very thread, of which
/// this process gets a few in its life.
const INTERRUPTIONS: u32 = 100;

/// Makes one request, with room for `room` bytes of data, and reads the reply.
pub(super) fn ask<T>(
    control: &File,
    request: &Request<'_>,
    room: usize,
    read: impl FnOnce(&Reply<'_>) -> Result<T, Malformed>,
) -> Result<T, DmError> {
    let (mut room, mut interruptions) = (room, 0);
    loop {
        let mut buffer = request.encode(room);
        match raw::call(control.as_fd(), request.verb, &mut buffer) {
            Ok(()) => {}
            // What a message did before it was interrupted is not known: that is for the caller to find out.
            Err(error) if is_interrupted(&error) && request.verb != Verb::Message && interruptions < INTERRUPTIONS => {
                interruptions += 1;
                continue;
            }
            Err(error) => return Err(DmError::from_kernel(request.verb, request.action(), error)),
        }
        let reply = Reply::parse(&buffer).map_err(DmError::reply(request.action()))?;
        if !reply.is_cut_short() {
            return read(&reply).map_err(DmError::reply(request.action()));
        }
        if !request.only_asks() || room >= MOST_ROOM {
            return Err(DmError::reply(request.action())(Malformed::TooLarge(room)));
        }
        room = (room * 2).clamp(FIRST_ROOM, MOST_ROOM);
    }
}

fn is_interrupted(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EINTR)
}
