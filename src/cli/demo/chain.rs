//! The steps of the demo, in their order.

use std::future::Future;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use csi_proto::csi::v1 as csi;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use crate::block::loop_device::{self, DirectIo, LoopOptions};
use crate::mount::system::SystemMounter;
use crate::pool::properties::PoolProperties;
use crate::pool::thin::format::{CreateOptions, DevicePaths};
use crate::repository::check::Depth;
use crate::repository::{Environment, KdfCost, Location, Repository, Workspace};
use crate::types::{Access, FsType, LogicalBlockSize};

use super::file_system_check;
use super::options::{DemoOptions, DemoPool};
use super::place::{Keep, Place};
use super::process::NodeProcess;
use super::report::{Report, Step};
use super::tree::{self, Comparison, CopiedFile};
use super::volume::{Calls, Published};
use super::writer::{self, Bounds, Writer};
use crate::cli::choice::ChoiceArgs;
use crate::cli::client::Answer;
use crate::cli::endpoint::Endpoint;
use crate::cli::exit::{CliError, Exit};
use crate::cli::export::{ExportTuning, export};
use crate::cli::interruptible::unless;
use crate::cli::open_pool::{create_in_image, create_on_devices};
use crate::cli::progress::{self, Progress, Unit};
use crate::cli::repository::checked;
use crate::cli::repository_access::{RepositoryAccess, repository_error};
use crate::cli::restore::{RestoreTarget, restore};
use crate::cli::restore_request::{RestoreSource, RestoreTuning};
use crate::cli::size::ByteSize;
use crate::cli::volume::{Presentation, Source};

/// Folder of the copied files in the volume.
const FILES: &str = "files";
/// The writer's file in the volume.
const LOG: &str = "writer.log";

/// Records that the writer has written before the snapshot is asked for: it is well under way then.
const RECORDS_BEFORE: u64 = 64;
/// How often its count is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// A disk that does not take these few records in this time will not end the demo either.
const WRITER_TIMEOUT: Duration = Duration::from_secs(60);

/// What a step gives besides its value: bytes moved, and what came of it.
struct Told<T>(T, u64, String);

/// The demo, from an empty folder to an empty folder.
pub struct Chain {
    options: DemoOptions,
    place: Place,
    interrupt: CancellationToken,
    node: Option<NodeProcess>,
}

/// What was made of the first pool, and is destroyed with it.
struct Made {
    volume: csi::Volume,
    published: Published,
    snapshot: csi::Snapshot,
}

/// A volume that holds what the first one held, and what the report calls it.
#[derive(Clone, Copy)]
struct CopyOfIt<'a> {
    volume: &'a csi::Volume,
    name: &'a str,
}

/// What is in the volume, and so must be in every copy of it.
struct Expected {
    files: Vec<CopiedFile>,
    bounds: Bounds,
}

impl Chain {
    /// A chain that has done nothing.
    pub fn new(options: DemoOptions, place: Place, interrupt: CancellationToken) -> Self {
        Self { options, place, interrupt, node: None }
    }

    /// Does all steps and ends the node, whatever came of them.
    ///
    /// # Errors
    /// Of the first step that failed; [`Exit::Interrupted`].
    pub async fn run(mut self, report: &mut Report) -> Result<(), CliError> {
        let done = self.steps(report).await;
        let stopped = self.stop_node().await;
        done.and(stopped)
    }

    fn mounted(&self) -> Presentation {
        Presentation::FileSystem(self.options.volume)
    }

    async fn stop_node(&mut self) -> Result<(), CliError> {
        match self.node.take() {
            Some(node) => node.stop().await,
            None => Ok(()),
        }
    }

