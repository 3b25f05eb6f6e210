//! Handles, ids and names: one thing has one spelling, and whatever does not parse is nothing.

use std::fmt::Display;
use std::str::FromStr;

use windlass::csi::NodeName;
use windlass::repository::Id;
use windlass::types::{ObjectName, PoolId, SnapshotHandle, SnapshotId, VolumeHandle, VolumeId};

fn one_spelling<T: FromStr + Display>(text: &str) -> bool {
    let Ok(parsed) = text.parse::<T>() else { return false };
    assert_eq!(parsed.to_string(), text);
    true
}

/// Reads the text as everything.
pub fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let handles = [one_spelling::<VolumeHandle>(&text), one_spelling::<SnapshotHandle>(&text)];
    assert!(handles != [true, true], "both a volume and a snapshot");
    if handles != [false, false] {
        assert!(text.len() <= 63 && NodeName::try_from(text.clone().into_owned()).is_ok(), "no label: {text}");
    }
    let ids = [one_spelling::<PoolId>(&text), one_spelling::<VolumeId>(&text), one_spelling::<SnapshotId>(&text)];
    assert!(ids == [true; 3] || ids == [false; 3]);
    if let Some(pool) = PoolId::from_label(&text) {
        assert_eq!(pool.label(), text);
    }
    // Those of restic are read in either case and written in the lower.
    if let Ok(id) = text.parse::<Id>() {
        assert_eq!(id.to_string(), text.to_ascii_lowercase());
        assert_eq!(Id::from_hex(&id.hex()), Ok(id));
    }
    if let Ok(name) = ObjectName::try_from(text.clone().into_owned()) {
        assert!(name.as_str() == text && (1..=128).contains(&text.len()));
    }
    if let Ok(node) = NodeName::try_from(text.clone().into_owned()) {
        assert!(node.as_str() == text && (1..=63).contains(&text.len()));
    }
}

/// One of each.
pub fn seeds() -> Vec<Vec<u8>> {
    let (pool, volume, snapshot) = (PoolId::from_bytes([1; 16]), VolumeId::from_bytes([2; 16]), SnapshotId::from_bytes([3; 16]));
    [
        VolumeHandle { pool, volume }.to_string(),
        SnapshotHandle { pool, snapshot }.to_string(),
        pool.to_string(),
        pool.label(),
        Id::of(b"").to_string(),
        "node-1".to_owned(),
    ]
    .map(String::into_bytes)
    .to_vec()
}
