//! What a device must hold, known byte for byte, in pieces that copies share as long as they are the same.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use windlass::block::AlignedBuffer;
use windlass::types::ByteRange;

/// Bytes of a piece: a data block of the pool.
pub const PIECE: u64 = 64 << 10;

/// Bytes read at once.
const STEP: u64 = 16 * PIECE;

/// The bytes of a volume.
#[derive(Clone)]
pub struct Content {
    /// All of them are [`PIECE`] bytes long; behind the end of the content there are zeros.
    pieces: Vec<Arc<[u8]>>,
    bytes: u64,
}

impl Content {
    pub fn zeros(bytes: u64) -> Self {
        let mut content = Self { pieces: Vec::new(), bytes: 0 };
        content.grow(bytes);
        content
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many pieces there are, the last of which may reach beyond the end.
    pub fn pieces(&self) -> u64 {
        self.pieces.len() as u64
    }

    /// Zeros up to a new end.
    pub fn grow(&mut self, bytes: u64) {
        assert!(bytes >= self.bytes);
        let zeros: Arc<[u8]> = vec![0; PIECE as usize].into();
        self.pieces.resize(bytes.div_ceil(PIECE) as usize, zeros);
        self.bytes = bytes;
    }

    pub fn write(&mut self, offset: u64, data: &[u8]) {
        let mut data = data;
        self.change(ByteRange::new(offset, data.len() as u64).unwrap(), |part| {
            let (now, later) = data.split_at(part.len());
            part.copy_from_slice(now);
            data = later;
        });
    }

    pub fn zero(&mut self, range: ByteRange) {
        self.change(range, |part| part.fill(0));
    }

    /// What discarding a range does on a thin device: the data blocks that lie in it whole are given back, all else is as before.
    pub fn discard(&mut self, range: ByteRange) {
        let (first, end) = (range.offset().div_ceil(PIECE) * PIECE, range.end() / PIECE * PIECE);
        if first < end {
            self.zero(ByteRange::between(first, end).unwrap());
        }
    }

    fn change(&mut self, range: ByteRange, mut change: impl FnMut(&mut [u8])) {
        assert!(range.end() <= self.bytes);
        let mut position = range.offset();
        while position < range.end() {
            let (index, start) = ((position / PIECE) as usize, position % PIECE);
            let end = PIECE.min(start + range.end() - position);
            change(&mut Arc::make_mut(&mut self.pieces[index])[start as usize..end as usize]);
            position += end - start;
        }
    }

    /// A piece; zeros behind the end.
    pub fn piece(&self, index: u64) -> Option<&Arc<[u8]>> {
        self.pieces.get(index as usize)
    }

    /// Whether a piece differs from that of another content. What one of them does not have is zeros.
    pub fn differs(&self, other: &Self, index: u64) -> bool {
        match (self.piece(index), other.piece(index)) {
            (Some(one), Some(other)) => !Arc::ptr_eq(one, other) && one != other,
            (Some(one), None) | (None, Some(one)) => one.iter().any(|&byte| byte != 0),
            (None, None) => false,
        }
    }

    /// Reads what a device or file holds, `bytes` of it. Pieces that are those of `like` are shared with it.
    pub fn read(file: &File, bytes: u64, like: &Self) -> Self {
        let mut content = Self { pieces: Vec::new(), bytes };
        let zeros: Arc<[u8]> = vec![0; PIECE as usize].into();
        let mut buffer = AlignedBuffer::zeroed(STEP as usize);
        let mut position = 0;
        while position < bytes {
            let read = &mut buffer[..STEP.min(bytes - position) as usize];
            file.read_exact_at(read, position).unwrap();
            for part in read.chunks(PIECE as usize) {
                let index = content.pieces.len() as u64;
                let known = [like.piece(index), Some(&zeros)].into_iter().flatten().find(|known| known[..part.len()] == *part);
                content.pieces.push(match known {
                    // A piece of the end is only shared when it ends alike.
                    Some(known) if part.len() as u64 == PIECE || known[part.len()..].iter().all(|&byte| byte == 0) => {
                        Arc::clone(known)
                    }
                    _ => {
                        let mut piece = vec![0; PIECE as usize];
                        piece[..part.len()].copy_from_slice(part);
                        piece.into()
                    }
                });
            }
            position += read.len() as u64;
        }
        content
    }

    /// Asserts that a device or file holds this.
    pub fn assert_held_by(&self, file: &File, what: &str) {
        let found = Self::read(file, self.bytes, self);
        let differing: Vec<u64> = (0..self.pieces()).filter(|&index| self.differs(&found, index)).collect();
        assert!(differing.is_empty(), "{what} does not hold what was written to it in the data blocks {differing:?}");
    }
}