    async fn steps(&mut self, report: &mut Report) -> Result<(), CliError> {
        let volume_size = volume_size(self.options.bytes);
        self.check_space()?;
        let calls = self.pool(report, 1).await?;

        let name = format!("provision a volume ({})", self.options.volume);
        let volume = step(report, &name, async {
            let volume = calls.create_volume("demo", volume_size, self.mounted(), None).await?;
            Ok(Told(volume, 0, volume_size.to_string()))
        })
        .await?;
        let source = step(report, "format and mount it", async {
            let published = calls.publish(&volume, "demo", self.mounted()).await?;
            Ok(Told(published, 0, String::new()))
        })
        .await?;
        let files = step(report, "copy files into it", self.copy(&source.target)).await?;
        let (snapshot, bounds) = step(report, "snapshot while a program writes", snapshot(&calls, &volume, &source)).await?;
        report.check("the writer went on while the snapshot was cut", writer_went_on(bounds));
        let expected = Expected { files, bounds };

        self.clone_and_compare(report, &calls, &snapshot, &expected).await?;
        let access = self.repository(report).await?;
        let repository_snapshot = step(report, "export the snapshot", async {
            let request = ExportTuning::default().request(&snapshot.snapshot_id, &access);
            let result = export(&calls.node, request, self.options.format, &self.interrupt).await?;
            let told = format!("{} stored in {} chunks", ByteSize::new(result.stored_bytes), result.chunks);
            Ok(Told(result.repository_snapshot, result.data_bytes, told))
        })
        .await?;
        let made = Made { volume, published: source, snapshot };
        self.destroy(report, &calls, &made).await?;

        let calls = self.pool(report, 2).await?;
        let restored = step(report, "restore into a new volume", async {
            let source = RestoreSource {
                access: access.clone(),
                snapshot: repository_snapshot,
                choice: ChoiceArgs::default(),
                path: None,
                tuning: RestoreTuning::default(),
            };
            let target = RestoreTarget {
                volume: "restored".to_owned(),
                size: None,
                pool: None,
                logical_block_size: None,
                presentation: None,
            };
            let result = restore(&calls.node, &source, &target, self.options.format, &self.interrupt).await?;
            let told = format!("{} of {} is data", ByteSize::new(result.data_bytes), ByteSize::new(result.size_bytes));
            Ok(Told(result.volume_id, result.data_bytes, told))
        })
        .await?;
        let restored = self.volume(&calls, restored).await?;
        self.compare_volume(report, &calls, CopyOfIt { volume: &restored, name: "restored volume" }, &expected).await?;
        calls.delete_volume(&restored.volume_id).await?;
        self.check_repository(report, &access).await
    }

    /// Makes a pool and starts a node over it.
    async fn pool(&mut self, report: &mut Report, number: u32) -> Result<Calls, CliError> {
        let (image, kind) = (self.place.image(number), self.options.pool);
        let size = image_size(self.options.bytes);
        let name = if number == 1 { "make a pool" } else { "make another pool" };
        let served = step(report, &format!("{name} ({kind})"), async {
            let made = blocking(move || make_pool(kind, &image, size.bytes())).await?;
            Ok(Told(made, 0, format!("{size} image")))
        })
        .await?;
        let endpoint: Endpoint = self
            .place
            .socket()
            .display()
            .to_string()
            .parse()
            .map_err(|error| CliError::because(Exit::Usage, "the demo's folder has too long a path", error))?;
        let (process, node) = step(report, "start a node", async {
            let (root, log) = (self.place.root(), self.place.log());
            let started = NodeProcess::start(&endpoint, &served, &root, &log, &self.interrupt).await?;
            Ok(Told(started, 0, String::new()))
        })
        .await?;
        self.node = Some(process);
        Ok(Calls { node, place: self.place.clone(), interrupt: self.interrupt.clone() })
    }

    async fn copy(&self, target: &Path) -> Result<Told<Vec<CopiedFile>>, CliError> {
        let (sources, target) = (self.options.sources.clone(), target.join(FILES));
        let (limit, interrupt, format) = (self.options.bytes, self.interrupt.clone(), self.options.format);
        let files = blocking(move || {
            let mut progress = Progress::begin("copying", Unit::Bytes, format);
            let mut show = |done| progress.update(&progress::Step { done, total: limit, ..Default::default() });
            tree::copy(&sources, &target, limit, &interrupt, &mut show)
        })
        .await?;
        if files.is_empty() {
            return Err(CliError::usage("there are no files to copy").advise("name folders with files by --source"));
        }
        let (count, bytes) = (files.len(), files.iter().map(|file| file.bytes).sum());
        Ok(Told(files, bytes, format!("{count} files")))
    }

