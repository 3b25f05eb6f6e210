//! Where the bytes of a snapshot are.
//!
//! A snapshot is a *logical* object: it has a name, a size and the time of its cut whatever became of its bytes. They are in its pool, in
//! repositories, or in both, and a task says that they are on their way to one. A snapshot without a local copy is as good as any other:
//! it is listed, it can be deleted, and a volume is made from it by a restore.
//!
//! What its class asked for ([`ExportOrder`]) is read from the parameters that are recorded with the snapshot, so a repeated request is
//! compared with it like with any other parameter. The task says how far that has come. Neither holds a secret (invariant 10).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Bandwidth, Timestamp, VolumeSize};

/// Whether a snapshot's bytes are in its pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LocalCopy {
    /// They are.
    #[default]
    Kept,
    /// They were given up, for a repository has them.
    GivenUp,
}

/// How long the bytes of an exported snapshot stay in its pool (class parameter `localCopy`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LocalCopyPolicy {
    /// As long as the snapshot exists.
    Keep,
    /// Until the pool runs low of space.
    #[default]
    UntilPressure,
    /// No longer than until they are in the repository.
    Drop,
}

/// Whether the repository of a class is to be there already (class parameter `repository`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RepositoryOrder {
    /// It is; a place without one is an error.
    Existing,
    /// It is made if there is none.
    CreateIfMissing,
}

impl RepositoryOrder {
    /// As a class says it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Existing => "existing",
            Self::CreateIfMissing => "createIfMissing",
        }
    }
}

/// Who had a snapshot made (recorded as `madeBy`, which no class says).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Origin {
    /// Somebody who asked for a snapshot.
    #[default]
    Request,
    /// The schedule of a protected volume, which also takes it away.
    Protection,
}

/// How an export checks what it packs (class parameter `verification`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VerificationOrder {
    /// Each blob is decoded again before it is stored.
    Decode,
    /// The machine is trusted.
    Skip,
}

/// Which of the exports that wait goes first (class parameter `priority`). In order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum ExportPriority {
    /// After the others, but not for ever.
    Low,
    /// As it comes.
    #[default]
    Normal,
    /// Before all others.
    High,
}

/// What a VolumeSnapshotClass asks for whose snapshots are exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExportOrder {
    /// Whether the repository is there.
    pub repository: RepositoryOrder,
    /// How long the local copy stays.
    pub local_copy: LocalCopyPolicy,
    /// Size of the chunks in bytes, if it is to be another than the volume's own.
    pub chunk_bytes: Option<u64>,
    /// How packs are checked, if it is to be otherwise than usual.
    pub verification: Option<VerificationOrder>,
    /// Who had the snapshot made.
    pub origin: Origin,
    /// How fast packs are sent at most.
    pub bandwidth: Option<Bandwidth>,
    /// When it has its turn.
    pub priority: ExportPriority,
}

/// A parameter that asks for nothing that can be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{rule}")]
pub struct ExportOrderError {
    /// The parameter.
    pub key: &'static str,
    /// What it must be.
    pub rule: &'static str,
}

