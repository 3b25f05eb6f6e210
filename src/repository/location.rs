//! Where a repository lies, in the words that restic users know.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Where a repository lies.
///
/// Text form, as in `RESTIC_REPOSITORY`: `/path` or `local:/path`; `s3:host[:port]/bucket[/prefix]` (TLS), or with an explicit
/// scheme `s3:https://...`, `s3:http://...`. It holds no secrets.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Location {
    /// A directory of this machine.
    Local(PathBuf),
    /// A bucket, or a prefix in one.
    S3(S3Location),
}

/// A bucket behind the S3 protocol, and the prefix in it under which the repository lies.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct S3Location {
    /// `https://host[:port]` or `http://host[:port]`, without a slash at the end.
    pub endpoint: String,
    /// Name of the bucket.
    pub bucket: String,
    /// Path in the bucket without slashes at either end; empty for the bucket itself.
    pub prefix: String,
}

/// Text that names no repository we can open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LocationError {
    /// Empty.
    #[error("the repository location is empty")]
    Empty,
    /// A relative path: it would mean something else in another process.
    #[error("`{0}` is not an absolute path; write /PATH, or s3:HOST/BUCKET[/PREFIX]")]
    Relative(String),
    /// A store that this build does not speak.
    #[error("`{0}:` repositories are not supported; use /PATH or s3:HOST/BUCKET[/PREFIX]")]
    Backend(String),
    /// `s3:` without a host or without a bucket.
    #[error("an S3 location reads s3:HOST[:PORT]/BUCKET[/PREFIX] or s3:https://HOST[:PORT]/BUCKET[/PREFIX]: {0}")]
    S3(&'static str),
}

/// Stores of restic that begin with a word and a colon; a path may hold a colon too, so only these are told apart.
const OTHER_BACKENDS: [&str; 7] = ["sftp", "rest", "b2", "azure", "gs", "swift", "rclone"];

impl FromStr for Location {
    type Err = LocationError;

    fn from_str(text: &str) -> Result<Self, LocationError> {
        if text.is_empty() {
            return Err(LocationError::Empty);
        }
        if let Some(rest) = text.strip_prefix("s3:") {
            return s3(rest).map(Location::S3);
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
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme @ ("http" | "https"), rest)) => (scheme, rest),
        Some(_) => return Err(LocationError::S3("the scheme is neither http nor https")),
        // restic also accepts `s3://host/bucket`, which carries no scheme.
        None => ("https", text.strip_prefix("//").unwrap_or(text)),
    };
    let (host, path) = rest.split_once('/').ok_or(LocationError::S3("the bucket is missing"))?;
    if host.is_empty() || host.contains(|c: char| c.is_whitespace() || matches!(c, '?' | '#')) {
        return Err(LocationError::S3("the host is missing or malformed"));
    }
    if host.contains('@') {
        return Err(LocationError::S3("credentials do not belong into a location"));
    }
    let path = path.trim_matches('/');
    let (bucket, prefix) = path.split_once('/').unwrap_or((path, ""));
    if bucket.is_empty() || path.contains(|c: char| c.is_control() || matches!(c, '?' | '#')) {
        return Err(LocationError::S3("the bucket is missing or malformed"));
    }
    if path.split('/').any(|part| part == ".." || part == ".") {
        return Err(LocationError::S3("the bucket and the prefix may not hold `.` or `..`"));
    }
    let prefix = prefix.split('/').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/");
    Ok(S3Location { endpoint: format!("{scheme}://{host}"), bucket: bucket.to_owned(), prefix })
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(path) => path.display().fmt(f),
            Self::S3(s3) if s3.prefix.is_empty() => write!(f, "s3:{}/{}", s3.endpoint, s3.bucket),
            Self::S3(s3) => write!(f, "s3:{}/{}/{}", s3.endpoint, s3.bucket, s3.prefix),
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
    }

    #[test]
    fn a_location_reads_back_from_its_text() {
        for text in ["/srv/backup", "s3:https://host:9000/bucket/a/b", "s3:http://host/bucket"] {
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
        ] {
            assert!(matches!(text.parse::<Location>(), Err(LocationError::S3(_))), "{text}");
        }
    }
}
