//! Reading what stock restic prints.

/// The path of the largest file in the output of `restic ls --json`, which is one object a line: the volume. Beside it lies a
/// small one that describes it.
///
/// # Panics
/// When there is no file.
pub fn volume_file(listed: &str) -> String {
    let largest = listed
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .filter(|node| node["type"] == "file")
        .max_by_key(|node| node["size"].as_u64());
    let file = largest.unwrap_or_else(|| panic!("no file in the snapshot:\n{listed}"));
    file["path"].as_str().unwrap().to_owned()
}
