//! One stream in plain Rust, for any processor: the compression function as FIPS 180-4 section 6.2.2 has it.
//!
//! Written for several lanes it would be no faster: compilers do not make vectors of it with what every x86-64 has (SSE2 lacks
//! rotations), measured with two, four and eight.

use super::block::{BLOCK, Compress, K, State, common_length, sixteen};

pub(super) const LANES: usize = 1;

/// The kernel that runs everywhere.
#[derive(Debug, Clone, Copy)]
pub(super) struct Portable;

impl Compress<LANES> for Portable {
    fn compress(self, state: &mut State<LANES>, blocks: &[&[u8]; LANES]) {
        let [slice] = blocks;
        let mut chain = state.0.map(|[word]| word);
        for block in slice[..common_length(blocks)].chunks_exact(BLOCK) {
            let mut w = [0; 16];
            for (word, bytes) in w.iter_mut().zip(block.as_chunks().0) {
                *word = u32::from_be_bytes(*bytes);
            }
            rounds(&mut chain, w);
        }
        state.0 = chain.map(|word| [word]);
    }
}

/// The 64 rounds over one block; `w` is a window of sixteen words over the message schedule.
fn rounds(chain: &mut [u32; 8], mut w: [u32; 16]) {
    let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = *chain;
    let mut k = 0;
    macro_rules! round {
        ($i:literal) => {
            let sigma1 = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
            let choice = g ^ (e & (f ^ g));
            let first = h.wrapping_add(w[$i]).wrapping_add(K.0[k + $i]).wrapping_add(choice).wrapping_add(sigma1);
            let sigma0 = a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22);
            let second = sigma0.wrapping_add((a & b) | (c & (a | b)));
            h = g;
            g = f;
            f = e;
            e = d.wrapping_add(first);
            d = c;
            c = b;
            b = a;
            a = first.wrapping_add(second);
        };
    }
    macro_rules! scheduled_round {
        ($i:literal) => {
            let (w1, w14) = (w[($i + 1) & 15], w[($i + 14) & 15]);
            let sigma0 = w1.rotate_right(7) ^ w1.rotate_right(18) ^ (w1 >> 3);
            let sigma1 = w14.rotate_right(17) ^ w14.rotate_right(19) ^ (w14 >> 10);
            w[$i] = w[$i].wrapping_add(sigma0).wrapping_add(w[($i + 9) & 15]).wrapping_add(sigma1);
            round!($i);
        };
    }
    sixteen!(round);
    while k < 48 {
        k += 16;
        sixteen!(scheduled_round);
    }
    for (link, word) in chain.iter_mut().zip([a, b, c, d, e, f, g, h]) {
        *link = link.wrapping_add(word);
    }
}
