//! Key files: the master key, sealed with a key derived from a password by scrypt.
//!
//! A repository may have several, one for each password. The parameters of the derivation come from the file, which anyone who
//! can write to the store can forge; so they are bounded before any memory is spent on them.

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use super::crypto::{Sealer, Secrets};
use super::damage::Damage;
use super::password::Password;
use super::random::{NoRandomness, random};

const SALT_BYTES: usize = 64;
/// Most memory a derivation may take: restic's own calibration stays below 64 MiB.
const MAX_MEMORY_BYTES: u64 = 256 << 20;
/// Most work a derivation may take, as N * r * p: about ten seconds.
const MAX_WORK: u64 = 1 << 25;

/// How expensive it is to try a password (scrypt parameters).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KdfCost {
    log_n: u8,
    r: u32,
    p: u32,
}

impl KdfCost {
    /// For repositories: N = 32768, r = 8, p = 1; 32 MiB and about 0.1 s for each try.
    pub const STANDARD: Self = Self { log_n: 15, r: 8, p: 1 };
    /// For tests only: too cheap to protect anything.
    pub const TEST: Self = Self { log_n: 4, r: 8, p: 1 };

    /// The cost in a key file; `None` when it is malformed or more than we are willing to spend.
    fn checked(n: u64, r: u32, p: u32) -> Option<Self> {
        let memory = n.checked_mul(128)?.checked_mul(r.into())?;
        let work = n.checked_mul(r.into())?.checked_mul(p.into())?;
        let sound = n >= 2 && n.is_power_of_two() && r > 0 && p > 0;
        (sound && memory <= MAX_MEMORY_BYTES && work <= MAX_WORK).then(|| Self { log_n: n.trailing_zeros() as u8, r, p })
    }

    fn derive(self, password: &Password, salt: &[u8]) -> Option<Sealer> {
        let parameters = scrypt::Params::new(self.log_n, self.r, self.p).ok()?;
        let mut derived = Zeroizing::new([0; Secrets::BYTES]);
        scrypt::scrypt(password.bytes(), salt, &parameters, &mut *derived).ok()?;
        Some(Sealer::new(Secrets::from_bytes(&derived)))
    }
}

#[derive(Serialize, Deserialize)]
struct KeyFile {
    #[serde(default)]
    created: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    hostname: String,
    kdf: String,
    #[serde(rename = "N")]
    n: u64,
    r: u32,
    p: u32,
    salt: String,
    data: String,
}

/// The master key as it is sealed inside a key file.
#[derive(Serialize, Deserialize)]
struct MasterKey {
    mac: MacKey,
    encrypt: String,
}

#[derive(Serialize, Deserialize)]
struct MacKey {
    k: String,
    r: String,
}

impl Drop for MasterKey {
    fn drop(&mut self) {
        self.encrypt.zeroize();
        self.mac.k.zeroize();
        self.mac.r.zeroize();
    }
}

/// Who made a key, for people who look at it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Author<'a> {
    pub(super) username: &'a str,
    pub(super) hostname: &'a str,
    /// The time, in RFC 3339.
    pub(super) created: &'a str,
}

/// The result of trying a password on a key file.
pub(super) enum Unlocked {
    Master(Sealer),
    /// The file is of another password.
    OtherPassword,
}

