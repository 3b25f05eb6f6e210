//! Four streams side by side in plain Rust, for any processor.
//!
//! Words of the lanes stand next to each other, so that the compiler can use whatever vectors the target always has
//! (SSE2, NEON). It is the kernel of last resort and the simplest to read; see the module's rule for when it is used.

use super::block::{BLOCK, Compress, K, State, common_length, sixteen};

/// Lanes of this kernel.
pub(super) const LANES: usize = 4;

/// The kernel that runs everywhere.
#[derive(Debug, Clone, Copy)]
pub(super) struct Portable;

impl Compress<LANES> for Portable {
    fn compress(self, state: &mut State<LANES>, blocks: &[&[u8]; LANES]) {
        let mut offset = 0;
        while offset < common_length(blocks) {
            let mut w = [Word([0; LANES]); 16];
            for (i, word) in w.iter_mut().enumerate() {
                let at = offset + 4 * i;
                for (element, slice) in word.0.iter_mut().zip(blocks) {
                    *element = u32::from_be_bytes([slice[at], slice[at + 1], slice[at + 2], slice[at + 3]]);
                }
            }
            rounds(state, w);
            offset += BLOCK;
        }
    }
}

/// One word of every lane.
#[derive(Clone, Copy)]
struct Word([u32; LANES]);

#[inline(always)]
fn each<const OPERANDS: usize>(operands: [Word; OPERANDS], function: impl Fn([u32; OPERANDS]) -> u32) -> Word {
    let mut result = Word([0; LANES]);
    for (lane, element) in result.0.iter_mut().enumerate() {
        *element = function(operands.map(|operand| operand.0[lane]));
    }
    result
}

fn rounds(state: &mut State<LANES>, mut w: [Word; 16]) {
    let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = state.0.map(Word);
    let mut k = 0;
    macro_rules! round {
        ($i:literal) => {
            let constant = K.0[k + $i];
            let first = each([e, f, g, h, w[$i]], |[e, f, g, h, w]| {
                let sigma = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
                let choice = g ^ (e & (f ^ g));
                h.wrapping_add(sigma).wrapping_add(choice).wrapping_add(w).wrapping_add(constant)
            });
            let second = each([a, b, c], |[a, b, c]| {
                let sigma = a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22);
                sigma.wrapping_add((a & b) | (c & (a | b)))
            });
            h = g;
            g = f;
            f = e;
            e = each([d, first], |[d, first]| d.wrapping_add(first));
            d = c;
            c = b;
            b = a;
            a = each([first, second], |[first, second]| first.wrapping_add(second));
        };
    }
    macro_rules! scheduled_round {
        ($i:literal) => {
            w[$i] = each([w[$i], w[($i + 1) & 15], w[($i + 9) & 15], w[($i + 14) & 15]], |[w0, w1, w9, w14]| {
                let sigma0 = w1.rotate_right(7) ^ w1.rotate_right(18) ^ (w1 >> 3);
                let sigma1 = w14.rotate_right(17) ^ w14.rotate_right(19) ^ (w14 >> 10);
                w0.wrapping_add(sigma0).wrapping_add(w9).wrapping_add(sigma1)
            });
            round!($i);
        };
    }
    sixteen!(round);
    while k < 48 {
        k += 16;
        sixteen!(scheduled_round);
    }
    for (words, word) in state.0.iter_mut().zip([a, b, c, d, e, f, g, h]) {
        *words = each([Word(*words), word], |[before, after]| before.wrapping_add(after)).0;
    }
}
