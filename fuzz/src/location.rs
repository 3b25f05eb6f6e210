//! Where a repository lies, and the environment that it is reached with, as a request says them.
//!
//! What is accepted reads back from its text, carries no secret in it, and can be connected to or is refused; nothing is sent.

use windlass::repository::environment::Variable;
use windlass::repository::{Environment, Location, connect};

use crate::fixture::block_on;
use crate::input::{Input, part};

/// Reads a location and an environment.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let text = input.text();
    let mut pairs = Vec::new();
    while !input.is_empty() && pairs.len() < 20 {
        pairs.push((input.text(), input.text()));
    }
    let environment = Environment::from_pairs(pairs.clone());
    let shown = format!("{environment:?}");
    for &variable in Variable::ALL {
        let value = pairs.iter().rev().find(|(name, _)| name == variable.name()).map(|(_, value)| value.as_str());
        assert_eq!(environment.get(variable), value.filter(|value| !value.is_empty()));
    }
    // Names of variables, quotation marks, and nothing else.
    assert!(shown.bytes().all(|byte| byte.is_ascii_uppercase() || b"{}\", _".contains(&byte)), "{shown}");

    let Ok(location) = text.parse::<Location>() else { return };
    let written = location.to_string();
    assert_eq!(written.parse().as_ref(), Ok(&location), "{written}");
    match &location {
        Location::Local(path) => assert!(path.is_absolute()),
        Location::S3(s3) => {
            assert!(!s3.endpoint.contains('@'), "credentials in {s3:?}");
            is_in_a_bucket(&s3.bucket, &s3.prefix);
        }
        Location::Gcs(place) | Location::Azure(place) => is_in_a_bucket(&place.bucket, &place.prefix),
    }
    // Makes a client for HTTPS, which takes a while; one in some is enough.
    if !matches!(location, Location::Local(_)) && data.len() % 16 == 0 {
        let _ = block_on(async { connect(&location, &environment) });
    }
}

fn is_in_a_bucket(bucket: &str, prefix: &str) {
    assert!(!bucket.is_empty() && !prefix.split('/').any(|part| part == ".."));
}

/// Locations of all sorts, with and without credentials.
pub fn seeds() -> Vec<Vec<u8>> {
    let pairs = [("AWS_ACCESS_KEY_ID", "AKIA"), ("AWS_SECRET_ACCESS_KEY", "secret"), ("AWS_REGION", "eu"), ("OTHER", "x")];
    let environment: Vec<u8> =
        pairs.iter().flat_map(|(name, value)| [part(name.as_bytes()), part(value.as_bytes())].concat()).collect();
    [
        "/srv/backup",
        "local:/srv",
        "s3:host/bucket",
        "s3:http://127.0.0.1:9000/bucket//a/b/",
        "s3://h/b",
        "sftp:h:/x",
        "s3:[::1]:9/b/p",
        "gs:bucket:/prefix",
        "azure:container:/",
    ]
    .iter()
    .flat_map(|text| [part(text.as_bytes()), [part(text.as_bytes()), environment.clone()].concat()])
    .collect()
}
