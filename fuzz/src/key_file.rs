//! Key files: as they are, and with a chosen master key behind the seal of the password.
//!
//! A file that asks for more work or memory than the bounds allow is refused before any is spent; one within them may take as long
//! as it says, and is left out here: it would only slow the fuzzer down.

use std::sync::LazyLock;

use serde_json::Value;
use windlass::repository::store::{Key, Kind};
use windlass::repository::{Repository, RepositoryError};

use crate::fixture::{Fixture, block_on, password};
use crate::format::{Keys, key_file, master_key};

const SALT: [u8; 64] = [7; 64];
/// Most work that is worth an input, as N * r * p.
const CHEAP: u64 = 1 << 9;
/// What the library is willing to spend: work as N * r * p, and 128 * N * r bytes.
const MAX_WORK: u64 = 1 << 25;
const MAX_BYTES: u64 = 256 << 20;

static FIXTURE: LazyLock<Fixture> = LazyLock::new(Fixture::new);
static USER: LazyLock<Keys> = LazyLock::new(|| Keys::derived(b"password", &SALT, 1, 1, 1));

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cost {
    /// It is no key file.
    Nothing,
    Cheap,
    Allowed,
    Refused,
}

/// What the file asks for; `None` when it is no JSON that can be told it from.
fn cost(file: &[u8]) -> Option<Cost> {
    let file: Value = serde_json::from_slice(file).ok()?;
    let [Some(n), Some(r), Some(p)] = ["N", "r", "p"].map(|name| file[name].as_u64().map(u128::from)) else {
        return Some(Cost::Nothing);
    };
    let (work, bytes) = (n.saturating_mul(r).saturating_mul(p), n.saturating_mul(r).saturating_mul(128));
    Some(match work {
        _ if work > u128::from(MAX_WORK) || bytes > u128::from(MAX_BYTES) => Cost::Refused,
        _ if work > u128::from(CHEAP) => Cost::Allowed,
        _ => Cost::Cheap,
    })
}

/// Opens a repository with this key alone.
pub fn run(data: &[u8]) {
    let Some((&mode, text)) = data.split_first() else { return };
    let (file, sealed) = match mode % 2 {
        0 => (text.to_vec(), false),
        _ => (key_file(2, 1, 1, &SALT, &USER.seal([9; 16], text)), true),
    };
    let Some(cost) = cost(&file).filter(|&cost| cost != Cost::Allowed) else { return };
    FIXTURE.clear(Kind::Key);
    let key = FIXTURE.put(Kind::Key, file);
    match block_on(Repository::open(FIXTURE.store.clone(), &password())) {
        Ok(_) => panic!("the config is of another key"),
        Err(RepositoryError::WrongPassword) => assert!(!sealed && cost == Cost::Cheap),
        // A sound master key that does not open the config.
        Err(RepositoryError::Damaged { object, .. }) if object == Key::Config.path() => {
            assert!(cost == Cost::Cheap)
        }
        Err(error) => assert!(error.to_string().contains(&key.path()), "the object is not named: {error}"),
    }
}

/// Key files of all sorts.
pub fn seeds() -> Vec<Vec<u8>> {
    let master = master_key(&[5; 64]);
    let sealed = USER.seal([1; 16], &master);
    let raw = [(2, 1, 1), (16, 8, 1), (1 << 40, 8, 1), (2, 1 << 30, 1), (32, 1, u32::MAX)]
        .map(|(n, r, p)| [&[0], &key_file(n, r, p, &SALT, &sealed)[..]].concat());
    raw.into_iter().chain([[&[1], &master[..]].concat()]).collect()
}
