//! `windlass repository forget`.

use clap::Args;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::snapshot_view::SnapshotView;
use crate::cli::exit::{CliError, Exit};
use crate::cli::interruptible::unless;
use crate::cli::output::{Align, Format, Table, counted, print_json, print_text};
use crate::cli::repository_access::{RepositoryArgs, repository_error};
use crate::cli::wait::Wait;
use crate::repository::forget::{self, Count, Filter, Group, GroupBy, Kept, Policy, Span, TagList, Verdict};
use crate::repository::snapshot::LATEST;
use crate::repository::{Id, LockMode, RETRY_LOCK, Repository, RepositoryError, StoredSnapshot};
use crate::types::Timestamp;

/// Arguments of `repository forget`.
#[derive(Debug, Args)]
pub struct ForgetArgs {
    /// Snapshots to forget, by the beginnings of their ids; without any, a policy decides
    #[arg(value_name = "SNAPSHOT", conflicts_with_all = ["policy", "filter", "group_by"])]
    snapshots: Vec<String>,
    #[command(flatten)]
    policy: PolicyArgs,
    #[command(flatten)]
    filter: FilterArgs,
    /// What the snapshots of one group have in common, to each of which the policy is applied: any of host, paths, tags; '' for one group
    #[arg(short, long, value_name = "LIST", default_value = "host,paths")]
    group_by: GroupBy,
    /// Only say what would be forgotten
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// How long locks of others, such as a prune's, are waited for [default: 5m]
    #[arg(long, value_name = "DURATION")]
    retry_lock: Option<Wait>,
    #[command(flatten)]
    repository: RepositoryArgs,
}

/// What is kept. N is a number, or `unlimited`; a DURATION is such as 1y5m7d2h, and counts back from the newest snapshot of a group.
#[derive(Debug, Args)]
#[group(id = "policy", multiple = true)]
struct PolicyArgs {
    /// Keep the newest N snapshots
    #[arg(short = 'l', long, value_name = "N")]
    keep_last: Option<Count>,
    /// Keep the newest snapshot of each of N hours
    #[arg(short = 'H', long, value_name = "N")]
    keep_hourly: Option<Count>,
    /// Keep the newest snapshot of each of N days
    #[arg(short = 'd', long, value_name = "N")]
    keep_daily: Option<Count>,
    /// Keep the newest snapshot of each of N weeks
    #[arg(short = 'w', long, value_name = "N")]
    keep_weekly: Option<Count>,
    /// Keep the newest snapshot of each of N months
    #[arg(short = 'm', long, value_name = "N")]
    keep_monthly: Option<Count>,
    /// Keep the newest snapshot of each of N years
    #[arg(short = 'y', long, value_name = "N")]
    keep_yearly: Option<Count>,
    /// Keep every snapshot within DURATION
    #[arg(long, value_name = "DURATION")]
    keep_within: Option<Span>,
    /// Keep the newest snapshot of each hour within DURATION
    #[arg(long, value_name = "DURATION")]
    keep_within_hourly: Option<Span>,
    /// Keep the newest snapshot of each day within DURATION
    #[arg(long, value_name = "DURATION")]
    keep_within_daily: Option<Span>,
    /// Keep the newest snapshot of each week within DURATION
    #[arg(long, value_name = "DURATION")]
    keep_within_weekly: Option<Span>,
    /// Keep the newest snapshot of each month within DURATION
    #[arg(long, value_name = "DURATION")]
    keep_within_monthly: Option<Span>,
    /// Keep the newest snapshot of each year within DURATION
    #[arg(long, value_name = "DURATION")]
    keep_within_yearly: Option<Span>,
    /// Keep every snapshot that has all these tags; may be given several times
    #[arg(long, value_name = "TAG[,TAG]")]
    keep_tag: Vec<TagList>,
}

/// Which snapshots are considered at all.
#[derive(Debug, Args)]
#[group(id = "filter", multiple = true)]
struct FilterArgs {
    /// Only snapshots that have all these tags; may be given several times
    #[arg(long, value_name = "TAG[,TAG]")]
    tag: Vec<TagList>,
    /// Only snapshots of this host; may be given several times
    #[arg(long)]
    host: Vec<String>,
    /// Only snapshots of this path; if given several times, of all of them
    #[arg(long)]
    path: Vec<String>,
}

impl PolicyArgs {
    fn policy(&self) -> Policy {
        let count = Option::unwrap_or_default;
        let span = Option::unwrap_or_default;
        Policy {
            last: count(self.keep_last),
            newest_of: [self.keep_hourly, self.keep_daily, self.keep_weekly, self.keep_monthly, self.keep_yearly].map(count),
            within: span(self.keep_within),
            newest_of_within: [
                self.keep_within_hourly,
                self.keep_within_daily,
                self.keep_within_weekly,
                self.keep_within_monthly,
                self.keep_within_yearly,
            ]
            .map(span),
            tags: self.keep_tag.clone(),
        }
    }
}

impl FilterArgs {
    fn filter(&self) -> Filter {
        Filter { hosts: self.host.clone(), tags: self.tag.clone(), paths: self.path.clone() }
    }
}

