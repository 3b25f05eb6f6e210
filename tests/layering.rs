//! The arrows between the modules are those that the design allows: the table in the header of `src/lib.rs`, as a test.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is a failed test")]

#[path = "layering/graph.rs"]
mod graph;
#[path = "support/sources.rs"]
mod sources;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use graph::Graph;

/// Each module with what it may use. `types` and `failpoint` may be used by everyone and are left out.
const ALLOWED: &[(&str, &[&str])] = &[
    ("types", &[]),
    ("failpoint", &[]),
    ("block", &[]),
    ("hash", &[]),
    ("scratch", &[]),
    ("telemetry", &[]),
    ("mount", &["block"]),
    ("dm", &["block"]),
    ("pool", &["block", "dm", "scratch"]),
    ("repository", &["hash", "scratch", "telemetry"]),
    ("transfer", &["repository", "block", "hash", "scratch"]),
    // They count in the handles that they are given.
    ("csi", &["telemetry"]),
    ("blocks", &["block"]),
    ("node", &["csi", "blocks", "pool", "mount", "block", "telemetry"]),
    // No pool, no mount and no device: what it reads and writes was handed out to it.
    ("agent", &["csi", "blocks", "transfer", "repository", "telemetry"]),
    ("k8s", &["agent"]),
    ("cli", &["agent", "block", "blocks", "csi", "k8s", "mount", "node", "pool", "repository", "telemetry", "transfer"]),
    ("main", &["cli", "telemetry"]),
];

/// Used by everyone.
const COMMON: &[&str] = &["types", "failpoint"];

fn text_of(file: &Path) -> String {
    fs::read_to_string(sources::root("src").join(file)).unwrap()
}

/// The entry of the table that a file falls under: the longest that is a beginning of its path.
fn layer_of(relative: &Path) -> Option<&'static [&'static str]> {
    let path = relative.with_extension("");
    ALLOWED.iter().filter(|(layer, _)| path.starts_with(layer)).max_by_key(|(layer, _)| layer.len()).map(|(_, may_use)| *may_use)
}

/// The module of the crate's root that a file belongs to.
fn module_of(relative: &Path) -> String {
    let first = relative.components().next().unwrap().as_os_str().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

/// Names that follow `crate::` (or, in the binary, `windlass::`) in the code: comments and what tests alone use are left
/// out. `use crate::{a::x, b}` counts for each.
fn used(text: &str) -> BTreeSet<String> {
    let code: String = before_tests(text)
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .fold(String::new(), |all, line| all + line + "\n");
    let mut names = BTreeSet::new();
    for prefix in ["crate::", "windlass::"] {
        for (at, _) in code.match_indices(prefix) {
            let is_part_of_a_longer_path = code[..at].ends_with([':', '_', '$']) || code[..at].ends_with(char::is_alphanumeric);
            if is_part_of_a_longer_path {
                continue;
            }
            let rest = &code[at + prefix.len()..];
            match rest.strip_prefix('{') {
                Some(group) => names.extend(first_names_of_group(group)),
                None => names.extend(first_name(rest)),
            }
        }
    }
    names
}

/// Everything before the unit tests, which come last in a file and may use doubles of other layers.
fn before_tests(text: &str) -> &str {
    text.find("#[cfg(test)]\nmod ").map_or(text, |at| &text[..at])
}

fn first_name(text: &str) -> Option<String> {
    let name: String = text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    (!name.is_empty()).then_some(name)
}

/// The first names of the members of `a::{..}, b::c}`, up to the brace that closes the group.
fn first_names_of_group(group: &str) -> Vec<String> {
    let mut depth = 0_u32;
    let mut names = Vec::new();
    let mut at_start = true;
    for (at, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => at_start = true,
            c if at_start && !c.is_whitespace() => {
                names.extend(first_name(&group[at..]));
                at_start = false;
            }
            _ => {}
        }
    }
    names
}

#[test]
fn modules_use_only_what_the_design_allows() {
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED.iter().copied().collect();
    let mut wrong = Vec::new();
    for relative in &sources::beneath("src") {
        let module = module_of(relative);
        if module == "lib" {
            continue;
        }
        // Unit tests in a file of their own may use doubles of other layers, as those at the end of a file may.
        if sources::is_of_tests(relative) {
            continue;
        }
        let Some(may_use) = layer_of(relative) else {
            wrong.push(format!("{}: module `{module}` is not in the table of layers", relative.display()));
            continue;
        };
        for name in used(&text_of(relative)) {
            let known = allowed.contains_key(name.as_str());
            if known && name != module && !COMMON.contains(&name.as_str()) && !may_use.contains(&name.as_str()) {
                wrong.push(format!("{}: `{module}` must not use `{name}`", relative.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Rooms that speak gRPC.
const MAKE_STATUSES: &[&str] = &["csi", "node", "agent"];

/// gRPC codes are chosen per call, in the layers; clients of the CLI only read them.
#[test]
fn statuses_are_made_only_in_layers() {
    let wrong: Vec<String> = sources::beneath("src")
        .iter()
        .filter(|file| {
            !MAKE_STATUSES.contains(&module_of(file).as_str()) && before_tests(&text_of(file)).contains("Status::new(")
        })
        .map(|file| file.display().to_string())
        .collect();
    assert!(wrong.is_empty(), "made in {wrong:?}");
}

#[test]
fn no_files_of_a_room_use_each_other_in_a_circle() {
    let graph = Graph::read(&sources::root("src"), &sources::beneath("src"));
    let circles: Vec<String> =
        graph.circles().iter().map(|circle| format!("{circle:?}\n    {}", graph.arrows_within(circle).join("\n    "))).collect();
    assert!(circles.is_empty(), "circles of files:\n{}", circles.join("\n"));
}

/// What is longer is more than one thing.
const MOST_LINES: usize = 500;

#[test]
fn no_file_is_too_long_to_be_read_at_once() {
    let lengths = sources::beneath("src").into_iter().map(|file| (text_of(&file).lines().count(), file));
    let long: Vec<_> = lengths.filter(|(lines, _)| *lines > MOST_LINES).collect();
    assert!(long.is_empty(), "more than {MOST_LINES} lines: {long:?}");
}

#[test]
fn uses_are_found_however_they_are_written() {
    let text =
        "use crate::block::FileSource;\nuse crate::{pool::{self, record}, types};\n// crate::csi\nfn f() { crate::mount::x() }\n";
    let expected: BTreeSet<String> = ["block", "pool", "types", "mount"].map(str::to_owned).into();
    assert_eq!(used(text), expected);
}
