//! Snapshots: as they are, and behind a valid seal.
//!
//! One that is accepted is the same after it was written again, and its time, if it is one, too.

use windlass::repository::store::Kind;
use windlass::repository::time::{parse_rfc3339, rfc3339};
use windlass::repository::{Id, Snapshot};

use crate::fixture::{Plain, block_on, document_seeds, with_document};

/// Lists the snapshots, and finds the one.
pub fn run(data: &[u8]) {
    with_document(Kind::Snapshot, data, |repository, key, plain| {
        let listed = match block_on(repository.snapshots()) {
            Err(error) => {
                assert!(error.to_string().contains(&key.path()), "the object is not named: {error}");
                assert!(block_on(repository.find_snapshot("latest")).is_err());
                return;
            }
            Ok(listed) => listed,
        };
        assert!(plain != Plain::None, "a forged snapshot was accepted");
        let [stored] = listed.as_slice() else { panic!("{} snapshots", listed.len()) };
        assert_eq!(block_on(repository.find_snapshot("latest")).expect("the latest"), *stored);
        assert_eq!(block_on(repository.find_snapshot(&stored.id.short())).expect("by its name"), *stored);
        let text = serde_json::to_vec(&stored.snapshot).expect("JSON");
        assert_eq!(serde_json::from_slice::<Snapshot>(&text).expect("what was written"), stored.snapshot);
        // Years of five digits have no text.
        if let Some(taken) = stored.snapshot.taken().filter(|taken| taken.seconds < 253_402_300_800) {
            assert_eq!(parse_rfc3339(&rfc3339(taken)), Some(taken));
        }
    });
}

/// A snapshot of ours and one of restic's.
pub fn seeds() -> Vec<Vec<u8>> {
    let id = Id::of(b"");
    [
        format!(
            r#"{{"time":"2026-01-01T10:00:00.1+01:00","parent":"{id}","tree":"{id}","paths":["/v/volume.img"],"hostname":"h","tags":["a"],"program_version":"windlass 0.1.0","summary":{{"backup_start":"2026-01-01T10:00:00Z","data_blobs":-1,"total_bytes_processed":9}}}}"#
        ),
        format!(
            r#"{{"time":"1969-12-31T23:59:59Z","tree":"{id}","paths":["/stdin"],"hostname":"h","username":"u","uid":1000,"gid":1000,"excludes":["x"],"tags":null,"original":"{id}"}}"#
        ),
    ]
    .iter()
    .flat_map(|text| document_seeds(text.as_bytes()))
    .collect()
}
