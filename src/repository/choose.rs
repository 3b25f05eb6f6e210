//! Chooses the snapshot that is to be restored.
//!
//! A snapshot is named by its id, or the beginning of one, or as the `latest` of those that match everything else that was said: the
//! volume, host, tags and time, and the file that is asked for. Where nothing says which volume is meant and there are several, the
//! choice fails: the newest of all would be some volume's, and its restore would look like success.

use std::collections::BTreeMap;
use std::fmt;

use super::error::RepositoryError;
use super::forget::Filter;
use super::open::Repository;
use super::snapshot::{LATEST, Snapshot, StoredSnapshot};
use crate::types::Timestamp;
use crate::types::error::chain;

/// Volumes that are named when one has to be chosen.
const NAMED: usize = 10;

/// How a user names the snapshot to restore.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SnapshotChoice {
    /// Its id, the beginning of it, or `latest`.
    pub name: String,
    pub filter: Filter,
    /// The volume: its PersistentVolumeClaim as `namespace/name`, or its handle.
    pub source: Option<String>,
    /// Snapshots from this time on do not count.
    pub before: Option<Timestamp>,
}

impl From<&str> for SnapshotChoice {
    fn from(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }
}

impl From<&String> for SnapshotChoice {
    fn from(name: &String) -> Self {
        name.as_str().into()
    }
}

/// As an error repeats it when no snapshot matches.
impl fmt::Display for SnapshotChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if self.source.is_some() || self.before.is_some() || !self.filter.is_empty() {
            f.write_str(" with what else was asked for")?;
        }
        Ok(())
    }
}

impl SnapshotChoice {
    /// Whether a snapshot is what else was asked for, whatever its name.
    pub fn matches(&self, snapshot: &Snapshot) -> bool {
        self.filter.matches(snapshot)
            && self.source.as_ref().is_none_or(|source| is_of(snapshot, source))
            && self.before.is_none_or(|before| snapshot.taken().is_some_and(|taken| taken < before))
    }
}

/// Whether a snapshot is of this volume, by its tag or by the first part of its path, which is the handle.
fn is_of(snapshot: &Snapshot, source: &str) -> bool {
    let tagged = |tag: &String| tag.strip_prefix("pvc=") == Some(source);
    let named = |path: &String| path.split('/').find(|part| !part.is_empty()) == Some(source);
    snapshot.tags.iter().any(tagged) || snapshot.paths.iter().any(named)
}

/// Whether what was backed up may hold the file at this path.
fn covers(snapshot: &Snapshot, file: &str) -> bool {
    let file = file.trim_matches('/');
    snapshot.paths.iter().any(|path| {
        let rest = file.strip_prefix(path.trim_matches('/'));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    })
}

/// The newest of `snapshots`, which are in order, that the choice leaves.
fn latest(
    snapshots: Vec<StoredSnapshot>,
    choice: &SnapshotChoice,
    file: Option<&str>,
) -> Result<StoredSnapshot, RepositoryError> {
    let mut left: Vec<_> = snapshots.into_iter().filter(|stored| choice.matches(&stored.snapshot)).collect();
    // A path says which volume is meant, unless it is one within a snapshot whose own path says otherwise.
    let is_covered = |stored: &StoredSnapshot| file.is_some_and(|file| covers(&stored.snapshot, file));
    let by_path = left.iter().any(is_covered);
    if by_path {
        left.retain(is_covered);
    }
    let volumes: BTreeMap<&[String], &Snapshot> =
        left.iter().map(|stored| (stored.snapshot.paths.as_slice(), &stored.snapshot)).collect();
    if volumes.len() > 1 && choice.source.is_none() && !by_path {
        return Err(RepositoryError::SeveralVolumes { volumes: described(volumes.values()) });
    }
    left.pop().ok_or_else(|| RepositoryError::NoSuchSnapshot(choice.to_string()))
}

/// Names each volume by its claim, if it had one, and its path.
fn described<'a>(volumes: impl ExactSizeIterator<Item = &'a &'a Snapshot>) -> String {
    let more = volumes.len().saturating_sub(NAMED);
    let describe = |snapshot: &&Snapshot| {
        let paths = snapshot.paths.join(" ");
        match snapshot.tags.iter().find_map(|tag| tag.strip_prefix("pvc=")) {
            Some(claim) => format!("{claim} ({paths})"),
            None => paths,
        }
    };
    let mut names: Vec<String> = volumes.take(NAMED).map(describe).collect();
    if more > 0 {
        names.push(format!("and {more} more"));
    }
    names.join(", ")
}

