//! Reading what stock restic prints.

/// The path of the only regular file in the output of `restic ls --json`, which is one object a line.
///
/// # Panics
/// When there is none, or there are several.
pub fn only_file(listed: &str) -> String {
    let files: Vec<String> = listed
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .filter(|node| node["type"] == "file")
        .map(|node| node["path"].as_str().unwrap().to_owned())
        .collect();
    let [file] = files.as_slice() else { panic!("not one file: {files:?}\n{listed}") };
    file.clone()
}
