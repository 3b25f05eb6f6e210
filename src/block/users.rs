//! Who uses a block device, as far as the system tells, for messages to people.
//!
//! Whether a device is in use is decided by opening it exclusively, which file systems, swap, volume managers and device-mapper all
//! do: the kernel refuses a second one, and a whole disk of which a partition is in use. *Who* it is, the kernel does not
//! say; it is looked for here in sysfs, in the mount table and in the table of swap areas. Nothing found means that nobody
//! known is, such as a process that has it open, or a mount in another namespace.

use std::fs;
use std::io;
use std::path::Path;

use super::device;

/// Users of the device at `path` and of its partitions, each as a text: `mounted at /srv`, `held by dm-3 (vg-lv)`.
///
/// # Errors
/// `InvalidInput` when it is no block device.
pub fn of(path: &Path) -> io::Result<Vec<String>> {
    let (major, minor) = device::number(path)?;
    let entry = Path::new("/sys/dev/block").join(format!("{major}:{minor}"));
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    // Without swap support there is no such table.
    let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
    let mut found = of_entry(&entry, path, &mounts, &swaps);
    for partition in fs::read_dir(&entry).into_iter().flatten().flatten() {
        if partition.path().join("partition").exists() {
            let node = Path::new("/dev").join(partition.file_name());
            let of_partition = of_entry(&partition.path(), &node, &mounts, &swaps);
            found.extend(of_partition.into_iter().map(|text| format!("its partition {}: {text}", node.display())));
        }
    }
    Ok(found)
}

/// Users of one device, by its entry in sysfs.
fn of_entry(entry: &Path, node: &Path, mounts: &str, swaps: &str) -> Vec<String> {
    let number = fs::read_to_string(entry.join("dev")).unwrap_or_default();
    let mut found: Vec<String> = mounted(mounts, number.trim(), node).map(|place| format!("mounted at {place}")).collect();
    if swaps.lines().skip(1).any(|line| line.split_whitespace().next().is_some_and(|area| Path::new(area) == node)) {
        found.push("used as swap".to_owned());
    }
    for holder in fs::read_dir(entry.join("holders")).into_iter().flatten().flatten() {
        let name = holder.file_name().to_string_lossy().into_owned();
        let mapped = fs::read_to_string(holder.path().join("dm/name"));
        found.push(match mapped {
            Ok(mapped) => format!("held by {name} ({})", mapped.trim_end()),
            Err(_) => format!("held by {name}"),
        });
    }
    found
}

/// Where a device is mounted: by its number, or by its node where a file system has a number of its own (Btrfs).
fn mounted<'a>(mounts: &'a str, number: &'a str, node: &'a Path) -> impl Iterator<Item = &'a str> {
    mounts.lines().filter_map(move |line| {
        let (before, after) = line.split_once(" - ")?;
        let mut fields = before.split(' ').skip(2);
        let (device, place) = (fields.next()?, fields.nth(1)?);
        let source = after.split(' ').nth(1)?;
        (device == number || Path::new(source) == node).then_some(place)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
22 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw
30 22 8:17 / /srv\\040data rw,noatime - xfs /dev/sdb1 rw
31 22 0:44 /sub /pool rw shared:5 master:2 - btrfs /dev/sdc rw,subvol=/sub
32 22 8:170 / /other rw - xfs /dev/sdk10 rw
";

    #[test]
    fn a_mounted_device_is_found_by_its_number_or_its_node() {
        let of = |number, node| mounted(MOUNTS, number, Path::new(node)).collect::<Vec<_>>();
        assert_eq!(of("8:17", "/dev/sdb1"), ["/srv\\040data"]);
        assert_eq!(of("8:32", "/dev/sdc"), ["/pool"]);
        assert_eq!(of("8:33", "/dev/sdd"), [""; 0]);
    }

    #[test]
    fn swap_and_holders_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let entry = folder.path();
        fs::write(entry.join("dev"), "8:48\n").unwrap();
        fs::create_dir_all(entry.join("holders/dm-3/dm")).unwrap();
        fs::write(entry.join("holders/dm-3/dm/name"), "vg-data\n").unwrap();
        fs::create_dir_all(entry.join("holders/md0")).unwrap();
        let swaps = "Filename Type Size Used Priority\n/dev/sdd partition 100 0 -2\n";
        let mut found = of_entry(entry, Path::new("/dev/sdd"), MOUNTS, swaps);
        found.sort();
        assert_eq!(found, ["held by dm-3 (vg-data)", "held by md0", "used as swap"]);
    }

    #[test]
    fn what_is_no_block_device_is_refused() {
        assert_eq!(of(Path::new("/dev/null")).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