impl ExportOrder {
    /// The parameter that asks for an export.
    pub const REPOSITORY: &'static str = "repository";
    const LOCAL_COPY: &'static str = "localCopy";
    const CHUNK_SIZE: &'static str = "chunkSize";
    const VERIFICATION: &'static str = "verification";
    /// The parameter that says who had the snapshot made.
    pub const ORIGIN: &'static str = "madeBy";
    /// Its value for the snapshots of a protection.
    pub const BY_PROTECTION: &'static str = "protection";
    const BANDWIDTH: &'static str = "bandwidth";
    const PRIORITY: &'static str = "priority";
    /// All parameters of an order.
    pub const PARAMETERS: [&'static str; 7] =
        [Self::REPOSITORY, Self::LOCAL_COPY, Self::CHUNK_SIZE, Self::VERIFICATION, Self::ORIGIN, Self::BANDWIDTH, Self::PRIORITY];

    /// The order that parameters contain; `None` for those of a class without a repository.
    ///
    /// # Errors
    /// [`ExportOrderError`] for a value of no meaning, and for one that means nothing without a repository.
    pub fn parse(parameters: &BTreeMap<String, String>) -> Result<Option<Self>, ExportOrderError> {
        let value = |key: &'static str| parameters.get(key).map(String::as_str);
        let refuse = |key, rule| Err(ExportOrderError { key, rule });
        let Some(repository) = value(Self::REPOSITORY) else {
            return match Self::PARAMETERS.into_iter().find(|key| parameters.contains_key(*key)) {
                Some(key) => refuse(key, "means nothing without the parameter `repository`"),
                None => Ok(None),
            };
        };
        Ok(Some(Self {
            repository: match repository {
                "existing" => RepositoryOrder::Existing,
                "createIfMissing" => RepositoryOrder::CreateIfMissing,
                _ => return refuse(Self::REPOSITORY, "must be `existing` or `createIfMissing`"),
            },
            local_copy: match value(Self::LOCAL_COPY) {
                None => LocalCopyPolicy::default(),
                Some("keep") => LocalCopyPolicy::Keep,
                Some("untilPressure") => LocalCopyPolicy::UntilPressure,
                Some("drop") => LocalCopyPolicy::Drop,
                Some(_) => return refuse(Self::LOCAL_COPY, "must be `keep`, `untilPressure` or `drop`"),
            },
            chunk_bytes: match value(Self::CHUNK_SIZE).map(chunk_bytes) {
                None => None,
                Some(Some(bytes)) => Some(bytes),
                Some(None) => {
                    return refuse(Self::CHUNK_SIZE, "must be a power of two from 256Ki to 8Mi, in bytes or with `Ki` or `Mi`");
                }
            },
            verification: match value(Self::VERIFICATION) {
                None => None,
                Some("decode") => Some(VerificationOrder::Decode),
                Some("skip") => Some(VerificationOrder::Skip),
                Some(_) => return refuse(Self::VERIFICATION, "must be `decode` or `skip`"),
            },
            origin: match value(Self::ORIGIN) {
                None => Origin::Request,
                Some(Self::BY_PROTECTION) => Origin::Protection,
                Some(_) => return refuse(Self::ORIGIN, "must be `protection`"),
            },
            bandwidth: match value(Self::BANDWIDTH).map(Bandwidth::parse) {
                None => None,
                Some(Some(bandwidth)) => Some(bandwidth),
                Some(None) => {
                    return refuse(
                        Self::BANDWIDTH,
                        "must be bytes a second, at least 64Ki, in digits or with `Ki`, `Mi` or `Gi`",
                    );
                }
            },
            priority: match value(Self::PRIORITY) {
                None => ExportPriority::default(),
                Some("low") => ExportPriority::Low,
                Some("normal") => ExportPriority::Normal,
                Some("high") => ExportPriority::High,
                Some(_) => return refuse(Self::PRIORITY, "must be `low`, `normal` or `high`"),
            },
        }))
    }
}

impl ExportOrder {
    /// Tags of the exports that are made by it, besides those of their snapshot.
    pub fn tags(&self) -> Vec<String> {
        match self.origin {
            Origin::Request => Vec::new(),
            Origin::Protection => vec![format!("made-by={}", Self::BY_PROTECTION)],
        }
    }

