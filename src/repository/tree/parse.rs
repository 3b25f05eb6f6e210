//! Reads the JSON of a tree as it comes, whoever wrote it. The ids of all files of the tree go into one list in scratch space.

use std::fmt;
use std::io::{self, Read};
use std::ops::Range;
use std::sync::Arc;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::error::ReadError;
use super::list::IdList;
use super::node::{Node, NodeKind};
use crate::repository::damage::Damage;
use crate::repository::id::Id;
use crate::scratch::{RowsWriter, Scratch, ScratchError};

/// The nodes of the tree whose JSON `reader` gives. White space may follow it.
pub(super) fn tree(scratch: &Scratch, reader: impl Read) -> Result<Vec<Node>, ReadError> {
    let mut ids = Ids { rows: RowsWriter::new(scratch), failure: None };
    let mut deserializer = serde_json::Deserializer::from_reader(reader);
    let parsed = Tree(&mut ids).deserialize(&mut deserializer).and_then(|nodes| deserializer.end().map(|()| nodes));
    if let Some(failure) = ids.failure {
        return Err(failure.into());
    }
    let nodes = parsed.map_err(|error| ReadError::of(io::Error::from(error), Damage::Syntax))?;
    let rows = Arc::new(ids.rows.finish()?);
    let list = |range| IdList::of(Arc::clone(&rows), range);
    nodes.into_iter().map(|raw| node(raw, list).map_err(ReadError::Damage)).collect()
}

/// Where ids go, and why they could not.
struct Ids {
    rows: RowsWriter<{ Id::LENGTH }>,
    failure: Option<ScratchError>,
}

#[derive(Default)]
struct RawNode {
    name: Option<String>,
    kind: Option<String>,
    size: u64,
    content: Range<u64>,
    subtree: Option<Id>,
}

fn node(raw: RawNode, list: impl Fn(Range<u64>) -> IdList) -> Result<Node, Damage> {
    let missing = |what| Damage::Syntax(format!("a node has no {what}"));
    let (quoted, kind) = (raw.name.ok_or_else(|| missing("name"))?, raw.kind.ok_or_else(|| missing("type"))?);
    let name = unquoted(&quoted).ok_or_else(|| Damage::Syntax(format!("the name {quoted:?} is malformed")))?;
    let kind = match (kind.as_str(), raw.subtree) {
        ("file", _) => NodeKind::File(list(raw.content)),
        ("dir", Some(tree)) => NodeKind::Folder(tree),
        ("dir", None) => return Err(Damage::Syntax(format!("the folder {name:?} has no tree"))),
        _ => NodeKind::Other(kind),
    };
    Ok(Node { name, size: raw.size, kind })
}

/// The object that a tree is.
struct Tree<'a>(&'a mut Ids);

impl<'de> DeserializeSeed<'de> for Tree<'_> {
    type Value = Vec<RawNode>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<RawNode>, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Tree<'_> {
    type Value = Vec<RawNode>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with a list of nodes")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vec<RawNode>, A::Error> {
        let mut nodes = None;
        while let Some(key) = map.next_key::<String>()? {
            match (key.as_str(), &nodes) {
                ("nodes", None) => nodes = Some(map.next_value_seed(Nodes(self.0))?),
                ("nodes", Some(_)) => return Err(A::Error::duplicate_field("nodes")),
                _ => map.next_value::<IgnoredAny>().map(drop)?,
            }
        }
        nodes.ok_or_else(|| A::Error::missing_field("nodes"))
    }
}

/// The list of nodes; null, which Go writes for an empty one, is read too.
struct Nodes<'a>(&'a mut Ids);

impl<'de> DeserializeSeed<'de> for Nodes<'_> {
    type Value = Vec<RawNode>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<RawNode>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Nodes<'_> {
    type Value = Vec<RawNode>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of nodes or null")
    }

    fn visit_unit<E>(self) -> Result<Vec<RawNode>, E> {
        Ok(Vec::new())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Vec<RawNode>, A::Error> {
        let mut nodes = Vec::new();
        while let Some(node) = elements.next_element_seed(OneNode(self.0))? {
            nodes.push(node);
        }
        Ok(nodes)
    }
}