impl Repository {
    /// Finds the snapshot that is meant; `file` is the path of the wanted file, if that was said. Snapshots that cannot be read are
    /// passed over with a warning.
    ///
    /// # Errors
    /// The choice must match a snapshot, and must not match those of several volumes or, as the beginning of an id, several snapshots.
    pub async fn choose_snapshot(&self, choice: &SnapshotChoice, file: Option<&str>) -> Result<StoredSnapshot, RepositoryError> {
        if choice.name != LATEST {
            let found = self.find_snapshot(&choice.name).await?;
            let is_left = choice.matches(&found.snapshot);
            return if is_left { Ok(found) } else { Err(RepositoryError::NoSuchSnapshot(choice.to_string())) };
        }
        let listed = self.list_snapshots().await?;
        for (id, error) in &listed.unreadable {
            tracing::warn!(snapshot = %id, error = %chain(&error), "a snapshot cannot be read and was passed over; it may be a newer one");
        }
        latest(listed.snapshots, choice, file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::id::Id;

    fn stored(time: &str, path: &str, tags: &[&str], host: &str) -> StoredSnapshot {
        let json = serde_json::json!({
            "time": time, "tree": Id::of(b"tree").to_string(), "paths": [path], "hostname": host, "tags": tags,
        });
        StoredSnapshot { id: Id::of(time.as_bytes()), snapshot: serde_json::from_value(json).unwrap() }
    }

    /// Two volumes, the first of them of a claim that was made anew on another node.
    fn snapshots() -> Vec<StoredSnapshot> {
        vec![
            stored("2026-01-01T00:00:00Z", "/v-a/volume.img", &["handle=s-1", "pvc=shop/data"], "node-1"),
            stored("2026-01-02T00:00:00Z", "/v-b/volume.img", &["pvc=shop/database"], "node-1"),
            stored("2026-01-03T00:00:00Z", "/v-c/volume.img", &["pvc=shop/data", "kept"], "node-2"),
            stored("2026-01-04T00:00:00Z", "/v-b/volume.img", &["pvc=shop/database"], "node-1"),
        ]
    }

    fn day(found: Result<StoredSnapshot, RepositoryError>) -> String {
        found.map_or_else(|error| error.to_string(), |stored| stored.snapshot.time[8..10].to_owned())
    }

    fn of(source: &str) -> SnapshotChoice {
        SnapshotChoice { source: Some(source.to_owned()), ..LATEST.into() }
    }

    #[test]
    fn the_latest_of_several_volumes_is_refused_and_names_them() {
        let error = latest(snapshots(), &LATEST.into(), None).unwrap_err();
        assert!(matches!(error, RepositoryError::SeveralVolumes { .. }));
        for name in ["shop/data (/v-a/volume.img)", "shop/database (/v-b/volume.img)", "shop/data (/v-c/volume.img)"] {
            assert!(error.to_string().contains(name), "{error}");
        }
        let many = (0..99).map(|number| stored("2026-01-01T00:00:00Z", &format!("/{number}"), &[], "h")).collect();
        let error = latest(many, &LATEST.into(), None).unwrap_err();
        assert!(error.to_string().contains("and 89 more"), "{error}");
    }

    #[test]
    fn what_is_said_of_the_volume_comes_before_what_is_newest() {
        assert_eq!(day(latest(snapshots(), &of("shop/data"), None)), "03");
        assert_eq!(day(latest(snapshots(), &of("v-a"), None)), "01");
        assert_eq!(day(latest(snapshots(), &of("shop/database"), None)), "04");
        assert!(latest(snapshots(), &of("shop"), None).is_err());
        assert_eq!(day(latest(snapshots(), &LATEST.into(), Some("/v-a/volume.img"))), "01");
        assert_eq!(day(latest(snapshots(), &LATEST.into(), Some("v-b/volume.img"))), "04");
        // A path within snapshots that says nothing of their own.
        assert!(matches!(latest(snapshots(), &LATEST.into(), Some("/v")), Err(RepositoryError::SeveralVolumes { .. })));
    }

    #[test]
    fn hosts_tags_and_times_leave_the_rest() {
        let before = |time: &str| SnapshotChoice { before: super::super::time::parse_rfc3339(time), ..of("shop/database") };
        assert_eq!(day(latest(snapshots(), &before("2026-01-04T00:00:00Z"), None)), "02");
        assert_eq!(day(latest(snapshots(), &before("2026-01-04T00:00:00.1Z"), None)), "04");
        assert!(matches!(latest(snapshots(), &before("2026-01-02T00:00:00Z"), None), Err(RepositoryError::NoSuchSnapshot(_))));
        let filtered = |hosts: &[&str], tags: &[&str]| {
            let hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
            let tags = tags.iter().map(|tags| tags.parse().unwrap()).collect();
            day(latest(snapshots(), &SnapshotChoice { filter: Filter { hosts, tags, paths: vec![] }, ..LATEST.into() }, None))
        };
        assert_eq!(filtered(&["node-2"], &[]), "03");
        assert_eq!(filtered(&[], &["pvc=shop/data,kept"]), "03");
        assert_eq!(filtered(&["node-1"], &["handle=s-1"]), "01");
        assert!(filtered(&["node-3"], &[]).starts_with("no snapshot matches `latest with what else"));
    }
}
