//! The rules for a host's udev and LVM that are shipped under `deploy/`, read as those programs read them: as much of their
//! languages as the files use, and a panic at anything else.

use std::fs;
use std::path::Path;

fn shipped(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(name)).unwrap()
}

/// Whether udev's rules leave a device alone of which they see this attribute.
pub fn udev_leaves_alone(kernel_name: &str, attribute: &str, value: &str) -> bool {
    let rules = shipped("udev/59-windlass.rules");
    let mut rules = rules.lines().filter(|line| line.ends_with(r#"GOTO="windlass_leave_alone""#)).map(|line| {
        let mut terms = line.split(", ").map(|term| term.split_once("==").or(term.split_once('=')).unwrap());
        let (kernel, wanted) = (terms.next().unwrap(), terms.next().unwrap());
        assert!(kernel.0 == "KERNEL" && terms.next().unwrap().0 == "GOTO" && terms.next().is_none(), "{line}");
        let name = wanted.0.trim_start_matches("ATTRS{").trim_start_matches("ATTR{").trim_end_matches('}');
        (kernel.1.trim_matches('"').to_owned(), name.to_owned(), wanted.1.trim_matches('"').to_owned())
    });
    rules.any(|(kernel, name, pattern)| {
        name == attribute && glob(kernel.as_bytes(), kernel_name.as_bytes()) && glob(pattern.as_bytes(), value.as_bytes())
    })
}

/// Whether LVM's filter leaves out a device of this path.
pub fn lvm_leaves_out(path: &str) -> bool {
    let text = shipped("lvm/windlass.conf");
    let line = text.lines().map(str::trim).find_map(|line| line.strip_prefix("global_filter = [ ")).unwrap();
    let patterns = line.strip_suffix(" ]").unwrap().split(", ").map(|pattern| pattern.trim_matches('"'));
    patterns.into_iter().any(|pattern| {
        let expression = pattern.strip_prefix("r|^").and_then(|pattern| pattern.strip_suffix('|')).unwrap();
        match expression.strip_suffix("[0-9]") {
            Some(prefix) => path.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit())),
            None => {
                assert!(!expression.contains(['[', '.', '*', '$', '(']), "{expression}");
                path.starts_with(expression)
            }
        }
    })
}

/// Shell patterns of `*` and `?`, neither of which stops at a slash: so udev has it.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => glob(rest, text) || text.split_first().is_some_and(|(_, text)| glob(pattern, text)),
        (Some((b'?', rest)), Some((_, text))) => glob(rest, text),
        (Some((byte, rest)), Some((first, text))) => byte == first && glob(rest, text),
        _ => false,
    }
}