/// A node, of whose fields only some matter.
struct OneNode<'a>(&'a mut Ids);

impl<'de> DeserializeSeed<'de> for OneNode<'_> {
    type Value = RawNode;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<RawNode, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for OneNode<'_> {
    type Value = RawNode;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a node")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawNode, A::Error> {
        let mut node = RawNode::default();
        let mut has_content = false;
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "name" => node.name = Some(map.next_value()?),
                "type" => node.kind = Some(map.next_value()?),
                "size" => node.size = map.next_value()?,
                "subtree" => node.subtree = map.next_value()?,
                "content" if has_content => return Err(A::Error::duplicate_field("content")),
                "content" => {
                    node.content = map.next_value_seed(ContentIds(self.0))?;
                    has_content = true;
                }
                _ => map.next_value::<IgnoredAny>().map(drop)?,
            }
        }
        Ok(node)
    }
}

/// The list of a file's blobs, or null; which part of the ids it became.
struct ContentIds<'a>(&'a mut Ids);

impl<'de> DeserializeSeed<'de> for ContentIds<'_> {
    type Value = Range<u64>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Range<u64>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ContentIds<'_> {
    type Value = Range<u64>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of ids or null")
    }

    fn visit_unit<E>(self) -> Result<Range<u64>, E> {
        Ok(0..0)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Range<u64>, A::Error> {
        let start = self.0.rows.len();
        while let Some(id) = elements.next_element::<Id>()? {
            if let Err(failure) = self.0.rows.push(id.as_bytes()) {
                let error = A::Error::custom(&failure);
                self.0.failure = Some(failure);
                return Err(error);
            }
        }
        Ok(start..self.0.rows.len())
    }
}

/// A name of any bytes as text, in which those that are no UTF-8 show as `\\xHH`: different names stay different, and can be typed.
fn shown(name: &[u8]) -> String {
    let mut text = String::new();
    for chunk in name.utf8_chunks() {
        text.push_str(chunk.valid());
        chunk.invalid().iter().for_each(|byte| text.push_str(&format!("\\x{byte:02x}")));
    }
    text
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
    Some(shown(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scratch() -> Scratch {
        Scratch::of_process()
    }

    #[test]
    fn names_in_go_s_quoting_are_read() {
        for (quoted, name) in [
            ("plain ü", "plain ü"),
            (r"tab\there", "tab\there"),
            (r#"a\"b\\c"#, r#"a"b\c"#),
            (r"\u00fc\U0001f600\x41\101", "ü😀AA"),
            (r"\xff\xc3\xbc\xe9", r"\xffü\xe9"),
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
        let nodes = tree(&scratch(), json.as_bytes()).unwrap();
        let names: Vec<_> = nodes.iter().map(|node| (node.name.as_str(), node.size)).collect();
        assert_eq!(names, [("d", 0), ("empty", 0), ("f", 3), ("s", 0)]);
        let kinds: Vec<_> = nodes.into_iter().map(|node| node.kind).collect();
        let [NodeKind::Folder(tree_id), NodeKind::File(none), NodeKind::File(one), NodeKind::Other(kind)] = &kinds[..] else {
            panic!("{kinds:?}")
        };
        assert_eq!((*tree_id, none.len(), one.to_vec().unwrap(), kind.as_str()), (id, 0, vec![id], "symlink"));
        assert!(tree(&scratch(), &b"{\"nodes\":null}\n"[..]).unwrap().is_empty());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC*", name in "[\\\\xu0-9a-f\"]{0,12}") {
            let _ = tree(&scratch(), text.as_bytes());
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
            r#"{"nodes":[{"name":"f","type":"file","content":[],"content":[]}]}"#,
            r#"{"nodes":[{"name":"f"}]}"#,
            r#"{"nodes":[],"nodes":[]}"#,
        ] {
            assert!(matches!(tree(&scratch(), text.as_bytes()), Err(ReadError::Damage(Damage::Syntax(_)))), "{text}");
        }
    }
}
