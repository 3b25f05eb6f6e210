//! What the objects of a pool take.

use crate::types::{Object, PoolId};

/// A page of the objects of one pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UsageQuery {
    /// The pool.
    pub pool: PoolId,
    /// Objects that come after this one, in ascending order; from the first one without.
    pub after: Option<Object>,
    /// At most so many, and at most [`UsageQuery::MAX`].
    pub limit: usize,
}

impl UsageQuery {
    /// Objects of a page at most: each has its extents walked.
    pub const MAX: usize = 256;

    /// The page of these objects, which ascend, and whether more follow.
    pub fn select(&self, objects: impl IntoIterator<Item = Object>) -> (Vec<Object>, Option<Object>) {
        let limit = self.limit.clamp(1, Self::MAX);
        let mut rest = objects.into_iter().filter(|object| self.after.is_none_or(|after| *object > after));
        let page: Vec<Object> = rest.by_ref().take(limit).collect();
        let more = rest.next().and(page.last().copied());
        (page, more)
    }
}

/// Answer to a [`UsageQuery`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsagePage {
    /// Objects, ascending. One that went while it was looked at is left out.
    pub objects: Vec<ObjectUsage>,
    /// What to ask for next; `None` at the end.
    pub next: Option<Object>,
}

/// What one object takes, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectUsage {
    /// The object.
    pub object: Object,
    /// Everything that it refers to, shared or not.
    pub allocated: u64,
    /// What only it refers to: a lower bound of what its deletion frees.
    pub exclusive: u64,
    /// Number of its extents.
    pub extents: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::VolumeId;

    #[test]
    fn pages_follow_each_other_without_a_gap_and_end() {
        let mut objects: Vec<Object> = (0..10).map(|_| Object::Volume(VolumeId::random())).collect();
        objects.sort_unstable();
        for limit in [0, 1, 3, 5, 10, 1000] {
            let mut query = UsageQuery { pool: PoolId::random(), after: None, limit };
            let (mut seen, mut pages) = (Vec::new(), 0);
            loop {
                let (page, next) = query.select(objects.clone());
                assert!(page.len() <= limit.max(1));
                seen.extend(page);
                pages += 1;
                let Some(next) = next else { break };
                query.after = Some(next);
            }
            assert_eq!(seen, objects, "limit {limit}");
            assert_eq!(pages, 10_usize.div_ceil(limit.clamp(1, 10)), "limit {limit}");
        }
    }
}
