//! The four checksums that a Btrfs may have been made with (btrfs(5), CHECKSUM ALGORITHMS).
//!
//! Volumes made here have CRC-32C. The others come with images of elsewhere that are restored, which must mount beside their source
//! too. All of them are needed over one superblock at a time, so the portable forms are fast enough.

use aws_lc_rs::digest;

/// Length of the field that holds a checksum, in bytes; shorter ones are followed by zeros.
pub(super) const FIELD: usize = 32;

/// Which checksum protects the metadata, superblocks included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Checksum {
    Crc32c,
    XxHash64,
    Sha256,
    Blake2b,
}

impl Checksum {
    /// By its number in a superblock.
    pub(super) fn from_number(number: u16) -> Option<Self> {
        match number {
            0 => Some(Self::Crc32c),
            1 => Some(Self::XxHash64),
            2 => Some(Self::Sha256),
            3 => Some(Self::Blake2b),
            _ => None,
        }
    }

    /// The content of the checksum's field for these bytes.
    pub(super) fn of(self, bytes: &[u8]) -> [u8; FIELD] {
        let mut field = [0; FIELD];
        match self {
            Self::Crc32c => field[..4].copy_from_slice(&crc32c::crc32c(bytes).to_le_bytes()),
            Self::XxHash64 => field[..8].copy_from_slice(&xxhash64(bytes).to_le_bytes()),
            Self::Sha256 => field.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref()),
            Self::Blake2b => field = blake2b_256(bytes),
        }
        field
    }
}

fn le64(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
}

/// XXH64 with seed 0, by the specification of its author.
fn xxhash64(input: &[u8]) -> u64 {
    const P1: u64 = 0x9e37_79b1_85eb_ca87;
    const P2: u64 = 0xc2b2_ae3d_27d4_eb4f;
    const P3: u64 = 0x1656_67b1_9e37_79f9;
    const P4: u64 = 0x85eb_ca77_c2b2_ae63;
    const P5: u64 = 0x27d4_eb2f_1656_67c5;
    let round = |lane: u64, word: u64| lane.wrapping_add(word.wrapping_mul(P2)).rotate_left(31).wrapping_mul(P1);
    let (stripes, mut rest) = input.as_chunks::<32>();
    let mut hash = if stripes.is_empty() {
        P5
    } else {
        let mut lanes = [P1.wrapping_add(P2), P2, 0, 0_u64.wrapping_sub(P1)];
        for stripe in stripes {
            for (lane, word) in lanes.iter_mut().zip(stripe.as_chunks::<8>().0) {
                *lane = round(*lane, u64::from_le_bytes(*word));
            }
        }
        let turned = [lanes[0].rotate_left(1), lanes[1].rotate_left(7), lanes[2].rotate_left(12), lanes[3].rotate_left(18)];
        let sum = turned.into_iter().fold(0_u64, u64::wrapping_add);
        lanes.into_iter().fold(sum, |hash, lane| (hash ^ round(0, lane)).wrapping_mul(P1).wrapping_add(P4))
    };
    hash = hash.wrapping_add(input.len() as u64);
    while let Some((word, after)) = rest.split_at_checked(8) {
        hash = (hash ^ round(0, le64(word))).rotate_left(27).wrapping_mul(P1).wrapping_add(P4);
        rest = after;
    }
    if let Some((word, after)) = rest.split_at_checked(4) {
        hash = (hash ^ le64(word).wrapping_mul(P1)).rotate_left(23).wrapping_mul(P2).wrapping_add(P3);
        rest = after;
    }
    for &byte in rest {
        hash = (hash ^ u64::from(byte).wrapping_mul(P5)).rotate_left(11).wrapping_mul(P1);
    }
    hash = (hash ^ hash >> 33).wrapping_mul(P2);
    hash = (hash ^ hash >> 29).wrapping_mul(P3);
    hash ^ hash >> 32
}

