//! What is on the device of a thin pool, read without device-mapper: the label, the catalogue in its region, and the metadata by
//! thin-provisioning-tools. Nothing is changed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use windlass::block::FileSource;
use windlass::dm::metadata::{BLOCK_BYTES, Superblock};
use windlass::dm::units::ThinId;
use windlass::pool::catalogue::Catalogue;
use windlass::pool::intent::Intent;
use windlass::pool::record::{ThinObject, ThinStored};
use windlass::pool::thin::devices::LabelledDevice;
use windlass::pool::thin::label::{Label, State};
use windlass::pool::thin::region::Region;
use windlass::types::{FsType, LogicalBlockSize, Object};

use super::oracle::{self, Map};
use super::{Step, mounted_name};
use crate::power_cut::scene::run;
use crate::power_cut::workload::Operation;

/// A pool as it lies on its device.
#[derive(Debug)]
pub struct Stored {
    /// What it is said to hold.
    pub catalogue: Catalogue,
    /// What its metadata say that each thin device has.
    pub devices: BTreeMap<ThinId, Map>,
    superblock: Superblock,
    label: Label,
    image: File,
}

impl Stored {
    /// Reads the pool in an image of its device. `spare` is where its metadata may be copied to: in a file system with direct
    /// I/O, which the tools insist on.
    ///
    /// # Panics
    /// When a part cannot be read, is not the others', or when `thin_check` finds anything.
    pub fn read(image: &Path, spare: &Path) -> Self {
        let device = LabelledDevice::read(image).unwrap();
        let label = device.label().clone();
        assert_eq!(label.state, State::Ready);
        let mut file = File::open(image).unwrap();
        let segments = &label.segments;
        assert_eq!((segments.metadata.len(), segments.data.len()), (1, 1), "the pool did not grow");

        // A descriptor of its own: it reads past the page cache.
        let source = FileSource::new(File::open(image).unwrap(), device.bytes(), LogicalBlockSize::B4096).unwrap();
        let region = Region::open_for_reading(Box::new(source), segments.catalogue.unwrap().range()).unwrap();
        let catalogue = Catalogue::read_only(&region, "the image").unwrap();
        assert_eq!(catalogue.id(), label.pool);

        let metadata = segments.metadata[0].range();
        file.seek(SeekFrom::Start(metadata.offset())).unwrap();
        let copied = std::io::copy(&mut (&file).take(metadata.length()), &mut File::create(spare).unwrap()).unwrap();
        assert_eq!(copied, metadata.length());
        run("thin_check", &["-q"], &[spare]);
        let dump = Command::new("thin_dump").arg(spare).output().unwrap();
        assert!(dump.status.success(), "thin_dump: {}", String::from_utf8_lossy(&dump.stderr));
        let devices = oracle::maps(&String::from_utf8(dump.stdout).unwrap());
        let mut first = [0; BLOCK_BYTES];
        file.read_exact_at(&mut first, metadata.offset()).unwrap();
        let superblock = Superblock::examine(&first).unwrap();
        assert!(!superblock.needs_check, "the metadata needs a check");
        Self { catalogue, devices, superblock, label, image: file }
    }

    /// Whether catalogue and metadata can belong together after a cut with this step under way, such that recovery finishes or
    /// undoes what differs: every thin device has a record; a record lacks its thin device while an intent names it, and
    /// then alone.
    ///
    /// # Panics
    /// When not.
    pub fn verify_records(&self, under_way: Option<&Step>) {
        let (epoch, carried) = (self.catalogue.epoch().unwrap(), self.superblock.transaction_id);
        assert!(carried == epoch || carried + 1 == epoch, "the epoch is {epoch}, and the metadata carry {carried}");
        let objects = self.catalogue.thin_objects().unwrap();
        let recorded: BTreeSet<ThinId> = objects.iter().map(|thin| thin.id).collect();
        assert_eq!(recorded.len(), objects.len(), "two objects with one thin device");
        let unknown: Vec<_> = self.devices.keys().filter(|id| !recorded.contains(id)).collect();
        assert!(unknown.is_empty(), "thin devices without a record: {unknown:?}");

        let changing: BTreeSet<Object> =
            self.catalogue.intents().unwrap().into_iter().flat_map(|(_, intent)| objects_of(intent)).collect();
        let is_deletion = matches!(under_way, Some(Step::Operation(Operation::DeleteSnapshot(_))));
        for thin in &objects {
            let is_there = self.devices.contains_key(&thin.id);
            match thin.stored {
                ThinStored::Device => assert!(is_there || changing.contains(&thin.object), "{thin:?} has no thin device"),
                ThinStored::Map => assert!(!is_there || is_deletion, "{thin:?} has a thin device that nobody deletes"),
            }
        }
        let visible = self.catalogue.volumes().unwrap().into_iter().map(|volume| Object::Volume(volume.id));
        let visible = visible.chain(self.catalogue.snapshots().unwrap().into_iter().map(|cut| Object::Snapshot(cut.id)));
        for object in visible {
            assert!(self.thin(object).is_some_and(|thin| thin.stored == ThinStored::Device), "{object} has no thin device");
        }
    }

