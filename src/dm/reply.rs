//! Replies of the kernel, taken apart.
//!
//! Pure functions over bytes, with every offset checked: a reply that points outside itself, goes backwards or lacks a
//! terminating zero is an error. What is allocated is bounded by the reply's length.

use std::mem::offset_of;

use zerocopy::FromBytes;

use super::line::LineError;
use super::name::DeviceNumber;
use super::raw::{ALIGNMENT, Header, SPEC_BYTES, TargetSpec, flag};
use super::units::Sectors;
use crate::types::Access;

/// What is wrong with a reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It ends too early.
    #[error("it ends in the middle of {0}")]
    Short(&'static str),
    /// A text without its end.
    #[error("the text of {0} does not end")]
    Unterminated(&'static str),
    /// An entry that does not lie behind the one before.
    #[error("the entry at {at} is followed by one at {next}")]
    Order {
        /// Offset of the entry within the data.
        at: usize,
        /// Where the next is said to be.
        next: usize,
    },
    /// A number that is none of a device.
    #[error("{0:#x} is not a device number")]
    Number(u64),
    /// A size or count beyond what it can be.
    #[error("{value} cannot be {what}")]
    Range {
        /// What it should have been.
        what: &'static str,
        value: i128,
    },
    /// A list in an older form than the version of the interface says.
    #[error("it does not say whether there is a uuid")]
    NoUuidFlag,
    /// It is larger than anything that is asked for.
    #[error("it does not fit into {0} bytes")]
    TooLarge(usize),
    /// One target of a type was expected: there is no live table, or another one.
    #[error("instead of one {expected} target there is: {found}")]
    Targets {
        /// The type.
        expected: &'static str,
        /// The types found.
        found: String,
    },
    /// A table or status line is not understood.
    #[error("line `{line}` is not understood")]
    Line {
        line: String,
        /// What is wrong with it.
        source: LineError,
    },
}

/// Version of the kernel's device-mapper interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct InterfaceVersion {
    /// Raised when something is taken away.
    pub major: u32,
    /// Raised when something is added.
    pub minor: u32,
    /// Raised by corrections.
    pub patch: u32,
}

impl std::fmt::Display for InterfaceVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// A device as it was when it was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceInfo {
    pub number: DeviceNumber,
    /// How many have it open: descriptors, mounts, and devices stacked on it.
    pub open_count: u32,
    /// How many events it had. Wraps.
    pub event_nr: u32,
    /// What it allows, by its live table.
    pub access: Access,
    /// Whether it is suspended: whoever writes to it waits.
    pub suspended: bool,
    /// Whether it goes at its last close.
    pub deferred_remove: bool,
    /// Whether it has a table that works. A device without one is empty.
    pub live_table: bool,
    /// Whether a table was loaded that the next resume makes live.
    pub inactive_table: bool,
    /// Its uuid, if it was given one.
    pub uuid: Option<String>,
}

/// An entry in the list of all devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedDevice {
    /// Its name, which another program may have chosen.
    pub name: String,
    pub number: DeviceNumber,
    /// How many events it had. Wraps.
    pub event_nr: u32,
    /// Its uuid, if it was given one.
    pub uuid: Option<String>,
}

/// A target of a table as text: a table line or a status line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetLine {
    /// Where on the device it begins.
    pub start: Sectors,
    /// How long it is.
    pub length: Sectors,
    /// Its type.
    pub kind: String,
    /// Its parameters or its state, without blanks around.
    pub text: String,
}

/// A reply, its header checked.
#[derive(Debug)]
pub struct Reply<'a> {
    header: Header,
    data: &'a [u8],
}

impl<'a> Reply<'a> {
    /// A reply in a buffer that the kernel wrote to.
    ///
    /// # Errors
    /// [`Malformed`]: no header, or data that do not lie in the buffer.
    pub fn parse(buffer: &'a [u8]) -> Result<Self, Malformed> {
        let (header, _) = Header::read_from_prefix(buffer).map_err(|_| Malformed::Short("the header"))?;
        let (size, start) = (header.data_size as usize, header.data_start as usize);
        // A reply without data ends before they would start.
        let data = if size <= start { &[] } else { buffer.get(start..size).ok_or(Malformed::Short("the data"))? };
        if !data.is_empty() && start < offset_of!(Header, data) {
            return Err(Malformed::Order { at: 0, next: start });
        }
        Ok(Self { header, data })
    }

    /// Whether it did not fit: nothing in it may be used.
    pub fn is_cut_short(&self) -> bool {
        self.header.flags & flag::BUFFER_FULL != 0
    }

    /// The version of the interface, which every reply has.
    pub fn version(&self) -> InterfaceVersion {
        let [major, minor, patch] = self.header.version;
        InterfaceVersion { major, minor, patch }
    }

    /// The device that the request was about.
    pub fn info(&self) -> Result<DeviceInfo, Malformed> {
        let Header { flags, open_count, event_nr, dev, uuid, .. } = &self.header;
        let has = |wanted: u32| flags & wanted != 0;
        let uuid = text(uuid, "the uuid")?;
        Ok(DeviceInfo {
            number: device_number(*dev)?,
            open_count: u32::try_from(*open_count)
                .map_err(|_| Malformed::Range { what: "an open count", value: (*open_count).into() })?,
            event_nr: *event_nr,
            access: if has(flag::READ_ONLY) { Access::ReadOnly } else { Access::ReadWrite },
            suspended: has(flag::SUSPEND),
            deferred_remove: has(flag::DEFERRED_REMOVE),
            live_table: has(flag::LIVE_TABLE),
            inactive_table: has(flag::INACTIVE_TABLE),
            uuid: (!uuid.is_empty()).then_some(uuid),
        })
    }

