//! Requests as bytes: the header, and after it a table or a message.

use std::mem::offset_of;

use super::DmName;
use super::raw::{ALIGNMENT, HEADER_BYTES, Header, SPEC_BYTES, TargetSpec, UDEV_LEAVE_ALONE, Verb, flag};
use super::table::Target;

/// Major version of the interface. Minor versions add and take nothing away: zero asks for whatever the kernel has.
const INTERFACE_MAJOR: u32 = 4;

/// One request, before it is bytes.
#[derive(Debug, Clone)]
pub(super) struct Request<'a> {
    pub(super) verb: Verb,
    /// Name of the device, or empty.
    name: &'a str,
    /// Uuid of a device to be made, or empty: a device is named by one of the two.
    uuid: &'a str,
    flags: u32,
    event_nr: u32,
    target_count: u32,
    payload: Vec<u8>,
}

impl<'a> Request<'a> {
    /// One that concerns no device.
    pub(super) fn general(verb: Verb) -> Self {
        Self { verb, name: "", uuid: "", flags: 0, event_nr: 0, target_count: 0, payload: Vec::new() }
    }

    /// One that concerns this device.
    pub(super) fn of(verb: Verb, device: &'a DmName) -> Self {
        Self { name: device.as_str(), ..Self::general(verb) }
    }

    /// One for a target type; its name goes where a device's would.
    pub(super) fn of_target(verb: Verb, target: &'a str) -> Self {
        Self { name: target, ..Self::general(verb) }
    }

    pub(super) fn uuid(mut self, uuid: &'a str) -> Self {
        self.uuid = uuid;
        self
    }

    pub(super) fn flags(mut self, flags: u32) -> Self {
        self.flags |= flags;
        self
    }

    /// Tells udev to keep away from what this makes it hear of.
    pub(super) fn udev_leave_alone(mut self) -> Self {
        self.event_nr = UDEV_LEAVE_ALONE;
        self
    }

    /// With a table.
    pub(super) fn table(mut self, table: &[Target]) -> Self {
        for target in table {
            self.put_target(target);
        }
        self
    }

    fn put_target(&mut self, target: &Target) {
        let at = self.payload.len();
        let text = target.kind.parameters();
        let end = (at + SPEC_BYTES + text.len() + 1).next_multiple_of(ALIGNMENT);
        self.payload.resize(end, 0);
        let spec = &mut self.payload[at..];
        put(spec, offset_of!(TargetSpec, sector_start), &target.start.count().to_ne_bytes());
        put(spec, offset_of!(TargetSpec, length), &target.length.count().to_ne_bytes());
        // From the beginning of this one. No table of ours comes near the field's 4 GiB; the kernel refuses one that leads out of it.
        put(spec, offset_of!(TargetSpec, next), &u32::try_from(end - at).unwrap_or(u32::MAX).to_ne_bytes());
        put(spec, offset_of!(TargetSpec, target_type), target.kind.type_name().as_bytes());
        put(spec, SPEC_BYTES, text.as_bytes());
        self.target_count += 1;
    }

    /// With a message to the target at the device's beginning.
    pub(super) fn message(mut self, text: &str) -> Self {
        self.payload.extend_from_slice(&0_u64.to_ne_bytes());
        self.payload.extend_from_slice(text.as_bytes());
        self.payload.push(0);
        self
    }

