use std::collections::HashMap;

use super::*;
use crate::scratch::Scratch;
use proptest::prelude::*;

fn id(number: u64) -> Id {
    Id::of(&number.to_le_bytes())
}

fn plan(
    content: &[Id],
    image_bytes: u64,
    sink_bytes: u64,
    locate: impl Fn(&Id) -> Option<BlobLocation> + Send + Sync + 'static,
) -> Result<RestorePlan, PlanError> {
    let content = IdList::from_ids(&Scratch::of_process(), content).unwrap();
    RestorePlan::new(content, image_bytes, sink_bytes, Lost::Refuse, Box::new(move |id| Ok(locate(id))))
}

fn windows(plan: &RestorePlan) -> Vec<Arc<Window>> {
    let mut cursor = plan.start();
    std::iter::from_fn(|| plan.next_window(&mut cursor).unwrap()).collect()
}

proptest! {
    #[test]
    fn every_byte_of_the_file_comes_from_exactly_one_place(
        lengths in proptest::collection::vec(1_u32..3 << 20, 1..30),
        list in proptest::collection::vec((0_usize..40, 0_u64..4), 0..160),
        beyond in 0_u64..1000,
        limit in 1_u64..8 << 20,
        window_entries in 1_u64..70,
        (from, wanted) in (any::<u64>(), 1_u64..4 << 20),
    ) {
        // Blobs lie one behind another in three packs; entries beyond their number are zeros.
        let mut ends = [0_u32; 3];
        let locations: Vec<_> = lengths.iter().enumerate().map(|(number, &length)| {
            let pack = number % 3;
            let offset = ends[pack];
            ends[pack] += length + 32;
            BlobLocation { pack: id(1000 + pack as u64), offset, length: length + 32, uncompressed_length: None }
        }).collect();
        let zero = zeros::id(4096);
        let content: Vec<_> = list.iter().map(|&(number, _)| if number < lengths.len() { id(number as u64) } else { zero }).collect();
        let size = list.iter().map(|&(number, _)| lengths.get(number).map_or(4096, |&length| u64::from(length))).sum();
        let known = locations.clone();
        let locate = move |wanted: &Id| (0..known.len()).find(|&number| id(number as u64) == *wanted).map(|number| known[number]);
        let mut plan = plan(&content, size, size + beyond, locate.clone()).unwrap();
        plan.window_entries = window_entries;

        let mut placed = Vec::new();
        for window in windows(&plan) {
            placed.extend(window.zeros().iter().map(|range| (range.offset(), range.length(), zero)));
            let mut last: Option<Request> = None;
            for request in window.requests(limit) {
                for blob in request.blobs() {
                    prop_assert_eq!(locate(&blob.id), Some(blob.location));
                    prop_assert_eq!(blob.location.pack, request.pack);
                    prop_assert!(u64::from(blob.location.offset) >= request.bytes.start && blob.location.end() <= request.bytes.end);
                    placed.extend(blob.positions().map(|position| (position, u64::from(blob.location.plain_length()), blob.id)));
                }
                prop_assert!(request.length() <= limit || request.blobs().count() == 1);
                if let Some(last) = last {
                    prop_assert!(last.pack != request.pack || last.bytes.end <= request.bytes.start);
                }
                last = Some(request);
            }
        }
        placed.sort_unstable();
        if let Some(range) = ByteRange::new(from % size.max(1), wanted).filter(|range| range.end() <= size) {
            let window = plan.window_of(range).unwrap();
            let pieces = window.requests(limit).flat_map(|request| {
                request.blobs().flat_map(|blob| {
                    let length = blob.location.plain_length();
                    blob.positions().map(|position| (position, u64::from(length), blob.id)).collect::<Vec<_>>()
                }).collect::<Vec<_>>()
            });
            let mut found: Vec<_> = pieces.collect();
            found.sort_unstable();
            let touches = |&&(offset, length, id): &&(u64, u64, Id)| {
                id != zero && offset < range.end() && offset + length > range.offset()
            };
            prop_assert_eq!(found, placed.iter().filter(touches).copied().collect::<Vec<_>>());
        }
        let mut at = 0;
        for (offset, length, _) in placed {
            prop_assert_eq!(offset, at);
            at += length;
        }
        prop_assert_eq!(at, size + beyond);
    }
}

#[test]
fn sizes_that_disagree_and_missing_blobs_are_errors() {
    let locate = |_: &Id| Some(BlobLocation { pack: id(0), offset: 0, length: 42, uncompressed_length: None });
    let mismatch = plan(&[id(1)], 11, 11, locate).err().unwrap();
    assert!(matches!(mismatch, PlanError::SizeMismatch { recorded: 11, found: 10 }), "{mismatch}");
    let missing = plan(&[zeros::id(4096), id(1)], 11, 11, |_| None).err().unwrap();
    assert!(matches!(missing, PlanError::MissingBlob { id: blob, position: 4096 } if blob == id(1)), "{missing}");
}