    /// The targets of a table, or their states.
    pub fn targets(&self) -> Result<Vec<TargetLine>, Malformed> {
        let (mut targets, mut at) = (Vec::new(), 0);
        for _ in 0..self.header.target_count {
            let (target, next) = target_at(self.data, at)?;
            targets.push(target);
            at = next;
        }
        Ok(targets)
    }

    /// All devices, from a reply to a request with uuids.
    pub fn devices(&self) -> Result<Vec<ListedDevice>, Malformed> {
        let (mut devices, mut at) = (Vec::new(), 0);
        while let Some((device, next)) = device_at(self.data, at)? {
            devices.push(device);
            match next {
                Some(next) => at = next,
                None => break,
            }
        }
        Ok(devices)
    }

    /// The version of the one target type that was asked for.
    pub fn target_version(&self) -> Result<InterfaceVersion, Malformed> {
        // {next, version[3], name[]}, and the name was in the request.
        let part = |index: usize| u32_at(self.data, 4 + 4 * index, "the target's version");
        Ok(InterfaceVersion { major: part(0)?, minor: part(1)?, patch: part(2)? })
    }
}

/// The target at `at`, and where the next is: relative to the beginning of all, when the kernel writes them.
fn target_at(data: &[u8], at: usize) -> Result<(TargetLine, usize), Malformed> {
    let rest = data.get(at..).ok_or(Malformed::Short("a target"))?;
    let (spec, _) = TargetSpec::read_from_prefix(rest).map_err(|_| Malformed::Short("a target"))?;
    let next = spec.next as usize;
    if next < at + SPEC_BYTES {
        return Err(Malformed::Order { at, next });
    }
    let end = next.min(data.len()) - at;
    let target = TargetLine {
        start: sectors(spec.sector_start)?,
        length: sectors(spec.length)?,
        kind: text(&spec.target_type, "a target's type")?,
        text: text(&rest[SPEC_BYTES..end], "a target's line")?.trim().to_owned(),
    };
    Ok((target, next))
}

/// The device at `at`, if there is one, and where the next is, if there is one: relative to this one.
fn device_at(data: &[u8], at: usize) -> Result<Option<(ListedDevice, Option<usize>)>, Malformed> {
    const NAME: usize = 12;
    const HAS_UUID: u32 = 1;
    const HAS_NO_UUID: u32 = 2;
    const WHAT: &str = "a device in the list";
    let entry = match data.get(at..) {
        // The list is empty, and says so by a device without number.
        Some([]) if at == 0 => return Ok(None),
        Some(entry) if u64_at(entry, 0, WHAT)? == 0 && at == 0 => return Ok(None),
        Some(entry) if u64_at(entry, 0, WHAT)? != 0 => entry,
        _ => return Err(Malformed::Short(WHAT)),
    };
    let next = u32_at(entry, 8, WHAT)? as usize;
    let entry = match next {
        0 => entry,
        next => entry.get(..next).ok_or(Malformed::Short(WHAT))?,
    };
    let from_name = entry.get(NAME..).ok_or(Malformed::Order { at, next: at + next })?;
    let length_of_name = zero_in(from_name).ok_or(Malformed::Unterminated("a device's name"))?;
    let name = text(from_name, "a device's name")?;
    let after_name = (NAME + length_of_name + 1).next_multiple_of(ALIGNMENT);
    let flags = u32_at(entry, after_name + 4, WHAT)?;
    let uuid = match flags & (HAS_UUID | HAS_NO_UUID) {
        HAS_UUID => Some(text(entry.get(after_name + 8..).ok_or(Malformed::Short(WHAT))?, "a device's uuid")?),
        HAS_NO_UUID => None,
        _ => return Err(Malformed::NoUuidFlag),
    };
    let device =
        ListedDevice { name, number: device_number(u64_at(entry, 0, WHAT)?)?, event_nr: u32_at(entry, after_name, WHAT)?, uuid };
    Ok(Some((device, (next != 0).then_some(at + next))))
}

fn device_number(encoded: u64) -> Result<DeviceNumber, Malformed> {
    DeviceNumber::from_encoded(encoded).ok_or(Malformed::Number(encoded))
}

fn sectors(count: u64) -> Result<Sectors, Malformed> {
    Sectors::new(count).ok_or(Malformed::Range { what: "a number of sectors", value: count.into() })
}

fn zero_in(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|&byte| byte == 0)
}

/// The text up to the first zero. Names that are no UTF-8 are not ours, and serve for people only.
fn text(bytes: &[u8], what: &'static str) -> Result<String, Malformed> {
    let end = zero_in(bytes).ok_or(Malformed::Unterminated(what))?;
    Ok(String::from_utf8_lossy(&bytes[..end]).into_owned())
}

fn u32_at(bytes: &[u8], at: usize, what: &'static str) -> Result<u32, Malformed> {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().map(u32::from_ne_bytes).ok_or(Malformed::Short(what))
}

fn u64_at(bytes: &[u8], at: usize, what: &'static str) -> Result<u64, Malformed> {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().map(u64::from_ne_bytes).ok_or(Malformed::Short(what))
}

#[cfg(test)]
mod tests;
