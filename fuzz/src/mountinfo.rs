//! The kernel's mount table, whose lines hold paths that others chose.
//!
//! Every line that is not empty is an entry, or the whole is refused with the number of the line that is wrong.

use windlass::mount::mountinfo::parse;

/// Reads a table.
pub fn run(data: &[u8]) {
    let lines = data.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()).count();
    match parse(data) {
        Ok(entries) => {
            assert_eq!(entries.len(), lines);
            let text: usize =
                entries.iter().map(|entry| entry.mount_point.as_os_str().len() + entry.root.as_os_str().len()).sum();
            assert!(text <= data.len());
        }
        Err(error) => {
            let line = data.split(|&byte| byte == b'\n').nth(error.number - 1).expect("the line that is named");
            assert_eq!(String::from_utf8_lossy(line), error.text);
            assert!(parse(line).is_err(), "a line that is sound by itself is refused");
        }
    }
}

/// This process's own table, and lines of proc(5).
pub fn seeds() -> Vec<Vec<u8>> {
    vec![
        std::fs::read("/proc/self/mountinfo").expect("the mount table"),
        b"36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 - ext3 /dev/root ro,errors=continue\n".to_vec(),
        b"1 0 0:1 / / rw - proc proc rw\n2 1 0:2 /\\134040 /x\\011y rw,a\\054b shared:1 master:2 - fuse.x \\012 \n".to_vec(),
    ]
}