#[test]
fn neighbours_are_fetched_together_and_distant_blobs_are_not() {
    let offsets = [0, 200, 200 + 2 * GAP_BYTES as u32];
    let locate = move |wanted: &Id| {
        let number = (0..3).find(|&number| id(number) == *wanted)?;
        Some(BlobLocation { pack: id(9), offset: offsets[number as usize], length: 132, uncompressed_length: None })
    };
    let plan = plan(&[id(2), id(0), id(1), id(0)], 400, 400, locate).unwrap();
    let window = &windows(&plan)[0];
    let requests: Vec<_> = window.requests(1 << 20).collect();
    let ranges: Vec<_> = requests.iter().map(|request| request.bytes.clone()).collect();
    let last = u64::from(offsets[2])..u64::from(offsets[2]) + 132;
    assert_eq!(ranges, [0..332, last.clone()]);

    // What is asked for of a request is where it was, and nothing else is asked for.
    let asked = |request: &Request, is_wanted: &[bool]| {
        let window = request.narrowed(is_wanted);
        let asked = window.requests(1 << 20).map(|request| {
            let blobs: Vec<_> = request.blobs().map(|blob| (blob.id, blob.positions().collect::<Vec<_>>())).collect();
            (request.pack, request.bytes.clone(), blobs)
        });
        asked.collect::<Vec<_>>()
    };
    let (first, second) = ((id(0), vec![100, 300]), (id(1), vec![200]));
    assert_eq!(asked(&requests[0], &[true, true]), [(id(9), 0..332, vec![first.clone(), second.clone()])]);
    assert_eq!(asked(&requests[0], &[true, false]), [(id(9), 0..132, vec![first])]);
    assert_eq!(asked(&requests[0], &[false, true]), [(id(9), 200..332, vec![second])]);
    assert_eq!(asked(&requests[0], &[false, false]), []);
    assert_eq!(asked(&requests[1], &[true]), [(id(9), last, vec![(id(2), vec![0])])]);
}

/// The holes of a plan for a file of `size` bytes that is cut as `cut` says: `Some` are the lengths of blobs that an index names, `None`
/// are those in none.
fn holes(list: &[Option<u32>], size: u64, cut: Cut) -> Result<Vec<(u64, u64)>, PlanError> {
    let content: Vec<_> = (0..).zip(list).map(|(number, _)| id(number)).collect();
    let content = IdList::from_ids(&Scratch::of_process(), &content).unwrap();
    let lengths: HashMap<_, _> = (0..).zip(list).filter_map(|(number, length)| Some((id(number), (*length)?))).collect();
    let locate = move |wanted: &Id| {
        let length = lengths.get(wanted).map(|length| length + 32);
        Ok(length.map(|length| BlobLocation { pack: id(1000), offset: 0, length, uncompressed_length: None }))
    };
    let plan = RestorePlan::new(content, size, size, Lost::Leave(cut), Box::new(locate))?;
    let holes: Vec<_> = windows(&plan).iter().flat_map(|window| window.holes().to_vec()).collect();
    let whole = ByteRange::new(0, size).unwrap();
    assert_eq!(plan.window_of(whole).unwrap().holes(), holes, "read at random they are where they are");
    let data: u64 = list.iter().flatten().map(|length| u64::from(*length)).sum();
    assert_eq!(plan.data_bytes() + holes.iter().map(|(range, _)| range.length()).sum::<u64>(), size);
    assert_eq!(plan.data_bytes(), data);
    Ok(holes.into_iter().map(|(range, _)| (range.offset(), range.length())).collect())
}

#[test]
fn a_blob_in_no_index_is_a_hole_as_long_as_chunks_are() {
    const CHUNK: u32 = 512 << 10;
    let (c, known) = (u64::from(CHUNK), Some(CHUNK));
    let size = 4 * c + 4096;
    for cut in [Cut::Chunks(c), Cut::UnknownChunks] {
        assert_eq!(holes(&[known, None, known, None, Some(4096)], size, cut).unwrap(), [(c, c), (3 * c, c)]);
        assert_eq!(holes(&[known, None, known, known, None], size, cut).unwrap(), [(c, c), (4 * c, 4096)]);
        assert_eq!(holes(&[None; 5], size, cut).unwrap(), [(0, c), (c, c), (2 * c, c), (3 * c, c), (4 * c, 4096)]);
    }
}

#[test]
fn of_a_file_that_was_cut_anyhow_one_gap_follows_from_its_size_and_several_do_not() {
    let list = [Some(1000), None, None, Some(77)];
    for cut in [Cut::Anyhow, Cut::Chunks(512 << 10), Cut::UnknownChunks] {
        assert_eq!(holes(&list, 5000, cut).unwrap(), [(1000, 3923)], "{cut:?}");
    }
    let error = holes(&[None, Some(1000), None, Some(77)], 5000, Cut::Anyhow).unwrap_err();
    assert!(matches!(error, PlanError::UnknownLength { id: blob, position: 0 } if blob == id(0)), "{error}");
    // What is known alone is too long already.
    let error = holes(&[Some(1000), None], 999, Cut::Anyhow).unwrap_err();
    assert!(matches!(error, PlanError::SizeMismatch { recorded: 999, found: 1000 }), "{error}");
}