    /// The parameters that contain it.
    pub fn parameters(&self) -> BTreeMap<String, String> {
        let origin = match self.origin {
            Origin::Request => None,
            Origin::Protection => Some(Self::BY_PROTECTION.to_owned()),
        };
        let local_copy = match self.local_copy {
            LocalCopyPolicy::Keep => "keep",
            LocalCopyPolicy::UntilPressure => "untilPressure",
            LocalCopyPolicy::Drop => "drop",
        };
        let verification = self.verification.map(|verification| match verification {
            VerificationOrder::Decode => "decode".to_owned(),
            VerificationOrder::Skip => "skip".to_owned(),
        });
        let priority = match self.priority {
            ExportPriority::Low => Some("low".to_owned()),
            ExportPriority::Normal => None,
            ExportPriority::High => Some("high".to_owned()),
        };
        let given = [
            (Self::REPOSITORY, Some(self.repository.name().to_owned())),
            (Self::LOCAL_COPY, Some(local_copy.to_owned())),
            (Self::CHUNK_SIZE, self.chunk_bytes.map(|bytes| bytes.to_string())),
            (Self::VERIFICATION, verification),
            (Self::ORIGIN, origin),
            (Self::BANDWIDTH, self.bandwidth.map(|bandwidth| bandwidth.to_string())),
            (Self::PRIORITY, priority),
        ];
        given.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
    }
}

/// A size that chunks may have.
fn chunk_bytes(text: &str) -> Option<u64> {
    let (digits, unit) = match (text.strip_suffix("Ki"), text.strip_suffix("Mi")) {
        (Some(digits), _) => (digits, 1 << 10),
        (None, Some(digits)) => (digits, 1 << 20),
        (None, None) => (text, 1),
    };
    let is_plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let bytes = digits.parse::<u64>().ok().filter(|_| is_plain)?.checked_mul(unit)?;
    (bytes.is_power_of_two() && (256 << 10..=8 << 20).contains(&bytes)).then_some(bytes)
}

/// An export of a snapshot that is complete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotExport {
    /// Id of the repository (its config's id, 64 hexadecimal digits).
    pub repository: String,
    /// The repository snapshot that holds it (64 hexadecimal digits).
    pub repository_snapshot: String,
    /// Size of what was exported.
    pub size: VolumeSize,
    /// When it was finished.
    pub finished: Timestamp,
}

/// How far an export that was asked for has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    /// It waits for its turn, or for credentials.
    Pending,
    /// It runs, or ran when its process ended.
    Running,
    /// The last attempt failed; the next call begins another.
    Failed {
        /// Why, for people.
        reason: String,
        /// When.
        at: Timestamp,
    },
    /// The repository holds it.
    Finished,
}

impl TaskState {
    /// Longest reason in bytes: a record of the catalogue is no log.
    const REASON_BYTES: usize = 1024;

    /// A failure for this reason, which is cut if it is long.
    pub fn failed(reason: &str, at: Timestamp) -> Self {
        let end = reason.floor_char_boundary(Self::REASON_BYTES);
        Self::Failed { reason: reason[..end].to_owned(), at }
    }
}

/// An export that a class asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportTask {
    /// Where the repository lies, in restic's words. They hold no credentials.
    pub location: String,
    /// Its id, once it was opened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// How far it has come.
    pub state: TaskState,
    /// When it was first asked for.
    pub asked: Timestamp,
    /// Attempts that were begun.
    pub attempts: u32,
    /// Bytes that ended attempts have stored in the repository, which the next ones need not store again.
    #[serde(default)]
    pub stored_bytes: u64,
}

impl ExportTask {
    /// One that was just asked for.
    pub fn new(location: String, asked: Timestamp) -> Self {
        Self { location, repository: None, state: TaskState::Pending, asked, attempts: 0, stored_bytes: 0 }
    }
}

/// Where the bytes of a snapshot are, and where they are going.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Copies {
    /// Those in its pool.
    #[serde(default)]
    pub local: LocalCopy,
    /// Those in repositories, one for each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exports: Vec<SnapshotExport>,
    /// The export that its class asked for, once it was begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<ExportTask>,
}

impl Copies {
    /// Whether the bytes are in the pool and nowhere else, and are not going anywhere.
    pub fn is_local_only(&self) -> bool {
        *self == Self::default()
    }

    /// Whether the export that its class asked for is complete.
    pub fn is_task_finished(&self) -> bool {
        self.task.as_ref().is_some_and(|task| task.state == TaskState::Finished)
    }

    /// Notes that a repository holds it: in place of what was known of that repository, and as the end of the task that was to bring it there.
    pub fn note_export(&mut self, export: SnapshotExport) {
        if let Some(task) = &mut self.task
            && task.repository.as_ref() == Some(&export.repository)
        {
            task.state = TaskState::Finished;
        }
        self.exports.retain(|known| known.repository != export.repository);
        self.exports.push(export);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(entries: &[(&str, &str)]) -> Result<Option<ExportOrder>, &'static str> {
        let parameters = entries.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
        ExportOrder::parse(&parameters).map_err(|error| error.key)
    }

    const EXISTING: (&str, &str) = ("repository", "existing");

