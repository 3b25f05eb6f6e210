use std::fs::File;
use std::io::{IoSlice, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socketpair};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork, pipe};

use super::*;
use crate::blocks::wire::secret::Secret;

fn pair() -> (OwnedFd, OwnedFd) {
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap()
}

fn file(content: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    file.rewind().unwrap();
    file
}

/// Sends any packet.
fn packet(socket: &OwnedFd, bytes: &[u8], descriptors: &[i32]) {
    let rights = [ControlMessage::ScmRights(descriptors)];
    let rights = if descriptors.is_empty() { &[][..] } else { &rights[..] };
    sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(bytes)], rights, MsgFlags::MSG_NOSIGNAL, None).unwrap();
}

#[test]
fn a_descriptor_arrives_as_another_of_the_same_file_that_no_program_inherits() {
    let (node, agent) = pair();
    send(&node, file(b"content")).unwrap();
    let received = receive(&agent).unwrap();
    let flags = FdFlag::from_bits_retain(fcntl(received.as_fd(), FcntlArg::F_GETFD).unwrap());
    assert!(flags.contains(FdFlag::FD_CLOEXEC));
    let mut content = String::new();
    File::from(received).read_to_string(&mut content).unwrap();
    assert_eq!(content, "content");
}

#[test]
fn a_refusal_brings_none() {
    let (node, agent) = pair();
    refuse(&node).unwrap();
    assert!(matches!(receive(&agent), Err(ReceiveError::Refused)));
}

#[test]
fn an_answer_that_is_not_a_nodes_is_an_error_and_what_came_with_it_is_closed() {
    for (bytes, count) in [(&[GRANTED][..], 0), (&[GRANTED], 2), (&[REFUSED], 1), (&[7], 0), (&[7], 1), (&[GRANTED, GRANTED], 1)]
    {
        let (node, agent) = pair();
        let (reader, writer) = pipe().unwrap();
        packet(&node, bytes, &vec![writer.as_raw_fd(); count]);
        let error = receive(&agent).unwrap_err();
        assert!(matches!(error, ReceiveError::Foreign(_)), "{bytes:?} with {count}: {error}");
        drop(writer);
        // It would wait for as long as a copy of the other end is open.
        assert_eq!(File::from(reader).read(&mut [0]).unwrap(), 0, "{bytes:?} with {count}");
    }
    let (node, agent) = pair();
    drop(node);
    let ended = receive(&agent).unwrap_err();
    assert!(matches!(&ended, ReceiveError::Io(error) if error.kind() == std::io::ErrorKind::UnexpectedEof), "{ended:?}");
}

#[test]
fn only_a_packet_of_a_tokens_length_is_a_token_and_descriptors_that_come_along_are_dropped() {
    let (node, agent) = pair();
    assert_eq!(receive_request(&node).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    let token = Secret::random().unwrap();
    packet(&agent, token.as_bytes(), &[]);
    assert_eq!(receive_request(&node).unwrap(), Some(token));
    for length in [1, 31, 33, 4096] {
        packet(&agent, &vec![7; length], &[]);
        assert_eq!(receive_request(&node).unwrap(), None, "{length} bytes");
    }
    let sent = file(b"x");
    packet(&agent, token.as_bytes(), &[sent.as_raw_fd()]);
    assert_eq!(receive_request(&node).unwrap(), Some(token));
    drop(agent);
    assert_eq!(receive_request(&node).unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof);
}

/// In a process of its own, whose limit of descriptors is nobody else's.
#[test]
#[allow(unsafe_code, reason = "fork")]
fn a_descriptor_for_which_there_is_no_number_was_taken_away_and_the_error_says_what_to_do() {
    let (node, agent) = pair();
    send(&node, file(b"content")).unwrap();
    // SAFETY: the child makes system calls, allocates nothing that another thread may hold a lock of that it waits for without end (a test
    // that hangs is one that fails), and ends without running destructors.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or_default();
            // Fewer than are open already.
            let limited = setrlimit(Resource::RLIMIT_NOFILE, 3, hard);
            let taken_away = matches!(receive(&agent), Err(ReceiveError::TakenAway));
            let code = if limited.is_ok() && taken_away { 0 } else { 1 };
            // SAFETY: ends the process at once.
            unsafe { libc::_exit(code) }
        }
        ForkResult::Parent { child } => {
            assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0));
        }
    }
    let text = ReceiveError::TakenAway.to_string();
    assert!(text.contains("spc_t") && text.contains("ulimit -n"), "{text}");
}

#[test]
fn a_node_that_is_not_there_is_said_with_its_socket() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("descriptors.sock");
    let error = fetch(&path, &Secret::random().unwrap()).unwrap_err();
    assert!(matches!(error, FetchError::Socket { .. }) && error.to_string().contains("descriptors.sock"), "{error}");
}
