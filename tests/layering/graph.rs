//! Which file of the crate uses which, read from the text of the sources.
//!
//! An arrow leads from the file that names an item to the file that defines it: a name that a module only passes on (`pub use`) is followed to
//! where it comes from, and `mod x;` is no arrow. Unit tests, comments and texts are left out. What a macro expands to is not seen.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// A module of the crate by the names that lead to it.
pub type Module = Vec<String>;

/// What the text of one module says.
#[derive(Default)]
struct Source {
    body: String,
    /// Names that are used here, with the whole path of each.
    imports: BTreeMap<String, Vec<String>>,
    /// Names that are passed on.
    exports: BTreeMap<String, Vec<String>>,
    /// Modules all of whose names are passed on.
    exported_wholly: Vec<Vec<String>>,
}

/// The files of a crate and what each uses.
pub struct Graph {
    arrows: BTreeMap<Module, BTreeSet<Module>>,
}

impl Graph {
    /// Reads `files` (paths relative to `root`).
    pub fn read(root: &Path, files: &[std::path::PathBuf]) -> Self {
        let mut texts = BTreeMap::new();
        for file in files {
            let module = module_of(file);
            if !module.iter().any(|part| part == "tests") {
                texts.insert(module, fs::read_to_string(root.join(file)).unwrap());
            }
        }
        Self::of(&texts)
    }

    fn of(texts: &BTreeMap<Module, String>) -> Self {
        let modules: BTreeSet<Module> = texts.keys().cloned().collect();
        let sources: BTreeMap<Module, Source> =
            texts.iter().map(|(module, text)| (module.clone(), source(module, text, &modules))).collect();
        let arrows = sources.keys().map(|module| (module.clone(), used_by(module, &sources, &modules))).collect();
        Self { arrows }
    }

    /// Groups of files of which each uses every other, by whatever way; sorted, without those of one file.
    pub fn circles(&self) -> Vec<BTreeSet<String>> {
        let reach: BTreeMap<&Module, BTreeSet<&Module>> = self.arrows.keys().map(|from| (from, self.reached(from))).collect();
        let mut circles = BTreeSet::new();
        for (from, reached) in &reach {
            let circle: BTreeSet<String> =
                reached.iter().filter(|to| reach[*to].contains(from)).map(|module| module.join("::")).collect();
            if circle.len() > 1 {
                circles.insert(circle);
            }
        }
        circles.into_iter().collect()
    }

    /// The arrows within a circle, as lines.
    pub fn arrows_within(&self, circle: &BTreeSet<String>) -> Vec<String> {
        let inside = |module: &Module| circle.contains(&module.join("::"));
        let from = self.arrows.iter().filter(|(from, _)| inside(from));
        from.flat_map(|(from, to)| {
            to.iter().filter(|to| inside(to)).map(|to| format!("{} -> {}", from.join("::"), to.join("::")))
        })
        .collect()
    }

    fn reached(&self, from: &Module) -> BTreeSet<&Module> {
        let mut reached = BTreeSet::new();
        let mut next: Vec<&Module> = self.arrows[from].iter().collect();
        while let Some(module) = next.pop() {
            if reached.insert(module) {
                next.extend(&self.arrows[module]);
            }
        }
        reached
    }
}

fn module_of(file: &Path) -> Module {
    let path = file.with_extension("");
    let mut parts: Module = path.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
    if parts.last().is_some_and(|last| last == "mod") {
        parts.pop();
    }
    parts
}

fn source(module: &Module, text: &str, modules: &BTreeSet<Module>) -> Source {
    let code = code(text);
    let mut source = Source::default();
    let mut rest = code.as_str();
    while let Some((at, statement, end)) = next_use(rest) {
        source.body.push_str(&rest[..at]);
        source.body.push(' ');
        let passed_on = rest[..at].trim_end().ends_with("pub") || rest[..at].trim_end().ends_with(')');
        for (path, name) in leaves(statement) {
            let Some(path) = absolute(module, &path, modules) else { continue };
            match (name.as_str(), passed_on) {
                ("*", true) => source.exported_wholly.push(path),
                ("*", false) => {}
                (_, true) => drop(source.exports.insert(name, path)),
                (_, false) => drop(source.imports.insert(name, path)),
            }
        }
        rest = &rest[end..];
    }
    source.body.push_str(rest);
    source
}

