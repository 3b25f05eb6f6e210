//! Checks the trees of snapshots, and the files in them.

use std::collections::HashSet;
use std::ops::Range;

use super::lost::Lost;
use super::report::CheckReport;
use crate::repository::blob::BlobKind;
use crate::repository::error::RepositoryError;
use crate::repository::index::Index;
use crate::repository::open::Repository;
use crate::repository::snapshot::StoredSnapshot;
use crate::repository::tree::{IdList, NodeKind};
use crate::scratch::ScratchError;

/// Ranges of a file that are named.
const MAX_RANGES: u64 = 16;

impl Repository {
    /// Checks that everything exists that snapshots refer to.
    pub(super) async fn check_trees(
        &self,
        index: &Index,
        snapshots: &[StoredSnapshot],
        lost: &Lost,
        report: &mut CheckReport,
    ) -> Result<(), RepositoryError> {
        let mut seen = HashSet::new();
        let mut files = Files { index, lost, used: Used::new(index.count(BlobKind::Data)), report };
        for stored in snapshots {
            let mut folders = vec![stored.snapshot.tree];
            while let Some(tree) = folders.pop() {
                if !seen.insert(tree) {
                    continue;
                }
                let nodes = match self.read_tree(index, &tree).await {
                    Ok(nodes) => nodes,
                    Err(error) => {
                        files.report.note_error(error, &format!(", used by snapshot {}", stored.id.short()))?;
                        continue;
                    }
                };
                files.report.trees += 1;
                for node in nodes {
                    match node.kind {
                        NodeKind::Folder(tree) => folders.push(tree),
                        NodeKind::File(content) => {
                            files.check(stored, &node.name, &content)?;
                        }
                        NodeKind::Other(_) => {}
                    }
                }
            }
        }
        files.report.blobs_used = files.report.trees + files.used.count();
        Ok(())
    }
}

/// Which blobs some snapshot refers to: a bit for each.
struct Used(Vec<u64>);

impl Used {
    fn new(blobs: u64) -> Self {
        Self(vec![0; blobs.div_ceil(64) as usize])
    }

    fn set(&mut self, number: u64) {
        self.0[(number / 64) as usize] |= 1 << (number % 64);
    }

    fn count(&self) -> u64 {
        self.0.iter().map(|word| u64::from(word.count_ones())).sum()
    }
}

/// The files of all snapshots, one after another.
struct Files<'a> {
    index: &'a Index,
    lost: &'a Lost,
    used: Used,
    report: &'a mut CheckReport,
}

impl Files<'_> {
    /// Checks the blobs of the file `name` of a snapshot.
    fn check(&mut self, stored: &StoredSnapshot, name: &str, content: &IdList) -> Result<(), ScratchError> {
        let (mut missing, mut first, mut position, mut ranges) = (0_u64, None, 0_u64, LostRanges::default());
        for id in content.iter() {
            let id = id?;
            match self.index.find(BlobKind::Data, &id)? {
                Some((number, location)) => {
                    self.used.set(number);
                    let end = position.saturating_add(location.plain_length().into());
                    let is_lost = self.lost.has(&id, &location)
                        && self.index.locations(BlobKind::Data, &id)?.iter().all(|location| self.lost.has(&id, location));
                    if is_lost {
                        ranges.add(position..end);
                    }
                    position = end;
                }
                None => {
                    missing += 1;
                    first.get_or_insert((id, position));
                }
            }
        }
        if let Some((first, position)) = first {
            self.report.error(format!(
                "{missing} blobs of file `{name}` in snapshot {} are in no index, data blob {first} at byte {position} the first of them",
                stored.id.short()
            ));
        } else {
            // The positions behind a blob of unknown length are unknown.
            ranges.report(stored, name, self.report);
        }
        Ok(())
    }
}

/// Ranges of a file that do not read: some of them, and how many there are.
#[derive(Default)]
struct LostRanges {
    shown: Vec<Range<u64>>,
    count: u64,
    blobs: u64,
    end: Option<u64>,
}

impl LostRanges {
    fn add(&mut self, range: Range<u64>) {
        self.blobs += 1;
        let follows = self.end == Some(range.start);
        self.end = Some(range.end);
        if !follows {
            self.count += 1;
        }
        match self.shown.last_mut() {
            Some(last) if follows && self.count <= MAX_RANGES => last.end = range.end,
            _ if self.count <= MAX_RANGES => self.shown.push(range),
            _ => {}
        }
    }

    fn report(&self, stored: &StoredSnapshot, name: &str, report: &mut CheckReport) {
        if self.count == 0 {
            return;
        }
        let ranges: Vec<String> = self.shown.iter().map(|range| format!("{}-{}", range.start, range.end - 1)).collect();
        let more = match self.count - self.shown.len() as u64 {
            0 => String::new(),
            more => format!(" and {more} other ranges"),
        };
        report.error(format!(
            "file `{name}` in snapshot {} cannot be read at bytes {}{more}: {} of its blobs are lost",
            stored.id.short(),
            ranges.join(", "),
            self.blobs
        ));
    }
}