/// BLAKE2b with a digest of 32 bytes and no key (RFC 7693).
fn blake2b_256(input: &[u8]) -> [u8; 32] {
    const BLOCK: usize = 128;
    let mut state = BLAKE2B_IV;
    // Parameter block: digest length 32, no key, fan-out and depth 1.
    state[0] ^= 0x0101_0020;
    // The last block is compressed apart, also when it is full; an empty input is one block of zeros.
    let last = input.len().saturating_sub(1) / BLOCK * BLOCK;
    for (index, block) in input[..last].as_chunks::<BLOCK>().0.iter().enumerate() {
        compress(&mut state, block, ((index + 1) * BLOCK) as u64, 0);
    }
    let mut block = [0; BLOCK];
    block[..input.len() - last].copy_from_slice(&input[last..]);
    compress(&mut state, &block, input.len() as u64, u64::MAX);
    let mut digest = [0; 32];
    for (bytes, word) in digest.as_chunks_mut::<8>().0.iter_mut().zip(state) {
        *bytes = word.to_le_bytes();
    }
    digest
}

const BLAKE2B_IV: [u64; 8] = [
    0x6a09_e667_f3bc_c908,
    0xbb67_ae85_84ca_a73b,
    0x3c6e_f372_fe94_f82b,
    0xa54f_f53a_5f1d_36f1,
    0x510e_527f_ade6_82d1,
    0x9b05_688c_2b3e_6c1f,
    0x1f83_d9ab_fb41_bd6b,
    0x5be0_cd19_137e_2179,
];

/// Which message word each step of a round takes. The eleventh and twelfth round repeat the first two.
const SIGMA: [[usize; 16]; 10] = [
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
    [14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3],
    [11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4],
    [7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8],
    [9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13],
    [2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9],
    [12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11],
    [13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10],
    [6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5],
    [10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0],
];

/// Columns, then diagonals.
const MIXES: [[usize; 4]; 8] =
    [[0, 4, 8, 12], [1, 5, 9, 13], [2, 6, 10, 14], [3, 7, 11, 15], [0, 5, 10, 15], [1, 6, 11, 12], [2, 7, 8, 13], [3, 4, 9, 14]];

fn compress(state: &mut [u64; 8], block: &[u8; 128], counter: u64, last: u64) {
    let mut words = [0; 16];
    for (word, bytes) in words.iter_mut().zip(block.as_chunks::<8>().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    let mut v = [0; 16];
    v[..8].copy_from_slice(state);
    v[8..].copy_from_slice(&BLAKE2B_IV);
    v[12] ^= counter;
    v[14] ^= last;
    for sigma in SIGMA.iter().chain(&SIGMA[..2]) {
        for ([a, b, c, d], pair) in MIXES.into_iter().zip(sigma.as_chunks::<2>().0) {
            v[a] = v[a].wrapping_add(v[b]).wrapping_add(words[pair[0]]);
            v[d] = (v[d] ^ v[a]).rotate_right(32);
            v[c] = v[c].wrapping_add(v[d]);
            v[b] = (v[b] ^ v[c]).rotate_right(24);
            v[a] = v[a].wrapping_add(v[b]).wrapping_add(words[pair[1]]);
            v[d] = (v[d] ^ v[a]).rotate_right(16);
            v[c] = v[c].wrapping_add(v[d]);
            v[b] = (v[b] ^ v[c]).rotate_right(63);
        }
    }
    for (index, word) in state.iter_mut().enumerate() {
        *word ^= v[index] ^ v[index + 8];
    }
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;

    use super::*;

    #[test]
    fn known_answers() {
        // From the specifications, and for the last two from the programs `xxh64sum` and `b2sum -l 256`.
        assert_eq!(xxhash64(b""), 0xef46_db37_51d8_e999);
        assert_eq!(xxhash64(b"abc"), 0x44bc_2cf5_ad77_0999);
        let empty = "0e5751c026e543b2e8ab2eb06099daa1d1e5df47778f7787faab45cdf12fe3a8";
        assert_eq!(HEXLOWER.encode(&blake2b_256(b"")), empty);
        let abc = "bddd813c634239723171ef3fee98579b94964e3bb1cb3e427262c8c068d52319";
        assert_eq!(HEXLOWER.encode(&blake2b_256(b"abc")), abc);
        assert_eq!(Checksum::Crc32c.of(b"123456789")[..4], 0xe306_9283_u32.to_le_bytes());
    }

    #[test]
    fn every_length_has_a_checksum_of_its_own() {
        let bytes = [7; 300];
        for checksum in (0..4).filter_map(Checksum::from_number) {
            let sums: std::collections::BTreeSet<_> = (0..bytes.len()).map(|length| checksum.of(&bytes[..length])).collect();
            assert_eq!(sums.len(), bytes.len(), "{checksum:?}");
        }
        assert_eq!(Checksum::from_number(4), None);
    }
}
