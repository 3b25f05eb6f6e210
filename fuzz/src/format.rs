//! What this crate needs of the format and the library does not show: a key file whose contents are chosen. Written from the
//! format's description and not from the library's code, so that one checks the other.

use aes::cipher::{BlockCipherEncrypt, KeyInit, KeyIvInit, StreamCipher};
use data_encoding::BASE64;
use poly1305::Poly1305;

/// The keys of a seal: AES-256 key, then AES-128 key and fixed half of the authentication code.
pub struct Keys([u8; 64]);

impl Keys {
    /// Those that scrypt derives from a password.
    ///
    /// # Panics
    /// When the parameters are none.
    pub fn derived(password: &[u8], salt: &[u8], log_n: u8, r: u32, p: u32) -> Self {
        let mut bytes = [0; 64];
        let parameters = scrypt::Params::new(log_n, r, p).expect("parameters of scrypt");
        scrypt::scrypt(password, salt, &parameters, &mut bytes).expect("64 bytes");
        Self(bytes)
    }

    /// `plain`, sealed with the counter `counter`.
    pub fn seal(&self, counter: [u8; 16], plain: &[u8]) -> Vec<u8> {
        let mut body = plain.to_vec();
        let encrypt: [u8; 32] = self.0[..32].try_into().expect("32 bytes");
        let k: [u8; 16] = self.0[32..48].try_into().expect("16 bytes");
        ctr::Ctr128BE::<aes::Aes256>::new(&encrypt.into(), &counter.into()).apply_keystream(&mut body);
        let mut nonce = counter.into();
        aes::Aes128::new(&k.into()).encrypt_block(&mut nonce);
        let mut key = [0; 32];
        key[..16].copy_from_slice(&self.0[48..]);
        key[16..].copy_from_slice(&nonce);
        let code = Poly1305::new(&key.into()).compute_unpadded(&body);
        [&counter[..], &body, &code].concat()
    }
}

/// The text of a key file.
pub fn key_file(n: u64, r: u32, p: u32, salt: &[u8], data: &[u8]) -> Vec<u8> {
    let (salt, data) = (BASE64.encode(salt), BASE64.encode(data));
    serde_json::json!({
        "created": "2026-01-01T00:00:00Z", "username": "root", "hostname": "host",
        "kdf": "scrypt", "N": n, "r": r, "p": p, "salt": salt, "data": data,
    })
    .to_string()
    .into_bytes()
}

/// The text of a master key.
pub fn master_key(bytes: &[u8; 64]) -> Vec<u8> {
    let [encrypt, k, r] = [&bytes[..32], &bytes[32..48], &bytes[48..]].map(|part| BASE64.encode(part));
    serde_json::json!({"mac": {"k": k, "r": r}, "encrypt": encrypt}).to_string().into_bytes()
}
