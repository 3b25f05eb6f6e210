//! The password of a repository, kept out of logs and wiped from memory.

use std::fmt;

use zeroize::Zeroizing;

/// A repository password: any non-empty bytes.
#[derive(Clone)]
pub struct Password(Zeroizing<Vec<u8>>);

/// The password is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an empty password is not accepted")]
pub struct EmptyPassword;

impl Password {
    /// The password `text`, taken as it is.
    ///
    /// # Errors
    /// It must not be empty, as for restic.
    pub fn new(text: impl Into<Vec<u8>>) -> Result<Self, EmptyPassword> {
        let bytes = Zeroizing::new(text.into());
        if bytes.is_empty() { Err(EmptyPassword) } else { Ok(Self(bytes)) }
    }

    /// The password in the contents of a password file: without white space around it, and in UTF-16 or behind a byte order mark as
    /// editors of Windows write it, as restic reads such files.
    ///
    /// # Errors
    /// Something must be left.
    pub fn from_file_contents(contents: impl Into<Vec<u8>>) -> Result<Self, EmptyPassword> {
        let contents = Zeroizing::new(contents.into());
        Self::new(file_text(&contents).trim_ascii().to_vec())
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The text of a password file without its byte order mark, in UTF-8 where the mark says that it is UTF-16.
pub fn file_text(contents: &[u8]) -> Zeroizing<Vec<u8>> {
    let utf_16 = |body: &[u8], unit: fn([u8; 2]) -> u16| {
        let units = body.as_chunks().0.iter().map(|&bytes| unit(bytes));
        let characters = char::decode_utf16(units).map(|decoded| decoded.unwrap_or(char::REPLACEMENT_CHARACTER));
        // Never grows, which would leave copies behind: a unit of two bytes becomes three at most.
        let mut text = Zeroizing::new(Vec::with_capacity(body.len() * 2));
        characters.for_each(|character| text.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()));
        text
    };
    match contents {
        [0xef, 0xbb, 0xbf, body @ ..] => Zeroizing::new(body.to_vec()),
        [0xff, 0xfe, body @ ..] => utf_16(body, u16::from_le_bytes),
        [0xfe, 0xff, body @ ..] => utf_16(body, u16::from_be_bytes),
        body => Zeroizing::new(body.to_vec()),
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
        for file in [
            &b"\xef\xbb\xbfgeh\xc3\xa9im\r\n"[..],
            b"\xff\xfeg\0e\0h\0\xe9\0i\0m\0\r\0\n\0",
            b"\xfe\xff\0g\0e\0h\0\xe9\0i\0m\0\n",
            b"geh\xc3\xa9im",
        ] {
            assert_eq!(Password::from_file_contents(file).unwrap().bytes(), "gehéim".as_bytes());
        }
        assert!(Password::from_file_contents("\n").is_err());
        assert!(Password::new("").is_err());
    }
}
