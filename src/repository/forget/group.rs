//! Filters snapshots, and divides them into groups.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::repository::snapshot::{Snapshot, StoredSnapshot};

/// Tags of which a snapshot must have all: `a,b`. An empty one stands for having none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagList(Vec<String>);

impl FromStr for TagList {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(text.into())
    }
}

impl From<&str> for TagList {
    fn from(text: &str) -> Self {
        Self(text.split(',').map(|tag| tag.trim().to_owned()).collect())
    }
}

impl fmt::Display for TagList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}]", self.0.join(", "))
    }
}

impl TagList {
    /// True when the snapshot has all of these tags.
    pub fn are_on(&self, snapshot: &Snapshot) -> bool {
        for tag in &self.0 {
            if tag.is_empty() && snapshot.tags.is_empty() {
                return true;
            }
            if !snapshot.tags.contains(tag) {
                return false;
            }
        }
        true
    }
}

/// The snapshots that are considered. Empty lists exclude none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    /// A snapshot must be of one of these hosts.
    pub hosts: Vec<String>,
    /// A snapshot must have all tags of one of these lists.
    pub tags: Vec<TagList>,
    /// A snapshot must have all of these paths.
    pub paths: Vec<String>,
}

impl Filter {
    /// True when the snapshot is considered.
    pub fn matches(&self, snapshot: &Snapshot) -> bool {
        (self.hosts.is_empty() || self.hosts.contains(&snapshot.hostname))
            && (self.tags.is_empty() || self.tags.iter().any(|tags| tags.are_on(snapshot)))
            && self.paths.iter().all(|path| snapshot.paths.contains(path))
    }

    /// True when it excludes no snapshot.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What snapshots of one group have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupBy {
    host: Part,
    paths: Part,
    tags: Part,
}

/// Whether a part of a snapshot tells groups apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Counts,
    Ignored,
}

impl Default for GroupBy {
    /// By host and paths: one group for each volume.
    fn default() -> Self {
        Self { host: Part::Counts, paths: Part::Counts, tags: Part::Ignored }
    }
}

/// The text does not name a grouping.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a grouping: give any of host, paths and tags, with commas between; nothing for one group of all")]
pub struct NotAGrouping(String);

impl FromStr for GroupBy {
    type Err = NotAGrouping;

    fn from_str(text: &str) -> Result<Self, NotAGrouping> {
        let mut by = Self { host: Part::Ignored, paths: Part::Ignored, tags: Part::Ignored };
        for part in text.split(',') {
            match part {
                "host" | "hosts" => by.host = Part::Counts,
                "path" | "paths" => by.paths = Part::Counts,
                "tag" | "tags" => by.tags = Part::Counts,
                "" => {}
                _ => return Err(NotAGrouping(text.to_owned())),
            }
        }
        Ok(by)
    }
}

/// What the snapshots of a group have in common; empty where that was not asked for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Group {
    pub host: String,
    /// In ascending order.
    pub paths: Vec<String>,
    /// In ascending order.
    pub tags: Vec<String>,
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = |name: &str, values: &[String]| (!values.is_empty()).then(|| format!("{name} {}", values.join(",")));
        let host = (!self.host.is_empty()).then(|| format!("host {}", self.host));
        let parts: Vec<_> = [host, named("paths", &self.paths), named("tags", &self.tags)].into_iter().flatten().collect();
        if parts.is_empty() { f.write_str("all snapshots") } else { f.write_str(&parts.join(", ")) }
    }
}

/// Divides snapshots into groups.
pub(super) fn divide(snapshots: impl Iterator<Item = StoredSnapshot>, by: GroupBy) -> BTreeMap<Group, Vec<StoredSnapshot>> {
    let sorted = |part, values: &[String]| match part {
        Part::Counts => {
            let mut values = values.to_vec();
            values.sort_unstable();
            values
        }
        Part::Ignored => Vec::new(),
    };
    let mut groups: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for stored in snapshots {
        let snapshot = &stored.snapshot;
        let host = if by.host == Part::Counts { snapshot.hostname.clone() } else { String::new() };
        let group = Group { host, paths: sorted(by.paths, &snapshot.paths), tags: sorted(by.tags, &snapshot.tags) };
        groups.entry(group).or_default().push(stored);
    }
    groups
}