    #[test]
    fn a_class_with_a_repository_asks_for_an_export_and_one_without_does_not() {
        assert_eq!(parse(&[]), Ok(None));
        let usual = ExportOrder {
            repository: RepositoryOrder::Existing,
            local_copy: LocalCopyPolicy::UntilPressure,
            chunk_bytes: None,
            verification: None,
            origin: Origin::Request,
            bandwidth: None,
            priority: ExportPriority::Normal,
        };
        assert_eq!(parse(&[EXISTING]), Ok(Some(usual)));
        let all = [
            ("repository", "createIfMissing"),
            ("localCopy", "drop"),
            ("chunkSize", "1Mi"),
            ("verification", "skip"),
            ("bandwidth", "20Mi"),
            ("priority", "low"),
        ];
        let order = ExportOrder {
            repository: RepositoryOrder::CreateIfMissing,
            local_copy: LocalCopyPolicy::Drop,
            chunk_bytes: Some(1 << 20),
            verification: Some(VerificationOrder::Skip),
            origin: Origin::Request,
            bandwidth: Bandwidth::new(20 << 20),
            priority: ExportPriority::Low,
        };
        assert_eq!(parse(&all), Ok(Some(order)));
        for order in [usual, order, ExportOrder { origin: Origin::Protection, ..usual }] {
            assert_eq!(ExportOrder::parse(&order.parameters()), Ok(Some(order)));
        }
    }

    #[test]
    fn what_means_nothing_is_refused_by_its_key() {
        assert_eq!(parse(&[("repository", "new")]), Err("repository"));
        assert_eq!(parse(&[("localCopy", "keep")]), Err("localCopy"), "without a repository");
        assert_eq!(parse(&[EXISTING, ("localCopy", "Keep")]), Err("localCopy"));
        assert_eq!(parse(&[EXISTING, ("verification", "")]), Err("verification"));
        for size in ["", "Mi", "3Mi", "128Ki", "16Mi", "+1Mi", "1MiB", "99999999999999999999Mi"] {
            assert_eq!(parse(&[EXISTING, ("chunkSize", size)]), Err("chunkSize"), "{size}");
        }
        for bandwidth in ["", "1Ki", "20MB", "fast"] {
            assert_eq!(parse(&[EXISTING, ("bandwidth", bandwidth)]), Err("bandwidth"), "{bandwidth}");
        }
        assert_eq!(parse(&[EXISTING, ("priority", "urgent")]), Err("priority"));
        assert_eq!(parse(&[("priority", "high")]), Err("priority"), "without a repository");
        assert_eq!(parse(&[EXISTING, ("priority", "normal")]), parse(&[EXISTING]));
        assert_eq!(parse(&[EXISTING, ("chunkSize", "262144")]).unwrap().unwrap().chunk_bytes, Some(256 << 10));
    }

    fn export(repository: &str) -> SnapshotExport {
        SnapshotExport {
            repository: repository.to_owned(),
            repository_snapshot: String::new(),
            size: VolumeSize::DEFAULT,
            finished: Timestamp::now(),
        }
    }

    #[test]
    fn only_an_export_to_its_own_repository_ends_a_task() {
        let mut copies =
            Copies { task: Some(ExportTask::new("s3:host/bucket".to_owned(), Timestamp::now())), ..Copies::default() };
        copies.note_export(export("a"));
        assert!(!copies.is_task_finished(), "the task's repository was never opened");
        copies.task.as_mut().unwrap().repository = Some("b".to_owned());
        copies.note_export(export("a"));
        assert!(!copies.is_task_finished());
        copies.note_export(export("b"));
        assert!(copies.is_task_finished());
        assert_eq!(copies.exports.len(), 2);
    }

    #[test]
    fn a_record_of_before_reads_as_a_local_copy_and_a_long_reason_is_cut_between_characters() {
        assert!(serde_json::from_str::<Copies>("{}").unwrap().is_local_only());
        let at = Timestamp::now();
        let long = TaskState::failed(&"\u{e4}".repeat(1000), at);
        assert_eq!(long, TaskState::Failed { reason: "\u{e4}".repeat(512), at });
        assert_eq!(TaskState::failed("short", at), TaskState::Failed { reason: "short".to_owned(), at });
    }
}
