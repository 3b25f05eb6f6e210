//! The points at which the node may be killed, learnt from a trace.

use std::collections::BTreeMap;

/// The Nth time that a failure point is hit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Point {
    pub name: String,
    pub occurrence: u64,
}

impl Point {
    pub fn kill(&self) -> String {
        format!("kill:{}:{}", self.occurrence, self.name)
    }
}

/// A trace as points: each name with its count so far.
///
/// Steps lie within steps (a call's `mount` around the mount layer's), and between two that begin together, or end together,
/// nothing happens: of `.before .before` only the last is kept, of `.after .after` only the first.
pub fn points(trace: Vec<String>) -> Vec<Point> {
    let mut counts = BTreeMap::new();
    let counted: Vec<Point> = trace
        .into_iter()
        .map(|name| {
            let occurrence = counts.entry(name.clone()).and_modify(|count| *count += 1).or_insert(1_u64);
            Point { occurrence: *occurrence, name }
        })
        .collect();
    let mut kept: Vec<Point> = Vec::new();
    for point in counted {
        let both = |suffix| kept.last().is_some_and(|last: &Point| last.name.ends_with(suffix)) && point.name.ends_with(suffix);
        if both(".after") {
            continue;
        }
        if both(".before") {
            kept.pop();
        }
        kept.push(point);
    }
    kept
}
