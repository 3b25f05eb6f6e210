//! The password of a repository, kept out of logs and wiped from memory.

use std::fmt;

use zeroize::Zeroizing;

/// A repository password: any non-empty bytes.
#[derive(Clone)]
pub struct Password(Zeroizing<Vec<u8>>);

/// A password of no bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an empty password is not accepted")]
pub struct EmptyPassword;

impl Password {
    /// The password `text`, taken as it is.
    ///
    /// # Errors
    /// [`EmptyPassword`], which restic refuses as well.
    pub fn new(text: impl Into<Vec<u8>>) -> Result<Self, EmptyPassword> {
        let bytes = Zeroizing::new(text.into());
        if bytes.is_empty() { Err(EmptyPassword) } else { Ok(Self(bytes)) }
    }

    /// The password in the contents of a password file: without white space around it, as restic reads such files.
    ///
    /// # Errors
    /// [`EmptyPassword`] when nothing is left.
    pub fn from_file_contents(contents: impl Into<Vec<u8>>) -> Result<Self, EmptyPassword> {
        let contents = Zeroizing::new(contents.into());
        Self::new(contents.trim_ascii().to_vec())
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_never_shows_itself() {
        assert_eq!(format!("{:?}", Password::new("hunter2").unwrap()), "Password(redacted)");
    }

    #[test]
    fn a_password_file_ends_with_a_line_end_that_does_not_count() {
        assert_eq!(Password::from_file_contents("geheim\r\n").unwrap().bytes(), b"geheim");
        assert!(Password::from_file_contents("\n").is_err());
        assert!(Password::new("").is_err());
    }
}