    /// A volume from the snapshot: its files are compared, then the file system is checked.
    async fn clone_and_compare(
        &self,
        report: &mut Report,
        calls: &Calls,
        snapshot: &csi::Snapshot,
        expected: &Expected,
    ) -> Result<(), CliError> {
        let size = volume_size(self.options.bytes);
        let cut = Source::Snapshot(snapshot.snapshot_id.clone());
        let volume = step(report, "volume from the snapshot", async {
            Ok(Told(calls.create_volume("clone", size, self.mounted(), Some(cut.clone())).await?, 0, String::new()))
        })
        .await?;
        self.compare_volume(report, calls, CopyOfIt { volume: &volume, name: "volume from the snapshot" }, expected).await?;
        let (source, name) = match self.options.volume {
            // A frozen XFS keeps its log dirty on purpose, and its checker reads no log: it must be replayed by a mount first.
            FsType::Xfs => (Source::Volume(volume.volume_id.clone()), "check its file system (log replayed)"),
            // As it was cut: nothing has mounted it, no journal was replayed.
            FsType::Ext4 | FsType::Btrfs => (cut, "check its file system (as cut)"),
        };
        self.check_file_system(report, calls, source, name).await?;
        calls.delete_volume(&volume.volume_id).await
    }

    async fn check_file_system(&self, report: &mut Report, calls: &Calls, source: Source, name: &str) -> Result<(), CliError> {
        let size = volume_size(self.options.bytes);
        let volume = calls.create_volume("check", size, Presentation::Block, Some(source)).await?;
        let published = calls.publish(&volume, "check", Presentation::Block).await?;
        let verdict = step(report, name, async {
            let check = async { Ok(file_system_check::check(self.options.volume, &published.target).await) };
            let verdict = unless(&self.interrupt, check).await?;
            let told = if verdict.is_ok() { "clean" } else { "NOT CLEAN" };
            Ok(Told(verdict, 0, told.to_owned()))
        })
        .await?;
        report.check("the file system in the snapshot is clean", verdict);
        calls.unpublish(&published).await?;
        calls.delete_volume(&volume.volume_id).await
    }

    /// Mounts a volume, compares all its files, and unmounts it.
    async fn compare_volume(
        &self,
        report: &mut Report,
        calls: &Calls,
        CopyOfIt { volume, name }: CopyOfIt<'_>,
        expected: &Expected,
    ) -> Result<(), CliError> {
        let published = calls.publish(volume, "compare", self.mounted()).await?;
        let comparison = step(report, "compare every file's hash", self.compare(&published.target, &expected.files)).await?;
        report.compared(name, &comparison);
        let (log, bounds) = (published.target.join(LOG), expected.bounds);
        let verdict = blocking(move || Ok(writer::verify(&log, bounds))).await?;
        report.check(&format!("{name}: the writer's file is a whole prefix"), verdict.map(drop));
        calls.unpublish(&published).await
    }

    async fn compare(&self, target: &Path, files: &[CopiedFile]) -> Result<Told<Comparison>, CliError> {
        let (files, folder) = (files.to_vec(), target.join(FILES));
        let (interrupt, format) = (self.interrupt.clone(), self.options.format);
        let comparison = blocking(move || {
            let total = files.iter().map(|file| file.bytes).sum();
            let mut progress = Progress::begin("comparing", Unit::Bytes, format);
            let mut show = |done| progress.update(&progress::Step { done, total, ..Default::default() });
            tree::compare(&files, &folder, &interrupt, &mut show)
        })
        .await?;
        let told = format!("{} equal, {} different", comparison.equal, comparison.different.len());
        let bytes = comparison.bytes;
        Ok(Told(comparison, bytes, told))
    }

