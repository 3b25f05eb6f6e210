use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

use proptest::prelude::*;

use super::key_set::Inserted;
use super::*;
use crate::types::error::chain;

/// Space that spills after `memory_bytes`.
fn scratch(memory_bytes: usize) -> (tempfile::TempDir, Scratch) {
    let folder = tempfile::tempdir().unwrap();
    let scratch = Scratch::new(folder.path(), 1 << 30, memory_bytes);
    (folder, scratch)
}

fn key(number: u16) -> Key {
    // Few beginnings, so that many rows share one.
    let mut key = [0; KEY_BYTES];
    key[3] = (number % 3) as u8;
    key[20..22].copy_from_slice(&number.to_be_bytes());
    key
}

proptest! {
    #[test]
    fn what_was_written_anywhere_is_read_back(
        memory in 0_usize..300,
        writes in prop::collection::vec((0_u64..500, prop::collection::vec(any::<u8>(), 1..100)), 0..20),
    ) {
        let (_folder, scratch) = scratch(memory);
        let (mut spill, mut model) = (Spill::new(&scratch), Vec::new());
        for (offset, bytes) in writes {
            spill.write_at(offset, &bytes).unwrap();
            let end = offset as usize + bytes.len();
            if model.len() < end {
                model.resize(end, 0);
            }
            model[offset as usize..end].copy_from_slice(&bytes);
        }
        prop_assert_eq!(spill.len(), model.len() as u64);
        prop_assert_eq!(spill.in_memory().is_some(), model.len() <= memory);
        prop_assert_eq!(scratch.used_bytes(), if model.len() <= memory { 0 } else { spill.len() });
        let mut all = Vec::new();
        spill.reader(0).read_to_end(&mut all).unwrap();
        prop_assert_eq!(&all, &model);
        prop_assert!(spill.read_at(model.len() as u64, &mut [0]).is_err());
        drop(spill);
        prop_assert_eq!(scratch.used_bytes(), 0);
    }

    #[test]
    fn rows_are_where_they_were_put_and_zeros_elsewhere(
        memory in 0_usize..300,
        puts in prop::collection::vec((0_u64..100, 1_u8..), 0..40),
        first in 0_u64..100,
    ) {
        let (_folder, scratch) = scratch(memory);
        let (mut writer, mut model) = (RowsWriter::<5>::new(&scratch), BTreeMap::new());
        for (number, value) in puts {
            writer.set(number, &[value; 5]).unwrap();
            model.insert(number, value);
        }
        let length = model.keys().next_back().map_or(0, |last| last + 1);
        prop_assert_eq!(writer.len(), length);
        writer.push(&[9; 5]).unwrap();
        model.insert(length, 9);
        let rows = writer.finish().unwrap();
        let expected: Vec<_> = (0..=length).map(|number| [model.get(&number).copied().unwrap_or(0); 5]).collect();
        for step in [1, 12, 4096] {
            let found: Result<Vec<_>, _> = rows.iter_in_steps(first, u64::MAX, step).collect();
            prop_assert_eq!(&found.unwrap()[..], &expected[(first as usize).min(expected.len())..]);
        }
        let mut cursor = rows.cursor();
        for number in [first, first + 1, first + 50, 0, length] {
            prop_assert_eq!(cursor.get(number).ok(), expected.get(number as usize).copied());
        }
    }

    #[test]
    fn a_sorted_table_finds_the_first_row_of_each_key(
        memory in 0_usize..4000,
        rows in prop::collection::vec((0_u16..300, any::<u8>()), 0..400),
    ) {
        let (_folder, scratch) = scratch(memory);
        let mut sorter = Sorter::<33>::new(&scratch);
        let mut model = BTreeSet::new();
        for (number, value) in rows {
            let mut row = [value; 33];
            row[..KEY_BYTES].copy_from_slice(&key(number));
            sorter.push(row).unwrap();
            model.insert(row);
        }
        let table = sorter.finish().unwrap();
        prop_assert_eq!(table.iter().collect::<Result<Vec<_>, _>>().unwrap(), model.iter().copied().collect::<Vec<_>>());
        for number in 0..310 {
            let wanted = key(number);
            let expected = model.iter().enumerate().find(|(_, row)| row.starts_with(&wanted));
            prop_assert_eq!(table.find(&wanted).unwrap(), expected.map(|(at, row)| (at as u64, *row)), "key {}", number);
        }
    }

    #[test]
    fn a_set_says_of_each_key_once_that_it_is_new(
        memory in 0_usize..2000,
        numbers in prop::collection::vec(0_u16..300, 0..600),
    ) {
        let (_folder, scratch) = scratch(memory);
        let (mut set, mut model) = (KeySet::new(&scratch), BTreeSet::new());
        for number in numbers {
            let expected = if model.insert(number) { Inserted::New } else { Inserted::Known };
            prop_assert_eq!(set.insert(key(number)).unwrap(), expected);
            prop_assert_eq!(set.len(), model.len() as u64);
        }
    }
}

#[test]
fn runs_that_are_to_be_merged_are_not_kept_in_memory() {
    let (_folder, scratch) = scratch(1000);
    let mut sorter = Sorter::<KEY_BYTES>::new(&scratch);
    for number in 0..10_000 {
        sorter.push(key(number)).unwrap();
    }
    // All but the run that is being gathered and what is written at once.
    let in_memory = 10_000 * KEY_BYTES as u64 - scratch.used_bytes();
    assert!(in_memory <= 1000 + (64 << 10), "{in_memory}");
    assert_eq!(sorter.finish().unwrap().len(), 10_000);
}

#[test]
fn no_more_is_used_than_allowed_and_what_is_dropped_can_be_used_again() {
    let folder = tempfile::tempdir().unwrap();
    let scratch = Scratch::new(folder.path(), 100, 10);
    let mut first = Spill::new(&scratch);
    first.append(&[1; 60]).unwrap();
    let error = Spill::new(&scratch).append(&[1; 60]).unwrap_err();
    assert!(chain(&error).contains("100 bytes"), "{error:?}");
    assert!(first.append(&[1; 60]).is_err());
    assert_eq!(scratch.used_bytes(), 60);
    drop(first);
    Spill::new(&scratch).append(&[1; 60]).unwrap();
}

#[test]
fn nothing_has_a_name_and_a_directory_that_is_missing_is_named() {
    let (folder, space) = scratch(0);
    let mut spill = Spill::new(&space);
    spill.append(b"text").unwrap();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    let missing = Scratch::new(&folder.path().join("missing"), 100, 0);
    let error = Spill::new(&missing).append(b"text").unwrap_err();
    assert!(error.to_string().contains("missing"), "{error}");
    assert!(error.to_string().contains(Scratch::VARIABLE), "{error}");
}
