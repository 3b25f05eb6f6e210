//! The SnapshotMetadata service: requests as bytes from the wire, answers against what was written.
//!
//! Whatever is asked, the answer is a refusal or follows every rule of the stream, and no block that holds or changed something
//! is missing from where the answer was to begin.

use csi_proto::csi::v1 as proto;
use csi_proto::csi::v1::snapshot_metadata_server::SnapshotMetadata;
use futures::StreamExt;
use prost::Message;
use tonic::{Code, Request, Status};

use crate::fixture::block_on;
use crate::node::{BLOCK, Node, SIZE};

/// Text that stands for the handle of the snapshot of that number, since handles are made anew each time.
const MARKS: [&str; 3] = ["@0", "@1", "@2"];

fn resolved(text: &mut String) -> Option<usize> {
    let number = MARKS.iter().position(|mark| *text == *mark)?;
    text.clone_from(&Node::get().snapshots[number]);
    Some(number)
}

/// Asks.
pub fn run(data: &[u8]) {
    let Some((&which, wire)) = data.split_first() else { return };
    let layer = &Node::get().layer;
    if which % 2 == 0 {
        let Ok(mut request) = proto::GetMetadataAllocatedRequest::decode(wire) else { return };
        let snapshot = resolved(&mut request.snapshot_id);
        let (start, most) = (request.starting_offset, request.max_results);
        let answers = block_on(async {
            let answers = layer.get_metadata_allocated(Request::new(request)).await?.into_inner();
            Ok(answers
                .map(|answer| answer.map(|answer| (answer.encoded_len(), answer.volume_capacity_bytes, answer.block_metadata)))
                .collect()
                .await)
        });
        judge(answers, snapshot.map(Node::allocated), start, most);
    } else {
        let Ok(mut request) = proto::GetMetadataDeltaRequest::decode(wire) else { return };
        let (base, target) = (resolved(&mut request.base_snapshot_id), resolved(&mut request.target_snapshot_id));
        let (start, most) = (request.starting_offset, request.max_results);
        let answers = block_on(async {
            let answers = layer.get_metadata_delta(Request::new(request)).await?.into_inner();
            Ok(answers
                .map(|answer| answer.map(|answer| (answer.encoded_len(), answer.volume_capacity_bytes, answer.block_metadata)))
                .collect()
                .await)
        });
        let expected = base.zip(target).filter(|(base, target)| base <= target).map(|(base, target)| Node::changed(base, target));
        judge(answers, expected, start, most);
    }
}

type Answer = (usize, i64, Vec<proto::BlockMetadata>);

/// `expected` are the blocks that must be there, if the request is about snapshots that are.
fn judge(answers: Result<Vec<Result<Answer, Status>>, Status>, expected: Option<Vec<u64>>, start: i64, most: i32) {
    let answers = match answers {
        Ok(answers) => answers,
        Err(status) => {
            let known = [Code::InvalidArgument, Code::NotFound, Code::OutOfRange, Code::Unavailable];
            assert!(known.contains(&status.code()), "{status}");
            let sound = expected.is_some() && (0..=SIZE as i64).contains(&start) && most >= 0;
            // Secrets may be too large.
            assert!(!sound || status.message().starts_with("secrets"), "{status}");
            return;
        }
    };
    let expected = expected.expect("the ranges of something that is not there");
    let (start, mut reached, mut blocks) = (u64::try_from(start).expect("not negative"), 0, Vec::new());
    assert!(!answers.is_empty(), "no message");
    for (number, answer) in answers.into_iter().enumerate() {
        let (bytes, capacity, ranges) = answer.expect("nothing fails in memory");
        assert!(bytes < 4 << 20 && capacity == SIZE as i64);
        assert!(number == 0 || !ranges.is_empty(), "an empty message");
        assert!(most == 0 || ranges.len() <= usize::try_from(most).expect("not negative"));
        for range in ranges {
            let (offset, length) = (range.byte_offset as u64, range.size_bytes as u64);
            assert!(length > 0 && (blocks.is_empty() || offset > reached), "ranges touch");
            reached = offset + length;
            assert!(reached > start && reached <= SIZE, "{offset}+{length} from {start}");
            blocks.extend(offset / BLOCK..reached.div_ceil(BLOCK));
        }
    }
    for block in expected.into_iter().filter(|block| (block + 1) * BLOCK > start) {
        assert!(blocks.contains(&block), "block {block} is missing from {start}");
    }
}

/// Requests for all and for a part, in portions.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (starting_offset, max_results) in [(0, 0), (4097, 1), (SIZE as i64, 2), (-1, -1)] {
        for snapshot in ["@0", "@2", "s-a-b"] {
            let request = proto::GetMetadataAllocatedRequest {
                snapshot_id: snapshot.to_owned(),
                starting_offset,
                max_results,
                ..Default::default()
            };
            seeds.push([&[0], &request.encode_to_vec()[..]].concat());
        }
        for (base, target) in [("@0", "@1"), ("@0", "@2"), ("@2", "@1"), ("@1", "@1"), ("x", "@1")] {
            let request = proto::GetMetadataDeltaRequest {
                base_snapshot_id: base.to_owned(),
                target_snapshot_id: target.to_owned(),
                starting_offset,
                max_results,
                secrets: [("a".to_owned(), "b".to_owned())].into(),
            };
            seeds.push([&[1], &request.encode_to_vec()[..]].concat());
        }
    }
    seeds
}
