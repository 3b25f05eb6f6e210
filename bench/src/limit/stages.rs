//! The stages, each timed by itself.

use std::collections::{BTreeMap, HashSet};
use std::fs::{File, OpenOptions};
use std::hint::black_box;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use aes::cipher::{KeyIvInit, StreamCipher};
use aws_lc_rs::cipher::{AES_256, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::iv::FixedLength;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};
use poly1305::universal_hash::KeyInit;
use windlass::block::{AlignedBuffer, BlockSink, BlockSource, FileSink};
use windlass::repository::Id;
use windlass::transfer::plan::Chunk;
use windlass::transfer::{ChunkSize, hash};
use windlass::types::LogicalBlockSize;

use super::{Passage, Stage, is_zero, read};
use crate::error::{BenchError, While};

/// Bytes from which a pack is full: the product's size at its default memory.
const PACK_BYTES: usize = 16 << 20;
/// Packs that are hashed together.
const PACK_GROUP: usize = 4;
/// The product's level.
const ZSTD_LEVEL: i32 = 1;
const KEY: [u8; 32] = [0x5a; 32];
const COUNTER: [u8; 16] = [0xa5; 16];

/// What went through each stage.
#[derive(Debug, Default)]
pub(super) struct Account(BTreeMap<Stage, Passage>);

impl Account {
    /// Does `work`, which takes `bytes` through `stage` and does nothing but compute: its processor time counts, so that others
    /// on the machine do not.
    fn compute<T>(&mut self, stage: Stage, bytes: u64, work: impl FnOnce() -> T) -> T {
        let started = ThreadTime::now();
        let result = black_box(work());
        self.add(stage, bytes, started.elapsed_seconds());
        result
    }

    /// The same for what waits for the system: all of its time counts, for the kernel may work on another thread of its own.
    fn time<T>(&mut self, stage: Stage, bytes: u64, work: impl FnOnce() -> T) -> T {
        let started = Instant::now();
        let result = black_box(work());
        self.add(stage, bytes, started.elapsed().as_secs_f64());
        result
    }

    fn add(&mut self, stage: Stage, bytes: u64, seconds: f64) {
        let passage = self.0.entry(stage).or_default();
        passage.seconds += seconds;
        passage.bytes += bytes;
    }

    pub(super) fn into_stages(self) -> BTreeMap<Stage, Passage> {
        self.0
    }
}

/// A moment of this thread's processor time.
struct ThreadTime(Option<TimeSpec>);

impl ThreadTime {
    fn now() -> Self {
        // The clock exists on every Linux.
        Self(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).ok())
    }

    fn elapsed_seconds(&self) -> f64 {
        let seconds = |time: Option<TimeSpec>| time.map_or(0.0, |time| time.tv_sec() as f64 + time.tv_nsec() as f64 / 1e9);
        seconds(Self::now().0) - seconds(self.0)
    }
}

/// The two ciphers at hand.
enum Cipher {
    RustCrypto,
    AwsLc(Box<EncryptingKey>),
}

impl Cipher {
    /// The faster one on this processor, found with 4 MiB each.
    fn fastest() -> Result<Self, BenchError> {
        let what = || "making a cipher".to_owned();
        let key = UnboundCipherKey::new(&AES_256, &KEY).while_doing(what)?;
        let other = Self::AwsLc(Box::new(EncryptingKey::ctr(key).while_doing(what)?));
        let mut buffer = vec![1; 4 << 20];
        let mut seconds = |cipher: &Self| -> Result<f64, BenchError> {
            // Once to warm up.
            cipher.apply(&mut buffer)?;
            let started = ThreadTime::now();
            cipher.apply(&mut buffer)?;
            Ok(started.elapsed_seconds())
        };
        Ok(if seconds(&other)? < seconds(&Self::RustCrypto)? { other } else { Self::RustCrypto })
    }

    /// Encrypts or decrypts in place, which is the same.
    fn apply(&self, bytes: &mut [u8]) -> Result<(), BenchError> {
        match self {
            Self::RustCrypto => ctr::Ctr128BE::<aes::Aes256>::new(&KEY.into(), &COUNTER.into()).apply_keystream(bytes),
            Self::AwsLc(key) => {
                let context = EncryptionContext::Iv128(FixedLength::from(COUNTER));
                key.less_safe_encrypt(bytes, context).while_doing(|| "encrypting".to_owned())?;
            }
        }
        Ok(())
    }
}