    /// Data blocks that are in use and that nothing is mapped to. The kernel allocates a block, writes to it and then maps it;
    /// when it commits its metadata between, because something else asked for that, and the power is cut before the next
    /// commit, then nobody has the block. `thin_check` 0.9 says nothing about it.
    pub fn leaked_blocks(&self) -> u64 {
        let mapped: BTreeSet<u64> = self.devices.values().flatten().map(|(_, mapping)| mapping.data_block).collect();
        self.data_blocks_used() - mapped.len() as u64
    }

    /// Data blocks in use once `thin_repair` made the metadata in `metadata` anew, in the file `to`.
    ///
    /// # Panics
    /// When it fails.
    pub fn data_blocks_used_after_repair(&self, metadata: &Path, to: &Path) -> u64 {
        File::create(to).unwrap().set_len(self.label.segments.metadata_bytes()).unwrap();
        run("thin_repair", &[], &[Path::new("-i"), metadata, Path::new("-o"), to]);
        let mut first = [0; BLOCK_BYTES];
        File::open(to).unwrap().read_exact_at(&mut first, 0).unwrap();
        Superblock::examine(&first).unwrap().allocated_data_blocks
    }

    /// Whether a change was interrupted.
    ///
    /// # Panics
    /// When the catalogue cannot be read.
    pub fn is_interrupted(&self) -> bool {
        !self.catalogue.intents().unwrap().is_empty()
    }

    /// Whether a map is kept of a deleted snapshot.
    ///
    /// # Panics
    /// When the catalogue cannot be read.
    pub fn has_maps(&self) -> bool {
        self.catalogue.thin_objects().unwrap().iter().any(|thin| thin.stored == ThinStored::Map)
    }

    fn thin(&self, object: Object) -> Option<ThinObject> {
        self.catalogue.thin_object(object).unwrap()
    }

    /// The first `bytes` bytes of an object.
    ///
    /// # Panics
    /// When it has no thin device.
    pub fn content(&self, object: Object, bytes: usize) -> Vec<u8> {
        let thin = self.thin(object).unwrap_or_else(|| panic!("no record of {object}"));
        let mut content = vec![0; bytes];
        for (block, data) in self.runs(&self.devices[&thin.id]) {
            let at = usize::try_from(block).unwrap();
            if at < bytes {
                let end = bytes.min(at + self.label.block_size.bytes() as usize);
                self.image.read_exact_at(&mut content[at..end], data).unwrap();
            }
        }
        content
    }

    /// Where the blocks of a map are: the offset in the object and that in the image.
    fn runs(&self, map: &Map) -> Vec<(u64, u64)> {
        let (begin, block) = (self.label.segments.data[0].range().offset(), self.label.block_size.bytes());
        map.iter().map(|(number, mapping)| (number * block, begin + mapping.data_block * block)).collect()
    }

    /// Makes a file of what the volume with a file system holds.
    ///
    /// # Panics
    /// When that fails.
    pub fn copy_mounted(&self, fs_type: FsType, to: &Path) -> File {
        let volume = self.catalogue.volume_by_name(&mounted_name(fs_type)).unwrap().expect("the mounted volume");
        let thin = self.thin(Object::Volume(volume.id)).unwrap();
        let file = File::options().read(true).write(true).create(true).truncate(true).open(to).unwrap();
        file.set_len(volume.size.bytes()).unwrap();
        let mut piece = vec![0; self.label.block_size.bytes() as usize];
        for (at, data) in self.runs(&self.devices[&thin.id]) {
            self.image.read_exact_at(&mut piece, data).unwrap();
            file.write_all_at(&piece, at).unwrap();
        }
        file
    }

    /// Bytes of a data block.
    pub fn block_bytes(&self) -> u64 {
        self.label.block_size.bytes()
    }

    /// Data blocks that the metadata say are in use.
    pub fn data_blocks_used(&self) -> u64 {
        self.superblock.allocated_data_blocks
    }
}

/// The objects that an interrupted change is about.
fn objects_of(intent: Intent) -> Vec<Object> {
    match intent {
        Intent::CreateVolume { volume, .. } | Intent::DeleteVolume { volume } | Intent::Restore { volume, .. } => {
            vec![Object::Volume(volume.id)]
        }
        Intent::CreateSnapshots { snapshots, .. } => snapshots.iter().map(|snapshot| Object::Snapshot(snapshot.id)).collect(),
        Intent::DeleteSnapshot { snapshot } => vec![Object::Snapshot(snapshot.id)],
        Intent::Grow { volume, .. } => vec![Object::Volume(volume)],
    }
}
