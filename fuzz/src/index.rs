//! Index files: as they are, and behind a valid seal.
//!
//! Every blob that an accepted file names is found, in a place that can exist; and what it costs is paid for by the file's length.

use serde_json::Value;
use windlass::repository::store::Kind;
use windlass::repository::{BlobKind, Id};

use crate::fixture::{Plain, block_on, document_seeds, with_document};

/// The shortest text of a blob in an index: 64 digits of its id, its kind, two numbers, and the names of the four.
const SHORTEST_ENTRY: usize = 64 + 45;

/// Loads the index.
pub fn run(data: &[u8]) {
    with_document(Kind::Index, data, |repository, key, plain| match block_on(repository.load_index()) {
        Err(error) => assert!(error.to_string().contains(&key.path()), "the object is not named: {error}"),
        Ok(index) => {
            let text = match plain {
                Plain::None => panic!("a forged index was accepted"),
                Plain::Compressed => return,
                Plain::Text(text) => text,
            };
            assert!(index.len() <= (text.len() / SHORTEST_ENTRY) as u64, "{} blobs in {} bytes", index.len(), text.len());
            // What is ignored may hold what this other reader refuses.
            let Ok(file) = serde_json::from_slice::<Value>(&text) else { return };
            let packs = file["packs"].as_array().expect("packs");
            for blob in packs.iter().flat_map(|pack| pack["blobs"].as_array().expect("blobs")) {
                let id: Id = blob["id"].as_str().and_then(|id| id.parse().ok()).expect("an id");
                let kind = if blob["type"] == "tree" { BlobKind::Tree } else { BlobKind::Data };
                let found = index.get(kind, &id).expect("scratch space").expect("a blob that the index names");
                assert!(found.length >= 32 && found.end() <= u64::from(u32::MAX));
            }
        }
    });
}

/// An index of a plain and a compressed blob, one of nothing, and one in which a pack occurs twice.
pub fn seeds() -> Vec<Vec<u8>> {
    let (pack, one, two) = (Id::of(b"pack"), Id::of(b"one"), Id::of(b"two"));
    let blob = |id, kind, offset, more| format!(r#"{{"id":"{id}","type":"{kind}","offset":{offset},"length":50{more}}}"#);
    let packs = format!(
        r#"{{"id":"{pack}","blobs":[{},{}]}}"#,
        blob(one, "data", 0, ""),
        blob(two, "tree", 50, r#","uncompressed_length":99"#)
    );
    [
        format!(r#"{{"supersedes":["{pack}"],"packs":[{packs}]}}"#),
        r#"{"packs":[]}"#.to_owned(),
        format!(r#"{{"packs":[{packs},{packs}]}}"#),
    ]
    .iter()
    .flat_map(|text| document_seeds(text.as_bytes()))
    .collect()
}
