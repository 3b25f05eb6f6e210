//! Sixteen streams, one per 32-bit element of a 512-bit vector (AVX-512 F and BW).
//!
//! AVX-512 has rotations and three-operand logic, so that a round is 17 instructions for all sixteen lanes; the sixteen
//! words of the message schedule and the eight of the state stay in the 32 registers.
#![allow(unsafe_code, reason = "vector loads and stores, and calls into functions compiled for AVX-512")]

use std::arch::x86_64::{
    __m512i, _mm_set_epi8, _mm512_add_epi32, _mm512_broadcast_i32x4, _mm512_loadu_si512, _mm512_ror_epi32, _mm512_set1_epi32,
    _mm512_setzero_si512, _mm512_shuffle_epi8, _mm512_shuffle_i32x4, _mm512_srli_epi32, _mm512_storeu_si512,
    _mm512_ternarylogic_epi32, _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
};

use super::block::{BLOCK, Compress, K, State, common_length, sixteen};

pub(super) const LANES: usize = 16;

/// Proof that the processor and the operating system support AVX-512 F and BW.
#[derive(Debug, Clone, Copy)]
pub(super) struct Avx512(());

impl Avx512 {
    /// The kernel, where it can run.
    pub(super) fn detect() -> Option<Self> {
        (is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw")).then_some(Self(()))
    }
}

impl Compress<LANES> for Avx512 {
    fn compress(self, state: &mut State<LANES>, blocks: &[&[u8]; LANES]) {
        // SAFETY: `self` exists only where `detect` found both features that `compress` is compiled for.
        unsafe { compress(state, blocks) }
    }
}

/// `x ^ y ^ z`, as a truth table.
const PARITY: i32 = 0x96;
/// `(x & y) ^ (!x & z)`.
const CHOOSE: i32 = 0xca;
/// `(x & y) ^ (x & z) ^ (y & z)`.
const MAJORITY: i32 = 0xe8;

#[target_feature(enable = "avx512f,avx512bw")]
fn compress(state: &mut State<LANES>, blocks: &[&[u8]; LANES]) {
    let length = common_length(blocks);
    let mut chain = [_mm512_setzero_si512(); 8];
    for (vector, words) in chain.iter_mut().zip(&state.0) {
        // SAFETY: `words` is sixteen words, 64 readable bytes; the load asks for no alignment.
        *vector = unsafe { _mm512_loadu_si512(words.as_ptr().cast()) };
    }
    let mut offset = 0;
    while offset < length {
        let mut w = [_mm512_setzero_si512(); 16];
        for (vector, slice) in w.iter_mut().zip(blocks) {
            // SAFETY: `offset` is a multiple of the block size below `length`, itself a multiple of it and no more than the
            // length of any slice: 64 bytes from `offset` lie within this one. The load asks for no alignment.
            *vector = unsafe { _mm512_loadu_si512(slice.as_ptr().add(offset).cast()) };
        }
        transpose(&mut w);
        rounds(&mut chain, w);
        offset += BLOCK;
    }
    for (vector, words) in chain.iter().zip(&mut state.0) {
        // SAFETY: `words` is sixteen words, 64 writable bytes; the store asks for no alignment.
        unsafe { _mm512_storeu_si512(words.as_mut_ptr().cast(), *vector) };
    }
}

/// From one block of a lane per vector to one big-endian word of all lanes per vector.
///
/// Element `c` of row `r` is written `r.c`. The first two stages transpose each 4 x 4 tile within the 128-bit quarters, the
/// last two transpose the quarters; every stage is sixteen two-operand shuffles.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn transpose(rows: &mut [__m512i; 16]) {
    let swap = _mm512_broadcast_i32x4(_mm_set_epi8(12, 13, 14, 15, 8, 9, 10, 11, 4, 5, 6, 7, 0, 1, 2, 3));
    let mut a = [_mm512_setzero_si512(); 16];
    let mut b = [_mm512_setzero_si512(); 16];
    for row in rows.iter_mut() {
        *row = _mm512_shuffle_epi8(*row, swap);
    }
    for i in 0..8 {
        a[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
        a[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
    }
    for i in 0..4 {
        // Quarter q of b[4i + c] is column 4q + c of rows 4i to 4i + 3.
        b[4 * i] = _mm512_unpacklo_epi64(a[4 * i], a[4 * i + 2]);
        b[4 * i + 1] = _mm512_unpackhi_epi64(a[4 * i], a[4 * i + 2]);
        b[4 * i + 2] = _mm512_unpacklo_epi64(a[4 * i + 1], a[4 * i + 3]);
        b[4 * i + 3] = _mm512_unpackhi_epi64(a[4 * i + 1], a[4 * i + 3]);
    }
    for c in 0..4 {
        // Even quarters, then odd ones, of the upper eight rows and of the lower eight.
        a[c] = _mm512_shuffle_i32x4::<0x88>(b[c], b[c + 4]);
        a[c + 4] = _mm512_shuffle_i32x4::<0xdd>(b[c], b[c + 4]);
        a[c + 8] = _mm512_shuffle_i32x4::<0x88>(b[c + 8], b[c + 12]);
        a[c + 12] = _mm512_shuffle_i32x4::<0xdd>(b[c + 8], b[c + 12]);
    }
    for c in 0..4 {
        rows[c] = _mm512_shuffle_i32x4::<0x88>(a[c], a[c + 8]);
        rows[c + 4] = _mm512_shuffle_i32x4::<0x88>(a[c + 4], a[c + 12]);
        rows[c + 8] = _mm512_shuffle_i32x4::<0xdd>(a[c], a[c + 8]);
        rows[c + 12] = _mm512_shuffle_i32x4::<0xdd>(a[c + 4], a[c + 12]);
    }
}

/// The 64 rounds over one transposed block of every lane.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn rounds(chain: &mut [__m512i; 8], mut w: [__m512i; 16]) {
    let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = *chain;
    let mut k = 0;
    macro_rules! round {
        ($i:literal) => {
            let constant = _mm512_set1_epi32(K.0[k + $i].cast_signed());
            let sigma1 = _mm512_ternarylogic_epi32::<PARITY>(
                _mm512_ror_epi32::<6>(e),
                _mm512_ror_epi32::<11>(e),
                _mm512_ror_epi32::<25>(e),
            );
            let choice = _mm512_ternarylogic_epi32::<CHOOSE>(e, f, g);
            let input = _mm512_add_epi32(h, _mm512_add_epi32(w[$i], constant));
            let first = _mm512_add_epi32(input, _mm512_add_epi32(sigma1, choice));
            let sigma0 = _mm512_ternarylogic_epi32::<PARITY>(
                _mm512_ror_epi32::<2>(a),
                _mm512_ror_epi32::<13>(a),
                _mm512_ror_epi32::<22>(a),
            );
            let second = _mm512_add_epi32(sigma0, _mm512_ternarylogic_epi32::<MAJORITY>(a, b, c));
            h = g;
            g = f;
            f = e;
            e = _mm512_add_epi32(d, first);
            d = c;
            c = b;
            b = a;
            a = _mm512_add_epi32(first, second);
        };
    }
    macro_rules! scheduled_round {
        ($i:literal) => {
            let (w1, w14) = (w[($i + 1) & 15], w[($i + 14) & 15]);
            let sigma0 = _mm512_ternarylogic_epi32::<PARITY>(
                _mm512_ror_epi32::<7>(w1),
                _mm512_ror_epi32::<18>(w1),
                _mm512_srli_epi32::<3>(w1),
            );
            let sigma1 = _mm512_ternarylogic_epi32::<PARITY>(
                _mm512_ror_epi32::<17>(w14),
                _mm512_ror_epi32::<19>(w14),
                _mm512_srli_epi32::<10>(w14),
            );
            w[$i] = _mm512_add_epi32(_mm512_add_epi32(w[$i], sigma0), _mm512_add_epi32(w[($i + 9) & 15], sigma1));
            round!($i);
        };
    }
    sixteen!(round);
    while k < 48 {
        k += 16;
        sixteen!(scheduled_round);
    }
    for (link, word) in chain.iter_mut().zip([a, b, c, d, e, f, g, h]) {
        *link = _mm512_add_epi32(*link, word);
    }
}
