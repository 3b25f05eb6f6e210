//! A pool, a kubelet root and a place for everything else, in one temporary directory. A reflink pool lies in an image file, a thin
//! pool on a loop device over one.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::leak;
use super::node::{Node, NodeOptions};
pub use super::pool_kind::PoolFileSystem;
use super::program::{command, run_ok, windlass};
use super::require_root;
use super::thin_pool::ThinPool;

/// A temporary directory with a pool image in it. Dropping it removes mounts, loops and files.
pub struct Bench {
    directory: tempfile::TempDir,
    /// The pool, if it is a thin one.
    thin: Option<ThinPool>,
}

impl Bench {
    /// An empty one.
    ///
    /// # Panics
    /// When not run as root.
    pub fn empty() -> Self {
        require_root();
        let directory = tempfile::Builder::new().prefix("windlass-test-").tempdir().unwrap();
        fs::create_dir(directory.path().join("kubelet")).unwrap();
        Self { directory, thin: None }
    }

    /// One with a pool image of `bytes` (sparse).
    ///
    /// # Panics
    /// When the image cannot be made.
    pub fn with_pool(file_system: PoolFileSystem, bytes: u64) -> Self {
        let mut bench = Self::empty();
        match file_system {
            PoolFileSystem::Thin => bench.thin = Some(bench.create_thin_pool(bytes)),
            PoolFileSystem::Xfs | PoolFileSystem::Btrfs => bench.create_pool(&bench.image(), file_system, bytes),
        }
        bench
    }

    fn create_thin_pool(&self, bytes: u64) -> ThinPool {
        fs::File::create_new(self.image()).unwrap().set_len(bytes).unwrap();
        let attached = run_ok(command("losetup").args(["--find", "--show"]).arg(self.image())).text();
        ThinPool::create(Path::new(attached.trim()))
    }

    /// Makes a pool image.
    ///
    /// # Panics
    /// When that fails.
    pub fn create_pool(&self, image: &Path, file_system: PoolFileSystem, bytes: u64) {
        run_ok(windlass().args(["pool", "create", "--image"]).arg(image).args([
            "--size",
            &bytes.to_string(),
            "--filesystem",
            file_system.name(),
        ]));
    }

    /// The temporary directory.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The pool's image file.
    pub fn image(&self) -> PathBuf {
        self.path().join("pool.img")
    }

    /// What a node is told to serve.
    pub fn pool(&self) -> PathBuf {
        self.thin.as_ref().map_or_else(|| self.image(), |thin| thin.device.clone())
    }

    /// Where the pool's image is mounted.
    pub fn pool_directory(&self) -> PathBuf {
        self.path().join("pool.img.mount")
    }

    /// The directory beneath which all paths of requests lie.
    pub fn root(&self) -> PathBuf {
        self.path().join("kubelet")
    }

    /// The node's log.
    pub fn log(&self) -> PathBuf {
        self.path().join("node.log")
    }

    /// How a node over this pool is started.
    pub fn options(&self) -> NodeOptions {
        NodeOptions {
            socket: self.path().join("csi.sock"),
            pools: vec![self.pool()],
            root: self.root(),
            log: self.log(),
            environment: Vec::new(),
        }
    }

    /// Starts a node over this pool.
    pub fn start(&self) -> Node {
        Node::start(&self.options())
    }

    /// The file that arms a failure point of a node started by [`Bench::start_armable`].
    fn arming_file(&self) -> PathBuf {
        self.path().join("failpoint")
    }

    fn trace_file(&self) -> PathBuf {
        self.path().join("failpoint.trace")
    }

    /// How a node is started whose failure points are traced and can be armed while it runs.
    pub fn start_armable_options(&self) -> NodeOptions {
        let mut options = self.options();
        options.environment = vec![
            ("WINDLASS_FAILPOINT_FILE".into(), self.arming_file().display().to_string()),
            ("WINDLASS_FAILPOINT_TRACE".into(), self.trace_file().display().to_string()),
        ];
        options
    }

    /// Starts such a node.
    pub fn start_armable(&self) -> Node {
        Node::start(&self.start_armable_options())
    }

    /// Arms `ACTION:N:NAME`; counted from now.
    pub fn arm(&self, text: &str) {
        // By rename: a half-written text would arm something else.
        let temporary = self.path().join("failpoint.new");
        fs::write(&temporary, text).unwrap();
        fs::rename(temporary, self.arming_file()).unwrap();
    }

    /// Disarms.
    pub fn disarm(&self) {
        let _ = fs::remove_file(self.arming_file());
    }

    /// Forgets the failure points hit so far.
    pub fn clear_trace(&self) {
        let _ = fs::remove_file(self.trace_file());
    }

    /// The failure points hit since the trace was cleared, in order.
    pub fn trace(&self) -> Vec<String> {
        fs::read_to_string(self.trace_file()).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// Loop devices and mounts that volumes and snapshots hold: empty when nothing is attached, staged or published. The
    /// pool's own mount and loop do not count.
    pub fn attached(&self) -> Vec<String> {
        let mut found: Vec<String> = match &self.thin {
            Some(thin) => thin.attached(),
            None => leak::loops_beneath(&self.pool_directory()).iter().map(|attached| format!("{attached:?}")).collect(),
        };
        found.extend(leak::mounts_beneath(&self.root()).iter().map(|mount| format!("mount {}", mount.display())));
        found
    }

    /// Names of everything stored in the pool's directory; of a thin pool, how much data it holds. The catalogue's second copy, which
    /// a thread of its own makes, is left out.
    pub fn stored(&self) -> BTreeSet<PathBuf> {
        match &self.thin {
            Some(thin) => BTreeSet::from([format!("{} data blocks", thin.data_used()).into()]),
            None => {
                let is_copy = |path: &PathBuf| path.to_string_lossy().contains("catalogue.copy");
                leak::files_beneath(&self.pool_directory()).into_iter().filter(|path| !is_copy(path)).collect()
            }
        }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let mut left = Vec::new();
        if let Some(thin) = &self.thin {
            left.extend(leak::unmount_beneath(&self.root()));
            left.extend(thin.take_down());
        }
        left.extend(leak::tear_down(self.path()));
        if !left.is_empty() {
            let text = format!("clean-up could not remove {left:?}");
            // A second panic would abort and hide the first.
            assert!(std::thread::panicking(), "{text}");
            eprintln!("{text}");
        }
    }
}
