//! Connections to a node's socket, as clients of other languages make them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is a failed test")]

#[path = "support/csi_harness.rs"]
mod csi_harness;

use std::time::Duration;

use csi_harness::Node;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// Longest time for an answer in this process.
const BOUND: Duration = Duration::from_secs(30);

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// An HTTP/2 client by hand, which sends what libraries refuse to.
struct Client(UnixStream);

impl Client {
    async fn connect(node: &Node) -> Self {
        let mut stream = UnixStream::connect(&node.socket).await.unwrap();
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        let mut client = Self(stream);
        client.send(SETTINGS, 0, 0, &[]).await;
        client
    }

    async fn send(&mut self, kind: u8, flags: u8, stream: u8, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let frame = [&length[1..], &[kind, flags, 0, 0, 0, stream], payload].concat();
        self.0.write_all(&frame).await.unwrap();
    }

    /// A call with this header block and an empty message: the kind and payload of the first frame that answers it.
    async fn call(&mut self, stream: u8, block: &[u8]) -> (u8, Vec<u8>) {
        self.send(HEADERS, END_HEADERS, stream, block).await;
        self.send(DATA, END_STREAM, stream, &[0; 5]).await;
        let answer = async {
            loop {
                let mut head = [0; 9];
                self.0.read_exact(&mut head).await.unwrap();
                let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
                self.0.read_exact(&mut payload).await.unwrap();
                if head[8] == stream {
                    return (head[3], payload);
                }
            }
        };
        tokio::time::timeout(BOUND, answer).await.expect("an answer")
    }
}

/// How clients say which field is the authority: by its number, as grpc-go does, and by its name, as gRPC's C core does.
const BY_NUMBER: &[u8] = b"\x41";
const BY_NAME: &[u8] = b"\x40\x0a:authority";

/// A header block whose literals go into the table: a probe, with this authority.
fn probe(field: &[u8], authority: &[u8]) -> Vec<u8> {
    let mut block = vec![0x83, 0x86];
    let mut literal = |name: &[u8], value: &[u8]| {
        block.extend(name);
        block.push(u8::try_from(value.len()).unwrap());
        block.extend(value);
    };
    literal(field, authority);
    literal(&[0x44], b"/csi.v1.Identity/Probe");
    literal(&[0x5f], b"application/grpc");
    literal(b"\x40\x02te", b"trailers");
    block
}

#[tokio::test(flavor = "multi_thread")]
async fn the_authority_of_a_call_does_not_matter() {
    let node = Node::start().await;
    let authorities = ["localhost", "tmp%2Fcsi.sock", "/tmp/csi.sock", "%2Frun%2Fa%20b.sock", "a:b:c", "host name"];
    for (field, authority) in [BY_NUMBER, BY_NAME].into_iter().flat_map(|field| authorities.map(|authority| (field, authority))) {
        let mut client = Client::connect(&node).await;
        let (kind, payload) = client.call(1, &probe(field, authority.as_bytes())).await;
        // `:status: 200` of the static table.
        assert_eq!((kind, payload.first()), (HEADERS, Some(&0x88)), "{authority}");
        // Again, all of it by reference to what the first call put into the table: te, content-type, path and authority.
        let (kind, payload) = client.call(3, &[0x83, 0x86, 0xc1, 0xc0, 0xbf, 0xbe]).await;
        assert_eq!((kind, payload.first()), (HEADERS, Some(&0x88)), "{authority}, again");
    }
    // The server is still strict about what has a meaning.
    let mut client = Client::connect(&node).await;
    let (kind, _) = client.call(1, &probe(BY_NUMBER, b"localhost").repeat(2)).await;
    assert_eq!(kind, RESET);
}
