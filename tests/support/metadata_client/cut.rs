//! A connection that is cut after so many bytes of what the server says, wherever in a message or frame that is.

use std::path::{Path, PathBuf};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

/// A socket on which one client reaches a server, until the cut.
pub struct Cut {
    pub socket: PathBuf,
    _directory: tempfile::TempDir,
    relay: JoinHandle<Relayed>,
}

/// What got through to the client.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Relayed {
    pub bytes: usize,
    /// The frame that ends a call, whole.
    pub is_end_seen: bool,
}

impl Cut {
    /// Relays `bytes` bytes of the server, then closes both connections.
    pub fn after(bytes: usize, server: &Path) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("cut.sock");
        let (listener, server) = (UnixListener::bind(&socket).unwrap(), server.to_owned());
        let relay = tokio::spawn(async move {
            let (mut client, _) = listener.accept().await.unwrap();
            let mut server = UnixStream::connect(server).await.unwrap();
            let (mut from_client, mut to_client) = client.split();
            let (mut from_server, mut to_server) = server.split();
            let mut frames = Frames::default();
            let answer = async {
                let mut buffer = vec![0; 16 << 10];
                while frames.relayed.bytes < bytes {
                    let room = buffer.len().min(bytes - frames.relayed.bytes);
                    let Ok(count @ 1..) = from_server.read(&mut buffer[..room]).await else { break };
                    if to_client.write_all(&buffer[..count]).await.is_err() {
                        break;
                    }
                    frames.pass(&buffer[..count]);
                }
            };
            tokio::select! {
                () = answer => {}
                // The client went away.
                _ = tokio::io::copy(&mut from_client, &mut to_server) => {}
            }
            frames.relayed
        });
        Self { socket, _directory: directory, relay }
    }

    /// What got through, when the connection has ended. The client must be gone.
    pub async fn relayed(self) -> Relayed {
        self.relay.await.unwrap()
    }
}

/// Follows the frames of HTTP/2: nine bytes with length, type, flags and stream, and a payload.
#[derive(Default)]
struct Frames {
    head: Vec<u8>,
    payload: usize,
    relayed: Relayed,
}

impl Frames {
    fn pass(&mut self, bytes: &[u8]) {
        const HEADERS: u8 = 1;
        const END_STREAM: u8 = 1;
        self.relayed.bytes += bytes.len();
        for &byte in bytes {
            if self.head.len() < 9 {
                self.head.push(byte);
                self.payload = self.head.iter().take(3).fold(0, |length, &byte| length << 8 | usize::from(byte));
            } else {
                self.payload -= 1;
            }
            if self.head.len() == 9 && self.payload == 0 {
                self.relayed.is_end_seen |= self.head[3] == HEADERS && self.head[4] & END_STREAM != 0;
                self.head.clear();
            }
        }
    }
}
