//! The polynomial over GF(2) that restic cuts files by. We cut at fixed offsets and never use it, but `restic backup` into
//! the same repository does, and restic refuses a repository whose polynomial is not irreducible of degree 53.

use super::random::{NoRandomness, random};

const DEGREE: u32 = 53;

/// A random irreducible polynomial of degree 53; bit n is the coefficient of x^n.
pub(super) fn random_irreducible() -> Result<u64, NoRandomness> {
    loop {
        // One in about 27 of those with a constant term is irreducible, so this ends soon.
        let candidate = u64::from_le_bytes(random()?) & ((1 << DEGREE) - 1) | 1 << DEGREE | 1;
        if is_irreducible(candidate) {
            return Ok(candidate);
        }
    }
}

/// Ben-Or's test: a polynomial f of degree n is irreducible if it shares no factor with x^(2^i) - x for any i up to n/2.
pub(super) fn is_irreducible(f: u64) -> bool {
    let Some(degree) = degree(f).filter(|degree| *degree > 0) else { return false };
    let x = remainder(0b10, f);
    let mut power = x;
    (1..=degree / 2).all(|_| {
        power = square(power, f);
        common_divisor(f, power ^ x) == 1
    })
}

fn degree(f: u64) -> Option<u32> {
    f.checked_ilog2()
}

fn remainder(mut a: u64, f: u64) -> u64 {
    let Some(of_f) = degree(f) else { return 0 };
    while let Some(shift) = degree(a).and_then(|of_a| of_a.checked_sub(of_f)) {
        a ^= f << shift;
    }
    a
}

/// a * a modulo f, where the degree of a is below that of f, which is at most 62.
fn square(a: u64, f: u64) -> u64 {
    let (mut product, mut shifted, mut rest) = (0, a, a);
    while rest != 0 {
        if rest & 1 == 1 {
            product ^= shifted;
        }
        rest >>= 1;
        shifted = remainder(shifted << 1, f);
    }
    product
}

fn common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, remainder(a, b));
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_polynomials_are_told_apart_by_trial_division() {
        for f in 2_u64..2048 {
            let divisible = (2..f).any(|g| degree(g) < degree(f) && remainder(f, g) == 0);
            assert_eq!(is_irreducible(f), !divisible, "{f:b}");
        }
        assert!(!is_irreducible(0) && !is_irreducible(1));
    }

    #[test]
    fn a_random_one_has_the_right_degree_and_no_factor() {
        for _ in 0..3 {
            let f = random_irreducible().unwrap();
            assert_eq!(degree(f), Some(DEGREE));
            assert!(is_irreducible(f));
        }
    }
}
