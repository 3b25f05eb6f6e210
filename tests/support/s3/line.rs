//! A slow line to a server.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::{Interval, MissedTickBehavior};

/// Bytes that travel at once.
const PIECE_BYTES: usize = 8 << 10;

/// One that all its connections share, in both directions together. It ends when dropped.
pub struct Line {
    /// Where it begins.
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Line {
    /// A line to `server` that carries so many bits a second.
    pub async fn to(server: SocketAddr, bits_a_second: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let piece = Duration::from_secs_f64(8.0 * PIECE_BYTES as f64 / bits_a_second as f64);
        let mut turns = tokio::time::interval(piece);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let turns = Arc::new(Mutex::new(turns));
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((here, _)) = listener.accept().await {
                let turns = Arc::clone(&turns);
                connections.spawn(async move {
                    let (here, there) = (here.into_split(), TcpStream::connect(server).await.unwrap().into_split());
                    // What breaks is the ends' to notice.
                    let _ = tokio::join!(carry(here.0, there.1, &turns), carry(there.0, here.1, &turns));
                });
            }
        });
        Self { address, task }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    turns: &Mutex<Interval>,
) -> std::io::Result<()> {
    let mut piece = [0; PIECE_BYTES];
    loop {
        let length = from.read(&mut piece).await?;
        if length == 0 {
            return to.shutdown().await;
        }
        turns.lock().await.tick().await;
        to.write_all(&piece[..length]).await?;
    }
}
