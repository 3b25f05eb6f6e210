//! The object `config`: as it is, and behind a valid seal.
//!
//! Accepted is only version 2, with the id that it says.

use std::sync::LazyLock;

use serde_json::Value;
use windlass::repository::store::Key;
use windlass::repository::{Id, Repository, RepositoryError};

use crate::fixture::{Fixture, block_on, password};

static FIXTURE: LazyLock<Fixture> = LazyLock::new(Fixture::new);

/// Opens the repository with another `config`.
pub fn run(data: &[u8]) {
    let Some((&mode, text)) = data.split_first() else { return };
    let sealed = mode % 2 == 1;
    let bytes = if sealed { FIXTURE.repository.sealer().seal(text).expect("random numbers") } else { text.to_vec() };
    FIXTURE.store.tamper(Key::Config, |config| *config = bytes);
    match block_on(Repository::open(FIXTURE.store.clone(), &password())) {
        Ok(opened) => {
            assert!(sealed, "a forged config was accepted");
            // What is ignored may hold what this other reader refuses.
            let Ok(config) = serde_json::from_slice::<Value>(text) else { return };
            assert_eq!(config["version"], 2);
            assert_eq!(config["id"].as_str().and_then(|id| id.parse::<Id>().ok()), Some(opened.id()));
        }
        Err(RepositoryError::UnsupportedVersion { found, .. }) => assert!(sealed && found != 2),
        Err(error) => assert!(error.to_string().contains("config"), "the object is not named: {error}"),
    }
}

/// A config, and one of another version.
pub fn seeds() -> Vec<Vec<u8>> {
    let id = Id::of(b"");
    let text = format!(r#"{{"version":2,"id":"{id}","chunker_polynomial":"25b468838dcb75"}}"#);
    let other = r#"{"version":1,"id":"x"}"#;
    [text.as_str(), other].iter().flat_map(|text| [0, 1].map(|mode| [&[mode], text.as_bytes()].concat())).collect()
}