/// The code before the unit tests, without comments and with empty texts.
fn code(text: &str) -> String {
    let text = super::before_tests(text);
    let mut code = String::with_capacity(text.len());
    for line in text.lines() {
        let mut in_text = false;
        let mut characters = line.chars().peekable();
        while let Some(character) = characters.next() {
            match character {
                '\\' if in_text => drop(characters.next()),
                '\'' if !in_text && characters.peek() == Some(&'"') => drop(characters.next()),
                '"' => in_text = !in_text,
                '/' if !in_text && characters.peek() == Some(&'/') => break,
                _ if in_text => {}
                character => code.push(character),
            }
        }
        code.push('\n');
    }
    code
}

/// The next `use` statement: where it begins, what stands between `use` and `;`, where it ends.
fn next_use(code: &str) -> Option<(usize, &str, usize)> {
    let mut from = 0;
    while let Some(found) = code[from..].find("use ") {
        let at = from + found;
        let is_word = code[..at].chars().next_back().is_none_or(|before| before.is_whitespace());
        if is_word {
            let end = at + code[at..].find(';')?;
            return Some((at, code[at + 4..end].trim(), end + 1));
        }
        from = at + 4;
    }
    None
}

/// The paths of a use tree, each with the name that it gets here.
fn leaves(tree: &str) -> Vec<(Vec<String>, String)> {
    let tree = tree.trim();
    if let (Some(open), true) = (tree.find('{'), tree.ends_with('}')) {
        let before: Vec<String> = names(tree[..open].trim_end_matches("::"));
        return members(&tree[open + 1..tree.len() - 1])
            .into_iter()
            .flat_map(leaves)
            .map(|(path, name)| {
                if path == ["self"] {
                    let own = if name == "self" { before.last().cloned().unwrap_or_default() } else { name };
                    (before.clone(), own)
                } else {
                    (before.iter().cloned().chain(path).collect(), name)
                }
            })
            .collect();
    }
    let (path, renamed) = tree.split_once(" as ").map_or((tree, None), |(path, name)| (path, Some(name.trim().to_owned())));
    let path = names(path);
    match path.last() {
        Some(last) => vec![(path.clone(), renamed.unwrap_or_else(|| last.clone()))],
        None => Vec::new(),
    }
}

fn names(path: &str) -> Vec<String> {
    path.split("::").map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect()
}

