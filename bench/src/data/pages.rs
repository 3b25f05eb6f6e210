//! Pages of a database: a header that changes with every write, rows that compress, free space of zeros.

use super::noise::Noise;

/// Bytes of a page.
pub const PAGE_BYTES: usize = 8192;
const HEADER_BYTES: usize = 24;

/// Fills `page` with a page as a database lays it out: position of the log, checksum, rows, free space. One in sixteen holds
/// large values that do not compress.
pub fn fill(page: &mut [u8], noise: &mut Noise) {
    page.fill(0);
    let kind = noise.below(16);
    let used = PAGE_BYTES - HEADER_BYTES - noise.below(PAGE_BYTES as u64 / 2) as usize;
    let (header, rest) = page.split_at_mut(HEADER_BYTES);
    noise.fill(header);
    if kind == 0 {
        noise.fill(&mut rest[..used]);
    } else {
        noise.text(&mut rest[..used]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_a_header_rows_and_free_space() {
        let mut page = [1; PAGE_BYTES];
        let mut noise = Noise::new(3);
        let mut free = 0;
        for _ in 0..64 {
            fill(&mut page, &mut noise);
            assert!(page[..HEADER_BYTES].iter().any(|&byte| byte != 0));
            free += page.iter().rev().take_while(|&&byte| byte == 0).count();
        }
        assert!((64 * PAGE_BYTES / 8..64 * PAGE_BYTES / 2).contains(&free), "{free}");
    }
}
