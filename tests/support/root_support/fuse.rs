//! A file system with one file, served from this process by the FUSE protocol, that can be made to hang and to die.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use nix::mount::{MntFlags, MsFlags, mount, umount2};

const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const READ: u32 = 15;
const RELEASE: u32 = 18;
const FLUSH: u32 = 25;
const INIT: u32 = 26;
const INTERRUPT: u32 = 36;
const BATCH_FORGET: u32 = 42;

const ROOT: u64 = 1;
const FILE: u64 = 2;
const HEADER: usize = 40;
/// Larger than the smallest that the kernel accepts; requests are small, the file is never written to.
const REQUEST_BYTES: usize = 256 << 10;

/// A mounted file system. Dropping it lets it die.
pub struct Fuse {
    directory: PathBuf,
    answering: Arc<AtomicBool>,
    server: Option<JoinHandle<()>>,
}

impl Fuse {
    /// Mounts a file system whose only file has this name, this size and zeros.
    pub fn serve(directory: &Path, name: &str, bytes: u64) -> Self {
        let device = OpenOptions::new().read(true).write(true).open("/dev/fuse").unwrap();
        let data = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
        mount(Some("windlass-test"), directory, Some("fuse"), MsFlags::empty(), Some(data.as_str())).unwrap();
        let answering = Arc::new(AtomicBool::new(true));
        let server = Server { device, name: name.as_bytes().to_vec(), bytes, answering: Arc::clone(&answering) };
        let server = std::thread::spawn(move || server.run());
        Self { directory: directory.to_owned(), answering, server: Some(server) }
    }

    /// From now on nothing is answered: whoever asks, waits.
    pub fn hang(&self) {
        self.answering.store(false, Ordering::SeqCst);
    }

    /// Ends the connection: whoever asks or waits gets an error.
    pub fn die(&mut self) {
        if let Some(server) = self.server.take() {
            umount2(&self.directory, MntFlags::MNT_FORCE | MntFlags::MNT_DETACH).unwrap();
            server.join().unwrap();
        }
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        self.die();
    }
}

struct Server {
    device: File,
    name: Vec<u8>,
    bytes: u64,
    answering: Arc<AtomicBool>,
}

impl Server {
    fn run(mut self) {
        let mut request = vec![0; REQUEST_BYTES];
        loop {
            match self.device.read(&mut request) {
                Ok(count) => self.handle(&request[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Unmounted.
                Err(_) => return,
            }
        }
    }

    fn handle(&mut self, request: &[u8]) {
        let number = |at: usize| u32::from_ne_bytes(request[at..at + 4].try_into().unwrap());
        let long = |at: usize| u64::from_ne_bytes(request[at..at + 8].try_into().unwrap());
        let (operation, unique, node) = (number(4), long(8), long(16));
        if !self.answering.load(Ordering::SeqCst) {
            return;
        }
        let body = &request[HEADER..];
        let answer = match operation {
            FORGET | BATCH_FORGET | INTERRUPT => return,
            // Version 7.31, no options; 64 KiB a request.
            INIT => Ok(words(&[7, 31, 64 << 10, 0, 0, 64 << 10, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0])),
            GETATTR => Ok([words(&[0; 4]), self.attributes(node)].concat()),
            // Nothing of an answer may be kept: the kernel has to ask again each time.
            LOOKUP if body.strip_suffix(&[0]) == Some(&self.name) => {
                Ok([FILE.to_ne_bytes().to_vec(), words(&[0; 8]), self.attributes(FILE)].concat())
            }
            LOOKUP => Err(nix::libc::ENOENT),
            OPEN => Ok(words(&[0; 4])),
            READ => {
                let (offset, count) = (long(HEADER + 8), u64::from(number(HEADER + 16)));
                Ok(vec![0; usize::try_from(count.min(self.bytes.saturating_sub(offset))).unwrap()])
            }
            RELEASE | FLUSH => Ok(Vec::new()),
            _ => Err(nix::libc::ENOSYS),
        };
        let (error, body) = answer.map_or_else(|error| (-error, Vec::new()), |body| (0, body));
        let length = u32::try_from(16 + body.len()).unwrap();
        let mut message = [words(&[length, error.cast_unsigned()]), unique.to_ne_bytes().to_vec()].concat();
        message.extend(body);
        // A request that was given up meanwhile has nobody to be told.
        let _ = self.device.write(&message);
    }

    /// `struct fuse_attr`.
    fn attributes(&self, node: u64) -> Vec<u8> {
        let (mode, size) = if node == ROOT { (0o040_755, 0) } else { (0o100_644, self.bytes) };
        let longs = [node, size, size / 512, 0, 0, 0];
        let rest = words(&[0, 0, 0, mode, 1, 0, 0, 0, 4096, 0]);
        longs.into_iter().flat_map(u64::to_ne_bytes).chain(rest).collect()
    }
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}