fn code(bytes: &[u8]) -> [u8; 16] {
    poly1305::Poly1305::new(&KEY.into()).compute_unpadded(bytes).into()
}

/// All stages with what they keep between batches.
pub(super) struct Chain {
    folder: PathBuf,
    chunk_size: ChunkSize,
    compressor: zstd::bulk::Compressor<'static>,
    decompressor: zstd::bulk::Decompressor<'static>,
    cipher: Cipher,
    buffers: Vec<AlignedBuffer>,
    compressed: Vec<u8>,
    plain: Vec<u8>,
    seen: HashSet<Id>,
    packs: Vec<Vec<u8>>,
    written: Vec<PathBuf>,
    packed_bytes: u64,
    image: FileSink,
}

impl Chain {
    /// Writes packs and an image into `folder`, which is empty.
    pub(super) fn new(folder: &Path, size: u64, chunk_size: ChunkSize) -> Result<Self, BenchError> {
        let what = || format!("writing in {}", folder.display());
        let image = OpenOptions::new().read(true).write(true).create_new(true).open(folder.join("image")).while_doing(what)?;
        image.set_len(size).while_doing(what)?;
        let zstd = || "making a compressor".to_owned();
        Ok(Self {
            folder: folder.to_owned(),
            chunk_size,
            compressor: zstd::bulk::Compressor::new(ZSTD_LEVEL).while_doing(zstd)?,
            decompressor: zstd::bulk::Decompressor::new().while_doing(zstd)?,
            cipher: Cipher::fastest()?,
            buffers: Vec::new(),
            compressed: Vec::with_capacity(zstd::zstd_safe::compress_bound(chunk_size.bytes() as usize)),
            plain: Vec::with_capacity(chunk_size.bytes() as usize),
            seen: HashSet::new(),
            packs: vec![Vec::with_capacity(PACK_BYTES + (1 << 20))],
            written: Vec::new(),
            packed_bytes: 0,
            image: FileSink::new(image, size, LogicalBlockSize::B4096).while_doing(what)?,
        })
    }

    /// Takes a batch of chunks through all stages.
    pub(super) fn pass(&mut self, source: &dyn BlockSource, batch: &[Chunk], account: &mut Account) -> Result<(), BenchError> {
        while self.buffers.len() < batch.len() {
            self.buffers.push(AlignedBuffer::zeroed(self.chunk_size.bytes() as usize));
        }
        let mut data = Vec::new();
        for (at, chunk) in batch.iter().enumerate() {
            let buffer = &mut self.buffers[at][..chunk.range.length() as usize];
            let planned: u64 = chunk.reads.iter().map(|range| range.length()).sum();
            if planned < chunk.range.length() {
                buffer.fill(0);
            }
            account.time(Stage::Read, planned, || read(source, chunk, buffer)).while_doing(|| "reading the image".to_owned())?;
            if !account.compute(Stage::ZeroTest, chunk.range.length(), || is_zero(buffer)) {
                data.push(at);
            }
        }
        let inputs: Vec<&[u8]> = data.iter().map(|&at| &self.buffers[at][..batch[at].range.length() as usize]).collect();
        let mut ids = Vec::new();
        let bytes = inputs.iter().map(|input| input.len() as u64).sum();
        account.compute(Stage::ChunkHash, bytes, || hash::sha256_many(&inputs, &mut ids));
        for (&at, id) in data.iter().zip(ids) {
            // A chunk that is there already is neither stored nor fetched twice, but written wherever it occurs.
            if self.seen.insert(id) {
                self.encode(at, batch[at].range.length() as usize, account)?;
                self.decode(at, batch[at].range.length() as usize, account)?;
            }
            let range = batch[at].range;
            let buffer = &self.buffers[at][..range.length() as usize];
            account
                .time(Stage::WriteImage, range.length(), || self.image.write_at(range.offset(), buffer))
                .while_doing(|| "writing the image".to_owned())?;
        }
        Ok(())
    }

