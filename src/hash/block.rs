//! What all kernels share: the constants of FIPS 180-4, padding, and the layout of the lanes' chaining values.

/// Bytes of one block of SHA-256.
pub(super) const BLOCK: usize = 64;

/// Round constants, FIPS 180-4 section 4.2.2. Aligned so that four of them load as one vector.
#[repr(align(64))]
pub(super) struct RoundConstants(pub(super) [u32; 64]);

#[rustfmt::skip]
pub(super) static K: RoundConstants = RoundConstants([
    0x428a_2f98, 0x7137_4491, 0xb5c0_fbcf, 0xe9b5_dba5, 0x3956_c25b, 0x59f1_11f1, 0x923f_82a4, 0xab1c_5ed5,
    0xd807_aa98, 0x1283_5b01, 0x2431_85be, 0x550c_7dc3, 0x72be_5d74, 0x80de_b1fe, 0x9bdc_06a7, 0xc19b_f174,
    0xe49b_69c1, 0xefbe_4786, 0x0fc1_9dc6, 0x240c_a1cc, 0x2de9_2c6f, 0x4a74_84aa, 0x5cb0_a9dc, 0x76f9_88da,
    0x983e_5152, 0xa831_c66d, 0xb003_27c8, 0xbf59_7fc7, 0xc6e0_0bf3, 0xd5a7_9147, 0x06ca_6351, 0x1429_2967,
    0x27b7_0a85, 0x2e1b_2138, 0x4d2c_6dfc, 0x5338_0d13, 0x650a_7354, 0x766a_0abb, 0x81c2_c92e, 0x9272_2c85,
    0xa2bf_e8a1, 0xa81a_664b, 0xc24b_8b70, 0xc76c_51a3, 0xd192_e819, 0xd699_0624, 0xf40e_3585, 0x106a_a070,
    0x19a4_c116, 0x1e37_6c08, 0x2748_774c, 0x34b0_bcb5, 0x391c_0cb3, 0x4ed8_aa4a, 0x5b9c_ca4f, 0x682e_6ff3,
    0x748f_82ee, 0x78a5_636f, 0x84c8_7814, 0x8cc7_0208, 0x90be_fffa, 0xa450_6ceb, 0xbef9_a3f7, 0xc671_78f2,
]);

/// Initial hash value, FIPS 180-4 section 5.3.3.
pub(super) const INITIAL: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

/// Chaining values of `LANES` streams, word by word: `0[w][l]` is word `w` of lane `l`, so that one word of all lanes is one
/// vector in memory. 64 is the widest vector any kernel loads.
#[repr(align(64))]
#[derive(Clone)]
pub(super) struct State<const LANES: usize>(pub(super) [[u32; LANES]; 8]);

impl<const LANES: usize> State<LANES> {
    /// All lanes at the start of a message.
    pub(super) fn initial() -> Self {
        Self(INITIAL.map(|word| [word; LANES]))
    }

    /// Puts one lane back to the start of a message.
    pub(super) fn restart(&mut self, lane: usize) {
        for (words, initial) in self.0.iter_mut().zip(INITIAL) {
            words[lane] = initial;
        }
    }

    /// The digest of one lane, once its padding has been compressed.
    pub(super) fn digest(&self, lane: usize) -> [u8; 32] {
        let mut digest = [0; 32];
        for (bytes, words) in digest.chunks_exact_mut(4).zip(&self.0) {
            bytes.copy_from_slice(&words[lane].to_be_bytes());
        }
        digest
    }
}

/// One kernel: the compression function over all its lanes at once.
///
/// A value of an implementing type is the proof that the processor has what the kernel needs.
pub(super) trait Compress<const LANES: usize>: Copy {
    /// Feeds each lane its slice. The slices are equally long, a whole number of blocks, and may overlap or be the same.
    fn compress(self, state: &mut State<LANES>, blocks: &[&[u8]; LANES]);
}

