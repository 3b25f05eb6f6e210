//! Names that the orchestrator gives: of volumes, snapshots and group snapshots.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a name was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The name is empty.
    #[error("must not be empty")]
    Empty,
    /// The name has more than [`ObjectName::MAX_BYTES`] bytes.
    #[error("must have at most {} bytes", ObjectName::MAX_BYTES)]
    TooLong,
    /// The name has a character that CSI forbids.
    #[error("must not contain the control character U+{0:04X}")]
    Control(u32),
}

/// A name in CSI's sense: 1 to 128 bytes of Unicode without the control characters that CSI forbids (tab, line feed and
/// carriage return are legal). It is a key in the catalogue and nothing else: never a path, a device or an object name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ObjectName(String);

impl ObjectName {
    /// Longest name in bytes (CSI, "Size limits").
    pub const MAX_BYTES: usize = 128;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// True for U+0000-0008, 000B, 000C, 000E-001F and 007F-009F: what CSI forbids in names.
fn is_forbidden(character: char) -> bool {
    character.is_control() && !matches!(character, '\t' | '\n' | '\r')
}

impl TryFrom<String> for ObjectName {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > Self::MAX_BYTES {
            return Err(NameError::TooLong);
        }
        match text.chars().find(|&character| is_forbidden(character)) {
            Some(character) => Err(NameError::Control(character.into())),
            None => Ok(Self(text)),
        }
    }
}

impl From<ObjectName> for String {
    fn from(name: ObjectName) -> Self {
        name.0
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_128_bytes_and_odd_letters_are_legal() {
        for text in ["a".repeat(128), "ä/..\t名前".to_owned()] {
            assert!(ObjectName::try_from(text.clone()).is_ok(), "{text}");
        }
    }

    #[test]
    fn empty_long_and_control_names_are_refused() {
        assert_eq!(ObjectName::try_from(String::new()), Err(NameError::Empty));
        assert_eq!(ObjectName::try_from("a".repeat(129)), Err(NameError::TooLong));
        for character in ['\0', '\u{8}', '\u{b}', '\u{c}', '\u{e}', '\u{1f}', '\u{7f}', '\u{9f}'] {
            assert_eq!(ObjectName::try_from(format!("a{character}")), Err(NameError::Control(character.into())));
        }
    }
}