/// Why a key file cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    #[error(transparent)]
    Randomness(#[from] NoRandomness),
    #[error("scrypt refuses the cost of a password")]
    Cost,
    /// The file or the master key in it could not be written as JSON.
    #[error("the key file could not be written as JSON")]
    Json(#[from] serde_json::Error),
}

/// A key file that opens with `password` and holds `master`. Slow: runs the derivation.
pub(super) fn encode(master: &Sealer, password: &Password, cost: KdfCost, author: Author<'_>) -> Result<Vec<u8>, KeyFileError> {
    let base64 = |bytes: &[u8]| data_encoding::BASE64.encode(bytes);
    let secrets = master.secrets();
    let master =
        MasterKey { mac: MacKey { k: base64(&*secrets.mac_k), r: base64(&*secrets.mac_r) }, encrypt: base64(&*secrets.encrypt) };
    let salt: [u8; SALT_BYTES] = random()?;
    let user = cost.derive(password, &salt).ok_or(KeyFileError::Cost)?;
    let plain = Zeroizing::new(serde_json::to_vec(&master)?);
    let file = KeyFile {
        created: author.created.to_owned(),
        username: author.username.to_owned(),
        hostname: author.hostname.to_owned(),
        kdf: "scrypt".to_owned(),
        n: 1 << cost.log_n,
        r: cost.r,
        p: cost.p,
        salt: base64(&salt),
        data: base64(&user.seal(&plain)?),
    };
    Ok(serde_json::to_vec(&file)?)
}

/// Tries `password` on the key file `bytes`. Slow: runs the derivation.
///
/// # Errors
/// The file must be a sound key file; that another password made it is not an error.
pub(super) fn decode(bytes: &[u8], password: &Password) -> Result<Unlocked, Damage> {
    let syntax = |text: &str| Damage::Syntax(text.to_owned());
    let file: KeyFile = serde_json::from_slice(bytes).map_err(Damage::json)?;
    if file.kdf != "scrypt" {
        return Err(syntax("its key derivation is not scrypt"));
    }
    let cost = KdfCost::checked(file.n, file.r, file.p).ok_or_else(|| syntax("its scrypt parameters are out of bounds"))?;
    let salt = from_base64(&file.salt).ok_or_else(|| syntax("its salt is not base64"))?;
    let mut data = from_base64(&file.data).ok_or_else(|| syntax("its data is not base64"))?;
    let user = cost.derive(password, &salt).ok_or_else(|| syntax("its scrypt parameters are out of bounds"))?;
    let Ok(plain) = user.open(&mut data) else { return Ok(Unlocked::OtherPassword) };
    let secrets = serde_json::from_slice::<MasterKey>(plain).ok().as_ref().and_then(secrets);
    plain.zeroize();
    Ok(Unlocked::Master(Sealer::new(secrets.ok_or_else(|| syntax("its master key is malformed"))?)))
}

fn from_base64(text: &str) -> Option<Vec<u8>> {
    data_encoding::BASE64.decode(text.as_bytes()).ok()
}

fn secrets(master: &MasterKey) -> Option<Secrets> {
    let mut bytes = Zeroizing::new([0; Secrets::BYTES]);
    for (part, text) in [(0..32, &master.encrypt), (32..48, &master.mac.k), (48..64, &master.mac.r)] {
        let decoded = Zeroizing::new(from_base64(text)?);
        if decoded.len() != part.len() {
            return None;
        }
        bytes[part].copy_from_slice(&decoded);
    }
    Some(Secrets::from_bytes(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const AUTHOR: Author<'_> = Author { username: "u", hostname: "h", created: "2026-01-01T00:00:00Z" };

    fn password(text: &str) -> Password {
        Password::new(text).unwrap()
    }

    fn key_file() -> (Sealer, Vec<u8>) {
        let master = Sealer::new(Secrets::random().unwrap());
        let file = encode(&master, &password("right"), KdfCost::TEST, AUTHOR).unwrap();
        (master, file)
    }

    #[test]
    fn the_password_that_sealed_a_key_opens_it_and_no_other_does() {
        let (master, file) = key_file();
        let Unlocked::Master(opened) = decode(&file, &password("right")).unwrap() else { panic!("did not open") };
        assert_eq!(opened.open(&mut master.seal(b"text").unwrap()).unwrap(), b"text");
        assert!(matches!(decode(&file, &password("wrong")), Ok(Unlocked::OtherPassword)));
    }

    #[test]
    fn a_key_file_cannot_demand_arbitrary_memory_or_time() {
        for (n, r, p) in [
            (1 << 40, 8, 1),
            (1 << 15, 1 << 20, 1),
            (1 << 15, 8, 1 << 20),
            (u64::MAX, 8, 1),
            (3, 8, 1),
            (0, 8, 1),
            (16, 0, 1),
            (16, 8, 0),
        ] {
            assert_eq!(KdfCost::checked(n, r, p), None, "{n} {r} {p}");
        }
        assert_eq!(KdfCost::checked(32768, 8, 1), Some(KdfCost::STANDARD));
        // What restic calibrates on a fast machine.
        assert!(KdfCost::checked(32768, 8, 10).is_some());
        assert!(KdfCost::checked(65536, 8, 6).is_some());
    }

    proptest! {
        #[test]
        fn a_damaged_key_file_is_refused_or_does_not_open(position: prop::sample::Index, byte: u8) {
            let (_, mut file) = key_file();
            let position = position.index(file.len());
            prop_assume!(file[position] != byte);
            file[position] = byte;
            // A change in the names is harmless; nothing may panic or take long.
            let _ = decode(&file, &password("wrong"));
        }

        #[test]
        fn any_bytes_are_refused(bytes: Vec<u8>) {
            prop_assert!(decode(&bytes, &password("x")).is_err());
        }
    }
}
