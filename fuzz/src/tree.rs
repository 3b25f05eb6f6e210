//! Trees: any text as a blob, and trees that were made and read again.

use windlass::repository::store::Kind;
use windlass::repository::tree::{NewFile, NewFolder, Node, NodeKind, PackedTree, pack_folder, pack_tree};
use windlass::repository::{BlobKind, Compressor, Id, Index, PackBuilder, PackError, RepositoryError, Verification};
use windlass::types::Timestamp;

use crate::fixture::{Fixture, block_on};
use crate::input::{Input, part};

/// Text of an id in a tree.
const ID_TEXT: usize = 64;

/// Reads a tree, or makes one.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    match input.byte() % 2 {
        0 => any_text(input.rest()),
        _ => round_trip(input),
    }
}

/// The repository's index with the tree, which is stored.
fn stored(tree: &PackedTree) -> Index {
    let fixture = Fixture::shared();
    fixture.clear(Kind::Data);
    block_on(fixture.repository.put_tree(tree)).expect("a put into memory");
    Index::of(fixture.repository.scratch(), [&tree.record]).expect("a row in memory")
}

fn any_text(text: &[u8]) {
    let fixture = Fixture::shared();
    let mut builder = PackBuilder::new(fixture.repository.sealer(), BlobKind::Tree, 0, Verification::Skip);
    let id = Id::of(text);
    builder.add(id, text, &mut Compressor::new(1).expect("zstd")).expect("room for a small blob");
    let pack = builder.finish().expect("random numbers").expect("a pack");
    fixture.clear(Kind::Data);
    block_on(fixture.repository.put_pack(&pack)).expect("a put into memory");
    let index = Index::of(fixture.repository.scratch(), [&pack.record]).expect("a row in memory");
    match block_on(fixture.repository.read_tree(&index, &id)) {
        Ok(nodes) => {
            let text_of_names: usize = nodes.iter().map(|node| node.name.len()).sum();
            // A byte that is no UTF-8 is written as four and read as three.
            assert!(nodes.len() + text_of_names <= text.len(), "{} names from {} bytes", nodes.len(), text.len());
            let ids = ids_of(&nodes);
            assert!(ids * ID_TEXT as u64 <= text.len() as u64, "{ids} ids from {} bytes", text.len());
        }
        Err(RepositoryError::Damaged { object, .. }) => assert!(object.contains(&id.to_string()), "{object}"),
        Err(error) => panic!("{error}"),
    }
}

/// How many blobs and trees the nodes name.
fn ids_of(nodes: &[Node]) -> u64 {
    nodes.iter().map(|node| if let NodeKind::File(content) = &node.kind { content.len() } else { 0 }).sum()
}

fn round_trip(mut input: Input<'_>) {
    let fixture = Fixture::shared();
    let modified = Timestamp { seconds: input.u64() % 250_000_000_000, nanoseconds: input.u32() % 1_000_000_000 };
    let mut files: Vec<(String, u64, Vec<Id>)> = Vec::new();
    while !input.is_empty() && files.len() < 20 {
        let (name, size, blobs) = (input.text(), input.u64(), usize::from(input.byte()));
        files.push((name, size, (0..blobs).map(|number| Id::of(&[number as u8])).collect()));
    }
    let new: Vec<_> = files.iter().map(|(name, size, content)| NewFile { name, size: *size, modified, content }).collect();
    let sealer = fixture.repository.sealer();
    let tree = match pack_tree(fixture.repository.scratch(), &sealer, &new) {
        Ok(tree) => tree,
        Err(PackError::Name(name)) => return assert!(files.iter().any(|file| file.0 == name)),
        Err(error) => panic!("{error}"),
    };
    let nodes = block_on(fixture.repository.read_tree(&stored(&tree), &tree.id)).expect("what was written");
    files.sort();
    assert_eq!(nodes.len(), files.len());
    for (node, (name, size, content)) in nodes.iter().zip(&files) {
        assert_eq!((&node.name, node.size), (name, *size));
        assert_eq!(ids_of(std::slice::from_ref(node)), content.len() as u64);
    }
    if let Some((name, ..)) = files.first() {
        let folder = NewFolder { name, modified, tree: tree.id };
        let outer = pack_folder(fixture.repository.scratch(), &sealer, &folder).expect("a name that a file may have");
        let nodes = block_on(fixture.repository.read_tree(&stored(&outer), &outer.id)).expect("what was written");
        assert!(nodes.len() == 1 && nodes[0].name == *name);
    }
}

/// Trees of ours and of restic's, and what to make trees of.
pub fn seeds() -> Vec<Vec<u8>> {
    let id = Id::of(b"");
    let texts = [
        format!(r#"{{"nodes":[{{"name":"v","type":"dir","mode":2147484096,"content":null,"subtree":"{id}"}}]}}"#),
        format!(
            r#"{{"nodes":[{{"name":"a\\\"b\\u00fc\\xff\\101","type":"file","size":3,"content":["{id}","{id}"],"extended_attributes":[{{"name":"a","value":"AA=="}}]}},{{"name":"s","type":"symlink","linktarget":"f","content":null}}]}}"#
        ),
        "{\"nodes\":null}\n".to_owned(),
    ];
    let file = |name: &str, blobs: u8| [part(name.as_bytes()), 512_u64.to_le_bytes().to_vec(), vec![blobs]].concat();
    let made = [&[1_u8; 13][..], &file("volume.img", 9), &file("meta.json", 1)].concat();
    texts.iter().map(|text| [&[0], text.as_bytes()].concat()).chain([made]).collect()
}
