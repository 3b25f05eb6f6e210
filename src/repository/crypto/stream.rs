//! Sealing and opening of blobs that are longer than the memory: what passes through is cut into steps.
//!
//! A sealed blob is authenticated as a whole before any of it is decrypted, so it is read twice.

use std::io::{self, Read, Write};

use aes::cipher::StreamCipher;
use poly1305::universal_hash::UniversalHash;
use poly1305::{Block, Poly1305};
use subtle::ConstantTimeEq;

use super::{CODE_BYTES, COUNTER_BYTES, Cipher, OVERHEAD, Sealer};
use crate::repository::damage::Damage;
use crate::repository::random::{NoRandomness, random};

/// Bytes of a step; whole blocks of the code.
const STEP_BYTES: usize = 64 << 10;

/// Seals what is written to it, and writes that into `out`.
pub(in crate::repository) struct SealWriter<W> {
    out: W,
    cipher: Cipher,
    code: Poly1305,
    step: Vec<u8>,
}

impl Sealer {
    /// Begins a sealed object in `out`.
    pub(in crate::repository) fn writer<W: Write>(&self, mut out: W) -> io::Result<SealWriter<W>> {
        let counter: [u8; COUNTER_BYTES] = random().map_err(|error: NoRandomness| io::Error::other(error))?;
        out.write_all(&counter)?;
        Ok(SealWriter { out, cipher: self.cipher(&counter), code: self.one_time(&counter), step: Vec::new() })
    }

    /// Verifies the code of the sealed object of `length` bytes that `sealed` gives. Returns the counter with which it is decrypted.
    pub(in crate::repository) fn authenticate_stream(
        &self,
        mut sealed: impl Read,
        length: u64,
    ) -> io::Result<Result<Counter, Damage>> {
        let Some(mut left) = length.checked_sub(OVERHEAD as u64) else { return Ok(Err(Damage::TooShort)) };
        let mut counter = [0; COUNTER_BYTES];
        sealed.read_exact(&mut counter)?;
        let mut code = self.one_time(&counter);
        let mut step = vec![0; STEP_BYTES.min(left as usize)];
        while left >= STEP_BYTES as u64 {
            sealed.read_exact(&mut step)?;
            code.update(Block::slice_as_chunks(&step).0);
            left -= STEP_BYTES as u64;
        }
        let last = &mut step[..left as usize];
        sealed.read_exact(last)?;
        let expected: [u8; CODE_BYTES] = finish(code, last);
        let mut found = [0; CODE_BYTES];
        sealed.read_exact(&mut found)?;
        Ok(if bool::from(expected.ct_eq(&found)) { Ok(Counter(counter)) } else { Err(Damage::Forged) })
    }

    /// Decrypts what is read from `body`, the bytes between counter and code.
    pub(in crate::repository) fn decrypting<R: Read>(&self, counter: &Counter, body: R) -> OpenedStream<R> {
        OpenedStream { body, cipher: self.cipher(&counter.0) }
    }
}

/// The counter of an object whose code has been verified.
pub(in crate::repository) struct Counter([u8; COUNTER_BYTES]);

/// The code over what `code` has seen and `last`.
fn finish(mut code: Poly1305, last: &[u8]) -> [u8; CODE_BYTES] {
    let (blocks, rest) = Block::slice_as_chunks(last);
    code.update(blocks);
    code.compute_unpadded(rest).into()
}

impl<W: Write> SealWriter<W> {
    /// Ends the object. Returns what it was written into.
    pub(in crate::repository) fn finish(mut self) -> io::Result<W> {
        self.cipher.apply_keystream(&mut self.step);
        self.out.write_all(&self.step)?;
        self.out.write_all(&finish(self.code, &self.step))?;
        Ok(self.out)
    }
}

impl<W: Write> Write for SealWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(STEP_BYTES - self.step.len());
        self.step.extend_from_slice(&bytes[..taken]);
        if self.step.len() == STEP_BYTES {
            self.cipher.apply_keystream(&mut self.step);
            self.code.update(Block::slice_as_chunks(&self.step).0);
            self.out.write_all(&self.step)?;
            self.step.clear();
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        // A step ends on a block of the code, so what is in hand has to wait.
        Ok(())
    }
}

/// Plain bytes of a sealed object whose code has been verified.
pub(in crate::repository) struct OpenedStream<R> {
    body: R,
    cipher: Cipher,
}

impl<R: Read> Read for OpenedStream<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.body.read(buffer)?;
        self.cipher.apply_keystream(&mut buffer[..read]);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::crypto::Secrets;
    use proptest::prelude::*;

    fn sealed_by_steps(sealer: &Sealer, plain: &[u8], step: usize) -> Vec<u8> {
        let mut writer = sealer.writer(Vec::new()).unwrap();
        plain.chunks(step).for_each(|part| writer.write_all(part).unwrap());
        writer.finish().unwrap()
    }

    proptest! {
        #[test]
        fn steps_seal_what_opens_at_once_and_open_what_was_sealed_at_once(
            length in prop_oneof![0_usize..100, STEP_BYTES - 20..STEP_BYTES + 20, 2 * STEP_BYTES..3 * STEP_BYTES],
            step in 1_usize..100_000,
        ) {
            let sealer = Sealer::new(Secrets::random().unwrap());
            let plain: Vec<u8> = (0..length).map(|at| ((at * 7) >> 3) as u8).collect();
            let mut sealed = sealed_by_steps(&sealer, &plain, step);
            prop_assert_eq!(&*sealer.open(&mut sealed).unwrap(), &plain);
            let sealed = sealer.seal(&plain).unwrap();
            let counter = sealer.authenticate_stream(&sealed[..], sealed.len() as u64).unwrap().ok().unwrap();
            let mut opened = Vec::new();
            sealer.decrypting(&counter, &sealed[COUNTER_BYTES..sealed.len() - CODE_BYTES]).read_to_end(&mut opened).unwrap();
            prop_assert_eq!(opened, plain);
        }

        #[test]
        fn a_flipped_bit_or_a_cut_is_noticed(
            length in prop_oneof![0_usize..100, STEP_BYTES - 20..STEP_BYTES + 20],
            position: prop::sample::Index,
            bit in 0_u8..8,
        ) {
            let sealer = Sealer::new(Secrets::random().unwrap());
            let mut sealed = sealed_by_steps(&sealer, &vec![3; length], STEP_BYTES);
            let position = position.index(sealed.len());
            let cut = sealer.authenticate_stream(&sealed[..position], position as u64).unwrap();
            prop_assert!(matches!(cut, Err(Damage::TooShort | Damage::Forged)));
            sealed[position] ^= 1 << bit;
            let flipped = sealer.authenticate_stream(&sealed[..], sealed.len() as u64).unwrap();
            prop_assert!(matches!(flipped, Err(Damage::Forged)));
        }
    }
}
