//! Where a repository lies, in the words that restic users know.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Where a repository lies.
///
/// Text form, as in `RESTIC_REPOSITORY`: `/path` or `local:/path`; `s3:host[:port]/bucket[/prefix]` (TLS), or with an explicit
/// scheme `s3:https://...`, `s3:http://...`; `gs:bucket:/[prefix]`; `azure:container:/[prefix]`. It holds no secrets.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Location {
    /// A directory of this machine.
    Local(PathBuf),
    /// A bucket, or a prefix in one.
    S3(S3Location),
    /// A bucket at Google.
    Gcs(BucketLocation),
    /// A container at Azure.
    Azure(BucketLocation),
}

/// A bucket whose address follows from its name, and the prefix in it under which the repository lies.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BucketLocation {
    /// Name of the bucket or container.
    pub bucket: String,
    /// Path in the bucket without slashes at either end; empty for the bucket itself.
    pub prefix: String,
}

/// A bucket behind the S3 protocol, and the prefix in it under which the repository lies.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct S3Location {
    /// `https://host[:port]` or `http://host[:port]`, without a slash at the end.
    pub endpoint: String,
    pub bucket: String,
    /// Path in the bucket without slashes at either end; empty for the bucket itself.
    pub prefix: String,
}

/// The text does not name a repository that this program can open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LocationError {
    #[error("the repository location is empty")]
    Empty,
    /// A relative path: it would mean something else in another process.
    #[error("`{0}` is not an absolute path; write /PATH, or s3:HOST/BUCKET[/PREFIX]")]
    Relative(String),
    /// A kind of store that this program does not support.
    #[error(
        "`{0}:` repositories are not supported; use /PATH, s3:HOST/BUCKET[/PREFIX], gs:BUCKET:/[PREFIX] or azure:CONTAINER:/[PREFIX]"
    )]
    Backend(String),
    /// `s3:` without a host or without a bucket.
    #[error("an S3 location reads s3:HOST[:PORT]/BUCKET[/PREFIX] or s3:https://HOST[:PORT]/BUCKET[/PREFIX]: {0}")]
    S3(&'static str),
    /// `gs:` or `azure:` without a bucket or without a path.
    #[error("a location in `{0}:` reads {0}:BUCKET:/[PREFIX]: {1}")]
    Bucket(&'static str, &'static str),
}

/// Stores of restic that begin with a word and a colon; a path may hold a colon too, so only these are told apart.
const OTHER_BACKENDS: [&str; 5] = ["sftp", "rest", "b2", "swift", "rclone"];

impl FromStr for Location {
    type Err = LocationError;

    fn from_str(text: &str) -> Result<Self, LocationError> {
        if text.is_empty() {
            return Err(LocationError::Empty);
        }
        if let Some(rest) = text.strip_prefix("s3:") {
            return s3(rest).map(Location::S3);
        }
        if let Some(rest) = text.strip_prefix("gs:") {
            return bucket("gs", rest).map(Location::Gcs);
        }
        if let Some(rest) = text.strip_prefix("azure:") {
            return bucket("azure", rest).map(Location::Azure);
        }
        if let Some(backend) =
            OTHER_BACKENDS.iter().find(|name| text.strip_prefix(**name).is_some_and(|rest| rest.starts_with(':')))
        {
            return Err(LocationError::Backend((*backend).to_owned()));
        }
        let path = PathBuf::from(text.strip_prefix("local:").unwrap_or(text));
        if path.is_absolute() { Ok(Self::Local(path)) } else { Err(LocationError::Relative(text.to_owned())) }
    }
}

fn s3(text: &str) -> Result<S3Location, LocationError> {
    // Of a URL restic decodes the path; what has no scheme of its own it takes as it stands.
    let (scheme, rest, is_url) = match text.split_once("://") {
        Some((scheme @ ("http" | "https"), rest)) => (scheme, rest, true),
        Some(_) => return Err(LocationError::S3("the scheme is neither http nor https")),
        // restic also accepts `s3://host/bucket`, which carries no scheme.
        None => ("https", text.strip_prefix("//").unwrap_or(text), false),
    };
    let (host, path) = rest.split_once('/').ok_or(LocationError::S3("the bucket is missing"))?;
    if host.is_empty() || host.contains(|c: char| c.is_whitespace() || matches!(c, '?' | '#')) {
        return Err(LocationError::S3("the host is missing or malformed"));
    }
    if host.contains('@') {
        return Err(LocationError::S3("credentials do not belong into a location"));
    }
    if is_url && path.contains(['?', '#']) {
        return Err(LocationError::S3("the bucket is missing or malformed"));
    }
    let path = if is_url {
        decoded(path).ok_or(LocationError::S3("a `%` is not followed by two hexadecimal digits"))?
    } else {
        path.to_owned()
    };
    let (bucket, prefix) = path.trim_matches('/').split_once('/').unwrap_or((path.trim_matches('/'), ""));
    let prefix = clean(prefix).map_err(LocationError::S3)?;
    if !is_name(bucket) {
        return Err(LocationError::S3("the bucket is missing or malformed"));
    }
    Ok(S3Location { endpoint: format!("{scheme}://{host}"), bucket: bucket.to_owned(), prefix })
}

/// `bucket:/prefix`, as restic writes it for Google and Azure.
fn bucket(backend: &'static str, text: &str) -> Result<BucketLocation, LocationError> {
    let refused = |why| LocationError::Bucket(backend, why);
    let (bucket, prefix) = text.split_once(':').ok_or_else(|| refused("the path is missing"))?;
    if !is_name(bucket) {
        return Err(refused("the bucket is missing or malformed"));
    }
    Ok(BucketLocation { bucket: bucket.to_owned(), prefix: clean(prefix).map_err(refused)? })
}

