//! The difference of two snapshots of a 100 GiB volume with 1 % of its blocks mapped and 1 % of those changed: ours through the
//! pool (metadata snapshot, walk, ranges of bytes), thin_delta's as a command over the same metadata.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use windlass::dm::metadata::{MetadataFile, NEVER, ThinMetadata};
use windlass::dm::units::ThinId;

use super::REPETITIONS;
use super::table::Table;
use super::windlass::{NAME, Pool};
use crate::error::{BenchError, While};
use crate::measure::Invocation;

const VOLUME_BYTES: u64 = 100 << 30;
/// Bytes of a data block of the pool.
const BLOCK: u64 = 64 << 10;
const MAPPED: u64 = VOLUME_BYTES / BLOCK / 100;
const CHANGED: u64 = MAPPED / 100;

/// Measures both.
///
/// # Errors
/// When something fails, or the two do not agree.
pub fn measure(pool: &Pool, table: &mut Table) -> Result<(), BenchError> {
    let what = || "preparing the difference".to_owned();
    let (volume, device) = pool.volume("difference", VOLUME_BYTES, None)?;
    let file = File::options().write(true).open(&device).while_doing(what)?;
    let mut place = Scattered::default();
    let mut blocks = Vec::new();
    for _ in 0..MAPPED {
        let block = place.next() % (VOLUME_BYTES / BLOCK);
        file.write_all_at(&[1; 4096], block * BLOCK).while_doing(what)?;
        blocks.push(block);
    }
    file.sync_all().while_doing(what)?;
    let base = pool.snapshot("base", &volume)?;
    let step = (blocks.len() as u64 / CHANGED).max(1) as usize;
    for block in blocks.iter().step_by(step) {
        file.write_all_at(&[2; 4096], block * BLOCK).while_doing(what)?;
    }
    file.sync_all().while_doing(what)?;
    let target = pool.snapshot("target", &volume)?;
    drop(file);

    let id = pool.owned.id();
    let own_version = super::windlass::version();
    let version = Invocation::new("thin_delta").words("--version").output()?.trim().to_owned();
    let (mut ours, mut theirs) = (0, 0);
    for _ in 0..REPETITIONS {
        table.measure("difference", NAME, &own_version, || {
            let lease = pool.owned.lease(target.id).while_doing(what)?;
            let ranges = lease.changed_since(base.id).while_doing(what)?;
            ours = 0;
            for range in ranges {
                ours += range.while_doing(what)?.length() / BLOCK;
            }
            Ok(())
        })?;
        let message = |text: &str| {
            Invocation::new("dmsetup")
                .words(&format!("message windlass-{id}-pool 0 {text}"))
                .variable("DM_DISABLE_UDEV", "1")
                .output()
        };
        message("reserve_metadata_snap")?;
        let metadata = format!("/dev/windlass/windlass-{id}-metadata");
        let (before, after) = newest(Path::new(&metadata))?;
        let command = Invocation::new("thin_delta").words(&format!("-m --thin1 {before} --thin2 {after}")).argument(metadata);
        let mut said = String::new();
        table.measure("difference", "thin_delta", &version, || {
            said = command.output()?;
            Ok(())
        })?;
        message("release_metadata_snap")?;
        theirs = count(&said);
    }
    if ours == theirs && ours > 0 {
        return Ok(());
    }
    Err(BenchError::new(format!("{ours} blocks differ by our count and {theirs} by thin_delta's")))
}

/// The two thin devices that were made last: base and target. Thin ids ascend.
fn newest(metadata: &Path) -> Result<(ThinId, ThinId), BenchError> {
    let what = || format!("reading {}", metadata.display());
    let file = File::open(metadata).and_then(MetadataFile::new).while_doing(what)?;
    let devices = ThinMetadata::held(&file, NEVER).and_then(|held| held.devices()).while_doing(what)?;
    match devices.as_slice() {
        [.., (base, _), (target, _)] => Ok((*base, *target)),
        _ => Err(BenchError::new("the pool has fewer than two thin devices")),
    }
}

/// Blocks that thin_delta says are not the same.
fn count(text: &str) -> u64 {
    let changed = text
        .lines()
        .map(str::trim)
        .filter(|line| ["<different", "<left_only", "<right_only"].iter().any(|tag| line.starts_with(tag)));
    let length = |line: &str| line.split("length=\"").nth(1)?.split('"').next()?.parse::<u64>().ok();
    changed.filter_map(length).sum()
}

/// Numbers that are all over, the same on each run.
struct Scattered(u64);

impl Default for Scattered {
    fn default() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }
}

impl Scattered {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_thin_delta_prints_is_counted_but_for_what_is_the_same() {
        let text = "<diff left=\"1\" right=\"2\">\n  <same begin=\"0\" length=\"5\"/>\n  <different begin=\"5\" length=\"2\"/>\n  \
                    <right_only begin=\"9\" length=\"1\"/>\n</diff>";
        assert_eq!(count(text), 3);
    }
}