    async fn repository(&self, report: &mut Report) -> Result<RepositoryAccess, CliError> {
        let password = Zeroizing::new(uuid::Uuid::new_v4().to_string());
        if self.options.keep == Keep::Repository {
            let path = self.place.password_file();
            let written = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
            written
                .and_then(|mut file| writeln!(file, "{}", password.as_str()))
                .map_err(|error| CliError::because(Exit::Failed, format!("cannot write {}", path.display()), error))?;
        }
        let access = RepositoryAccess::new(
            Location::Local(self.place.repository()),
            password,
            Environment::new(),
            Workspace::from_environment(),
        );
        step(report, "make a repository", async {
            let made = async {
                let repository = Repository::init(access.store()?, &access.password()?, KdfCost::STANDARD).await;
                repository.map_err(|error| repository_error("the repository was not made", error))
            };
            let repository = unless(&self.interrupt, made).await?;
            Ok(Told((), 0, repository.id().short()))
        })
        .await?;
        Ok(access)
    }

    /// Unmounts and deletes everything, ends the node, and removes the pool with its image.
    async fn destroy(
        &mut self,
        report: &mut Report,
        calls: &Calls,
        Made { volume, published, snapshot }: &Made,
    ) -> Result<(), CliError> {
        step(report, "destroy volume, snapshot and pool", async {
            calls.unpublish(published).await?;
            calls.delete_snapshot(&snapshot.snapshot_id).await?;
            calls.delete_volume(&volume.volume_id).await?;
            self.stop_node().await?;
            let place = self.place.clone();
            blocking(move || place.remove_pool(1, &SystemMounter::new())).await?;
            Ok(Told((), 0, "only the repository is left".to_owned()))
        })
        .await
    }

    async fn volume(&self, calls: &Calls, volume_id: String) -> Result<csi::Volume, CliError> {
        let request = csi::ControllerGetVolumeRequest { volume_id };
        let call = async {
            let answer =
                calls.node.controller().controller_get_volume(request).await.answer("the restored volume is not there")?;
            answer.volume.ok_or_else(|| CliError::new(Exit::Failed, "the node's answer holds no volume"))
        };
        unless(&self.interrupt, call).await
    }

    async fn check_repository(&self, report: &mut Report, access: &RepositoryAccess) -> Result<(), CliError> {
        let found = step(report, "check the repository, reading all", async {
            let check = async {
                let repository = access.open().await?;
                let report = checked(&repository, Depth::ReadData, self.options.format).await;
                report.map_err(|error| repository_error("the repository cannot be checked", error))
            };
            let found = unless(&self.interrupt, check).await?;
            let (told, bytes) = (format!("{} errors", found.errors.len()), found.bytes_read);
            Ok(Told(found, bytes, told))
        })
        .await?;
        let verdict = if found.is_clean() { Ok(()) } else { Err(found.errors.join("; ")) };
        report.check("the repository is whole", verdict);
        Ok(())
    }

    /// Two images are never there at once, but an image and the repository are.
    fn check_space(&self) -> Result<(), CliError> {
        let folder = self.place.folder();
        let stats = nix::sys::statvfs::statvfs(folder)
            .map_err(|error| CliError::because(Exit::Failed, format!("cannot see the space of {}", folder.display()), error))?;
        let free = stats.blocks_available().saturating_mul(stats.fragment_size());
        let needed = image_size(self.options.bytes).bytes() + self.options.bytes + (256 << 20);
        if free < needed {
            let what = format!("{} has {} free; the demo needs {}", folder.display(), ByteSize::new(free), ByteSize::new(needed));
            return Err(CliError::new(Exit::Refused, what).advise("name a larger place by --directory, or copy less by --bytes"));
        }
        Ok(())
    }
}

/// Makes a pool in the image; what a node is told to serve.
fn make_pool(kind: DemoPool, image: &Path, bytes: u64) -> Result<PathBuf, CliError> {
    let properties = PoolProperties::default();
    match kind {
        DemoPool::Image(file_system) => {
            create_in_image(image, bytes, file_system.fs_type(), &properties).map(|_| image.to_owned())
        }
        DemoPool::Thin => {
            let device = attach_image(image, bytes)?;
            create_on_devices(&CreateOptions::on(DevicePaths::One(device.clone())), &properties).map(|_| device)
        }
    }
}

