use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use redb::{Builder, Database, ReadableDatabase, ReadableTable, TableDefinition};

use super::*;
use crate::pool::PoolError;
use crate::pool::catalogue::Catalogue;
use crate::types::PoolId;

const MIB: u64 = 1 << 20;
const TABLE: TableDefinition<'static, u32, &'static [u8]> = TableDefinition::new("t");

/// One thing that reached the disk.
#[derive(Debug, Clone)]
enum Event {
    Write { offset: u64, data: Vec<u8> },
    Flush,
}

/// A disk that remembers everything that reached it, in order.
#[derive(Clone)]
struct Disk(Arc<Mutex<(Vec<u8>, Vec<Event>)>>);

impl Disk {
    /// A disk that held something else before.
    fn used(bytes: u64) -> Self {
        Self(Arc::new(Mutex::new((vec![0xa5; bytes as usize], Vec::new()))))
    }

    fn holding(image: Vec<u8>) -> Self {
        Self(Arc::new(Mutex::new((image, Vec::new()))))
    }

    fn events(&self) -> usize {
        self.0.lock().unwrap().1.len()
    }

    fn range(&self) -> ByteRange {
        ByteRange::new(0, self.0.lock().unwrap().0.len() as u64).unwrap()
    }

    fn create(&self) -> Region {
        Region::create_over(Box::new(self.clone()), Box::new(self.clone()), self.range()).unwrap()
    }

    fn open(&self) -> io::Result<Region> {
        Region::open_over(Box::new(self.clone()), Some(Box::new(self.clone())), self.range())
    }
}

impl BlockSource for Disk {
    fn size(&self) -> u64 {
        self.range().length()
    }

    fn logical_block_size(&self) -> LogicalBlockSize {
        LogicalBlockSize::B4096
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        buffer.copy_from_slice(&self.0.lock().unwrap().0[offset as usize..offset as usize + buffer.len()]);
        Ok(())
    }
}

impl BlockSink for Disk {
    fn size(&self) -> u64 {
        self.range().length()
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut disk = self.0.lock().unwrap();
        disk.0[offset as usize..offset as usize + data.len()].copy_from_slice(data);
        disk.1.push(Event::Write { offset, data: data.to_vec() });
        Ok(())
    }

    fn read_back(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.read_at(offset, buffer)
    }

    fn write_zeros(&self, range: ByteRange) -> io::Result<()> {
        self.write_at(range.offset(), &vec![0; range.length() as usize])
    }

    fn flush(&self) -> io::Result<()> {
        self.0.lock().unwrap().1.push(Event::Flush);
        Ok(())
    }
}

/// What the database must hold after each of its commits, by the number of events at which the commit was acknowledged.
type Acknowledged = Vec<(usize, BTreeMap<u32, Vec<u8>>)>;

fn content(database: &Database) -> BTreeMap<u32, Vec<u8>> {
    let reading = database.begin_read().unwrap();
    let Ok(table) = reading.open_table(TABLE) else { return BTreeMap::new() };
    table.iter().unwrap().map(|entry| entry.unwrap()).map(|(key, value)| (key.value(), value.value().to_vec())).collect()
}

/// Commits that put and remove records, larger and smaller, so that the database grows and shrinks.
fn run(disk: &Disk, changes: &[(u32, Option<usize>)]) -> Acknowledged {
    let database = Builder::new().create_with_backend(disk.create()).unwrap();
    let mut now = BTreeMap::new();
    let mut acknowledged = vec![(disk.events(), now.clone())];
    for (step, &(key, length)) in changes.iter().enumerate() {
        let transaction = database.begin_write().unwrap();
        {
            let mut table = transaction.open_table(TABLE).unwrap();
            match length {
                Some(length) => {
                    let value = vec![step as u8; length];
                    table.insert(key, value.as_slice()).unwrap();
                    now.insert(key, value);
                }
                None => {
                    table.remove(key).unwrap();
                    now.remove(&key);
                }
            }
        }
        transaction.commit().unwrap();
        acknowledged.push((disk.events(), now.clone()));
    }
    acknowledged
}

/// What reaches the disk of these writes, each 512 bytes of them or not, by `lucky`.
fn apply(image: &mut [u8], events: &[Event], mut lucky: impl FnMut() -> bool) {
    for event in events {
        let Event::Write { offset, data } = event else { continue };
        for (sector, bytes) in data.chunks(512).enumerate() {
            if lucky() {
                let start = *offset as usize + sector * 512;
                image[start..start + bytes.len()].copy_from_slice(bytes);
            }
        }
    }
}

