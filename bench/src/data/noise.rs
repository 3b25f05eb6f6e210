//! Bytes from a seed: the same on every machine, and fast enough that making data is not what takes the time.

/// A sequence of numbers (SplitMix64). Not for secrets.
#[derive(Debug, Clone)]
pub struct Noise(u64);

const WORDS: [&str; 24] = [
    "account",
    "north",
    "pending",
    "invoice",
    "Helsinki",
    "approved",
    "monthly",
    "customer",
    "warehouse",
    "returned",
    "priority",
    "shipment",
    "2026-03-14",
    "standard",
    "Lagos",
    "archived",
    "quarter",
    "express",
    "unpaid",
    "reference",
    "Valparaiso",
    "draft",
    "supplier",
    "net30",
];

impl Noise {
    /// The sequence that belongs to `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// Fills a buffer with bytes that do not compress.
    pub fn fill(&mut self, buffer: &mut [u8]) {
        for piece in buffer.chunks_mut(8) {
            piece.copy_from_slice(&self.next().to_le_bytes()[..piece.len()]);
        }
    }

    /// Fills a buffer with lines of words and numbers, which compress like a table's rows or a log.
    pub fn text(&mut self, buffer: &mut [u8]) {
        let mut at = 0;
        while at < buffer.len() {
            let number = self.next();
            let line = format!(
                "{:010} {} {} {:.2} {:x}\n",
                number >> 32,
                WORDS[(number % 24) as usize],
                WORDS[(number / 24 % 24) as usize],
                (number / 576 % 1_000_000) as f64 / 100.0,
                (number / 1_000_000) & 0xffff_ffff,
            );
            let length = line.len().min(buffer.len() - at);
            buffer[at..at + length].copy_from_slice(&line.as_bytes()[..length]);
            at += length;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_bytes_each_time_and_another_seed_others() {
        let bytes = |seed| {
            let mut buffer = [0; 100];
            Noise::new(seed).fill(&mut buffer);
            buffer
        };
        assert_eq!(bytes(1), bytes(1));
        assert_ne!(bytes(1), bytes(2));
    }

    #[test]
    fn text_fills_the_buffer_and_compresses_while_noise_does_not() {
        let (mut text, mut noise) = (vec![0; 1 << 20], vec![0; 1 << 20]);
        Noise::new(1).text(&mut text);
        Noise::new(1).fill(&mut noise);
        let compressed = |bytes: &[u8]| zstd::bulk::compress(bytes, 1).unwrap().len();
        assert!(!text.contains(&0));
        assert!((1 << 18..3 << 18).contains(&compressed(&text)), "{}", compressed(&text));
        assert!(compressed(&noise) >= 1 << 20);
    }
}
