//! `meta.json`, the description of a volume beside its image: what reads is the same after it was written again.

use windlass::transfer::Metadata;

/// Reads it.
pub fn run(data: &[u8]) {
    let Ok(metadata) = Metadata::parse(data) else { return };
    let written = metadata.to_bytes().expect("JSON");
    let again = Metadata::parse(&written).expect("what was written");
    assert_eq!(again.size_bytes, metadata.size_bytes);
    assert_eq!(again, metadata);
}

/// Files of this and other versions.
pub fn seeds() -> Vec<Vec<u8>> {
    let full = Metadata {
        volume_handle: Some("v-a-b".to_owned()),
        snapshot_handle: Some("s-a-b".to_owned()),
        logical_block_bytes: Some(512),
        chunk_bytes: Some(262_144),
        filesystem: Some("ext4".to_owned()),
        ..Metadata::of_size(1 << 30)
    };
    vec![
        full.to_bytes().expect("JSON"),
        br#"{"version":9,"sizeBytes":5,"mode":"hologram","color":[1]}"#.to_vec(),
        br#"{"sizeBytes":18446744073709551615,"mode":"block"}"#.to_vec(),
    ]
}
