//! The kernel's mount table.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use super::{MountEntry, MountError};

/// A line that is not in the format of proc(5).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {number} of mountinfo is malformed: {text}")]
pub struct MalformedLine {
    /// Which line, counted from 1.
    pub number: usize,
    /// The line.
    pub text: String,
}

/// The mounts of this process's mount namespace, in kernel order.
///
/// Since Linux 5.8 the kernel keeps its place between the reads of one open file, so what is mounted all the while is not
/// missed when others mount and unmount.
pub fn read() -> Result<Vec<MountEntry>, MountError> {
    const PATH: &str = "/proc/self/mountinfo";
    let bytes = std::fs::read(PATH).map_err(MountError::io(PATH))?;
    parse(&bytes).map_err(|error| MountError::io(PATH)(std::io::Error::new(std::io::ErrorKind::InvalidData, error)))
}

/// Parses the content of `/proc/PID/mountinfo`.
///
/// # Errors
/// [`MalformedLine`]: a table read in part would show mounted things as not mounted.
pub fn parse(content: &[u8]) -> Result<Vec<MountEntry>, MalformedLine> {
    let lines = content.split(|&byte| byte == b'\n').enumerate().filter(|(_, line)| !line.is_empty());
    lines
        .map(|(index, line)| {
            parse_line(line).ok_or_else(|| MalformedLine { number: index + 1, text: String::from_utf8_lossy(line).into_owned() })
        })
        .collect()
}

fn parse_line(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|&byte| byte == b' ');
    let id = number(fields.next()?)?;
    let _parent = fields.next()?;
    let mut device = fields.next()?.splitn(2, |&byte| byte == b':');
    let device = (number(device.next()?)?, number(device.next()?)?);
    let root = path(fields.next()?);
    let mount_point = path(fields.next()?);
    let options = list(fields.next()?);
    // Any number of optional fields, closed by a lone hyphen.
    let mut peer_group = None;
    loop {
        match fields.next()? {
            b"-" => break,
            field => peer_group = field.strip_prefix(b"shared:").and_then(number).or(peer_group),
        }
    }
    let fs_type = String::from_utf8_lossy(&unescape(fields.next()?)).into_owned();
    let source = path(fields.next()?);
    let super_options = list(fields.next().unwrap_or_default());
    Some(MountEntry { id, device, root, mount_point, options, peer_group, fs_type, source, super_options })
}

fn number<T: std::str::FromStr>(field: &[u8]) -> Option<T> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

fn path(field: &[u8]) -> PathBuf {
    OsString::from_vec(unescape(field)).into()
}

fn list(field: &[u8]) -> Vec<String> {
    // Options are separated before they are unescaped: an escaped comma belongs to its option.
    let parts = field.split(|&byte| byte == b',').filter(|part| !part.is_empty());
    parts.map(|part| String::from_utf8_lossy(&unescape(part)).into_owned()).collect()
}

