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

/// What serde_json makes of the text, with no id taken ahead: the buffer that these are taken from is empty.
fn by_serde_json(text: &[u8]) -> Result<Vec<Node>, ReadError> {
    let mut nothing = io::empty();
    let empty = RefCell::new(BufReader::new(&mut nothing as &mut dyn Read));
    parsed(serde_json::Deserializer::from_slice(text), Ids::new(&scratch(), &empty))
}

/// The names of nodes, their kinds, and the ids of files.
fn told(nodes: Result<Vec<Node>, ReadError>) -> Option<Vec<(String, u64, String)>> {
    let kind = |kind| match kind {
        NodeKind::File(content) => format!("{:?}", content.to_vec().unwrap()),
        other => format!("{other:?}"),
    };
    nodes.ok().map(|nodes| nodes.into_iter().map(|node| (node.name, node.size, kind(node.kind))).collect())
}

/// Gives so many bytes at once.
struct InSteps<'a>(&'a [u8], usize);

impl Read for InSteps<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let step = self.1.min(buffer.len());
        self.0.read(&mut buffer[..step])
    }
}

/// An element of a list as another program may write it.
fn element() -> impl Strategy<Value = String> {
    let id = any::<[u8; 32]>().prop_map(|bytes| Id::from_bytes(bytes).to_string());
    prop_oneof![
        20 => id.clone().prop_map(|id| format!("\"{id}\"")),
        1 => id.clone().prop_map(|id| format!("\"{}\"", id.to_ascii_uppercase())),
        1 => id.clone().prop_map(|id| format!(" \"{id}\"\n\t")),
        1 => id.clone().prop_map(|id| format!("\"\\u00{:02x}{}\"", id.as_bytes()[0], &id[1..])),
        1 => id.prop_map(|id| format!("\"{}\"", &id[1..])),
        1 => Just("null".to_owned()),
        1 => Just(String::new()),
    ]
}

proptest! {
    #[test]
    fn ids_that_are_taken_ahead_are_those_that_serde_json_reads(
        lists in prop::collection::vec(prop::collection::vec(element(), 0..40), 1..4),
        damage in prop::option::of((any::<prop::sample::Index>(), prop::sample::select(b"\",[]{}:0aZ \\\n".to_vec()))),
        cut in prop::option::of(any::<prop::sample::Index>()),
        step in 1_usize..300,
    ) {
        let file = |(number, list): (usize, &Vec<String>)| {
            format!(r#"{{"name":"f{number}","type":"file","size":7,"content":[{}],"xattrs":["a","b"]}}"#, list.join(","))
        };
        let nodes: Vec<String> = lists.iter().enumerate().map(file).collect();
        let mut text = format!("{{\"nodes\":[{}]}}\n", nodes.join(",")).into_bytes();
        if let Some((at, byte)) = damage {
            let at = at.index(text.len());
            text[at] = byte;
        }
        if let Some(cut) = cut {
            text.truncate(cut.index(text.len()));
        }
        prop_assert_eq!(told(tree(&scratch(), InSteps(&text, step))), told(by_serde_json(&text)));
        prop_assert_eq!(told(tree(&scratch(), &text[..])), told(by_serde_json(&text)));
    }

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
        assert!(
            matches!(tree(&scratch(), text.as_bytes()), Err(ReadError::Damage(Damage::Json(_) | Damage::Syntax(_)))),
            "{text}"
        );
    }
}
