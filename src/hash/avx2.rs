//! Eight streams, one per 32-bit element of a 256-bit vector (AVX2).
#![allow(unsafe_code, reason = "vector loads and stores, and calls into functions compiled for AVX2")]

use std::arch::x86_64::{
    __m256i, _mm_set_epi8, _mm256_add_epi32, _mm256_and_si256, _mm256_broadcastsi128_si256, _mm256_loadu_si256, _mm256_or_si256,
    _mm256_permute2x128_si256, _mm256_set1_epi32, _mm256_setzero_si256, _mm256_shuffle_epi8, _mm256_slli_epi32,
    _mm256_srli_epi32, _mm256_storeu_si256, _mm256_unpackhi_epi32, _mm256_unpackhi_epi64, _mm256_unpacklo_epi32,
    _mm256_unpacklo_epi64, _mm256_xor_si256,
};

use super::block::{BLOCK, Compress, K, State, common_length, sixteen};

pub(super) const LANES: usize = 8;

/// Proof that the processor and the operating system support AVX2.
#[derive(Debug, Clone, Copy)]
pub(super) struct Avx2(());

impl Avx2 {
    /// The kernel, where it can run.
    pub(super) fn detect() -> Option<Self> {
        is_x86_feature_detected!("avx2").then_some(Self(()))
    }
}

impl Compress<LANES> for Avx2 {
    fn compress(self, state: &mut State<LANES>, blocks: &[&[u8]; LANES]) {
        // SAFETY: `self` exists only where `detect` found the feature that `compress` is compiled for.
        unsafe { compress(state, blocks) }
    }
}

#[target_feature(enable = "avx2")]
fn compress(state: &mut State<LANES>, blocks: &[&[u8]; LANES]) {
    let length = common_length(blocks);
    let mut chain = [_mm256_setzero_si256(); 8];
    for (vector, words) in chain.iter_mut().zip(&state.0) {
        // SAFETY: `words` is eight words, 32 readable bytes; the load asks for no alignment.
        *vector = unsafe { _mm256_loadu_si256(words.as_ptr().cast()) };
    }
    let mut offset = 0;
    while offset < length {
        let mut left = [_mm256_setzero_si256(); 8];
        let mut right = [_mm256_setzero_si256(); 8];
        for ((left, right), slice) in left.iter_mut().zip(&mut right).zip(blocks) {
            // SAFETY: `offset` is a multiple of the block size below `length`, itself a multiple of it and no more than the
            // length of any slice: 64 bytes from `offset` lie within this one. The loads ask for no alignment.
            unsafe {
                let block = slice.as_ptr().add(offset);
                *left = _mm256_loadu_si256(block.cast());
                *right = _mm256_loadu_si256(block.add(32).cast());
            }
        }
        let [w0, w1, w2, w3, w4, w5, w6, w7] = transpose(left);
        let [w8, w9, w10, w11, w12, w13, w14, w15] = transpose(right);
        rounds(&mut chain, [w0, w1, w2, w3, w4, w5, w6, w7, w8, w9, w10, w11, w12, w13, w14, w15]);
        offset += BLOCK;
    }
    for (vector, words) in chain.iter().zip(&mut state.0) {
        // SAFETY: `words` is eight words, 32 writable bytes; the store asks for no alignment.
        unsafe { _mm256_storeu_si256(words.as_mut_ptr().cast(), *vector) };
    }
}

