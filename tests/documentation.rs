//! Every file says in its header what it is, and every public type and trait what it stands for. Fields and variants need no line
//! that only repeats their name.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is a failed test")]

#[path = "support/sources.rs"]
mod sources;

use std::fs;

/// Public types and traits of a file without a doc comment before their attributes.
fn undocumented(text: &str) -> Vec<&str> {
    let lines: Vec<&str> = text.lines().collect();
    let is_type =
        |line: &str| ["pub struct ", "pub enum ", "pub trait ", "pub union "].iter().any(|start| line.starts_with(start));
    let is_documented = |at: usize| {
        let mut before = lines[..at].iter().rev().map(|line| line.trim_end());
        // Attributes may span lines: up to the item before, which ends with a brace, a semicolon or a blank line.
        before.by_ref().take_while(|line| !line.is_empty() && *line != "}").any(|line| line.starts_with("///"))
    };
    let found = lines.iter().enumerate().filter(|(at, line)| is_type(line) && !is_documented(*at));
    found.map(|(_, line)| *line).collect()
}

#[test]
fn a_type_without_a_doc_comment_is_found_also_behind_its_attributes() {
    let text = "/// Said.\n#[derive(\n    Debug,\n)]\npub struct A;\n\n#[derive(Debug)]\npub struct B {}\n\npub trait C {}\n";
    assert_eq!(undocumented(text), ["pub struct B {}", "pub trait C {}"]);
}

#[test]
fn every_file_has_a_header_and_every_public_type_says_what_it_is() {
    let mut wanting = Vec::new();
    for folder in ["src", "bench/src", "csi-proto/src"] {
        for file in sources::beneath(folder).iter().filter(|file| !sources::is_of_tests(file)) {
            let text = fs::read_to_string(sources::root(folder).join(file)).unwrap();
            // An attribute for the whole file may come first.
            if !text.lines().take_while(|line| !line.starts_with("use ")).any(|line| line.starts_with("//!")) {
                wanting.push(format!("{folder}/{}: no header", file.display()));
            }
            wanting.extend(undocumented(&text).into_iter().map(|item| format!("{folder}/{}: {item}", file.display())));
        }
    }
    assert!(wanting.is_empty(), "without a word on what they are:\n{}", wanting.join("\n"));
}