/// What stands between the commas of a group, groups within it left whole.
fn members(group: &str) -> Vec<&str> {
    let (mut depth, mut start, mut found) = (0_u32, 0, Vec::new());
    for (at, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                found.push(&group[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    found.push(&group[start..]);
    found.retain(|member| !member.trim().is_empty());
    found
}

/// The path from the crate's root; `None` for another crate's.
fn absolute(module: &Module, path: &[String], modules: &BTreeSet<Module>) -> Option<Vec<String>> {
    let joined = |base: &[String], rest: &[String]| {
        let rest = rest.iter().filter(|name| name.as_str() != "*");
        base.iter().cloned().chain(rest.cloned()).collect::<Vec<_>>()
    };
    match path.first()?.as_str() {
        "crate" => Some(joined(&[], &path[1..])),
        "self" => Some(joined(module, &path[1..])),
        "super" => {
            let up = path.iter().take_while(|name| name.as_str() == "super").count();
            Some(joined(&module[..module.len().checked_sub(up)?], &path[up..]))
        }
        child => {
            let whole = joined(module, std::slice::from_ref(&child.to_owned()));
            modules.contains(&whole).then(|| joined(module, path))
        }
    }
}

/// The file that defines what a path names.
fn defining(path: &[String], sources: &BTreeMap<Module, Source>, depth: u32) -> Option<Module> {
    let length = (1..=path.len()).rev().find(|&length| sources.contains_key(&path[..length]))?;
    let (module, rest) = path.split_at(length);
    let here = Some(module.to_vec());
    let Some((first, more)) = rest.split_first() else { return here };
    if depth == 0 {
        return here;
    }
    let source = &sources[module];
    let follow = |path: &[String]| {
        let whole: Vec<String> = path.iter().chain(more).cloned().collect();
        defining(&whole, sources, depth - 1)
    };
    if let Some(path) = source.exports.get(first).or_else(|| source.imports.get(first)) {
        return follow(path);
    }
    for wholly in &source.exported_wholly {
        let whole: Vec<String> = wholly.iter().chain(rest).cloned().collect();
        match defining(&whole, sources, depth - 1) {
            Some(found) if found != *wholly => return Some(found),
            _ => {}
        }
    }
    here
}

fn used_by(module: &Module, sources: &BTreeMap<Module, Source>, modules: &BTreeSet<Module>) -> BTreeSet<Module> {
    let source = &sources[module];
    let mut paths: Vec<Vec<String>> = source.imports.values().filter(|path| !sources.contains_key(*path)).cloned().collect();
    for path in paths_in(&source.body) {
        let first = path[0].as_str();
        let whole = match source.imports.get(first) {
            Some(imported) if sources.contains_key(imported) => Some(imported.iter().chain(&path[1..]).cloned().collect()),
            Some(_) => None,
            None => absolute(module, &path, modules),
        };
        // A module by itself is named by visibilities only (`pub(in crate::a)`).
        paths.extend(whole.filter(|path| !sources.contains_key(path)));
    }
    let mut used: BTreeSet<Module> = paths.iter().filter_map(|path| defining(path, sources, 8)).collect();
    used.remove(module);
    used
}

/// Paths of at least two names in the code.
fn paths_in(body: &str) -> BTreeSet<Vec<String>> {
    let is_name = |character: char| character.is_alphanumeric() || character == '_';
    let words = body.split(|character: char| !is_name(character) && character != ':');
    let paths = words.map(|word| word.trim_end_matches(':')).filter(|word| word.contains("::") && !word.starts_with(':'));
    paths.map(names).filter(|path| path.len() > 1).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn circles(files: &[(&str, &str)]) -> Vec<Vec<String>> {
        let texts = files.iter().map(|(path, text)| (module_of(Path::new(path)), (*text).to_owned())).collect();
        Graph::of(&texts).circles().into_iter().map(|circle| circle.into_iter().collect()).collect()
    }

    #[test]
    fn a_child_that_uses_what_its_parent_defines_makes_a_circle_with_it_and_a_name_passed_on_does_not() {
        let parent = ("a/mod.rs", "mod b;\nmod c;\npub use b::B;\nfn f() { c::run() }\nconst LIMIT: u32 = 1;\n");
        let harmless = ("a/c.rs", "use super::B;\npub fn run() { B::new() }\n");
        assert!(circles(&[parent, ("a/b.rs", "pub struct B;\n"), harmless]).is_empty());
        let upwards = ("a/c.rs", "use super::{B, LIMIT};\npub fn run() {}\n");
        assert_eq!(circles(&[parent, ("a/b.rs", "pub struct B;\n"), upwards]), [["a", "a::c"]]);
    }

    #[test]
    fn circles_are_seen_through_modules_that_are_used_by_name_and_through_whole_paths() {
        let files = [
            ("a.rs", "use crate::b;\nfn f() { b::g() }\n"),
            ("b.rs", "pub fn g() { crate::c::h() }\n"),
            ("c.rs", "// use crate::d;\npub fn h() { let _ = \"crate::d::x\"; super::a::f() }\n#[cfg(test)]\nmod tests {\n}\n"),
            ("d.rs", "use crate::c::h as other;\n"),
        ];
        assert_eq!(circles(&files), [["a", "b", "c"]]);
    }
}