/// Undoes the kernel's octal escapes (`\040` for a space). A backslash without three octal digits stands for itself.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        match tail {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..] if byte == b'\\' => {
                bytes.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = after;
            }
            _ => {
                bytes.push(byte);
                rest = tail;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_file_system_that_gave_up_is_told_from_one_that_is_read_only_by_wish() {
        let entry = |options: &str, super_options: &str| {
            let line = format!("30 1 7:0 / /mnt {options} shared:1 - ext4 /dev/loop0 {super_options}");
            parse(line.as_bytes()).unwrap().remove(0)
        };
        let usable = |options, super_options, expected| entry(options, super_options).check_usable(expected).is_ok();
        for (options, super_options, reads, writes) in [
            ("rw,relatime", "rw,errors=remount-ro", true, true),
            // Read-only by wish: what is refused is asking for more, elsewhere.
            ("ro,relatime", "ro", true, true),
            ("ro,relatime", "rw", true, true),
            ("rw,relatime", "ro,errors=remount-ro", true, false),
            ("rw,relatime", "rw,errors=remount-ro,emergency_ro", true, false),
            ("rw,relatime", "rw,shutdown", false, false),
            ("ro,relatime", "rw,shutdown", false, false),
        ] {
            assert_eq!(usable(options, super_options, Access::ReadOnly), reads, "{options} {super_options}");
            assert_eq!(usable(options, super_options, Access::ReadWrite), writes, "{options} {super_options}");
        }
    }

    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;

    use super::*;
    use crate::types::Access;
    use proptest::prelude::*;

    fn escape(bytes: &[u8]) -> String {
        // What the kernel does, and every byte beyond ASCII as well so that the line is a string.
        bytes.iter().fold(String::new(), |mut text, &byte| {
            if byte.is_ascii_graphic() && byte != b'\\' && byte != b'#' {
                text.push(byte.into());
            } else {
                text.push_str(&format!("\\{byte:03o}"));
            }
            text
        })
    }

    fn format(entry: &MountEntry) -> String {
        let path = |path: &Path| escape(path.as_os_str().as_bytes());
        let list = |list: &[String]| {
            list.iter().map(|option| escape(option.as_bytes()).replace(',', "\\054")).collect::<Vec<_>>().join(",")
        };
        format!(
            "{} 1 {}:{} {} {} {}{} master:2 - {} {} {}\n",
            entry.id,
            entry.device.0,
            entry.device.1,
            path(&entry.root),
            path(&entry.mount_point),
            list(&entry.options),
            entry.peer_group.map(|group| format!(" shared:{group}")).unwrap_or_default(),
            entry.fs_type,
            path(&entry.source),
            list(&entry.super_options),
        )
    }

    prop_compose! {
        fn any_path()(bytes in proptest::collection::vec(1_u8..=255, 0..20)) -> PathBuf {
            OsString::from_vec([b"/".as_slice(), &bytes].concat()).into()
        }
    }

    prop_compose! {
        fn any_entry()(
            id in any::<u64>(), device in any::<(u32, u32)>(), root in any_path(), mount_point in any_path(), source in any_path(),
            options in proptest::collection::vec("[a-z =,\\\\]{1,9}", 1..4), peer_group in any::<Option<u64>>(), super_options in proptest::collection::vec("[a-z=]{1,9}", 1..4),
        ) -> MountEntry {
            MountEntry { id, device, root, mount_point, options, peer_group, fs_type: "ext4".to_owned(), source, super_options }
        }
    }

    proptest! {
        #[test]
        fn what_the_kernel_writes_is_read_back(entries in proptest::collection::vec(any_entry(), 0..5)) {
            let text: String = entries.iter().map(format).collect();
            prop_assert_eq!(parse(text.as_bytes()).unwrap(), entries);
        }

        #[test]
        fn nothing_makes_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }
    }

    #[test]
    fn a_line_of_proc_5_is_understood() {
        let line = b"36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 - ext3 /dev/root ro,errors=continue\n";
        let entry = &parse(line).unwrap()[0];
        assert_eq!((entry.id, entry.device), (36, (98, 0)));
        assert_eq!(entry.root, Path::new("/mnt1"));
        assert_eq!(entry.mount_point, Path::new("/mnt 2"));
        assert_eq!(entry.fs_type, "ext3");
        assert_eq!(entry.super_options, ["ro", "errors=continue"]);
        assert_eq!((entry.access(), entry.peer_group), (Access::ReadOnly, None));
    }

    #[test]
    fn a_shared_mount_is_told_from_a_private_one_and_one_that_only_receives() {
        let group =
            |fields: &str| parse(format!("36 35 98:0 / /a rw {fields}- ext3 /dev/root rw\n").as_bytes()).unwrap()[0].peer_group;
        assert_eq!(group(""), None);
        assert_eq!(group("master:1 propagate_from:2 "), None);
        assert_eq!(group("unbindable "), None);
        assert_eq!(group("shared:12 "), Some(12));
        assert_eq!(group("shared:12 master:1 "), Some(12));
    }

    #[test]
    fn a_damaged_line_is_an_error_that_names_it() {
        let error = parse(b"1 0 0:1 / / rw - proc proc rw\n2 1 0:2 / /x rw\n").unwrap_err();
        assert_eq!(error.number, 2);
    }

    #[test]
    fn the_table_of_this_process_has_a_root() {
        assert!(read().unwrap().iter().any(|entry| entry.mount_point == Path::new("/")));
    }
}
