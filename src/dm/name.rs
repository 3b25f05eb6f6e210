//! What device-mapper devices are called: names, uuids and device numbers.

use std::fmt;
use std::str::FromStr;

/// Why a name, uuid or number is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Empty, or longer than the kernel's field for it.
    #[error("{what} must have 1 to {most} bytes, and has {length}")]
    Length {
        /// Name or uuid.
        what: &'static str,
        /// Its length in bytes.
        length: usize,
        /// The most bytes allowed.
        most: usize,
    },
    /// A slash or a control character, or a name that means something else in a directory of devices.
    #[error("{text:?} is not a {what}")]
    Form {
        /// Name, uuid or device number.
        what: &'static str,
        /// What was given.
        text: String,
    },
}

/// Name of a device-mapper device: 1 to 127 bytes without slashes and control characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DmName(String);

impl DmName {
    /// The most bytes of a name; the kernel's field has one more, for the terminating zero.
    pub const MOST_BYTES: usize = 127;

    /// A checked name.
    ///
    /// # Errors
    /// [`NameError`]: the length, or a name that the kernel or a directory of nodes could not take.
    pub fn new(name: impl Into<String>) -> Result<Self, NameError> {
        let name = checked("name", name.into(), Self::MOST_BYTES)?;
        // The kernel refuses these too: each is something else in /dev/mapper.
        if matches!(name.as_str(), "." | ".." | "control") {
            return Err(NameError::Form { what: "name", text: name });
        }
        Ok(Self(name))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for DmName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::new(text)
    }
}

impl fmt::Display for DmName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Uuid of a device-mapper device: 1 to 128 bytes without slashes and control characters. By it a device is known to be ours.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DmUuid(String);

impl DmUuid {
    /// The most bytes of a uuid; the kernel's field has one more, for the terminating zero.
    pub const MOST_BYTES: usize = 128;

    /// A checked uuid.
    ///
    /// # Errors
    /// [`NameError`]: the length, or characters that do not belong into a uuid.
    pub fn new(uuid: impl Into<String>) -> Result<Self, NameError> {
        checked("uuid", uuid.into(), Self::MOST_BYTES).map(Self)
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for DmUuid {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::new(text)
    }
}

impl fmt::Display for DmUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn checked(what: &'static str, text: String, most: usize) -> Result<String, NameError> {
    if text.is_empty() || text.len() > most {
        return Err(NameError::Length { what, length: text.len(), most });
    }
    if text.chars().any(|character| character == '/' || character.is_control()) {
        return Err(NameError::Form { what, text });
    }
    Ok(text)
}

/// Number of a block device: a major of 12 bits and a minor of 20, as Linux has them. Written `MAJOR:MINOR`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceNumber {
    major: u32,
    minor: u32,
}

impl DeviceNumber {
    /// Bits of a major number.
    const MAJOR_BITS: u32 = 12;
    /// Bits of a minor number; the encoding splits them.
    const MINOR_BITS: u32 = 20;

    /// The number of these parts; `None` when one has too many bits.
    pub const fn new(major: u32, minor: u32) -> Option<Self> {
        if major >> Self::MAJOR_BITS == 0 && minor >> Self::MINOR_BITS == 0 { Some(Self { major, minor }) } else { None }
    }

    /// The device class.
    pub const fn major(self) -> u32 {
        self.major
    }

    /// The device within its class.
    pub const fn minor(self) -> u32 {
        self.minor
    }

    /// From the kernel's encoding: the major's 12 bits lie between the minor's lower 8 and its upper 12. `None` when bits above
    /// those are set.
    pub const fn from_encoded(encoded: u64) -> Option<Self> {
        if encoded > u32::MAX as u64 {
            return None;
        }
        #[allow(clippy::cast_possible_truncation, reason = "checked above")]
        let encoded = encoded as u32;
        Some(Self { major: (encoded >> 8) & 0xfff, minor: (encoded & 0xff) | ((encoded >> 12) & 0xf_ff00) })
    }

    /// In the kernel's encoding.
    pub const fn encoded(self) -> u64 {
        ((self.minor & 0xff) | (self.major << 8) | ((self.minor & 0xf_ff00) << 12)) as u64
    }

    /// From `st_rdev` of a node, as `stat` gives it; `None` when a part has too many bits.
    pub fn from_rdev(rdev: u64) -> Option<Self> {
        let part = |part: u64| u32::try_from(part).ok();
        Self::new(part(nix::sys::stat::major(rdev))?, part(nix::sys::stat::minor(rdev))?)
    }

    /// As `st_rdev` has it and `mknod` takes it.
    pub fn rdev(self) -> u64 {
        nix::sys::stat::makedev(self.major.into(), self.minor.into())
    }
}

impl FromStr for DeviceNumber {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit()).then(|| part.parse().ok()).flatten();
        let parts = text.split_once(':').and_then(|(major, minor)| Self::new(digits(major)?, digits(minor)?));
        parts.ok_or_else(|| NameError::Form { what: "device number", text: text.to_owned() })
    }
}

impl fmt::Display for DeviceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_and_uuids_keep_within_the_kernels_fields() {
        assert!(DmName::new("n".repeat(127)).is_ok());
        assert!(matches!(DmName::new("n".repeat(128)), Err(NameError::Length { length: 128, most: 127, .. })));
        assert!(DmUuid::new("u".repeat(128)).is_ok());
        assert!(DmUuid::new("u".repeat(129)).is_err());
        for wrong in ["", ".", "..", "control", "a/b", "a\0", "a\n", "\u{85}"] {
            assert!(DmName::new(wrong).is_err(), "{wrong:?}");
        }
        assert!(DmName::new("ü".repeat(64)).is_err(), "bytes are counted, not characters");
    }

    #[test]
    fn device_numbers_are_read_as_the_kernel_prints_them_and_in_no_other_way() {
        assert_eq!("254:1048575".parse(), Ok(DeviceNumber { major: 254, minor: 1_048_575 }));
        for wrong in ["", "254", "254:", ":0", "254:+1", "254:1:1", "4096:0", "0:1048576", "254: 1", "-1:0", "99999999999:0"] {
            assert!(wrong.parse::<DeviceNumber>().is_err(), "{wrong:?}");
        }
        assert_eq!(DeviceNumber::new(254, 0x12345).map(DeviceNumber::encoded), Some(0x1230_fe45));
        assert_eq!(DeviceNumber::from_encoded(1 << 32), None);
    }

    proptest! {
        #[test]
        fn device_numbers_survive_every_encoding(encoded in any::<u32>()) {
            let number = DeviceNumber::from_encoded(encoded.into()).unwrap();
            prop_assert_eq!(number.encoded(), u64::from(encoded));
            prop_assert_eq!(DeviceNumber::from_rdev(number.rdev()), Some(number));
            prop_assert_eq!(number.to_string().parse(), Ok(number));
        }
    }
}