/// A loop device over a new, sparse image.
fn attach_image(image: &Path, bytes: u64) -> Result<PathBuf, CliError> {
    let failed = |error: io::Error| CliError::because(Exit::Failed, format!("cannot make the image {}", image.display()), error);
    let file = std::fs::File::options().read(true).write(true).create_new(true).mode(0o600).open(image).map_err(failed)?;
    file.set_len(bytes).map_err(failed)?;
    let options = LoopOptions {
        access: Access::ReadWrite,
        block_size: LogicalBlockSize::B4096,
        label: "windlass demo",
        direct_io: DirectIo::IfPossible,
    };
    let attached = loop_device::attach(&file, &options);
    let device = attached.map_err(|error| CliError::because(Exit::Failed, "cannot attach the image to a loop device", error))?;
    Ok(device.path)
}

/// Room for the files, for blocks and inodes of many small ones, and for what the writer adds.
fn volume_size(bytes: u64) -> ByteSize {
    ByteSize::new((bytes + bytes / 2 + (768 << 20)).next_multiple_of(1 << 20))
}

/// Room for the volume and what differs in its copies; sparse, so it takes only what is written.
fn image_size(bytes: u64) -> ByteSize {
    ByteSize::new(volume_size(bytes).bytes() + bytes.next_multiple_of(1 << 20) + (1 << 30))
}

/// Times a step and adds it to the report when it is done.
async fn step<T>(report: &mut Report, name: &str, work: impl Future<Output = Result<Told<T>, CliError>>) -> Result<T, CliError> {
    // Standard error may be closed; the table comes all the same.
    let _ = writeln!(io::stderr().lock(), "{name} ...");
    let began = Instant::now();
    let Told(value, bytes, result) = work.await.inspect_err(|_| {
        let (time, result) = (began.elapsed(), "FAILED".to_owned());
        report.step(Step { name: name.to_owned(), time, bytes: 0, result });
    })?;
    report.step(Step { name: name.to_owned(), time: began.elapsed(), bytes, result });
    Ok(value)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, CliError> + Send + 'static) -> Result<T, CliError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(CliError::because(Exit::Failed, "a step ended early", error)))
}

/// Starts a writer, cuts a snapshot in the midst of it, and lets it go on for a moment.
async fn snapshot(calls: &Calls, volume: &csi::Volume, published: &Published) -> Result<Told<(csi::Snapshot, Bounds)>, CliError> {
    let path: PathBuf = published.target.join(LOG);
    let failed = |error: io::Error| CliError::because(Exit::Failed, "the program that writes meanwhile failed", error);
    let writer = Writer::start(&path).map_err(failed)?;
    until_written(&writer, RECORDS_BEFORE, &calls.interrupt).await?;
    let at_least = writer.written();
    let began = Instant::now();
    let snapshot = calls.create_snapshot("demo", &volume.volume_id).await?;
    let time = began.elapsed();
    let at_most = writer.begun();
    until_written(&writer, at_most + 1, &calls.interrupt).await?;
    blocking(move || writer.stop().map_err(failed)).await?;
    let told = format!("answered after {}", crate::cli::size::duration(time));
    Ok(Told((snapshot, Bounds { at_least, at_most }), 0, told))
}

/// Waits until the writer has written so many records.
async fn until_written(writer: &Writer, records: u64, interrupt: &CancellationToken) -> Result<(), CliError> {
    let mut look = tokio::time::interval(LOOK_AGAIN);
    let wait = async {
        while writer.written() < records {
            look.tick().await;
        }
        Ok(())
    };
    let overdue = || CliError::new(Exit::Failed, "the program that writes meanwhile does not get on");
    unless(interrupt, async { tokio::time::timeout(WRITER_TIMEOUT, wait).await.unwrap_or_else(|_| Err(overdue())) }).await
}

/// The snapshot must have been cut while writes went on, or it shows nothing.
fn writer_went_on(bounds: Bounds) -> Result<(), String> {
    if bounds.at_most > bounds.at_least { Ok(()) } else { Err("nothing was written meanwhile".to_owned()) }
}
