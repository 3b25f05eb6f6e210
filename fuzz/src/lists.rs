//! Lists of volumes and snapshots: requests as bytes from the wire, tokens among them.
//!
//! A token is refused as a whole or continues where it says; no page is larger than asked for, and pages put together are the list.

use csi_proto::csi::v1 as proto;
use csi_proto::csi::v1::controller_server::Controller;
use prost::Message;
use tonic::{Code, Request, Status};

use crate::fixture::block_on;
use crate::node::Node;

/// Text that stands for a handle, which are made anew each time: of the volume, and of a snapshot.
const VOLUME: &str = "@v";
const SNAPSHOT: &str = "@s";

fn resolve(text: &mut String) {
    let node = Node::get();
    match text.as_str() {
        VOLUME => text.clone_from(&node.volume),
        SNAPSHOT => text.clone_from(&node.snapshots[1]),
        _ => {}
    }
}

/// Asks for a page, and then for the rest.
pub fn run(data: &[u8]) {
    let Some((&which, wire)) = data.split_first() else { return };
    let layer = &Node::get().layer;
    if which % 2 == 0 {
        let Ok(mut request) = proto::ListVolumesRequest::decode(wire) else { return };
        resolve(&mut request.starting_token);
        walk(request.max_entries, request.starting_token.clone(), 1, |token| {
            let request = proto::ListVolumesRequest { starting_token: token, ..request.clone() };
            let page = block_on(layer.list_volumes(Request::new(request)))?.into_inner();
            Ok((page.entries.into_iter().map(|entry| entry.volume.expect("a volume").volume_id).collect(), page.next_token))
        });
    } else {
        let Ok(mut request) = proto::ListSnapshotsRequest::decode(wire) else { return };
        for text in [&mut request.starting_token, &mut request.source_volume_id, &mut request.snapshot_id] {
            resolve(text);
        }
        walk(request.max_entries, request.starting_token.clone(), Node::get().snapshots.len(), |token| {
            let request = proto::ListSnapshotsRequest { starting_token: token, ..request.clone() };
            let page = block_on(layer.list_snapshots(Request::new(request)))?.into_inner();
            Ok((page.entries.into_iter().map(|entry| entry.snapshot.expect("a snapshot").snapshot_id).collect(), page.next_token))
        });
    }
}

fn walk(most: i32, mut token: String, in_all: usize, ask: impl Fn(String) -> Result<(Vec<String>, String), Status>) {
    let mut seen: Vec<String> = Vec::new();
    for page in 0.. {
        assert!(page <= in_all, "the list does not end");
        let (entries, next) = match ask(token) {
            Ok(page) => page,
            Err(status) => {
                assert!(page == 0, "a token of ours is refused: {status}");
                return assert!([Code::Aborted, Code::InvalidArgument, Code::Unavailable].contains(&status.code()), "{status}");
            }
        };
        assert!(most == 0 || entries.len() <= usize::try_from(most).expect("not negative"));
        seen.extend(entries);
        if next.is_empty() {
            break;
        }
        token = next;
    }
    let count = seen.len();
    seen.sort();
    seen.dedup();
    assert!(seen.len() == count && count <= in_all, "{count} entries");
}

/// Pages of all sizes, tokens of ours and of others.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (max_entries, token) in [(0, ""), (1, ""), (2, SNAPSHOT), (0, VOLUME), (-1, ""), (0, "v-a-b")] {
        let volumes = proto::ListVolumesRequest { max_entries, starting_token: token.to_owned() };
        seeds.push([&[0], &volumes.encode_to_vec()[..]].concat());
        for (source, id) in [("", ""), (VOLUME, ""), ("", SNAPSHOT), ("x", "y")] {
            let snapshots = proto::ListSnapshotsRequest {
                max_entries,
                starting_token: token.to_owned(),
                source_volume_id: source.to_owned(),
                snapshot_id: id.to_owned(),
                ..Default::default()
            };
            seeds.push([&[1], &snapshots.encode_to_vec()[..]].concat());
        }
    }
    seeds
}
