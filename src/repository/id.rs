//! SHA-256 names: every blob, pack and file of a repository is called by the hash of its bytes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zerocopy::{FromBytes, Immutable, IntoBytes, Unaligned};

use crate::hash;

/// A SHA-256 value; written as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, Unaligned)]
#[repr(transparent)]
pub struct Id([u8; Id::LENGTH]);

/// The text is not 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an id of 64 hexadecimal digits")]
pub struct NotAnId;

impl Id {
    /// Length of an id in bytes.
    pub const LENGTH: usize = 32;

    /// The id of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(hash::sha256(bytes))
    }

    /// The id with these bytes.
    pub const fn from_bytes(bytes: [u8; Id::LENGTH]) -> Self {
        Self(bytes)
    }

    /// The bytes of this id.
    pub const fn as_bytes(&self) -> &[u8; Id::LENGTH] {
        &self.0
    }

    /// The hexadecimal digits, without allocation.
    pub fn hex(&self) -> [u8; 2 * Id::LENGTH] {
        let mut text = [0; 2 * Id::LENGTH];
        for (pair, byte) in text.as_chunks_mut::<2>().0.iter_mut().zip(self.0) {
            *pair = [byte >> 4, byte & 15].map(digit);
        }
        text
    }

    /// Reads 64 hexadecimal digits.
    pub fn from_hex(text: &[u8]) -> Result<Self, NotAnId> {
        let text: &[u8; 2 * Self::LENGTH] = text.try_into().map_err(|_| NotAnId)?;
        let mut values = [0; 2 * Self::LENGTH];
        for (value, character) in values.iter_mut().zip(text) {
            *value = value_of(*character);
        }
        let (mut bytes, mut any) = ([0; Self::LENGTH], 0);
        for (byte, [high, low]) in bytes.iter_mut().zip(values.as_chunks::<2>().0) {
            any |= high | low;
            *byte = high << 4 | low;
        }
        if any < NO_DIGIT { Ok(Self(bytes)) } else { Err(NotAnId) }
    }

    /// The first eight digits, as restic prints ids.
    pub fn short(&self) -> String {
        self.to_string()[..8].to_owned()
    }
}

/// Greater than the value of any digit, in a bit of its own.
const NO_DIGIT: u8 = 16;

/// The digit of a value below 16. Lists have millions of ids: without a branch or a table, many digits are made at once.
fn digit(value: u8) -> u8 {
    let beyond_nine = u8::from(value > 9);
    value + b'0' + beyond_nine * (b'a' - b'0' - 10)
}

/// The value of a character as a hexadecimal digit, or [`NO_DIGIT`] or more; without a branch as well.
fn value_of(character: u8) -> u8 {
    let is_digit = u8::from(character.wrapping_sub(b'0') < 10);
    let is_letter = u8::from((character | 0x20).wrapping_sub(b'a') < 6);
    (character & 15) + 9 * is_letter + NO_DIGIT * (1 - (is_digit | is_letter))
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(str::from_utf8(&self.hex()).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Id {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<Self, NotAnId> {
        Self::from_hex(text.as_bytes())
    }
}

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Hex;
        impl serde::de::Visitor<'_> for Hex {
            type Value = Id;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("64 hexadecimal digits")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Id, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Hex)
    }
}

/// Computes an id of bytes that come in pieces.
#[derive(Debug, Clone, Default)]
pub struct IdHasher(hash::Hasher);

impl IdHasher {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The id of everything added.
    pub fn finish(self) -> Id {
        Id(self.0.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_id_reads_back_from_its_text(bytes: [u8; 32]) {
            let id = Id::from_bytes(bytes);
            prop_assert_eq!(id.to_string().parse(), Ok(id));
        }

        #[test]
        fn a_character_that_is_no_digit_is_refused_wherever_it_stands(bytes: [u8; 32], at in 0_usize..64, character: u8) {
            let mut text = Id::from_bytes(bytes).hex();
            text[at] = character;
            prop_assert_eq!(Id::from_hex(&text).is_ok(), character.is_ascii_hexdigit());
            let upper = Id::from_bytes(bytes).hex().map(|digit| digit.to_ascii_uppercase());
            prop_assert_eq!(Id::from_hex(&upper), Ok(Id::from_bytes(bytes)));
        }

        #[test]
        fn pieces_hash_like_the_whole(bytes: Vec<u8>, cut: prop::sample::Index) {
            let cut = cut.index(bytes.len() + 1);
            let mut hasher = IdHasher::new();
            hasher.update(&bytes[..cut]);
            hasher.update(&bytes[cut..]);
            prop_assert_eq!(hasher.finish(), Id::of(&bytes));
        }
    }

    #[test]
    fn the_id_of_nothing_is_the_published_sha256() {
        assert_eq!(Id::of(b"").to_string(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }

    #[test]
    fn other_text_is_refused() {
        for text in ["", "00", &"g".repeat(64), &"0".repeat(65), &"é".repeat(32)] {
            assert_eq!(text.parse::<Id>(), Err(NotAnId));
        }
    }
}
