//! All kernels against aws-lc, and aws-lc against the published vectors.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// Bytes without a pattern that a wrong offset could hide in.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_be_bytes()[0]
    };
    (0..length).map(next).collect()
}

/// Every kernel of this machine, and the choice between them, agree with the single stream.
fn assert_all_agree(inputs: &[&[u8]]) {
    let expected: Vec<[u8; 32]> = inputs.iter().map(|input| sha256(input)).collect();
    for kernel in Kernel::available() {
        let mut digests = vec![[0xee; 32]; inputs.len()];
        kernel.sha256_many(inputs, &mut digests).unwrap();
        assert_eq!(digests, expected, "{kernel}, lengths {:?}", inputs.iter().map(|input| input.len()));
    }
    // The choice as made here, and as made on machines with only some of the instructions this one has.
    for lacking in [&[][..], &[Kernel::ShaNi], &[Kernel::Avx512], &[Kernel::Avx512, Kernel::ShaNi], &Kernel::ALL] {
        let tiers = kernel::rule(|kernel| kernel.is_available() && !lacking.contains(&kernel));
        let mut digests = vec![[0xee; 32]; inputs.len()];
        hash_by(tiers, inputs, &mut digests);
        assert_eq!(digests, expected, "{tiers:?}");
    }
    let mut digests = vec![[0xee; 32]; inputs.len()];
    sha256_many(inputs, &mut digests);
    assert_eq!(digests, expected);
}

fn hex(digest: [u8; 32]) -> String {
    data_encoding::HEXLOWER.encode(&digest)
}

#[test]
fn published_vectors_hold_for_every_kernel() {
    let million = vec![b'a'; 1_000_000];
    let vectors: [(&[u8], &str); 5] = [
        (b"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        (b"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        (
            b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
        ),
        (
            b"abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopqklmnopqrlmnopqrsmnopqrstnopqrstu",
            "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1",
        ),
        (&million, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"),
    ];
    let inputs = vectors.map(|(input, _)| input);
    for (input, expected) in vectors {
        assert_eq!(hex(sha256(input)), expected);
    }
    for kernel in Kernel::available() {
        let mut digests = [[0; 32]; 5];
        kernel.sha256_many(&inputs, &mut digests).unwrap();
        assert_eq!(digests.map(hex), vectors.map(|(_, expected)| expected), "{kernel}");
    }
}

#[test]
fn every_length_up_to_300_agrees_alone_and_together() {
    let bytes = noise(301 + 64);
    let inputs: Vec<&[u8]> = (0..=300).map(|length| &bytes[length % 64..][..length]).collect();
    assert_all_agree(&inputs);
    for (input, expected) in inputs.iter().map(|input| (input, sha256(input))) {
        for kernel in Kernel::available() {
            let mut digest = [[0; 32]];
            kernel.sha256_many(&[input], &mut digest).unwrap();
            assert_eq!(digest, [expected], "{kernel}, length {}", input.len());
        }
    }
}

#[test]
fn every_alignment_agrees() {
    let bytes = noise(64 + 64 + 256);
    for length in [64, 119, 256] {
        let inputs: Vec<&[u8]> = (0..64).map(|offset| &bytes[offset..][..length]).collect();
        assert_all_agree(&inputs);
    }
}

#[test]
fn chunks_with_a_short_last_one_agree() {
    let bytes = noise(17 * (64 << 10) + 77);
    let inputs: Vec<&[u8]> = bytes.chunks(64 << 10).collect();
    assert_eq!(inputs.len(), 18);
    assert_all_agree(&inputs);
}

#[test]
fn a_message_far_longer_than_the_others_agrees() {
    let bytes = noise(256 << 10);
    let mut inputs: Vec<&[u8]> = bytes.chunks(997).take(40).collect();
    inputs.insert(20, &bytes);
    assert_all_agree(&inputs);
}

#[test]
fn no_input_is_no_work() {
    assert_all_agree(&[]);
}

/// Mostly lengths near the boundaries of blocks and padding, some as long as chunks.
fn length() -> impl Strategy<Value = usize> {
    prop_oneof![
        6 => 0_usize..=300,
        3 => 0_usize..=8192,
        1 => 0_usize..=200 << 10,
    ]
}

proptest! {
    // Without optimisation the kernels are a hundred times slower.
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 12 } else { 512 }))]

    #[test]
    fn any_number_of_any_lengths_at_any_alignment_agrees(places in vec((0_usize..4096, length()), 0..=40)) {
        let bytes = noise(4096 + (200 << 10));
        let inputs: Vec<&[u8]> = places.iter().map(|(offset, length)| &bytes[*offset..][..*length]).collect();
        assert_all_agree(&inputs);
    }

    #[test]
    fn pieces_hash_like_the_whole(cuts in vec(0_usize..10_000, 0..20)) {
        let bytes = noise(10_000);
        let mut cuts = cuts;
        cuts.sort_unstable();
        let mut hasher = Hasher::new();
        let mut start = 0;
        for cut in cuts {
            hasher.update(&bytes[start..cut]);
            start = cut;
        }
        hasher.update(&bytes[start..]);
        prop_assert_eq!(hasher.finish(), sha256(&bytes));
    }
}
