//! Sealing: AES-256-CTR with Poly1305-AES, as the format prescribes.
//!
//! `seal(x)` is 16 random bytes (the initial counter), the cipher text of x, and 16 bytes of authentication code over the
//! cipher text. The code's one-time key is the fixed `r` followed by AES-128 of the counter under `k`, so the counter is
//! authenticated too. Nothing is returned, parsed or decompressed before the code was verified, in constant time.

use std::fmt;
use std::sync::Arc;

use aes::cipher::{BlockCipherEncrypt, KeyInit, KeyIvInit, StreamCipher};
use poly1305::Poly1305;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::damage::Damage;
use super::random::{NoRandomness, random};

mod stream;

pub(super) use stream::SealWriter;

/// Bytes of the initial counter, which lead every sealed object.
pub const COUNTER_BYTES: usize = 16;
/// Bytes of the authentication code, which end it.
pub const CODE_BYTES: usize = 16;
/// Bytes that sealing adds.
pub const OVERHEAD: usize = COUNTER_BYTES + CODE_BYTES;

type Cipher = ctr::Ctr128BE<aes::Aes256>;

/// The secrets of a key, wiped when dropped.
pub(super) struct Secrets {
    /// AES-256 key of the cipher.
    pub(super) encrypt: Zeroizing<[u8; 32]>,
    /// AES-128 key of the authentication code.
    pub(super) mac_k: Zeroizing<[u8; 16]>,
    /// Fixed half of the one-time key of the authentication code.
    pub(super) mac_r: Zeroizing<[u8; 16]>,
}

impl Secrets {
    pub(super) const BYTES: usize = 64;

    pub(super) fn random() -> Result<Self, NoRandomness> {
        Ok(Self::from_bytes(&Zeroizing::new(random()?)))
    }

    /// The secrets in these bytes, in the order of the format: encrypt, k, r.
    pub(super) fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        let mut secrets =
            Self { encrypt: Zeroizing::new([0; 32]), mac_k: Zeroizing::new([0; 16]), mac_r: Zeroizing::new([0; 16]) };
        secrets.encrypt.copy_from_slice(&bytes[..32]);
        secrets.mac_k.copy_from_slice(&bytes[32..48]);
        secrets.mac_r.copy_from_slice(&bytes[48..]);
        secrets
    }
}

/// A key that seals and opens; shared, cheap to clone.
#[derive(Clone)]
pub struct Sealer(Arc<Secrets>);

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealer(redacted)")
    }
}

impl Sealer {
    pub(super) fn new(secrets: Secrets) -> Self {
        Self(Arc::new(secrets))
    }

    pub(super) fn secrets(&self) -> &Secrets {
        &self.0
    }

    /// Seals `plain`.
    pub fn seal(&self, plain: &[u8]) -> Result<Vec<u8>, NoRandomness> {
        let mut out = Vec::with_capacity(plain.len() + OVERHEAD);
        let start = begin(&mut out);
        out.extend_from_slice(plain);
        self.finish(&mut out, start)?;
        Ok(out)
    }

    /// Seals in place what was appended to `out` since [`begin`] returned `start`.
    ///
    /// # Errors
    /// `out` is then as before [`begin`].
    pub(super) fn finish(&self, out: &mut Vec<u8>, start: usize) -> Result<(), NoRandomness> {
        let counter: [u8; COUNTER_BYTES] = match random() {
            Ok(counter) => counter,
            Err(error) => {
                out.truncate(start);
                return Err(error);
            }
        };
        out[start..start + COUNTER_BYTES].copy_from_slice(&counter);
        let body = &mut out[start + COUNTER_BYTES..];
        self.cipher(&counter).apply_keystream(body);
        let code = self.code(&counter, body);
        out.extend_from_slice(&code);
        Ok(())
    }

