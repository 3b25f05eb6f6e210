//! Two streams interleaved over the SHA extensions of x86-64 (with SSSE3 and SSE4.1).
//!
//! `sha256rnds2` has a latency of four cycles and can start every two: one stream, each round waiting for the last, leaves
//! half of the unit idle. Two streams fill it; a third would not fit the sixteen registers.
#![allow(unsafe_code, reason = "vector loads, and calls into functions compiled for the SHA extensions")]

use std::arch::x86_64::{
    __m128i, _mm_add_epi32, _mm_alignr_epi8, _mm_extract_epi32, _mm_load_si128, _mm_loadu_si128, _mm_set_epi8, _mm_set_epi32,
    _mm_setzero_si128, _mm_sha256msg1_epu32, _mm_sha256msg2_epu32, _mm_sha256rnds2_epu32, _mm_shuffle_epi8, _mm_shuffle_epi32,
};

use super::block::{BLOCK, Compress, K, State, common_length, sixteen};

pub(super) const LANES: usize = 2;

/// Proof that the processor has the SHA extensions, SSSE3 and SSE4.1.
#[derive(Debug, Clone, Copy)]
pub(super) struct ShaNi(());

impl ShaNi {
    /// The kernel, where it can run.
    pub(super) fn detect() -> Option<Self> {
        (is_x86_feature_detected!("sha") && is_x86_feature_detected!("ssse3") && is_x86_feature_detected!("sse4.1"))
            .then_some(Self(()))
    }
}

impl Compress<LANES> for ShaNi {
    fn compress(self, state: &mut State<LANES>, blocks: &[&[u8]; LANES]) {
        // SAFETY: `self` exists only where `detect` found the features that `compress` is compiled for.
        unsafe { compress(state, blocks) }
    }
}

/// One stream's chaining value in the order the instructions want it, the first letter in the highest element.
#[derive(Clone, Copy)]
struct Chain {
    abef: __m128i,
    cdgh: __m128i,
}

#[target_feature(enable = "sha,ssse3,sse4.1")]
fn compress(state: &mut State<LANES>, blocks: &[&[u8]; LANES]) {
    let length = common_length(blocks);
    let mut chains = [load(state, 0), load(state, 1)];
    let mut offset = 0;
    while offset < length {
        let mut w = [[_mm_setzero_si128(); 4]; LANES];
        for (w, slice) in w.iter_mut().zip(blocks) {
            for (i, vector) in w.iter_mut().enumerate() {
                // SAFETY: `offset` is a multiple of the block size below `length`, itself a multiple of it and no more than
                // the length of any slice: 64 bytes from `offset`, four vectors, lie within this one. The load asks for
                // no alignment.
                *vector = unsafe { _mm_loadu_si128(slice.as_ptr().add(offset + 16 * i).cast()) };
            }
        }
        rounds(&mut chains, w);
        offset += BLOCK;
    }
    for (lane, chain) in chains.iter().enumerate() {
        store(state, lane, *chain);
    }
}

#[inline]
#[target_feature(enable = "sha,ssse3,sse4.1")]
fn load(state: &State<LANES>, lane: usize) -> Chain {
    let [a, b, c, d, e, f, g, h] = state.0.map(|words| words[lane].cast_signed());
    Chain { abef: _mm_set_epi32(a, b, e, f), cdgh: _mm_set_epi32(c, d, g, h) }
}

#[inline]
#[target_feature(enable = "sha,ssse3,sse4.1")]
fn store(state: &mut State<LANES>, lane: usize, chain: Chain) {
    let Chain { abef, cdgh } = chain;
    let (a, b) = (_mm_extract_epi32::<3>(abef), _mm_extract_epi32::<2>(abef));
    let (e, f) = (_mm_extract_epi32::<1>(abef), _mm_extract_epi32::<0>(abef));
    let (c, d) = (_mm_extract_epi32::<3>(cdgh), _mm_extract_epi32::<2>(cdgh));
    let (g, h) = (_mm_extract_epi32::<1>(cdgh), _mm_extract_epi32::<0>(cdgh));
    for (words, word) in state.0.iter_mut().zip([a, b, c, d, e, f, g, h]) {
        words[lane] = word.cast_unsigned();
    }
}

/// The 64 rounds over one block of each stream, four rounds of one and then four of the other.
#[inline]
#[target_feature(enable = "sha,ssse3,sse4.1")]
fn rounds(chains: &mut [Chain; LANES], mut w: [[__m128i; 4]; LANES]) {
    let swap = _mm_set_epi8(12, 13, 14, 15, 8, 9, 10, 11, 4, 5, 6, 7, 0, 1, 2, 3);
    let before = *chains;
    macro_rules! four_rounds {
        ($i:literal) => {
            // SAFETY: four of 64 constants from a multiple of four on, in an array aligned to 64 bytes.
            let constants: __m128i = unsafe { _mm_load_si128(K.0.as_ptr().add(4 * $i).cast()) };
            for (chain, w) in chains.iter_mut().zip(&mut w) {
                if $i < 4 {
                    w[$i & 3] = _mm_shuffle_epi8(w[$i & 3], swap);
                } else {
                    let newest = w[($i + 3) & 3];
                    let partial = _mm_sha256msg1_epu32(w[$i & 3], w[($i + 1) & 3]);
                    let partial = _mm_add_epi32(partial, _mm_alignr_epi8::<4>(newest, w[($i + 2) & 3]));
                    w[$i & 3] = _mm_sha256msg2_epu32(partial, newest);
                }
                let input = _mm_add_epi32(w[$i & 3], constants);
                chain.cdgh = _mm_sha256rnds2_epu32(chain.cdgh, chain.abef, input);
                chain.abef = _mm_sha256rnds2_epu32(chain.abef, chain.cdgh, _mm_shuffle_epi32::<0x0e>(input));
            }
        };
    }
    sixteen!(four_rounds);
    for (chain, before) in chains.iter_mut().zip(before) {
        chain.abef = _mm_add_epi32(chain.abef, before.abef);
        chain.cdgh = _mm_add_epi32(chain.cdgh, before.cdgh);
    }
}