/// Whether a bucket's name is one part of a path.
fn is_name(bucket: &str) -> bool {
    !bucket.is_empty()
        && bucket != "."
        && bucket != ".."
        && !bucket.contains(|c: char| c.is_control() || matches!(c, '/' | '?' | '#' | '%'))
}

/// Checks that a prefix has no empty parts.
fn clean(prefix: &str) -> Result<String, &'static str> {
    let parts: Vec<&str> = prefix.split('/').filter(|part| !part.is_empty()).collect();
    if parts.iter().any(|part| matches!(*part, "." | "..")) {
        return Err("the bucket and the prefix may not hold `.` or `..`");
    }
    if prefix.contains(char::is_control) {
        return Err("the prefix may not hold control characters");
    }
    Ok(parts.join("/"))
}

/// Decodes the percent-encoding of a URL; `None` where that is malformed or not UTF-8.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let (byte, after) = match first {
            b'%' => {
                let digits = tail.get(..2).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))?;
                (u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?, &tail[2..])
            }
            byte => (byte, tail),
        };
        bytes.push(byte);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

/// Encodes text as [`decoded`] decodes it.
fn encoded(text: &str) -> String {
    let plain = |c: char| !matches!(c, '%' | '?' | '#');
    text.chars().map(|c| if plain(c) { c.to_string() } else { format!("%{:02X}", u32::from(c)) }).collect()
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(path) => path.display().fmt(f),
            Self::S3(s3) if s3.prefix.is_empty() => write!(f, "s3:{}/{}", s3.endpoint, s3.bucket),
            Self::S3(s3) => write!(f, "s3:{}/{}/{}", s3.endpoint, s3.bucket, encoded(&s3.prefix)),
            Self::Gcs(gcs) => write!(f, "gs:{}:/{}", gcs.bucket, gcs.prefix),
            Self::Azure(azure) => write!(f, "azure:{}:/{}", azure.bucket, azure.prefix),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> S3Location {
        match text.parse() {
            Ok(Location::S3(location)) => location,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn s3_locations_read_as_restic_writes_them() {
        let plain = parsed("s3:s3.amazonaws.com/backups");
        assert_eq!(
            (plain.endpoint.as_str(), plain.bucket.as_str(), plain.prefix.as_str()),
            ("https://s3.amazonaws.com", "backups", "")
        );
        let deep = parsed("s3:http://127.0.0.1:9000/backups//team/a/");
        assert_eq!(
            (deep.endpoint.as_str(), deep.bucket.as_str(), deep.prefix.as_str()),
            ("http://127.0.0.1:9000", "backups", "team/a")
        );
        assert_eq!(parsed("s3://host/bucket"), parsed("s3:https://host/bucket"));
        assert_eq!(parsed("s3:http://host/b/a%20b/%C3%A4%25/x").prefix, "a b/ä%/x");
        assert_eq!(parsed("s3:host/b/a%20b").prefix, "a%20b", "no URL, so nothing is decoded");
        assert_eq!(parsed("s3:host/b/what?").prefix, "what?");
    }

    #[test]
    fn buckets_of_google_and_azure_read_as_restic_writes_them() {
        let located = |bucket: &str, prefix: &str| BucketLocation { bucket: bucket.into(), prefix: prefix.into() };
        assert_eq!("gs:backups:/team/a/".parse(), Ok(Location::Gcs(located("backups", "team/a"))));
        assert_eq!("gs:backups:/".parse(), Ok(Location::Gcs(located("backups", ""))));
        assert_eq!("azure:backups:a%20b".parse(), Ok(Location::Azure(located("backups", "a%20b"))));
        for text in ["gs:", "gs:backups", "azure::/x", "gs:a/b:/x", "azure:b:/../x"] {
            assert!(matches!(text.parse::<Location>(), Err(LocationError::Bucket(..))), "{text}");
        }
    }

    #[test]
    fn a_location_reads_back_from_its_text() {
        for text in [
            "/srv/backup",
            "s3:https://host:9000/bucket/a/b",
            "s3:http://host/bucket",
            "s3:https://h/b/a b/%25%3F%23",
            "gs:b:/x",
            "azure:c:/",
        ] {
            let location: Location = text.parse().unwrap();
            assert_eq!(location.to_string(), text);
        }
        assert_eq!("local:/srv/x".parse(), Ok(Location::Local("/srv/x".into())));
    }

    #[test]
    fn everything_else_is_refused_by_name() {
        assert_eq!("".parse::<Location>(), Err(LocationError::Empty));
        assert_eq!("backup".parse::<Location>(), Err(LocationError::Relative("backup".into())));
        assert_eq!("sftp:host:/x".parse::<Location>(), Err(LocationError::Backend("sftp".into())));
        for text in [
            "s3:",
            "s3:host",
            "s3:host/",
            "s3:/bucket",
            "s3:ftp://host/bucket",
            "s3:key@host/bucket",
            "s3:host/b/../c",
            "s3:host/../c",
            "s3:http://host/b/%2e%2E/c",
            "s3:http://host/b/%zz",
            "s3:http://host/b/%f",
            "s3:http://host/b/%ff",
            "s3:http://host/b/%0a",
            "s3:http://host/b/c?d",
        ] {
            assert!(matches!(text.parse::<Location>(), Err(LocationError::S3(_))), "{text}");
        }
    }
}
