//! Parses the JSON of a tree as it comes, written by us or by restic. The ids of all files of the tree go into one list in scratch space.
//!
//! serde_json reads the text, a byte at a time, which would be most of the time that a list of millions takes. So between two elements
//! of a `content` list, [`Ids::take_ahead`] takes every `,"ID"` off the buffer that lies there as a whole, as we and restic write them.
//! Each leaves the parser where it was, behind an element; everything else that comes next (white space, an escape, the end of the list or
//! of the buffer, damage) is left to serde_json. That relies on serde_json having read no byte beyond an element that is a string,
//! which `ids_that_are_taken_ahead_are_those_that_serde_json_reads` would notice.

use std::cell::RefCell;
use std::fmt;
use std::io::{self, BufRead, BufReader, Read};
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
pub(super) fn tree(scratch: &Scratch, mut reader: impl Read) -> Result<Vec<Node>, ReadError> {
    let text = RefCell::new(BufReader::with_capacity(STEP_BYTES, &mut reader as &mut dyn Read));
    parsed(serde_json::Deserializer::from_reader(SharedText(&text)), Ids::new(scratch, &text))
}

/// The nodes that `deserializer` gives, whose ids go to `ids`.
fn parsed<'de>(
    mut deserializer: serde_json::Deserializer<impl serde_json::de::Read<'de>>,
    mut ids: Ids<'_>,
) -> Result<Vec<Node>, ReadError> {
    let parsed = Tree(&mut ids).deserialize(&mut deserializer).and_then(|nodes| deserializer.end().map(|()| nodes));
    if let Some(failure) = ids.failure {
        return Err(failure.into());
    }
    let nodes = parsed.map_err(ReadError::of_parser)?;
    let rows = Arc::new(ids.rows.finish()?);
    let list = |range| IdList::of(Arc::clone(&rows), range);
    nodes.into_iter().map(|raw| node(raw, list).map_err(ReadError::Damage)).collect()
}

/// Bytes of text that are read at once.
const STEP_BYTES: usize = 64 << 10;
/// Bytes of one `,"ID"` of a list.
const ELEMENT_BYTES: usize = 2 * Id::LENGTH + 3;

/// The text of a tree that is being read.
type Text<'t> = RefCell<BufReader<&'t mut dyn Read>>;

/// The reader that serde_json gets, which shares the text with [`Ids`].
struct SharedText<'a, 't>(&'a Text<'t>);

impl Read for SharedText<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.borrow_mut().read(buffer)
    }
}

/// Collects the ids, and the error of scratch space if there was one.
struct Ids<'a> {
    rows: RowsWriter<{ Id::LENGTH }>,
    failure: Option<ScratchError>,
    text: &'a Text<'a>,
}

impl<'a> Ids<'a> {
    fn new(scratch: &Scratch, text: &'a Text<'a>) -> Self {
        Self { rows: RowsWriter::new(scratch), failure: None, text }
    }

    /// Takes the ids that follow an element and lie in the buffer already. It reads nothing, so that every error of the reader is met by
    /// the parser.
    fn take_ahead(&mut self) -> Result<(), ScratchError> {
        let mut text = self.text.borrow_mut();
        let mut taken = 0;
        for element in text.buffer().as_chunks::<ELEMENT_BYTES>().0 {
            let Some(id) = id_of_element(element) else { break };
            self.rows.push(id.as_bytes())?;
            taken += ELEMENT_BYTES;
        }
        text.consume(taken);
        Ok(())
    }
}

/// The id in `,"ID"`.
fn id_of_element(element: &[u8; ELEMENT_BYTES]) -> Option<Id> {
    let digits = element.strip_prefix(b",\"")?.strip_suffix(b"\"")?;
    Id::from_hex(digits).ok()
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
struct Tree<'a, 't>(&'a mut Ids<'t>);

impl<'de> DeserializeSeed<'de> for Tree<'_, '_> {
    type Value = Vec<RawNode>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<RawNode>, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Tree<'_, '_> {
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
struct Nodes<'a, 't>(&'a mut Ids<'t>);

impl<'de> DeserializeSeed<'de> for Nodes<'_, '_> {
    type Value = Vec<RawNode>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<RawNode>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Nodes<'_, '_> {
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
struct OneNode<'a, 't>(&'a mut Ids<'t>);

impl<'de> DeserializeSeed<'de> for OneNode<'_, '_> {
    type Value = RawNode;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<RawNode, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for OneNode<'_, '_> {
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
struct ContentIds<'a, 't>(&'a mut Ids<'t>);

impl<'de> DeserializeSeed<'de> for ContentIds<'_, '_> {
    type Value = Range<u64>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Range<u64>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ContentIds<'_, '_> {
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
            if let Err(failure) = self.0.rows.push(id.as_bytes()).and_then(|()| self.0.take_ahead()) {
                let error = A::Error::custom(&failure);
                self.0.failure = Some(failure);
                return Err(error);
            }
        }
        Ok(start..self.0.rows.len())
    }
}

/// A name of any bytes as text, in which those that are not UTF-8 show as `\\xHH`: different names stay different, and can be typed.
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
mod tests;
