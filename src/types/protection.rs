//! What a protected StorageClass asks for: how often its volumes are exported, what of that is kept, and whether a new volume begins with
//! the newest export of its claim.
//!
//! It is read from the parameters that are recorded with the volume, so it is as durable as the volume, and a repeated request is compared
//! with it like with any other parameter. Credentials are not among them: the class names the Secret that has them, and nothing of it is
//! ever recorded (invariant 10).

use std::collections::BTreeMap;
use std::fmt;

use super::{ExportOrder, ExportOrderError, KubernetesName, NamespacedName, RepositoryOrder};

/// A parameter that asks for nothing that can be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{rule}")]
pub struct ProtectionError {
    /// The parameter.
    pub key: &'static str,
    /// What it must be.
    pub rule: &'static str,
}

impl From<ExportOrderError> for ProtectionError {
    fn from(error: ExportOrderError) -> Self {
        Self { key: error.key, rule: error.rule }
    }
}

/// How often a volume is exported (class parameter `protect`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    seconds: u32,
}

impl Schedule {
    /// A cut stops the writers of a volume for a moment, and an export opens its repository, a third of a second of a processor: more often
    /// than that a hundred volumes would keep a processor busy with passwords alone.
    const SHORTEST_SECONDS: u32 = 5 * 60;
    const LONGEST_SECONDS: u32 = 7 * 24 * 3600;

    /// A word, or a number with `m`, `h` or `d`.
    fn parse(text: &str) -> Option<Self> {
        let (number, unit) = match text {
            "hourly" => ("1", 3600),
            "daily" => ("1", 24 * 3600),
            "weekly" => ("7", 24 * 3600),
            _ => {
                let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
                (
                    number,
                    match unit {
                        "m" => 60,
                        "h" => 3600,
                        "d" => 24 * 3600,
                        _ => return None,
                    },
                )
            }
        };
        let seconds = plain_number(number)?.checked_mul(unit)?;
        (Self::SHORTEST_SECONDS..=Self::LONGEST_SECONDS).contains(&seconds).then_some(Self { seconds })
    }

    /// From one export to the next.
    pub fn seconds(self) -> u64 {
        self.seconds.into()
    }
}

/// In minutes.
impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}m", self.seconds / 60)
    }
}

/// A decimal number and nothing else.
fn plain_number(text: &str) -> Option<u32> {
    let is_plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_plain)
}

/// How many exports are kept: the newest of so many hours, days, weeks and months in which there are any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retention {
    /// Of hours.
    pub hourly: u32,
    /// Of days.
    pub daily: u32,
    /// Of weeks, from Monday on.
    pub weekly: u32,
    /// Of months.
    pub monthly: u32,
}

impl Retention {
    /// Exports of a volume at most. Each is a record in the catalogue of its pool, and all of a volume fit into one message.
    pub const MAX: u32 = 500;
}

/// What a new volume begins with (class parameter `restore`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RestorePolicy {
    /// Nothing.
    #[default]
    Never,
    /// The newest export of its claim; nothing, if the repository has none.
    LatestOrEmpty,
    /// The newest export of its claim; there is no volume without one.
    LatestOrFail,
}

/// Which Secret opens the repository (class parameter `repositorySecret`), as `namespace/name`, in which `${pvc.namespace}` and `${pvc.name}`
/// stand for those of the claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretTemplate {
    namespace: String,
    name: String,
}

const PVC_NAMESPACE: &str = "${pvc.namespace}";
const PVC_NAME: &str = "${pvc.name}";

/// Why a template names no Secret for a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecretTemplateError {
    /// It speaks of the claim, of which nothing is known.
    #[error("names the claim, which the provisioner tells only with --extra-create-metadata")]
    NoClaim,
    /// What it becomes with this claim is too long.
    #[error("does not become the name of a Secret with this claim")]
    NotAName,
}

impl SecretTemplate {
    fn parse(text: &str) -> Option<Self> {
        let (namespace, name) = text.split_once('/')?;
        let template = Self { namespace: namespace.to_owned(), name: name.to_owned() };
        // With the names of some claim it must read: what is left is neither a placeholder nor a letter of a name otherwise.
        let some = KubernetesName::try_from("a".to_owned()).ok()?;
        let some = NamespacedName { namespace: some.clone(), name: some };
        template.resolve(Some(&some)).is_ok().then_some(template)
    }

