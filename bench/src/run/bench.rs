//! What all measurements share: the place, the tools, the turns, and the figures so far.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use nix::fcntl::{Flock, FlockArg, PosixFadviseAdvice, posix_fadvise};
use nix::unistd::syncfs;
use serde_json::Value;

use super::agents;
use super::proof::all_requests;
use crate::data::place::{Place, command};
use crate::error::{BenchError, While};
use crate::limit;
use crate::measure::{Invocation, Usage};
use crate::report::results::{Figures, Results, Throughput};
use crate::tools::minio::Access;
use crate::tools::{Backup, IMAGE, PASSWORD, State, Tool};

/// A run under way.
pub(super) struct Bench {
    place: Place,
    output: PathBuf,
    tools: Vec<Rc<dyn Tool>>,
    repetitions: usize,
    lock: Option<PathBuf>,
    interrupted: Arc<AtomicBool>,
    results: Results,
    data: Vec<String>,
    left_out: Vec<String>,
}

const WINDLASS: &str = "windlass";
const INDISPENSABLE: [&str; 2] = [WINDLASS, "restic"];

/// An image, as those see it who back it up.
#[derive(Debug, Clone)]
pub(super) struct Snapshot<'a> {
    /// What it is called in the results. What a tool keeps of one is not touched by another.
    pub(super) data: &'a str,
    /// Its file.
    pub(super) file: &'a Path,
    /// The one before it.
    pub(super) base: Option<&'a Path>,
}

impl Bench {
    pub(super) fn new(
        place: Place,
        output: PathBuf,
        tools: Vec<Rc<dyn Tool>>,
        repetitions: usize,
        lock: Option<PathBuf>,
        interrupted: Arc<AtomicBool>,
    ) -> Result<Self, BenchError> {
        // Of a run that was killed.
        let _ = fs::remove_dir_all(output.join("saved"));
        for folder in [place.images().join("current"), output.join("logs")] {
            fs::create_dir_all(&folder).while_doing(|| format!("making {}", folder.display()))?;
        }
        Ok(Self {
            place,
            output,
            tools,
            repetitions,
            lock,
            interrupted,
            results: Results::default(),
            data: Vec::new(),
            left_out: Vec::new(),
        })
    }

    pub(super) fn repetitions(&self) -> usize {
        self.repetitions
    }

