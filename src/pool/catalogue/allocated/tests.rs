use std::os::unix::fs::MetadataExt;

use super::*;

fn directory() -> (tempfile::TempDir, std::path::PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("catalogue.redb");
    (directory, path)
}

fn is_allocated(path: &Path) -> bool {
    let metadata = fs::metadata(path).unwrap();
    metadata.len() >= MIN_BYTES && metadata.blocks() * 512 >= metadata.len()
}

#[test]
fn a_new_file_is_written_whole_and_stays_so_whatever_length_is_set() {
    let (_directory, path) = directory();
    let file = AllocatedFile::create(&path).unwrap();
    assert_eq!((file.len().unwrap(), file.capacity()), (0, MIN_BYTES));
    assert!(is_allocated(&path));
    file.set_len(MIN_BYTES / 2).unwrap();
    file.write(4096, b"here").unwrap();
    file.set_len(4096).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), MIN_BYTES);
    file.set_len(3 * 4096).unwrap();
    let mut read = [0xff; 4];
    file.read(4096, &mut read).unwrap();
    assert_eq!(read, [0; 4], "what was given up reads as zeros");
    file.set_len(MIN_BYTES + 4096).unwrap();
    assert_eq!((file.len().unwrap(), file.capacity()), (MIN_BYTES + 4096, MIN_BYTES + STEP));
    assert!(file.grow_ahead(3 * MIN_BYTES));
    drop(file);
    assert!(is_allocated(&path));
    let opened = AllocatedFile::open(&path).unwrap();
    assert_eq!((opened.len().unwrap(), opened.capacity()), (3 * MIN_BYTES, 3 * MIN_BYTES));
}

#[test]
fn a_sparse_or_short_file_is_replaced_and_an_allocated_one_is_not() {
    let (_directory, path) = directory();
    for content in [100_000, MIN_BYTES + 4096] {
        let file = File::create(&path).unwrap();
        file.write_all_at(b"content", 50_000).unwrap();
        file.set_len(content).unwrap();
        fs::write(unfinished(&path), b"left by a crash").unwrap();
        let before = fs::metadata(&path).unwrap().ino();
        drop(AllocatedFile::open(&path).unwrap());
        let replaced = fs::metadata(&path).unwrap();
        assert_ne!(replaced.ino(), before);
        assert_eq!(replaced.permissions().mode() & 0o777, 0o600);
        assert!(is_allocated(&path) && replaced.len() >= 2 * content && !unfinished(&path).exists());
        let mut read = [0; 7];
        File::open(&path).unwrap().read_exact_at(&mut read, 50_000).unwrap();
        assert_eq!(&read, b"content");
        drop(AllocatedFile::open(&path).unwrap());
        assert_eq!(fs::metadata(&path).unwrap().ino(), replaced.ino());
    }
}