fn changes() -> impl Strategy<Value = Vec<(u32, Option<usize>)>> {
    let change = (0_u32..15, proptest::option::weighted(0.7, prop_oneof![1_usize..5000, 100_000_usize..250_000]));
    proptest::collection::vec(change, 5..25)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn after_a_power_cut_at_any_moment_everything_acknowledged_is_there(
        changes in changes(), seed in any::<u64>(), odds in 0_u64..=4,
    ) {
        let disk = Disk::used(17 * MIB);
        let acknowledged = run(&disk, &changes);
        let events = disk.0.lock().unwrap().1.clone();
        let mut random = seed | 1;
        // What is on the disk for certain: everything before the last flush.
        let (mut durable, mut flushed) = (vec![0xa5; 17 * MIB as usize], 0);
        // A moment before each flush, when writes are under way, and just after it.
        let flushes = events.iter().enumerate().filter(|(_, event)| matches!(event, Event::Flush)).map(|(at, _)| at);
        for at in flushes.flat_map(|flush| [flush, flush + 1]) {
            let mut image = durable.clone();
            if matches!(events[at - 1], Event::Flush) {
                apply(&mut image, &events[flushed..at], || true);
                (durable, flushed) = (image.clone(), at);
            } else {
                apply(&mut image, &events[flushed..at], || {
                    // xorshift: torn writes in any mixture, all or none of them at the ends of the odds.
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    random % 4 < odds
                });
            }
            // Before that the database was not made, and its maker knows.
            let Some(past) = acknowledged.iter().rposition(|(events, _)| *events <= at) else { continue };
            let reopened = Disk::holding(image);
            let database = Builder::new().create_with_backend(reopened.open().unwrap()).unwrap();
            let found = content(&database);
            // The last acknowledged, or the one that was under way.
            let expected = [Some(&acknowledged[past]), acknowledged.get(past + 1)];
            prop_assert!(expected.into_iter().flatten().any(|(_, content)| *content == found), "cut at {} of {}", at, events.len());
        }
    }

    #[test]
    fn it_behaves_like_a_file(steps in proptest::collection::vec((0..4_u8, 0_u64..60_000, 1_usize..9000), 1..60)) {
        let disk = Disk::used(64 << 10);
        let mut region = disk.create();
        let mut model: Vec<u8> = Vec::new();
        for (verb, offset, length) in steps {
            match verb {
                0 => {
                    let allowed = offset <= region.capacity();
                    prop_assert_eq!(region.set_len(offset).is_ok(), allowed);
                    if allowed {
                        model.resize(offset as usize, 0);
                    }
                }
                1 => {
                    let data = vec![length as u8; length];
                    let end = offset as usize + length;
                    let allowed = end <= model.len();
                    prop_assert_eq!(region.write(offset, &data).is_ok(), allowed);
                    if allowed {
                        model[offset as usize..end].copy_from_slice(&data);
                    }
                }
                2 => {
                    region.sync_data().unwrap();
                    region = disk.open().unwrap();
                }
                _ => {}
            }
            prop_assert_eq!(region.len().unwrap(), model.len() as u64);
            let mut all = vec![1; model.len()];
            region.read(0, &mut all).unwrap();
            prop_assert_eq!(&all, &model);
            prop_assert!(region.read(model.len() as u64, &mut [0]).is_err());
        }
    }
}

#[test]
fn a_full_region_is_a_full_pool_and_what_was_there_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("region");
    let open = || File::options().read(true).write(true).create(true).truncate(false).open(&path).unwrap();
    open().set_len(5 * MIB).unwrap();
    let database = Builder::new().create_with_backend(Region::create(open()).unwrap()).unwrap();
    // Twenty in one commit, to be done sooner.
    let put = |from: u32| -> Result<(), redb::Error> {
        let transaction = database.begin_write()?;
        {
            let mut table = transaction.open_table(TABLE)?;
            for key in from..from + 20 {
                table.insert(key, [7; 2000].as_slice())?;
            }
        }
        Ok(transaction.commit()?)
    };
    let mut written = 0;
    let error = loop {
        match put(written) {
            Ok(()) => written += 20,
            Err(error) => break error,
        }
    };
    assert!(matches!(&error, redb::Error::Io(source) if source.kind() == io::ErrorKind::StorageFull), "{error}");
    // The database doubles, and regions are made for that: most of this one is records.
    assert!(u64::from(written) * 2000 > 5 * MIB / 2, "{written}");
    drop(database);
    let database = Builder::new().create_with_backend(Region::open(open()).unwrap()).unwrap();
    assert_eq!(content(&database).len(), written as usize);
}