    /// The Secret for a claim.
    ///
    /// # Errors
    /// [`SecretTemplateError`].
    pub fn resolve(&self, claim: Option<&NamespacedName>) -> Result<NamespacedName, SecretTemplateError> {
        let part = |template: &str| {
            let text = match claim {
                Some(claim) => template.replace(PVC_NAMESPACE, claim.namespace.as_str()).replace(PVC_NAME, claim.name.as_str()),
                None if template.contains("${") => return Err(SecretTemplateError::NoClaim),
                None => template.to_owned(),
            };
            KubernetesName::try_from(text).map_err(|_| SecretTemplateError::NotAName)
        };
        Ok(NamespacedName { namespace: part(&self.namespace)?, name: part(&self.name)? })
    }
}

impl fmt::Display for SecretTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Exports by a schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScheduleOrder {
    /// How often.
    pub schedule: Schedule,
    /// What is kept of them.
    pub retention: Retention,
}

/// What a protected class asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProtectionOrder {
    /// The exports that are made; none of a class that only restores.
    pub exports: Option<ScheduleOrder>,
    /// What a new volume begins with.
    pub restore: RestorePolicy,
    /// What opens the repository when no sidecar brings it; always there where exports are made.
    pub secret: Option<SecretTemplate>,
    /// How they are made, as a VolumeSnapshotClass says it.
    pub export: ExportOrder,
}

impl ProtectionOrder {
    /// The parameter that asks for exports.
    pub const PROTECT: &'static str = "protect";
    /// The parameter that says what a new volume begins with.
    pub const RESTORE: &'static str = "restore";
    /// The parameter that names the Secret.
    pub const SECRET: &'static str = "repositorySecret";
    const KEEP: [&'static str; 4] = ["keepHourly", "keepDaily", "keepWeekly", "keepMonthly"];

    /// Whether a parameter of this name belongs to a protection.
    pub fn is_parameter(key: &str) -> bool {
        [Self::PROTECT, Self::RESTORE, Self::SECRET].contains(&key) || Self::KEEP.contains(&key) || is_of_export(key)
    }

    /// The parameters that contain it.
    pub fn to_parameters(&self) -> BTreeMap<String, String> {
        let restore = match self.restore {
            RestorePolicy::Never => "never",
            RestorePolicy::LatestOrEmpty => "latestOrEmpty",
            RestorePolicy::LatestOrFail => "latestOrFail",
        };
        let mut parameters = BTreeMap::from([(Self::RESTORE.to_owned(), restore.to_owned())]);
        parameters.extend(self.secret.iter().map(|secret| (Self::SECRET.to_owned(), secret.to_string())));
        let mut made = self.export.parameters();
        made.remove(ExportOrder::ORIGIN);
        let Some(ScheduleOrder { schedule, retention }) = &self.exports else {
            parameters.extend(made.remove_entry(ExportOrder::REPOSITORY));
            return parameters;
        };
        parameters.extend(made);
        parameters.insert(Self::PROTECT.to_owned(), schedule.to_string());
        let counts = [retention.hourly, retention.daily, retention.weekly, retention.monthly];
        parameters.extend(Self::KEEP.into_iter().zip(counts).map(|(key, count)| (key.to_owned(), count.to_string())));
        parameters
    }

    /// The protection that parameters contain; `None` for those of a class without one.
    ///
    /// # Errors
    /// [`ProtectionError`] for a value of no meaning, and for one that means nothing without another.
    pub fn parse(parameters: &BTreeMap<String, String>) -> Result<Option<Self>, ProtectionError> {
        let value = |key: &'static str| parameters.get(key).map(String::as_str);
        let refuse = |key, rule| Err(ProtectionError { key, rule });
        let restore = match value(Self::RESTORE) {
            None | Some("never") => RestorePolicy::Never,
            Some("latestOrEmpty") => RestorePolicy::LatestOrEmpty,
            Some("latestOrFail") => RestorePolicy::LatestOrFail,
            Some(_) => return refuse(Self::RESTORE, "must be `never`, `latestOrEmpty` or `latestOrFail`"),
        };
        let secret = match value(Self::SECRET).map(SecretTemplate::parse) {
            None => None,
            Some(Some(template)) => Some(template),
            Some(None) => {
                let rule = "must be `namespace/name`, in which `${pvc.namespace}` and `${pvc.name}` stand for those of the claim";
                return refuse(Self::SECRET, rule);
            }
        };
        let exports = match value(Self::PROTECT).map(Schedule::parse) {
            None => None,
            Some(None) => {
                return refuse(Self::PROTECT, "must be `hourly`, `daily`, `weekly`, or from `5m` to `7d` with `m`, `h` or `d`");
            }
            Some(Some(_)) if secret.is_none() => {
                return refuse(Self::SECRET, "is required with `protect`: no sidecar brings credentials to a schedule");
            }
            Some(Some(schedule)) => Some(ScheduleOrder { schedule, retention: retention(parameters)? }),
        };
        if exports.is_none() {
            let of_exports = |key: &&&str| parameters.contains_key(**key);
            if let Some(key) = Self::KEEP.iter().find(of_exports) {
                return refuse(key, "means nothing without the parameter `protect`");
            }
            let of_exports = ExportOrder::PARAMETERS.into_iter().filter(|key| *key != ExportOrder::REPOSITORY);
            if let Some(key) = of_exports.filter(|key| is_of_export(key)).find(|key| parameters.contains_key(*key)) {
                return refuse(key, "means nothing without the parameter `protect`");
            }
            if restore == RestorePolicy::Never {
                let lonely = [Self::SECRET, ExportOrder::REPOSITORY].into_iter().find(|key| parameters.contains_key(*key));
                return match lonely {
                    Some(key) => refuse(key, "means nothing without the parameter `protect` or `restore`"),
                    None => Ok(None),
                };
            }
        }
        Ok(Some(Self { exports, restore, secret, export: export(parameters)? }))
    }
}

/// Whether a parameter says how an export is made.
fn is_of_export(key: &str) -> bool {
    key != ExportOrder::ORIGIN && ExportOrder::PARAMETERS.contains(&key)
}

fn retention(parameters: &BTreeMap<String, String>) -> Result<Retention, ProtectionError> {
    let count = |key: &'static str| match parameters.get(key) {
        None => Ok(0),
        Some(text) => plain_number(text)
            .filter(|count| *count <= Retention::MAX)
            .ok_or(ProtectionError { key, rule: "must be a number from 0 to 500" }),
    };
    let [hourly, daily, weekly, monthly] = ProtectionOrder::KEEP;
    let retention = Retention { hourly: count(hourly)?, daily: count(daily)?, weekly: count(weekly)?, monthly: count(monthly)? };
    match retention.hourly + retention.daily + retention.weekly + retention.monthly {
        0 => Err(ProtectionError {
            key: ProtectionOrder::PROTECT,
            rule: "needs at least one of `keepHourly`, `keepDaily`, `keepWeekly` and `keepMonthly`: how many exports are kept",
        }),
        1..=Retention::MAX => Ok(retention),
        _ => Err(ProtectionError {
            key: ProtectionOrder::PROTECT,
            rule: "may keep at most 500 exports of a volume: `keepHourly`, `keepDaily`, `keepWeekly` and `keepMonthly` together",
        }),
    }
}

