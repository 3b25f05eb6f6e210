//! The text of an error leaves its cause to the chain: who shows one tells its causes by `types::error::chain`, and one that repeats its
//! cause would be told twice.
//!
//! Read from the sources, so that no error is forgotten: what `#[error(..)]` says must not name the field that is the cause. Texts that are
//! written by hand are asserted beside them, by `types::error::repeated`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is a failed test")]

#[path = "support/sources.rs"]
mod sources;

use std::fs;

/// The text up to the bracket that closes the one it begins with, both included.
fn bracketed(text: &str) -> &str {
    let mut depth = 0_u32;
    let mut is_quoted = false;
    let mut is_escaped = false;
    for (at, character) in text.char_indices() {
        match character {
            _ if is_escaped => is_escaped = false,
            '\\' if is_quoted => is_escaped = true,
            '"' => is_quoted = !is_quoted,
            _ if is_quoted => {}
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => {
                depth -= 1;
                if depth == 0 {
                    return &text[..=at];
                }
            }
            _ => {}
        }
    }
    text
}

/// What follows the attributes and comments that `text` begins with.
fn without_attributes(text: &str) -> &str {
    let text = text.trim_start();
    if text.starts_with("#[") {
        without_attributes(&text[1 + bracketed(&text[1..]).len()..])
    } else if text.starts_with("//") {
        without_attributes(text.split_once('\n').map_or("", |(_, rest)| rest))
    } else {
        text
    }
}

/// The names of the fields of a variant or type that are its cause, as the text of the error would write them.
fn causes(item: &str) -> Vec<String> {
    let Some(begin) = item.find(['(', '{', ',', ';', '}']).filter(|&at| item[at..].starts_with(['(', '{'])) else {
        return Vec::new();
    };
    let fields = bracketed(&item[begin..]);
    let marked = ["#[source]", "#[from]"].iter().flat_map(|mark| fields.split(mark).skip(1));
    let mut names: Vec<String> = match fields.starts_with('(') {
        true => marked.map(|_| "0".to_owned()).collect(),
        false => marked
            .filter_map(|rest| Some(without_attributes(rest).split_once(':')?.0.trim_start_matches("pub ").to_owned()))
            .collect(),
    };
    if fields.lines().any(|line| line.trim_start().starts_with("source:") || line.contains("{ source:")) {
        names.push("source".to_owned());
    }
    names
}

/// Texts of errors that name their own cause.
fn repeating(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for (at, mark) in text.match_indices("#[error(") {
        let said = bracketed(&text[at + 1..]);
        let rest = without_attributes(&text[at + 1 + said.len()..]);
        let is_said = |name: &String| {
            let after = |before: &str| {
                said.match_indices(before).any(|(at, _)| {
                    let rest = said[at + before.len()..].strip_prefix(name.as_str());
                    rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
                })
            };
            after("{") || after(" .") || after(", ")
        };
        if causes(rest).iter().any(is_said) {
            found.push(&text[at..at + mark.len() + said.len() - "[error(".len()]);
        }
    }
    found
}

#[test]
fn a_text_that_repeats_its_cause_is_found_however_the_cause_is_marked() {
    let text = r#"
        #[error("{action}: {source}")]
        Io {
            /// What.
            action: String,
            source: io::Error,
        },
        #[error("broken: {0}")]
        Broken(#[from] Other),
        #[error("{what}: {}", .why.kind())]
        Why { what: String, #[source] why: io::Error },
        #[error("{what}: {0}")]
        Leaf(String),
        #[error("{action}")]
        Fine { action: String, source: io::Error },
        #[error("it [is (fine")]
        AlsoFine(#[source] Other),
        #[error(transparent)]
        Wrapped(#[from] Other),
    "#;
    let expected = [r#"#[error("{action}: {source}")]"#, r#"#[error("broken: {0}")]"#, r#"#[error("{what}: {}", .why.kind())]"#];
    assert_eq!(repeating(text), expected);
}

#[test]
fn no_text_of_an_error_repeats_its_cause() {
    let mut wrong = Vec::new();
    for file in sources::beneath("src").iter().filter(|file| !sources::is_of_tests(file)) {
        let text = fs::read_to_string(sources::root("src").join(file)).unwrap();
        wrong.extend(repeating(&text).into_iter().map(|text| format!("src/{}: {text}", file.display())));
    }
    assert!(wrong.is_empty(), "name their cause, which the chain tells:\n{}", wrong.join("\n"));
}