#[test]
fn damage_and_foreign_bytes_are_refused_by_what_they_are() {
    let disk = Disk::used(64 << 10);
    let text = |disk: &Disk| disk.open().unwrap_err().to_string();
    assert_eq!(text(&disk), "there is no region of a catalogue");
    let region = disk.create();
    region.set_len(5000).unwrap();
    region.sync_data().unwrap();
    // Slot 0 has generation 2 now. Damaged, the one before counts.
    let spoil = |at: usize, byte: u8| disk.0.lock().unwrap().0[at] = byte;
    spoil(33, 0xff);
    assert_eq!(disk.open().unwrap().len().unwrap(), 0);
    spoil(BLOCK as usize + 30, 1);
    assert!(text(&disk).contains("damaged in both places"));
    let mut newer = Slot::new(Length { generation: 9, bytes: 0 }).as_bytes().to_vec();
    newer[16..24].copy_from_slice(&2_u64.to_le_bytes());
    let sum = crc32c::crc32c(&newer);
    newer[20..24].copy_from_slice(&sum.to_le_bytes());
    disk.0.lock().unwrap().0[..BLOCK as usize].copy_from_slice(&newer);
    assert!(text(&disk).contains("format 2"));
    let small = Disk::used(8192);
    assert_eq!(small.open().unwrap_err().kind(), io::ErrorKind::InvalidInput);
}

fn opened(disk: &Disk) -> Result<Catalogue, PoolError> {
    let disk = disk.clone();
    Catalogue::opened_by("the device", move || Box::new(disk.open().unwrap()))
}

#[test]
fn a_power_cut_while_a_catalogue_is_stretched_and_opened_leaves_one_that_opens() {
    let disk = Disk::used(9 * MIB);
    let id = PoolId::random();
    Catalogue::made_on(disk.create(), id).unwrap();
    let made = disk.events();
    let before = disk.0.lock().unwrap().0.clone();
    let region = disk.open().unwrap();
    let closed = region.len().unwrap();
    region.stretch().unwrap();
    assert!(region.len().unwrap() > closed, "it was stretched");
    drop(Builder::new().create_with_backend(region).unwrap());
    let events = disk.0.lock().unwrap().1.clone();
    let flushes = (made..events.len()).filter(|at| matches!(events[*at], Event::Flush));
    for at in flushes {
        let mut image = before.clone();
        apply(&mut image, &events[made..at], || true);
        let cut = Disk::holding(image);
        assert_eq!(opened(&cut).map(|catalogue| catalogue.id()).unwrap(), id, "cut at {at} of {}", events.len());
    }
}

#[test]
fn a_catalogue_lives_in_a_region_and_is_read_without_being_changed() {
    let disk = Disk::used(9 * MIB);
    let id = PoolId::random();
    Catalogue::made_on(disk.create(), id).unwrap();
    assert_eq!(opened(&disk).unwrap().id(), id);
    let before = disk.0.lock().unwrap().0.clone();
    let reading = || Region::open_for_reading(Box::new(disk.clone()), disk.range()).unwrap();
    let read = Catalogue::read_only(&reading(), "the device").unwrap();
    assert_eq!((read.id(), read.volumes().unwrap().len()), (id, 0));
    assert!(reading().write(0, b"x").is_err() && reading().sync_data().is_err());
    assert!(disk.0.lock().unwrap().0 == before);
}

#[test]
fn a_region_is_stretched_to_a_part_from_which_doubling_reaches_its_end() {
    for region_bytes in [9 * MIB, 257 * MIB, 11 * MIB + 4096] {
        for content in [MIB, MIB + 4096, 3 * MIB + 8192, 6 * MIB] {
            let disk = Disk::used(region_bytes);
            let region = disk.create();
            region.stretch().unwrap();
            assert_eq!(region.len().unwrap(), 0, "an empty one is the database's to begin");
            region.set_len(content).unwrap();
            region.write(content - 4, b"last").unwrap();
            region.stretch().unwrap();
            region.sync_data().unwrap();
            let region = disk.open().unwrap();
            let length = region.len().unwrap();
            let mut reached = length;
            while reached * 2 <= region.capacity() {
                reached *= 2;
            }
            assert!(region.capacity() - reached < MIB, "{content} in {region_bytes}: {length}, {reached}");
            assert!(length >= 2 * content || length + 4096 > region.capacity(), "{content} in {region_bytes}: {length}");
            let mut read = vec![0xff; 8];
            region.read(content - 4, &mut read).unwrap();
            assert_eq!(&read, b"last\0\0\0\0");
        }
    }
}

#[test]
fn a_spoilt_catalogue_in_a_region_is_refused_and_left_as_it_was() {
    let disk = Disk::used(9 * MIB);
    Catalogue::made_on(disk.create(), PoolId::random()).unwrap();
    disk.0.lock().unwrap().0[CONTENT_AT as usize..][..64].fill(0);
    let before = disk.0.lock().unwrap().0.clone();
    let error = opened(&disk).unwrap_err();
    assert!(matches!(&error, PoolError::CatalogueLost(text) if text.starts_with("the device: ")), "{error}");
    assert!(disk.0.lock().unwrap().0 == before);
}