    /// Opens `sealed` in place and returns the plain bytes in it.
    ///
    /// # Errors
    /// `sealed` is then unchanged.
    pub fn open<'a>(&self, sealed: &'a mut [u8]) -> Result<&'a mut [u8], Damage> {
        let counter = self.authenticate(sealed)?;
        let end = sealed.len() - CODE_BYTES;
        let body = &mut sealed[COUNTER_BYTES..end];
        self.cipher(&counter).apply_keystream(body);
        Ok(body)
    }

    /// Opens `sealed` without changing it, into the beginning of `scratch`, which grows to hold it; returns the plain bytes there.
    pub(super) fn open_into<'a>(&self, sealed: &[u8], scratch: &'a mut Vec<u8>) -> Result<&'a [u8], Damage> {
        let counter = self.authenticate(sealed)?;
        let body = &sealed[COUNTER_BYTES..sealed.len() - CODE_BYTES];
        if scratch.len() < body.len() {
            scratch.resize(body.len(), 0);
        }
        let plain = &mut scratch[..body.len()];
        self.cipher(&counter).apply_keystream_b2b(body, plain);
        Ok(plain)
    }

    fn authenticate(&self, sealed: &[u8]) -> Result<[u8; COUNTER_BYTES], Damage> {
        let (counter, rest) = sealed.split_first_chunk::<COUNTER_BYTES>().ok_or(Damage::TooShort)?;
        let (body, found) = rest.split_last_chunk::<CODE_BYTES>().ok_or(Damage::TooShort)?;
        if bool::from(self.code(counter, body).ct_eq(found)) { Ok(*counter) } else { Err(Damage::Forged) }
    }

    fn cipher(&self, counter: &[u8; COUNTER_BYTES]) -> Cipher {
        Cipher::new((&*self.0.encrypt).into(), counter.into())
    }

    fn code(&self, counter: &[u8; COUNTER_BYTES], body: &[u8]) -> [u8; CODE_BYTES] {
        self.one_time(counter).compute_unpadded(body).into()
    }

    /// The authentication code of one object, before it has seen any of it.
    fn one_time(&self, counter: &[u8; COUNTER_BYTES]) -> Poly1305 {
        let mut nonce = (*counter).into();
        aes::Aes128::new((&*self.0.mac_k).into()).encrypt_block(&mut nonce);
        let mut key = Zeroizing::new([0; 32]);
        key[..16].copy_from_slice(&*self.0.mac_r);
        key[16..].copy_from_slice(&nonce);
        Poly1305::new((&*key).into())
    }
}

/// Begins a sealed object at the end of `out`: room for the counter. The plain bytes are appended next, and then
/// [`Sealer::finish`] is called with what this returns.
pub(super) fn begin(out: &mut Vec<u8>) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0; COUNTER_BYTES]);
    start
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sealer() -> Sealer {
        Sealer::new(Secrets::random().unwrap())
    }

    proptest! {
        #[test]
        fn what_was_sealed_opens_again(plain: Vec<u8>) {
            let sealer = sealer();
            let mut sealed = sealer.seal(&plain).unwrap();
            prop_assert_eq!(sealed.len(), plain.len() + OVERHEAD);
            for mut scratch in [Vec::new(), vec![7; plain.len() + 1]] {
                prop_assert_eq!(sealer.open_into(&sealed, &mut scratch).unwrap(), &plain);
            }
            prop_assert_eq!(&*sealer.open(&mut sealed).unwrap(), &plain);
        }

        #[test]
        fn one_flipped_bit_is_noticed_anywhere(plain: Vec<u8>, position: prop::sample::Index, bit in 0_u8..8) {
            let sealer = sealer();
            let mut sealed = sealer.seal(&plain).unwrap();
            let position = position.index(sealed.len());
            sealed[position] ^= 1 << bit;
            let before = sealed.clone();
            let mut scratch = Vec::new();
            prop_assert!(matches!(sealer.open_into(&sealed, &mut scratch), Err(Damage::Forged)));
            prop_assert!(matches!(sealer.open(&mut sealed), Err(Damage::Forged)));
            prop_assert_eq!(sealed, before);
        }

        #[test]
        fn a_cut_object_is_noticed(plain: Vec<u8>, length: prop::sample::Index) {
            let sealer = sealer();
            let mut sealed = sealer.seal(&plain).unwrap();
            sealed.truncate(length.index(sealed.len()));
            prop_assert!(sealer.open(&mut sealed).is_err());
        }
    }

    #[test]
    fn another_key_does_not_open() {
        let mut sealed = sealer().seal(b"text").unwrap();
        assert!(matches!(sealer().open(&mut sealed), Err(Damage::Forged)));
    }

    #[test]
    fn the_code_is_poly1305_aes_as_published() {
        // Bernstein, "The Poly1305-AES message-authentication code", appendix B: the second and third vectors.
        let hex = |text: &str| data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap();
        for (message, r, k, nonce, code) in [
            (
                "",
                "a0f3080000f46400d0c7e9076c834403",
                "75deaa25c09f208e1dc4ce6b5cad3fbf",
                "61ee09218d29b0aaed7e154a2c5509cc",
                "dd3fab2251f11ac759f0887129cc2ee7",
            ),
            (
                "663cea190ffb83d89593f3f476b6bc24d7e679107ea26adb8caf6652d0656136",
                "48443d0bb0d21109c89a100b5ce2c208",
                "6acb5f61a7176dd320c5c1eb2edcdc74",
                "ae212a55399729595dea458bc621ff0e",
                "0ee1c16bb73f0f4fd19881753c01cdbe",
            ),
        ] {
            let mut bytes = [0; Secrets::BYTES];
            bytes[32..48].copy_from_slice(&hex(k));
            bytes[48..].copy_from_slice(&hex(r));
            let sealer = Sealer::new(Secrets::from_bytes(&bytes));
            let nonce: [u8; 16] = hex(nonce).try_into().unwrap();
            assert_eq!(sealer.code(&nonce, &hex(message)).to_vec(), hex(code));
        }
    }
}
