//! One round: names, paths, and what is written to a volume to be found again.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use super::SIZE;
use crate::common::csi::{Csi, Paths, Source, Use, publish, stage};

/// What is written to volumes.
pub const MARKER: &[u8] = b"hauled by a windlass\n";

/// Names and paths of one round.
pub struct Round {
    pub name: String,
    pub root: PathBuf,
    pub volume: String,
    pub snapshot: String,
    pub up: Vec<(String, Paths)>,
}

impl Round {
    pub fn name_of(&self, what: &str) -> String {
        format!("{}-{what}", self.name)
    }

    pub fn paths(&self) -> &Paths {
        &self.up.last().unwrap().1
    }

    /// Makes the volume.
    pub fn create(&mut self, csi: &Csi, usage: Use) {
        self.volume = csi.make_volume(&self.name_of("volume"), SIZE, usage, &Source::Blank);
    }

    /// Prepares the paths of the volume for staging.
    pub fn prepare_paths(&mut self) {
        let paths = Paths::prepare(&self.root, &self.name_of("paths"));
        self.up.push((self.volume.clone(), paths));
    }

    /// Makes the volume, stages and publishes it and writes the marker, durably.
    pub fn create_written(&mut self, csi: &Csi, usage: Use) {
        self.create(csi, usage);
        self.prepare_paths();
        csi.node_stage_volume(stage(&self.volume, self.paths(), usage)).unwrap();
        csi.node_publish_volume(publish(&self.volume, self.paths(), usage)).unwrap();
        write_marker(&self.paths().target, usage);
    }
}

pub fn write_marker(target: &Path, usage: Use) {
    let mut file = match usage {
        Use::Mount(_) => fs::File::create(target.join("marker")).unwrap(),
        Use::Block => fs::OpenOptions::new().write(true).open(target).unwrap(),
    };
    file.write_all(MARKER).unwrap();
    file.sync_all().unwrap();
}

pub fn read_marker(target: &Path, usage: Use) -> Vec<u8> {
    let file = match usage {
        Use::Mount(_) => fs::File::open(target.join("marker")).unwrap(),
        Use::Block => fs::File::open(target).unwrap(),
    };
    let mut content = Vec::new();
    file.take(MARKER.len() as u64).read_to_end(&mut content).unwrap();
    content
}
