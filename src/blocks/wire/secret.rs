//! What names something held, and nobody can guess: ids of leases and targets, and tokens of descriptors.

use std::fmt;

use super::FieldError;

/// 32 random bytes. Nobody finds one by trying: of all that a node has given out, at most some hundred, one is met once in 2^248 attempts.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Secret([u8; Secret::BYTES]);

impl Secret {
    /// Its length.
    pub const BYTES: usize = 32;

    /// A new one.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; Self::BYTES];
        getrandom::fill(&mut bytes)?;
        Ok(Self(bytes))
    }

    /// The one with these bytes; `None` for any other number of them.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Some(Self(bytes.try_into().ok()?))
    }

    /// The one of a field.
    ///
    /// # Errors
    /// [`FieldError`] for what is none.
    pub fn read(field: &'static str, bytes: &[u8]) -> Result<Self, FieldError> {
        Self::from_bytes(bytes).ok_or_else(|| FieldError::new(field, format!("must have {} bytes", Self::BYTES)))
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }

    /// Its bytes, for a message.
    pub fn to_vec(self) -> Vec<u8> {
        self.0.to_vec()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<redacted>")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_shown_to_nobody_and_reads_back() {
        let secret = Secret::random().unwrap();
        assert_eq!(format!("{secret:?}"), "<redacted>");
        assert_eq!(Secret::read("lease_id", &secret.to_vec()), Ok(secret));
        assert_ne!(Secret::random().unwrap(), secret);
        for length in [0, 16, 31, 33] {
            assert!(Secret::from_bytes(&vec![0; length]).is_none(), "{length}");
        }
    }
}