/// How exports are made. A repository that is to be made is asked for; without a word it must be there.
fn export(parameters: &BTreeMap<String, String>) -> Result<ExportOrder, ProtectionError> {
    let mut ours: BTreeMap<String, String> = BTreeMap::new();
    for (key, value) in parameters.iter().filter(|(key, _)| is_of_export(key)) {
        ours.insert(key.clone(), value.clone());
    }
    ours.entry(ExportOrder::REPOSITORY.to_owned()).or_insert_with(|| RepositoryOrder::Existing.name().to_owned());
    ours.insert(ExportOrder::ORIGIN.to_owned(), ExportOrder::BY_PROTECTION.to_owned());
    let order = ExportOrder::parse(&ours)?;
    order.ok_or(ProtectionError { key: ExportOrder::REPOSITORY, rule: "must be `existing` or `createIfMissing`" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{LocalCopyPolicy, Origin};

    fn parse(entries: &[(&str, &str)]) -> Result<Option<ProtectionOrder>, &'static str> {
        let parameters = entries.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
        ProtectionOrder::parse(&parameters).map_err(|error| error.key)
    }

    fn claim() -> NamespacedName {
        let name = |text: &str| KubernetesName::try_from(text.to_owned()).unwrap();
        NamespacedName { namespace: name("shop"), name: name("data") }
    }

    const HOURLY: [(&str, &str); 3] =
        [("protect", "hourly"), ("keepDaily", "7"), ("repositorySecret", "backup/${pvc.namespace}")];

    fn with<'a>(entry: (&'a str, &'a str)) -> Vec<(&'a str, &'a str)> {
        HOURLY.into_iter().filter(|(key, _)| *key != entry.0).chain([entry]).collect()
    }

    #[test]
    fn a_class_that_protects_says_how_often_what_is_kept_and_who_opens_the_repository() {
        assert_eq!(parse(&[]), Ok(None));
        assert_eq!(parse(&[("restore", "never")]), Ok(None));
        let order = parse(&HOURLY).unwrap().unwrap();
        let exports = order.exports.unwrap();
        assert_eq!(exports.schedule.seconds(), 3600);
        assert_eq!(exports.retention, Retention { daily: 7, ..Retention::default() });
        assert_eq!(order.restore, RestorePolicy::Never);
        assert_eq!(order.export.repository, RepositoryOrder::Existing);
        assert_eq!((order.export.local_copy, order.export.origin), (LocalCopyPolicy::UntilPressure, Origin::Protection));
        let made = parse(&with(("repository", "createIfMissing"))).unwrap().unwrap();
        assert_eq!(made.export.repository, RepositoryOrder::CreateIfMissing);
        let only_restores = parse(&[("restore", "latestOrFail")]).unwrap().unwrap();
        assert_eq!((only_restores.exports.clone(), only_restores.restore), (None, RestorePolicy::LatestOrFail));
        let usual = parse(&with(("localCopy", "drop"))).unwrap().unwrap();
        for order in [usual, made, only_restores] {
            assert_eq!(ProtectionOrder::parse(&order.to_parameters()), Ok(Some(order)));
        }
    }

    #[test]
    fn schedules_are_words_or_numbers_with_a_unit() {
        let seconds = |text| Schedule::parse(text).map(Schedule::seconds);
        assert_eq!(seconds("daily"), Some(86_400));
        assert_eq!(seconds("weekly"), Some(7 * 86_400));
        assert_eq!(seconds("15m"), Some(900));
        assert_eq!(seconds("6h"), Some(6 * 3600));
        for text in ["", "m", "4m", "8d", "+6h", "6", "6H", "1w", "99999999999h", "\u{e4}", "0h"] {
            assert_eq!(seconds(text), None, "{text}");
        }
    }

    #[test]
    fn what_means_nothing_is_refused_by_its_key() {
        for (entry, key) in [
            (("protect", "often"), "protect"),
            (("keepDaily", "0"), "protect"),
            (("keepDaily", "-1"), "keepDaily"),
            (("keepDaily", "501"), "keepDaily"),
            (("keepHourly", "499"), "protect"),
            (("restore", "latest"), "restore"),
            (("repository", "new"), "repository"),
            (("localCopy", "some"), "localCopy"),
            (("repositorySecret", "backup"), "repositorySecret"),
            (("repositorySecret", "backup/${pv.name}"), "repositorySecret"),
            (("repositorySecret", "a/b/c"), "repositorySecret"),
            (("repositorySecret", "/x"), "repositorySecret"),
        ] {
            assert_eq!(parse(&with(entry)), Err(key), "{entry:?}");
        }
        assert_eq!(parse(&HOURLY[..2]), Err("repositorySecret"));
        assert_eq!(parse(&[("keepDaily", "7")]), Err("keepDaily"));
        assert_eq!(parse(&[("restore", "latestOrEmpty"), ("localCopy", "drop")]), Err("localCopy"));
        assert_eq!(parse(&HOURLY[2..]), Err("repositorySecret"));
        assert_eq!(parse(&[("repository", "existing")]), Err("repository"));
        assert!(!ProtectionOrder::is_parameter(ExportOrder::ORIGIN), "no class says who made a snapshot");
    }

    #[test]
    fn a_template_names_one_secret_for_each_claim() {
        let secret = |text: &str| SecretTemplate::parse(text).unwrap().resolve(Some(&claim())).unwrap().to_string();
        assert_eq!(secret("backup/all"), "backup/all");
        assert_eq!(secret("${pvc.namespace}/windlass-${pvc.name}"), "shop/windlass-data");
        let template = SecretTemplate::parse("${pvc.namespace}/windlass").unwrap();
        assert_eq!(template.resolve(None), Err(SecretTemplateError::NoClaim));
        assert_eq!(template.to_string(), "${pvc.namespace}/windlass");
        assert!(SecretTemplate::parse("backup/all").unwrap().resolve(None).is_ok());
        let long = NamespacedName { name: "a".repeat(253).try_into().unwrap(), ..claim() };
        let template = SecretTemplate::parse("backup/w-${pvc.name}").unwrap();
        assert_eq!(template.resolve(Some(&long)), Err(SecretTemplateError::NotAName));
    }
}
