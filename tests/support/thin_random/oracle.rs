//! What the programs of thin-provisioning-tools read from the metadata of a live pool.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;

use windlass::dm::node::DIRECTORY;
use windlass::dm::units::ThinId;
use windlass::dm::{DeviceMapper, DmName, PoolMessage};
use windlass::pool::thin::names::{Names, Part};
use windlass::types::PoolId;

/// Where a block of a thin device lies, and since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapping {
    pub data_block: u64,
    pub time: u64,
}

/// The blocks that a thin device has.
pub type Map = BTreeMap<u64, Mapping>;

/// The metadata as they were at one moment. As long as this lives, the kernel keeps them for reading.
pub struct Frozen {
    dm: DeviceMapper,
    pool: DmName,
    metadata: PathBuf,
}

impl Frozen {
    pub fn new(pool: PoolId) -> Self {
        let names = Names::new(pool);
        let metadata = names.name(Part::Metadata).unwrap();
        let frozen = Self {
            dm: DeviceMapper::open().unwrap(),
            pool: names.name(Part::Pool).unwrap(),
            metadata: PathBuf::from(DIRECTORY).join(metadata.as_str()),
        };
        frozen.dm.message(&frozen.pool, &PoolMessage::ReserveMetadataSnap).unwrap();
        frozen
    }

    /// Everything that each device has, by `thin_dump`.
    pub fn dump(&self) -> BTreeMap<ThinId, Map> {
        maps(&self.run("thin_dump", &["--metadata-snap"]))
    }

    /// The blocks in which two devices differ, by `thin_delta`.
    pub fn delta(&self, left: ThinId, right: ThinId) -> BTreeSet<u64> {
        let (left, right) = (left.to_string(), right.to_string());
        let mut blocks = BTreeSet::new();
        for element in elements(&self.run("thin_delta", &["--metadata-snap", "--snap1", &left, "--snap2", &right])) {
            match element.name.as_str() {
                "superblock" | "diff" | "same" => {}
                "different" | "left_only" | "right_only" => {
                    let begin = element.number("begin");
                    blocks.extend(begin..begin + element.number("length"));
                }
                other => panic!("thin_delta says <{other}>, which is not understood"),
            }
        }
        blocks
    }

    fn run(&self, program: &str, arguments: &[&str]) -> String {
        let output = Command::new(program).args(arguments).arg(&self.metadata).output().unwrap();
        assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let released = self.dm.message(&self.pool, &PoolMessage::ReleaseMetadataSnap);
        assert!(released.is_ok() || std::thread::panicking(), "{released:?}");
    }
}

/// What each device has, of what `thin_dump` printed.
pub fn maps(xml: &str) -> BTreeMap<ThinId, Map> {
    let mut devices: BTreeMap<ThinId, Map> = BTreeMap::new();
    let mut device = None;
    for element in elements(xml) {
        match element.name.as_str() {
            "superblock" => {}
            "device" => {
                let id = ThinId::new(element.number("dev_id").try_into().unwrap()).unwrap();
                device = Some(id);
                devices.insert(id, Map::new());
            }
            "single_mapping" | "range_mapping" => {
                let is_single = element.name == "single_mapping";
                let (block, data, length) = if is_single {
                    (element.number("origin_block"), element.number("data_block"), 1)
                } else {
                    (element.number("origin_begin"), element.number("data_begin"), element.number("length"))
                };
                let (map, time) = (devices.get_mut(&device.unwrap()).unwrap(), element.number("time"));
                map.extend((0..length).map(|at| (block + at, Mapping { data_block: data + at, time })));
            }
            other => panic!("thin_dump says <{other}>, which is not understood"),
        }
    }
    devices
}

/// The blocks in which two maps differ: what `thin_delta` says, but by place *and* time, so that a map may also be older than the
/// reuse of its data blocks.
pub fn differing(left: &Map, right: &Map) -> BTreeSet<u64> {
    let blocks: BTreeSet<u64> = left.keys().chain(right.keys()).copied().collect();
    blocks.into_iter().filter(|block| left.get(block) != right.get(block)).collect()
}

/// An opening tag.
struct Element {
    name: String,
    text: String,
}

impl Element {
    fn number(&self, attribute: &str) -> u64 {
        let begin = format!(" {attribute}=\"");
        let found = self.text.split_once(&begin).and_then(|(_, rest)| rest.split_once('"'));
        found.and_then(|(value, _)| value.parse().ok()).unwrap_or_else(|| panic!("no number {attribute} in <{}>", self.text))
    }
}

/// The opening tags, in order. Neither program says anything by text between tags.
fn elements(xml: &str) -> Vec<Element> {
    let tags = xml.split('<').skip(1).filter(|tag| !tag.starts_with('/'));
    tags.map(|tag| {
        let text = tag.split_once('>').unwrap_or_else(|| panic!("no end of <{tag}")).0.trim_end_matches('/').to_owned();
        let name = text.split_whitespace().next().unwrap().to_owned();
        Element { name, text }
    })
    .collect()
}