    /// The bytes, with room for a reply of at least `room` bytes behind the header.
    pub(super) fn encode(&self, room: usize) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_BYTES + self.payload.len().max(room).next_multiple_of(ALIGNMENT)];
        put(&mut bytes, offset_of!(Header, version), &INTERFACE_MAJOR.to_ne_bytes());
        #[allow(clippy::cast_possible_truncation, reason = "312")]
        put(&mut bytes, offset_of!(Header, data_start), &(HEADER_BYTES as u32).to_ne_bytes());
        put(&mut bytes, offset_of!(Header, target_count), &self.target_count.to_ne_bytes());
        put(&mut bytes, offset_of!(Header, flags), &self.flags.to_ne_bytes());
        put(&mut bytes, offset_of!(Header, event_nr), &self.event_nr.to_ne_bytes());
        // Both are checked types, a byte shorter than their fields; a target type is one of ours.
        put(&mut bytes, offset_of!(Header, name), self.name.as_bytes());
        put(&mut bytes, offset_of!(Header, uuid), self.uuid.as_bytes());
        put(&mut bytes, HEADER_BYTES, &self.payload);
        bytes
    }

    /// Whether asking again changes nothing, so that a reply that did not fit may be asked for again.
    pub(super) fn only_asks(&self) -> bool {
        matches!(self.verb, Verb::ListDevices | Verb::Status | Verb::TableStatus | Verb::TargetVersion)
    }

    /// What is done, to whom, for the text of an error.
    pub(super) fn action(&self) -> String {
        let verb = match self.verb {
            Verb::Version => "ask device-mapper for its version",
            Verb::ListDevices => "list the device-mapper devices",
            Verb::ArmPoll => "wait for device-mapper's events",
            Verb::TargetVersion => "ask for the target type",
            Verb::Create => "create",
            Verb::Remove if self.flags & flag::DEFERRED_REMOVE != 0 => "remove, when it is closed,",
            Verb::Remove => "remove",
            Verb::Suspend if self.flags & flag::SUSPEND != 0 => "suspend",
            Verb::Suspend => "resume",
            Verb::Status => "look at",
            Verb::TableLoad => "load a table into",
            Verb::TableClear => "clear the table of",
            Verb::TableStatus if self.flags & flag::STATUS_TABLE != 0 => "read the table of",
            Verb::TableStatus => "read the status of",
            Verb::Message => return format!("send `{}` to {}", self.message_text(), self.name),
        };
        if self.name.is_empty() { verb.to_owned() } else { format!("{verb} {}", self.name) }
    }

    fn message_text(&self) -> String {
        let text = &self.payload[size_of::<u64>()..];
        String::from_utf8_lossy(text).trim_end_matches('\0').to_owned()
    }
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dm::reply;

    #[test]
    fn a_table_is_laid_out_as_the_kernel_steps_through_it() {
        let table: Vec<Target> =
            ["0 8 linear 254:0 16", "8 1 error", "9 7 linear 7:123 0"].iter().map(|line| line.parse().unwrap()).collect();
        let name = DmName::new("x").unwrap();
        let bytes = Request::of(Verb::TableLoad, &name).table(&table).encode(0);
        assert_eq!(bytes.len() % ALIGNMENT, 0);
        assert_eq!(&bytes[offset_of!(Header, target_count)..][..4], &3_u32.to_ne_bytes());
        // As the kernel does when it loads: the first lies at the data's beginning, each next relative to the one before.
        let mut at = HEADER_BYTES;
        for target in &table {
            assert_eq!(at % ALIGNMENT, 0);
            let spec = &bytes[at..];
            assert_eq!(spec[..8], target.start.count().to_ne_bytes());
            assert_eq!(spec[8..16], target.length.count().to_ne_bytes());
            let text = target.kind.parameters();
            assert_eq!(&spec[SPEC_BYTES..][..text.len() + 1], format!("{text}\0").as_bytes());
            at += u32::from_ne_bytes(spec[20..24].try_into().unwrap()) as usize;
        }
        assert_eq!(at, bytes.len());
    }

    #[test]
    fn a_request_is_a_header_that_is_read_back_the_same() {
        let (name, uuid) = ("n".repeat(127), "u".repeat(128));
        let name = DmName::new(name).unwrap();
        let bytes = Request::of(Verb::Create, &name).uuid(&uuid).flags(flag::READ_ONLY).encode(100);
        assert_eq!(bytes.len(), HEADER_BYTES + 104);
        let header = reply::Reply::parse(&bytes).unwrap();
        assert_eq!(header.info().unwrap().uuid.as_deref(), Some(uuid.as_str()));
    }

    #[test]
    fn what_is_done_is_said_with_the_device_and_the_message() {
        let name = DmName::new("windlass-x-pool").unwrap();
        let message = Request::of(Verb::Message, &name).message("delete 7");
        assert_eq!(message.action(), "send `delete 7` to windlass-x-pool");
        assert!(!message.only_asks());
        assert_eq!(Request::of(Verb::Suspend, &name).action(), "resume windlass-x-pool");
        assert_eq!(Request::of(Verb::Suspend, &name).flags(flag::SUSPEND).action(), "suspend windlass-x-pool");
    }
}