/// From half a block of a lane per vector to one big-endian word of all lanes per vector.
#[inline]
#[target_feature(enable = "avx2")]
fn transpose(rows: [__m256i; 8]) -> [__m256i; 8] {
    let swap = _mm256_broadcastsi128_si256(_mm_set_epi8(12, 13, 14, 15, 8, 9, 10, 11, 4, 5, 6, 7, 0, 1, 2, 3));
    let mut a = [_mm256_setzero_si256(); 8];
    let mut b = [_mm256_setzero_si256(); 8];
    for i in 0..4 {
        let (even, odd) = (_mm256_shuffle_epi8(rows[2 * i], swap), _mm256_shuffle_epi8(rows[2 * i + 1], swap));
        a[2 * i] = _mm256_unpacklo_epi32(even, odd);
        a[2 * i + 1] = _mm256_unpackhi_epi32(even, odd);
    }
    for i in 0..2 {
        // Half q of b[4i + c] is column 4q + c of rows 4i to 4i + 3.
        b[4 * i] = _mm256_unpacklo_epi64(a[4 * i], a[4 * i + 2]);
        b[4 * i + 1] = _mm256_unpackhi_epi64(a[4 * i], a[4 * i + 2]);
        b[4 * i + 2] = _mm256_unpacklo_epi64(a[4 * i + 1], a[4 * i + 3]);
        b[4 * i + 3] = _mm256_unpackhi_epi64(a[4 * i + 1], a[4 * i + 3]);
    }
    for c in 0..4 {
        a[c] = _mm256_permute2x128_si256::<0x20>(b[c], b[c + 4]);
        a[c + 4] = _mm256_permute2x128_si256::<0x31>(b[c], b[c + 4]);
    }
    a
}

/// Rotation to the right by `RIGHT`; `LEFT` is 32 - `RIGHT`.
#[inline]
#[target_feature(enable = "avx2")]
fn rotate<const RIGHT: i32, const LEFT: i32>(x: __m256i) -> __m256i {
    const { assert!(RIGHT + LEFT == 32) };
    _mm256_or_si256(_mm256_srli_epi32::<RIGHT>(x), _mm256_slli_epi32::<LEFT>(x))
}

#[inline]
#[target_feature(enable = "avx2")]
fn parity(x: __m256i, y: __m256i, z: __m256i) -> __m256i {
    _mm256_xor_si256(_mm256_xor_si256(x, y), z)
}

/// The 64 rounds over one transposed block of every lane.
#[inline]
#[target_feature(enable = "avx2")]
fn rounds(chain: &mut [__m256i; 8], mut w: [__m256i; 16]) {
    let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = *chain;
    // The majority of a, b, c is ((a ^ b) & (b ^ c)) ^ b, and this round's b ^ c is the last round's a ^ b.
    let mut b_xor_c = _mm256_xor_si256(b, c);
    let mut k = 0;
    macro_rules! round {
        ($i:literal) => {
            let constant = _mm256_set1_epi32(K.0[k + $i].cast_signed());
            let sigma1 = parity(rotate::<6, 26>(e), rotate::<11, 21>(e), rotate::<25, 7>(e));
            let choice = _mm256_xor_si256(g, _mm256_and_si256(e, _mm256_xor_si256(f, g)));
            let input = _mm256_add_epi32(h, _mm256_add_epi32(w[$i], constant));
            let first = _mm256_add_epi32(input, _mm256_add_epi32(sigma1, choice));
            let sigma0 = parity(rotate::<2, 30>(a), rotate::<13, 19>(a), rotate::<22, 10>(a));
            let a_xor_b = _mm256_xor_si256(a, b);
            let majority = _mm256_xor_si256(b, _mm256_and_si256(a_xor_b, b_xor_c));
            b_xor_c = a_xor_b;
            let second = _mm256_add_epi32(sigma0, majority);
            h = g;
            g = f;
            f = e;
            e = _mm256_add_epi32(d, first);
            d = c;
            c = b;
            b = a;
            a = _mm256_add_epi32(first, second);
        };
    }
    macro_rules! scheduled_round {
        ($i:literal) => {
            let (w1, w14) = (w[($i + 1) & 15], w[($i + 14) & 15]);
            let sigma0 = parity(rotate::<7, 25>(w1), rotate::<18, 14>(w1), _mm256_srli_epi32::<3>(w1));
            let sigma1 = parity(rotate::<17, 15>(w14), rotate::<19, 13>(w14), _mm256_srli_epi32::<10>(w14));
            w[$i] = _mm256_add_epi32(_mm256_add_epi32(w[$i], sigma0), _mm256_add_epi32(w[($i + 9) & 15], sigma1));
            round!($i);
        };
    }
    sixteen!(round);
    while k < 48 {
        k += 16;
        sixteen!(scheduled_round);
    }
    for (link, word) in chain.iter_mut().zip([a, b, c, d, e, f, g, h]) {
        *link = _mm256_add_epi32(*link, word);
    }
}