    /// Compresses and seals a chunk into the pack.
    fn encode(&mut self, at: usize, length: usize, account: &mut Account) -> Result<(), BenchError> {
        let plain = &self.buffers[at][..length];
        self.compressed.clear();
        let (compressor, compressed) = (&mut self.compressor, &mut self.compressed);
        account
            .compute(Stage::Compress, length as u64, || compressor.compress_to_buffer(plain, compressed))
            .while_doing(|| "compressing".to_owned())?;
        if self.compressed.len() >= length {
            self.compressed.clear();
            self.compressed.extend_from_slice(plain);
        }
        let (cipher, sealed) = (&self.cipher, &mut self.compressed);
        account.compute(Stage::Encrypt, sealed.len() as u64, || cipher.apply(sealed))?;
        let made = account.compute(Stage::Authenticate, sealed.len() as u64, || code(sealed));
        let Some(pack) = self.packs.last_mut() else { return Err(BenchError::new("there is no pack")) };
        pack.extend_from_slice(sealed);
        pack.extend_from_slice(&made);
        if pack.len() >= PACK_BYTES {
            if self.packs.len() == PACK_GROUP {
                self.write(account)?;
            }
            self.packs.push(Vec::with_capacity(PACK_BYTES + (1 << 20)));
        }
        Ok(())
    }

    /// Opens what [`Chain::encode`] sealed last.
    fn decode(&mut self, at: usize, length: usize, account: &mut Account) -> Result<(), BenchError> {
        let (cipher, sealed) = (&self.cipher, &mut self.compressed);
        account.compute(Stage::VerifyCode, sealed.len() as u64, || code(sealed));
        account.compute(Stage::Decrypt, sealed.len() as u64, || cipher.apply(sealed))?;
        let plain = &self.buffers[at][..length];
        let same = if sealed.len() == length {
            account.compute(Stage::Compare, length as u64, || sealed == plain)
        } else {
            self.plain.clear();
            let (decompressor, decoded) = (&mut self.decompressor, &mut self.plain);
            account
                .compute(Stage::Decompress, length as u64, || decompressor.decompress_to_buffer(sealed, decoded))
                .while_doing(|| "decompressing".to_owned())?;
            account.compute(Stage::Compare, length as u64, || decoded == plain)
        };
        if same { Ok(()) } else { Err(BenchError::new("a chunk does not decode to what it was")) }
    }

    /// Names and writes the packs.
    fn write(&mut self, account: &mut Account) -> Result<(), BenchError> {
        self.packs.retain(|pack| !pack.is_empty());
        let inputs: Vec<&[u8]> = self.packs.iter().map(Vec::as_slice).collect();
        let bytes = inputs.iter().map(|pack| pack.len() as u64).sum();
        let mut ids = Vec::new();
        account.compute(Stage::PackHash, bytes, || hash::sha256_many(&inputs, &mut ids));
        self.packed_bytes += bytes;
        for pack in self.packs.drain(..) {
            let path = self.folder.join(format!("pack-{}", self.written.len()));
            let what = || format!("writing {}", path.display());
            let write = || File::create_new(&path).and_then(|mut file| file.write_all(&pack).and_then(|()| file.sync_all()));
            account.time(Stage::WritePack, pack.len() as u64, write).while_doing(what)?;
            self.written.push(path);
        }
        Ok(())
    }

    /// What is left at the end: the last packs, the image's sync, and reading the packs again. Returns the bytes of all packs.
    pub(super) fn finish(mut self, account: &mut Account) -> Result<u64, BenchError> {
        self.write(account)?;
        account.time(Stage::WriteImage, 0, || self.image.flush()).while_doing(|| "syncing the image".to_owned())?;
        let mut buffer = vec![0; PACK_BYTES + (9 << 20)];
        for path in &self.written {
            let what = || format!("reading {}", path.display());
            let file = File::open(path).while_doing(what)?;
            let bytes = file.metadata().while_doing(what)?.len();
            account.time(Stage::ReadPack, bytes, || file.read_exact_at(&mut buffer[..bytes as usize], 0)).while_doing(what)?;
        }
        Ok(self.packed_bytes)
    }
}