/// Forgets the snapshots that were named, or those that the policy does not keep.
pub async fn run(args: &ForgetArgs, format: Format, interrupt: &CancellationToken) -> Result<(), CliError> {
    let access = args.repository.access()?;
    let failed = |error| repository_error(format!("cannot forget snapshots of {}", access.location()), error);
    let policy = args.policy.policy();
    if args.snapshots.is_empty() && policy.is_empty() {
        return Err(CliError::usage("neither snapshots nor a policy were given, so nothing is forgotten")
            .advise("name snapshots, or say what is kept, such as --keep-daily 7 --keep-weekly 5"));
    }
    if args.snapshots.iter().any(|name| name == LATEST) {
        return Err(CliError::usage(format!("`{LATEST}` may be any volume's: name the snapshot by its id"))
            .advise("`windlass repository snapshots` lists them"));
    }
    let repository = access.open().await?.with_retry_lock(args.retry_lock.map_or(RETRY_LOCK, Wait::duration));
    let locking = async { repository.lock(LockMode::Shared).await.map_err(failed) };
    let lock = unless(interrupt, locking).await?;
    let done = async {
        let groups = if args.snapshots.is_empty() {
            let found = repository.snapshots().await.map_err(failed)?;
            let planned = forget::plan(found, &args.filter.filter(), args.group_by, &policy, Timestamp::now());
            planned.map_err(|error| {
                CliError::because(Exit::Refused, "nothing was forgotten", error).advise("check the tags that are to be kept")
            })?
        } else {
            vec![(Group::default(), named(&repository, &args.snapshots).await.map_err(failed)?)]
        };
        let ids: Vec<_> = groups.iter().flat_map(|(_, verdict)| &verdict.remove).map(|stored| stored.id).collect();
        let forgotten =
            if args.dry_run { Vec::new() } else { repository.forget_all(&ids, &lock, interrupt).await.map_err(failed)? };
        Ok((groups, ids, forgotten))
    };
    let done = done.await;
    lock.let_go(interrupt).await;
    let (groups, ids, forgotten) = done?;
    match format {
        Format::Text => print_text(&text(&groups, ids.len(), (!args.dry_run).then_some(forgotten.len())))?,
        Format::Json => print_json(&Forgotten {
            dry_run: args.dry_run,
            groups: groups.iter().map(GroupView::of).collect(),
            forgotten: forgotten.iter().map(Id::to_string).collect(),
        })?,
    }
    if !args.dry_run && forgotten.len() < ids.len() {
        return Err(CliError::interrupted(format!("interrupted after {} of {} snapshots", forgotten.len(), ids.len()))
            .advise("repeat the command: it goes on where it ended"));
    }
    Ok(())
}

async fn named(repository: &Repository, names: &[String]) -> Result<Verdict, RepositoryError> {
    let mut remove: Vec<StoredSnapshot> = Vec::new();
    for name in names {
        let found = repository.find_snapshot(name).await?;
        if remove.iter().all(|stored| stored.id != found.id) {
            remove.push(found);
        }
    }
    Ok(Verdict { keep: Vec::new(), remove })
}

fn row(stored: &StoredSnapshot, reasons: String) -> [String; 5] {
    let snapshot = &stored.snapshot;
    let time = snapshot.time.get(..19).unwrap_or(&snapshot.time).replace('T', " ");
    [stored.id.short(), time, snapshot.tags.join(","), snapshot.paths.join(","), reasons]
}

fn table(rows: impl Iterator<Item = [String; 5]>) -> String {
    let left = |name| (name, Align::Left);
    let mut table = Table::new(&[left("ID"), left("TIME"), left("TAGS"), left("PATHS"), left("REASONS")]);
    rows.for_each(|row| table.row(row));
    table.render()
}

/// `forgotten` of the snapshots that were to go did; none in a dry run.
fn text(groups: &[(Group, Verdict)], to_go: usize, forgotten: Option<usize>) -> String {
    let mut text = String::new();
    for (group, Verdict { keep, remove }) in groups {
        if !keep.is_empty() {
            let rows = keep.iter().map(|Kept { stored, reasons }| row(stored, reasons.join("; ")));
            text.push_str(&format!("of {group}, keep {}:\n{}\n", counted(keep.len() as u64, "snapshot"), table(rows)));
        }
        if !remove.is_empty() {
            let rows = remove.iter().map(|stored| row(stored, String::new()));
            text.push_str(&format!("forget {}:\n{}\n", counted(remove.len() as u64, "snapshot"), table(rows)));
        }
    }
    text.push_str(&match forgotten {
        _ if to_go == 0 => "nothing is to be forgotten".to_owned(),
        None => format!("{} would be forgotten", counted(to_go as u64, "snapshot")),
        Some(done) => format!("{} forgotten; `windlass repository prune` frees their space", counted(done as u64, "snapshot")),
    });
    text
}

/// What was forgotten, or would be, as it is printed.
#[derive(Debug, Serialize)]
struct Forgotten<'a> {
    dry_run: bool,
    groups: Vec<GroupView<'a>>,
    forgotten: Vec<String>,
}

#[derive(Debug, Serialize)]
struct GroupView<'a> {
    host: &'a str,
    paths: &'a [String],
    tags: &'a [String],
    keep: Vec<KeptView<'a>>,
    remove: Vec<SnapshotView<'a>>,
}

#[derive(Debug, Serialize)]
struct KeptView<'a> {
    snapshot: SnapshotView<'a>,
    matches: &'a [String],
}

impl<'a> GroupView<'a> {
    fn of((group, verdict): &'a (Group, Verdict)) -> Self {
        let kept = |kept: &'a Kept| KeptView { snapshot: SnapshotView::of(&kept.stored), matches: &kept.reasons };
        Self {
            host: &group.host,
            paths: &group.paths,
            tags: &group.tags,
            keep: verdict.keep.iter().map(kept).collect(),
            remove: verdict.remove.iter().map(SnapshotView::of).collect(),
        }
    }
}