    /// Names of the tools, in the order of their turns.
    pub(super) fn tools(&self) -> Vec<&'static str> {
        self.tools.iter().map(|tool| tool.name()).collect()
    }

    /// Where an image of this name lies.
    pub(super) fn image(&self, name: &str) -> PathBuf {
        self.place.images().join(name)
    }

    /// An empty folder that a file system can be mounted on.
    pub(super) fn mount_point(&self) -> PathBuf {
        self.place.root().join("mounted")
    }

    /// Notes what was made, for the report.
    pub(super) fn describe(&mut self, text: impl Into<String>) {
        let text = text.into();
        println!("data: {text}");
        self.data.push(text);
    }

    pub(super) fn data_descriptions(&self) -> Vec<String> {
        self.data.clone()
    }

    pub(super) fn described(&self) -> String {
        let kind = Command::new("stat").args(["-f", "-c", "%T"]).arg(self.place.root()).output();
        let kind = kind.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
        format!("repositories and restored files on {kind}; images on XFS with reflinks in a loop-mounted file there")
    }

    /// Ends the run; what was measured.
    pub(super) fn finish(self) -> Results {
        // Saved repositories are of no use without their images.
        let _ = fs::remove_dir_all(self.output.join("saved"));
        self.results
    }

    /// Removes images, and the repositories that hold them.
    pub(super) fn forget(&self, images: &[PathBuf]) -> Result<(), BenchError> {
        for image in images {
            fs::remove_file(image).while_doing(|| format!("removing {}", image.display()))?;
        }
        let current = self.place.images().join("current").join(IMAGE);
        let _ = fs::remove_file(current);
        let _ = fs::remove_dir_all(self.output.join("saved"));
        Ok(())
    }

    /// A full backup into a new repository, which is kept for what follows. The repetition's turn of one tool.
    pub(super) fn full(&mut self, tool: &str, case: &str, snapshot: &Snapshot<'_>) -> Result<(), BenchError> {
        let (tool, state) = self.tool(tool, snapshot)?;
        self.present(snapshot.file)?;
        let folder = self.place.images().join("current");
        let backup = Backup { folder: &folder, snapshot: snapshot.file, base: None, label: "full" };
        self.begin(&*tool, &state)?;
        let invocation = tool.backup(&state, &backup);
        let before = state.stored_bytes()?;
        let usage = self.measure(&invocation, case, tool.name(), Some(snapshot.file))?;
        let stored = state.stored_bytes()?.saturating_sub(before);
        state.save()?;
        state.remove()?;
        self.note(case, &*tool, snapshot.data, &invocation, usage, stored);
        Ok(())
    }

    /// The same without decoding again, where the tool has that. Nothing is kept.
    pub(super) fn full_unverified(&mut self, tool: &str, case: &str, snapshot: &Snapshot<'_>) -> Result<(), BenchError> {
        let (tool, state) = self.tool(tool, snapshot)?;
        self.present(snapshot.file)?;
        let folder = self.place.images().join("current");
        let backup = Backup { folder: &folder, snapshot: snapshot.file, base: None, label: "full" };
        let Some(invocation) = tool.backup_unverified(&state, &backup) else { return Ok(()) };
        self.begin(&*tool, &state)?;
        let before = state.stored_bytes()?;
        let usage = self.measure(&invocation, case, tool.name(), Some(snapshot.file))?;
        let stored = state.stored_bytes()?.saturating_sub(before);
        state.remove()?;
        self.note(case, &*tool, snapshot.data, &invocation, usage, stored);
        Ok(())
    }

    /// A backup after the kept one. The first time in each case, what Windlass stored is restored and compared.
    pub(super) fn increment(&mut self, tool: &str, case: &str, snapshot: &Snapshot<'_>) -> Result<(), BenchError> {
        let (tool, state) = self.tool(tool, snapshot)?;
        self.present(snapshot.file)?;
        let folder = self.place.images().join("current");
        let backup = Backup { folder: &folder, snapshot: snapshot.file, base: snapshot.base, label: "next" };
        state.put_back()?;
        let before = state.stored_bytes()?;
        let invocation = tool.backup(&state, &backup);
        let usage = self.measure(&invocation, case, tool.name(), Some(snapshot.file))?;
        let stored = state.stored_bytes()?.saturating_sub(before);
        if tool.name() == "windlass" && !self.results.has(case, tool.name()) {
            let target = self.fresh("restored")?;
            tool.restore(&state, &backup, &target).output()?;
            self.compare(&target.join(IMAGE), snapshot.file)?;
            self.remove(&target)?;
        }
        state.remove()?;
        self.note(case, &*tool, snapshot.data, &invocation, usage, stored);
        Ok(())
    }

    /// Restores and checks the kept backup; what was restored is compared.
    pub(super) fn read_back(
        &mut self,
        tool: &str,
        restore: &str,
        check: &str,
        snapshot: &Snapshot<'_>,
    ) -> Result<(), BenchError> {
        let (tool, state) = self.tool(tool, snapshot)?;
        let folder = self.place.images().join("current");
        let backup = Backup { folder: &folder, snapshot: snapshot.file, base: None, label: "full" };
        state.put_back()?;
        let stored = state.stored_bytes()?;
        let target = self.fresh("restored")?;
        let invocation = tool.restore(&state, &backup, &target);
        let usage = self.measure(&invocation, restore, tool.name(), None)?;
        self.compare(&target.join(IMAGE), snapshot.file)?;
        self.remove(&target)?;
        self.note(restore, &*tool, snapshot.data, &invocation, usage, stored);
        let invocation = tool.check(&state);
        let usage = self.measure(&invocation, check, tool.name(), None)?;
        self.note(check, &*tool, snapshot.data, &invocation, usage, stored);
        state.remove()
    }

    /// The stages' speeds with the bytes of a snapshot.
    pub(super) fn limit(&mut self, case: &str, snapshot: &Snapshot<'_>) -> Result<(), BenchError> {
        let (tool, state) = self.tool("windlass", snapshot)?;
        self.begin(&*tool, &state)?;
        let scratch = self.fresh("limit")?;
        let own = std::env::current_exe().while_doing(|| "finding this program".to_owned())?;
        let mut invocation = Invocation::new(own)
            .words("limit --image")
            .argument(snapshot.file)
            .words("--repository")
            .argument(state.repository())
            .words("--scratch")
            .argument(&scratch)
            .variable("RESTIC_PASSWORD", PASSWORD);
        if let Some(base) = snapshot.base {
            invocation = invocation.words("--parent").argument(base);
        }
        self.measure(&invocation, case, "limit", Some(snapshot.file))?;
        let log = self.log(case, "limit");
        let text = fs::read_to_string(&log).while_doing(|| format!("reading {}", log.display()))?;
        let report: limit::Report = serde_json::from_str(text.trim()).while_doing(|| format!("reading {}", log.display()))?;
        println!(
            "{case:30} {:13} {:7.2} s of one thread, {:.2} s whatever the bytes",
            "limit",
            report.thread_seconds(limit::Stage::EXPORT),
            report.open_seconds + report.lock_seconds
        );
        self.results.limit(case, report);
        self.remove(&scratch)?;
        state.remove()
    }

    /// A folder for repositories that this program makes itself, empty.
    pub(super) fn workshop(&self) -> Result<PathBuf, BenchError> {
        let folder = self.place.root().join("workshop");
        self.remove(&folder)?;
        self.fresh("workshop")
    }

    /// A command of this program on the repository in a workshop.
    fn own(&self, workshop: &Path, words: &str) -> Result<Invocation, BenchError> {
        let own = std::env::current_exe().while_doing(|| "finding this program".to_owned())?;
        Ok(Invocation::new(own)
            .words(words)
            .argument("--repository")
            .argument(workshop.join("repository"))
            .variable("RESTIC_PASSWORD", PASSWORD)
            .variable("WINDLASS_SCRATCH_DIR", workshop))
    }

    /// Runs such a command without measuring; what it printed.
    pub(super) fn prepare(&self, workshop: &Path, words: &str) -> Result<String, BenchError> {
        self.check_interrupt()?;
        self.own(workshop, words)?.output()
    }

    /// Runs a command of this program on the repository in a bucket, without measuring.
    pub(super) fn prepare_in(&self, access: &Access, workshop: &Path, words: &str) -> Result<(), BenchError> {
        self.check_interrupt()?;
        self.in_bucket(access, workshop, words)?.output().map(drop)
    }

    /// A command of this program on the repository in a bucket.
    fn in_bucket(&self, access: &Access, workshop: &Path, words: &str) -> Result<Invocation, BenchError> {
        let own = std::env::current_exe().while_doing(|| "finding this program".to_owned())?;
        let mut invocation = Invocation::new(own)
            .words(words)
            .argument("--repository")
            .argument(agents::location(access))
            .variable("RESTIC_PASSWORD", PASSWORD)
            .variable("WINDLASS_SCRATCH_DIR", workshop);
        for (name, value) in &access.variables {
            invocation = invocation.variable(name, value);
        }
        Ok(invocation)
    }

    /// Measures such commands, exports, which begin at the same time; their reports.
    pub(super) fn agents(
        &mut self,
        case: &str,
        data: &str,
        access: &Access,
        workshop: &Path,
        exports: &[String],
    ) -> Result<Vec<Value>, BenchError> {
        self.check_interrupt()?;
        let commands: Vec<Invocation> =
            exports.iter().map(|words| self.in_bucket(access, workshop, words)).collect::<Result<_, _>>()?;
        let logs: Vec<PathBuf> = (1..=commands.len()).map(|number| self.log(case, &format!("{WINDLASS}-{number}"))).collect();
        let turn = self.turn()?;
        self.settle(None)?;
        let begun = Instant::now();
        let usages: Vec<Result<Usage, BenchError>> = std::thread::scope(|scope| {
            let start = |(command, log): (&Invocation, &PathBuf)| {
                let (command, log) = (command.clone(), log.clone());
                scope.spawn(move || command.measure(&log))
            };
            let threads: Vec<_> = commands.iter().zip(&logs).map(start).collect();
            let died = || Err(BenchError::new("a thread that measures died"));
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| died())).collect()
        });
        let wall_seconds = begun.elapsed().as_secs_f64();
        drop(turn);
        self.check_interrupt()?;
        let usages: Vec<Usage> = usages.into_iter().collect::<Result<_, _>>()?;
        let reports: Vec<Value> = logs.iter().map(|log| report_in(log)).collect::<Result<_, _>>()?;
        let sum = |name: &str| reports.iter().filter_map(|report| report[name].as_u64()).sum::<u64>();
        let requests = reports.iter().map(all_requests).sum::<u64>() as f64 / reports.len() as f64;
        let throughput = Throughput { bytes_per_second: sum("read_bytes") as f64 / wall_seconds, requests_each: requests };
        println!("{case:30} {:.1} MB/s in all, {requests:.1} requests each", throughput.bytes_per_second / 1e6);
        let usage = Usage {
            wall_seconds,
            cpu_seconds: usages.iter().map(|usage| usage.cpu_seconds).sum(),
            peak_bytes: usages.iter().map(|usage| usage.peak_bytes).max().unwrap_or(0),
        };
        let figures = Figures { throughput: Some(throughput), ..Figures::new(usage, sum("stored_bytes")) };
        let windlass = self.windlass()?;
        self.note_figures(case, &*windlass, data, &commands[0], figures);
        Ok(reports)
    }

    fn windlass(&self) -> Result<Rc<dyn Tool>, BenchError> {
        let windlass = self.tools.iter().find(|tool| tool.name() == WINDLASS).cloned();
        windlass.ok_or_else(|| BenchError::new("windlass does not take part"))
    }

    /// Measures such a command, an export, under the name of Windlass; its report.
    pub(super) fn synthetic(&mut self, case: &str, data: &str, workshop: &Path, words: &str) -> Result<Value, BenchError> {
        let invocation = self.own(workshop, words)?;
        let usage = self.measure(&invocation, case, WINDLASS, None)?;
        let report = report_in(&self.log(case, WINDLASS))?;
        let stored = report["stored_bytes"].as_u64().ok_or_else(|| BenchError::new("a report without its stored bytes"))?;
        let windlass = self.windlass()?;
        self.note(case, &*windlass, data, &invocation, usage, stored);
        Ok(report)
    }

    /// What came of a tool's turn. The two that the ratios are about must not fail; any other one is left out from then on, and
    /// the report says why.
    pub(super) fn unless_left_out(&mut self, tool: &str, turn: Result<(), BenchError>) -> Result<(), BenchError> {
        self.check_interrupt()?;
        let Err(error) = turn else { return Ok(()) };
        if INDISPENSABLE.contains(&tool) {
            return Err(error);
        }
        println!("{tool} failed and is left out: {error}");
        self.left_out.push(format!("{tool} ({error})"));
        self.tools.retain(|other| other.name() != tool);
        for rest in ["restored", "state"] {
            self.remove(&self.place.root().join(rest))?;
        }
        Ok(())
    }

    /// Leaves something out, with the reason.
    pub(super) fn leave_out(&mut self, what: String) {
        println!("{what} is not there and is left out");
        self.left_out.push(what);
    }

    /// What was left out, with the reason.
    pub(super) fn left_out(&self) -> Vec<String> {
        self.left_out.clone()
    }

    /// Says something about a case in the results.
    pub(super) fn remark(&mut self, case: &str, text: &str) {
        self.results.remark(case, text);
    }

    /// Puts an empty repository in place. It is made once: programs take seconds to choose how expensive a password is to guess.
    fn begin(&self, tool: &dyn Tool, state: &State) -> Result<(), BenchError> {
        let empty = State::new(self.place.root(), &self.output.join("saved"), tool.name(), "empty");
        if empty.is_saved() {
            return empty.put_back();
        }
        state.renew()?;
        tool.init(state)?;
        empty.save()
    }

    fn tool(&self, name: &str, snapshot: &Snapshot<'_>) -> Result<(Rc<dyn Tool>, State), BenchError> {
        let tool = self.tools.iter().find(|tool| tool.name() == name);
        let tool = tool.ok_or_else(|| BenchError::new(format!("{name} does not take part")))?;
        Ok((Rc::clone(tool), State::new(self.place.root(), &self.output.join("saved"), name, snapshot.data)))
    }

    /// Shows `file` as the image to back up: the name stays, the file is another one.
    fn present(&self, file: &Path) -> Result<(), BenchError> {
        let shown = self.place.images().join("current").join(IMAGE);
        let _ = fs::remove_file(&shown);
        fs::hard_link(file, &shown).while_doing(|| format!("linking {}", shown.display()))
    }

    fn measure(&self, invocation: &Invocation, case: &str, tool: &str, image: Option<&Path>) -> Result<Usage, BenchError> {
        self.check_interrupt()?;
        let _turn = self.turn()?;
        self.settle(image)?;
        let usage = invocation.measure(&self.log(case, tool));
        self.check_interrupt()?;
        usage
    }

    fn check_interrupt(&self) -> Result<(), BenchError> {
        if self.interrupted.load(Ordering::Relaxed) { Err(BenchError::new("interrupted")) } else { Ok(()) }
    }

    /// The right to be the only one that measures.
    fn turn(&self) -> Result<Option<Flock<File>>, BenchError> {
        let Some(path) = &self.lock else { return Ok(None) };
        let what = || format!("locking {}", path.display());
        let file = File::options().create(true).truncate(false).write(true).open(path).while_doing(what)?;
        Flock::lock(file, FlockArg::LockExclusive).map(Some).map_err(|(_, error)| BenchError::because(what(), error))
    }

    /// Nothing is left to be written, and the image is not in the cache.
    fn settle(&self, image: Option<&Path>) -> Result<(), BenchError> {
        for folder in [self.place.root().to_owned(), self.place.images(), self.output.clone()] {
            let what = || format!("syncing {}", folder.display());
            syncfs(File::open(&folder).while_doing(what)?).while_doing(what)?;
        }
        if let Some(image) = image {
            let what = || format!("dropping {} from the cache", image.display());
            let file = File::open(image).while_doing(what)?;
            posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).while_doing(what)?;
        }
        Ok(())
    }

    fn compare(&self, one: &Path, other: &Path) -> Result<(), BenchError> {
        crate::data::compare::same(one, other)
    }

    /// Where the output of a tool in a case goes.
    pub(super) fn log(&self, case: &str, tool: &str) -> PathBuf {
        self.output.join("logs").join(format!("{case}.{tool}.log"))
    }

    fn fresh(&self, name: &str) -> Result<PathBuf, BenchError> {
        let folder = self.place.root().join(name);
        fs::create_dir(&folder).while_doing(|| format!("making {}", folder.display()))?;
        Ok(folder)
    }

    fn remove(&self, folder: &Path) -> Result<(), BenchError> {
        command("rm", &["-rf", "--"], &[folder])
    }

    fn note(&mut self, case: &str, tool: &dyn Tool, data: &str, invocation: &Invocation, usage: Usage, stored_bytes: u64) {
        self.note_figures(case, tool, data, invocation, Figures::new(usage, stored_bytes));
    }

    fn note_figures(&mut self, case: &str, tool: &dyn Tool, data: &str, invocation: &Invocation, figures: Figures) {
        let Figures { usage, stored_bytes, .. } = figures;
        println!(
            "{case:30} {:13} {:7.2} s wall {:7.2} s CPU {:5} MiB peak {:7.1} MB stored",
            tool.name(),
            usage.wall_seconds,
            usage.cpu_seconds,
            usage.peak_bytes >> 20,
            stored_bytes as f64 / 1e6,
        );
        self.results.note(case, tool.name(), tool.version(), data, &invocation.shown(self.place.root()), figures);
    }
}

/// The report that an export of this program printed.
fn report_in(log: &Path) -> Result<Value, BenchError> {
    let what = || format!("reading {}", log.display());
    let text = fs::read_to_string(log).while_doing(what)?;
    serde_json::from_str(text.lines().rfind(|line| line.starts_with('{')).unwrap_or_default()).while_doing(what)
}
