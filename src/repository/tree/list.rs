//! Lists of blobs that are as long as a volume is large.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::repository::id::Id;
use crate::scratch::{Rows, RowsWriter, Scratch, ScratchError};

/// The blobs of a file in order. May be asked for twice and must answer the same.
pub trait Content: Send + Sync {
    /// The ids, from the first byte of the file to the last. An error is the last thing that comes.
    fn ids(&self) -> Box<dyn Iterator<Item = Result<Id, ScratchError>> + '_>;
}

impl Content for Vec<Id> {
    fn ids(&self) -> Box<dyn Iterator<Item = Result<Id, ScratchError>> + '_> {
        Box::new(self.iter().copied().map(Ok))
    }
}

/// The blobs of a file in order, in scratch space when they are many. Cheap to clone.
#[derive(Clone)]
pub struct IdList {
    rows: Arc<Rows<{ Id::LENGTH }>>,
    range: Range<u64>,
}

impl fmt::Debug for IdList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IdList({} ids)", self.len())
    }
}

impl IdList {
    /// The part `range` of the list `rows`.
    pub(super) fn of(rows: Arc<Rows<{ Id::LENGTH }>>, range: Range<u64>) -> Self {
        Self { rows, range }
    }

    /// The list of `ids`.
    pub fn from_ids(scratch: &Scratch, ids: &[Id]) -> Result<Self, ScratchError> {
        let mut rows = RowsWriter::new(scratch);
        ids.iter().try_for_each(|id| rows.push(id.as_bytes()))?;
        let range = 0..rows.len();
        Ok(Self { rows: Arc::new(rows.finish()?), range })
    }

    pub fn len(&self) -> u64 {
        self.range.end - self.range.start
    }

    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// The ids in order. An error is the last thing that comes.
    pub fn iter(&self) -> impl Iterator<Item = Result<Id, ScratchError>> + '_ {
        self.iter_from(0)
    }

    /// The ids from the one with the number `first` on.
    pub fn iter_from(&self, first: u64) -> impl Iterator<Item = Result<Id, ScratchError>> + '_ {
        let first = self.range.start.saturating_add(first);
        self.rows.iter(first, self.range.end).map(|row| row.map(Id::from_bytes))
    }

    /// All ids, in memory: for lists known to be short.
    pub fn to_vec(&self) -> Result<Vec<Id>, ScratchError> {
        self.iter().collect()
    }
}

impl Content for IdList {
    fn ids(&self) -> Box<dyn Iterator<Item = Result<Id, ScratchError>> + '_> {
        Box::new(self.iter())
    }
}
