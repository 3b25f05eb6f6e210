//! Reads the JSON of a tree as it comes, whoever wrote it.

use std::fmt;
use std::io::Read;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, SeqAccess, Visitor};

use super::{Node, NodeKind};
use crate::repository::error::Damage;
use crate::repository::id::Id;

/// The nodes of the tree whose JSON `reader` gives. White space may follow it.
pub(super) fn tree(reader: impl Read) -> Result<Vec<Node>, Damage> {
    let syntax = |error: serde_json::Error| Damage::Syntax(error.to_string());
    let mut deserializer = serde_json::Deserializer::from_reader(reader);
    let tree = RawTree::deserialize(&mut deserializer).map_err(syntax)?;
    deserializer.end().map_err(syntax)?;
    tree.nodes.0.into_iter().map(node).collect()
}

#[derive(Deserialize)]
struct RawTree {
    nodes: List<RawNode>,
}

#[derive(Deserialize)]
struct RawNode {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    content: List<Id>,
    #[serde(default)]
    subtree: Option<Id>,
}

fn node(raw: RawNode) -> Result<Node, Damage> {
    let name = unquoted(&raw.name).ok_or_else(|| Damage::Syntax(format!("the name {:?} is malformed", raw.name)))?;
    let kind = match (raw.kind.as_str(), raw.subtree) {
        ("file", _) => NodeKind::File(raw.content.0),
        ("dir", Some(tree)) => NodeKind::Folder(tree),
        ("dir", None) => return Err(Damage::Syntax(format!("the folder {name:?} has no tree"))),
        _ => NodeKind::Other(raw.kind),
    };
    Ok(Node { name, size: raw.size, kind })
}

/// A list, or null, which Go writes for an empty one.
struct List<T>(Vec<T>);

impl<T> Default for List<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Elements<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Elements<T> {
            type Value = List<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list or null")
            }

            fn visit_unit<E>(self) -> Result<List<T>, E> {
                Ok(List::default())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<List<T>, A::Error> {
                let mut list = Vec::new();
                while let Some(element) = elements.next_element()? {
                    list.push(element);
                }
                Ok(List(list))
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<List<T>, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Err(serde::de::Error::invalid_type(serde::de::Unexpected::Map, &self))
            }
        }
        deserializer.deserialize_any(Elements(std::marker::PhantomData))
    }
}

/// Takes Go's quoting off a name: restic keeps names of any bytes in JSON by writing them as Go string literals without the
/// quotation marks. `None` when the literal is malformed.
fn unquoted(name: &str) -> Option<String> {
    if !name.contains('\\') {
        return Some(name.to_owned());
    }
    let (mut bytes, mut rest) = (Vec::with_capacity(name.len()), name.chars());
    while let Some(character) = rest.next() {
        if character != '\\' {
            bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        let digits = |rest: &mut std::str::Chars<'_>, first: Option<char>, count: usize, radix| {
            let text: String = first.into_iter().chain(rest.by_ref().take(count)).collect();
            (text.len() == count + usize::from(first.is_some())).then(|| u32::from_str_radix(&text, radix).ok()).flatten()
        };
        let escaped = rest.next()?;
        match escaped {
            'x' => bytes.push(digits(&mut rest, None, 2, 16)? as u8),
            'u' | 'U' => {
                let count = if escaped == 'u' { 4 } else { 8 };
                let character = char::from_u32(digits(&mut rest, None, count, 16)?)?;
                bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            }
            '0'..='7' => bytes.push(u8::try_from(digits(&mut rest, Some(escaped), 2, 8)?).ok()?),
            '\\' | '"' | '\'' => bytes.push(escaped as u8),
            'a' => bytes.push(7),
            'b' => bytes.push(8),
            't' => bytes.push(b'\t'),
            'n' => bytes.push(b'\n'),
            'v' => bytes.push(11),
            'f' => bytes.push(12),
            'r' => bytes.push(b'\r'),
            _ => return None,
        }
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_in_go_s_quoting_are_read() {
        for (quoted, name) in [
            ("plain ü", "plain ü"),
            (r"tab\there", "tab\there"),
            (r#"a\"b\\c"#, r#"a"b\c"#),
            (r"\u00fc\U0001f600\x41\101", "ü😀AA"),
            (r"\xff", "\u{fffd}"),
        ] {
            assert_eq!(unquoted(quoted).as_deref(), Some(name));
        }
        for quoted in [r"\", r"\q", r"\x4", r"\u12", r"\ud800", r"\777"] {
            assert_eq!(unquoted(quoted), None, "{quoted}");
        }
    }

    #[test]
    fn a_tree_of_restic_s_is_read() {
        let id = Id::of(b"");
        let json = format!(
            r#"{{"nodes":[{{"name":"d","type":"dir","mode":2147484141,"mtime":"2026-01-01T00:00:00Z","uid":0,"gid":0,"inode":7,"content":null,"subtree":"{id}"}},
            {{"name":"empty","type":"file","content":null}},{{"name":"f","type":"file","size":3,"content":["{id}"],"extended_attributes":[{{"name":"a","value":"AA=="}}]}},
            {{"name":"s","type":"symlink","linktarget":"f","content":null}}]}}
            "#
        );
        let nodes = tree(json.as_bytes()).unwrap();
        let expected = [
            ("d", 0, NodeKind::Folder(id)),
            ("empty", 0, NodeKind::File(vec![])),
            ("f", 3, NodeKind::File(vec![id])),
            ("s", 0, NodeKind::Other("symlink".into())),
        ];
        assert_eq!(nodes, expected.map(|(name, size, kind)| Node { name: name.into(), size, kind }));
        assert_eq!(tree(&b"{\"nodes\":null}\n"[..]), Ok(vec![]));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC*", name in "[\\\\xu0-9a-f\"]{0,12}") {
            let _ = tree(text.as_bytes());
            let _ = unquoted(&name);
        }
    }

    #[test]
    fn malformed_trees_are_refused() {
        for text in [
            "",
            "{}",
            "[]",
            r#"{"nodes":{}}"#,
            r#"{"nodes":[]} x"#,
            r#"{"nodes":[{"name":"d","type":"dir"}]}"#,
            r#"{"nodes":[{"name":"f","type":"file","content":["00"]}]}"#,
        ] {
            assert!(matches!(tree(text.as_bytes()), Err(Damage::Syntax(_))), "{text}");
        }
    }
}