/// Bytes that every slice has, in whole blocks: a kernel may read no more from each, even if its caller made them of unequal lengths.
pub(super) fn common_length<const LANES: usize>(blocks: &[&[u8]; LANES]) -> usize {
    debug_assert!(blocks.iter().all(|slice| slice.len() == blocks[0].len() && slice.len().is_multiple_of(BLOCK)));
    let shortest = blocks.iter().map(|slice| slice.len()).min().unwrap_or(0);
    shortest - shortest % BLOCK
}

/// How many blocks a message of `length` bytes is compressed in, padding included: the message, the byte 0x80 and the eight
/// bytes of the length, rounded up.
pub(super) fn block_count(length: usize) -> u64 {
    (length as u64 + 8) / BLOCK as u64 + 1
}

/// The end of a message: what lies behind its last whole block, then the padding. One block, or two when the length
/// does not fit behind the rest.
#[derive(Debug, Clone)]
pub(super) struct Ending {
    bytes: [u8; 2 * BLOCK],
    length: usize,
}

impl Ending {
    /// The ending of a message of `message_length` bytes whose last, incomplete block is `rest` (shorter than a block).
    pub(super) fn new(rest: &[u8], message_length: u64) -> Self {
        debug_assert!(rest.len() < BLOCK && rest.len() as u64 == message_length % BLOCK as u64);
        let mut bytes = [0; 2 * BLOCK];
        bytes[..rest.len()].copy_from_slice(rest);
        bytes[rest.len()] = 0x80;
        let length = if rest.len() + 9 <= BLOCK { BLOCK } else { 2 * BLOCK };
        // The format allows 2^64 - 1 bits; no slice in an address space of 2^57 bytes comes near.
        bytes[length - 8..length].copy_from_slice(&(message_length << 3).to_be_bytes());
        Self { bytes, length }
    }

    /// The one or two blocks.
    pub(super) fn blocks(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// Writes out `$step!(0)` to `$step!(15)`, so that every index into the message schedule is a constant and the schedule
/// stays in registers.
macro_rules! sixteen {
    ($step:ident) => {
        $step!(0);
        $step!(1);
        $step!(2);
        $step!(3);
        $step!(4);
        $step!(5);
        $step!(6);
        $step!(7);
        $step!(8);
        $step!(9);
        $step!(10);
        $step!(11);
        $step!(12);
        $step!(13);
        $step!(14);
        $step!(15);
    };
}
pub(super) use sixteen;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ending_is_one_block_until_the_length_no_longer_fits() {
        for rest in 0..BLOCK {
            let ending = Ending::new(&[0xaa; BLOCK][..rest], rest as u64);
            let blocks = ending.blocks();
            assert_eq!(blocks.len(), if rest <= 55 { 64 } else { 128 }, "rest {rest}");
            assert_eq!(blocks[rest], 0x80);
            assert!(blocks[rest + 1..blocks.len() - 8].iter().all(|byte| *byte == 0));
            assert_eq!(blocks[blocks.len() - 8..], (rest as u64 * 8).to_be_bytes());
        }
    }

    #[test]
    fn lengths_beyond_32_bits_reach_the_padding_whole() {
        for length in [1_u64 << 29, (1 << 29) + 1, 1 << 32, (1 << 36) + 63, (1 << 44) + 56] {
            let rest = usize::try_from(length % 64).unwrap();
            let ending = Ending::new(&vec![1; rest], length);
            let bits = u64::from_be_bytes(ending.blocks()[ending.blocks().len() - 8..].try_into().unwrap());
            assert_eq!(u128::from(bits), u128::from(length) * 8);
        }
    }

    #[test]
    fn blocks_counted_are_blocks_compressed() {
        for length in 0..300 {
            let whole = length / BLOCK;
            let ending = Ending::new(&[0; BLOCK][..length % BLOCK], length as u64);
            assert_eq!(block_count(length), (whole + ending.blocks().len() / BLOCK) as u64, "length {length}");
        }
    }
}
