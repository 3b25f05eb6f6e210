//! Prometheus' text format, read strictly: what a scraper would refuse, or take for something else, is a failed test.

#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "called by tests only")]

use std::collections::{BTreeMap, BTreeSet};

/// Labels of a sample, ascending.
pub type Labels = BTreeMap<String, String>;

/// A text that was read.
#[derive(Debug, Default)]
pub struct Text {
    /// The kind of each family.
    pub families: BTreeMap<String, String>,
    samples: BTreeMap<(String, Labels), f64>,
}

impl Text {
    /// Reads a text.
    pub fn read(text: &str) -> Self {
        assert!(text.ends_with('\n'), "the last line does not end");
        let (mut read, mut current) = (Self::default(), String::new());
        let mut helped = BTreeSet::new();
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, help) = help.split_once(' ').unwrap_or_else(|| panic!("{line}"));
                assert!(helped.insert(name.to_owned()), "a second group: {line}");
                assert!(is_name(name) && !help.is_empty(), "{line}");
                current = name.to_owned();
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').unwrap_or_else(|| panic!("{line}"));
                assert_eq!(name, current, "{line}");
                assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
                assert!(read.families.insert(name.to_owned(), kind.to_owned()).is_none(), "{line}");
            } else {
                let (name, labels, value) = sample(line);
                let kind = read.families.get(&current).unwrap_or_else(|| panic!("no family before {line}"));
                let endings: &[&str] = if kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
                assert!(endings.iter().any(|ending| name == format!("{current}{ending}")), "{line} is not of {current}");
                assert!(kind == "gauge" || value >= 0.0, "{line}");
                assert!(read.samples.insert((name, labels), value).is_none(), "twice: {line}");
            }
        }
        read.check_histograms();
        read
    }

    fn check_histograms(&self) {
        for (name, _) in self.families.iter().filter(|(_, kind)| *kind == "histogram") {
            let bucket = format!("{name}_bucket");
            let mut buckets: BTreeMap<Labels, Vec<(f64, f64)>> = BTreeMap::new();
            for ((_, labels), value) in self.samples.iter().filter(|((sample, _), _)| *sample == bucket) {
                let mut rest = labels.clone();
                let le = rest.remove("le").unwrap_or_else(|| panic!("{bucket} without le"));
                buckets.entry(rest).or_default().push((le.parse().unwrap(), *value));
            }
            assert!(!buckets.is_empty(), "{name} has no buckets");
            for (labels, mut of_series) in buckets {
                of_series.sort_by(|(one, _), (other, _)| one.total_cmp(other));
                assert!(of_series.is_sorted_by(|(_, one), (_, other)| one <= other), "{name} {labels:?} is not cumulative");
                let (last, all) = of_series.last().unwrap();
                assert!(last.is_infinite());
                assert_eq!(*all, self.samples[&(format!("{name}_count"), labels.clone())]);
                assert!(self.samples.contains_key(&(format!("{name}_sum"), labels)));
            }
        }
    }

    /// The value of the one sample with this name that has all these labels, and perhaps others.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let mut found = self.all(name, labels);
        assert!(found.len() < 2, "{name} {labels:?}: {found:?}");
        found.pop()
    }

    /// The sum over all samples with this name that have all these labels.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.all(name, labels).into_iter().sum()
    }

    fn all(&self, name: &str, labels: &[(&str, &str)]) -> Vec<f64> {
        let has = |found: &Labels| labels.iter().all(|(label, value)| found.get(*label).is_some_and(|found| found == value));
        let of_name = self.samples.iter().filter(|((sample, found), _)| sample == name && has(found));
        of_name.map(|(_, value)| *value).collect()
    }

    /// The labels of each sample.
    pub fn labels(&self) -> impl Iterator<Item = (&str, &Labels)> {
        self.samples.keys().map(|(name, labels)| (name.as_str(), labels))
    }
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn sample(line: &str) -> (String, Labels, f64) {
    let end = line.find(['{', ' ']).unwrap_or_else(|| panic!("{line}"));
    let (name, mut rest) = line.split_at(end);
    assert!(is_name(name), "{line}");
    let mut labels = Labels::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        while !rest.starts_with('}') {
            let (label, after) = rest.split_once("=\"").unwrap_or_else(|| panic!("{line}"));
            assert!(is_name(label), "{line}");
            let (value, after) = quoted(after, line);
            assert!(labels.insert(label.to_owned(), value).is_none(), "{line}");
            rest = after.strip_prefix(',').unwrap_or(after);
            assert!(after.starts_with([',', '}']), "{line}");
        }
        rest = &rest[1..];
    }
    let value = rest.strip_prefix(' ').unwrap_or_else(|| panic!("{line}"));
    (name.to_owned(), labels, value.parse().unwrap_or_else(|error| panic!("{line}: {error}")))
}

/// The text up to the closing quote, unescaped, and what follows it.
fn quoted<'a>(text: &'a str, line: &str) -> (String, &'a str) {
    let (mut value, mut is_escaped) = (String::new(), false);
    for (at, character) in text.char_indices() {
        match (is_escaped, character) {
            (true, 'n') => value.push('\n'),
            (true, '"' | '\\') => value.push(character),
            (true, _) => panic!("{line}"),
            (false, '\\') => {}
            (false, '"') => return (value, &text[at + 1..]),
            (false, _) => value.push(character),
        }
        is_escaped = !is_escaped && character == '\\';
    }
    panic!("{line}: a label does not end")
}
