//! `windlass pool adopt`: a pool of files whose catalogue was lost or damaged, taken over again.
//!
//! Without `--confirm` it only shows what it would do. What it does, and why, is in `pool::adopt`.

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::{ArgGroup, Args};
use serde::Serialize;

use crate::pool::adopt::{AdoptOrder, AdoptReport, Decision, Listed, Origin, Unrecorded};
use crate::types::{Object, ObjectName, PoolId, VolumeId};

use crate::cli::exit::{CliError, Exit};
use crate::cli::format::Format;
use crate::cli::open_pool;
use crate::cli::output::{Align, Table, counted, print_json, print_text, utc};
use crate::cli::size::ByteSize;

/// Arguments of `pool adopt`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("place").required(true).args(["directory", "image"])))]
pub struct AdoptArgs {
    /// Directory of the pool
    directory: Option<PathBuf>,
    /// Image file of the pool
    #[arg(long, value_name = "PATH")]
    image: Option<PathBuf>,
    /// Make a record also for this object, which has none; may be repeated
    #[arg(long = "object", value_name = "ID")]
    objects: Vec<String>,
    /// Make a record for every object that has none
    #[arg(long, conflicts_with = "objects")]
    all: bool,
    /// Id of the pool, if neither its catalogue nor the copy tells it: volume handles and the topology label topology.windlass.dev/pool-ID have it
    #[arg(long, value_name = "POOL_ID")]
    pool_id: Option<String>,
    /// Do it; without this, the command only shows what it would do
    #[arg(long)]
    confirm: bool,
}

/// Shows what can be taken over, or takes it over.
///
/// # Errors
/// [`Exit::Refused`] while a node serves the pool, or when there is none; [`Exit::NotFound`] for an object that is not there without a
/// record; [`CliError`].
pub async fn run(args: AdoptArgs, format: Format) -> Result<(), CliError> {
    let order = order(&args)?;
    let work = move || match (&args.directory, &args.image) {
        (Some(directory), _) => open_pool::adopt_directory(directory, &order),
        (None, Some(image)) => open_pool::adopt_image(image, &order),
        (None, None) => Err(CliError::usage("give a directory, or --image PATH")),
    };
    let done = tokio::task::spawn_blocking(work).await;
    let report = done.unwrap_or_else(|error| Err(CliError::because(Exit::Failed, "the pool was not adopted", error)))?;
    if let Some(id) = report.unknown.first() {
        return Err(CliError::new(Exit::NotFound, format!("nothing was changed: no object without a record has the id {id}"))
            .advise("without --object, the command lists those that have none"));
    }
    match format {
        Format::Text => print_text(&describe(&report)),
        Format::Json => print_json(&Adoption::from(&report)),
    }
}

fn order(args: &AdoptArgs) -> Result<AdoptOrder, CliError> {
    let id = |text: &String| {
        let parsed = text.parse::<VolumeId>().map(|id| *id.as_bytes());
        parsed.map_err(|_| CliError::usage(format!("`{text}` is not the id of a volume or snapshot")))
    };
    let unrecorded = match args.objects.as_slice() {
        [] if args.all => Unrecorded::All,
        [] => Unrecorded::LeftAlone,
        ids => Unrecorded::These(ids.iter().map(id).collect::<Result<BTreeSet<_>, _>>()?),
    };
    let pool = args.pool_id.as_ref().map(|text| text.parse::<PoolId>()).transpose();
    Ok(AdoptOrder {
        pool: pool.map_err(|_| CliError::usage("--pool-id: must be the id of a pool"))?,
        unrecorded,
        decision: if args.confirm { Decision::Made } else { Decision::Shown },
    })
}

fn describe(report: &AdoptReport) -> String {
    let mut text = format!("pool {}\n", report.pool);
    text.push_str(&format!("  its catalogue: {}\n", report.catalogue.as_deref().unwrap_or("sound")));
    text.push_str(&format!("  the second copy: {}\n", report.copy.as_deref().unwrap_or("sound")));
    let from = match &report.origin {
        Origin::Catalogue => "the catalogue".to_owned(),
        Origin::Copy(written) => format!("the second copy, written at {}", utc(*written)),
        Origin::Nowhere => "nowhere: only what lies in the pool is known".to_owned(),
    };
    text.push_str(&format!("  records come from {from}\n"));
    let done = report.decision == Decision::Made;
    let lists = [
        (if done { "taken over" } else { "to be taken over" }, &report.kept),
        (if done { "recorded anew" } else { "to be recorded anew" }, &report.adopted),
        ("recorded, and not in the pool: not taken over", &report.missing),
        ("in the pool without a record, and left alone (--all or --object ID records them)", &report.left),
    ];
    for (what, listed) in lists.into_iter().filter(|(_, listed)| !listed.is_empty()) {
        text.push_str(&format!("{what}: {}\n{}", counted(listed.len() as u64, "object"), table(listed)));
    }
    if report.anchors > 0 && report.origin != Origin::Catalogue {
        let anchors = counted(report.anchors as u64, "deleted snapshot");
        text.push_str(&format!("{anchors} kept as bases of increments: given up by the next start\n"));
    }
    text.push_str(match (report.changes(), done) {
        (false, _) => "there is nothing to do",
        (true, false) => "nothing was changed; --confirm does it",
        (true, true) => "done; nothing of it will ever be formatted, and the next export of each volume is a full one",
    });
    text
}

fn table(listed: &[Listed]) -> String {
    let columns = [("KIND", Align::Left), ("ID", Align::Left), ("NAME", Align::Left), ("SIZE", Align::Right), ("", Align::Left)];
    let mut table = Table::new(&columns);
    for one in listed {
        let (kind, id) = kind_and_id(one.object);
        let name = one.name.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string);
        table.row([kind.to_owned(), id, name, ByteSize::new(one.bytes).to_string(), one.note.unwrap_or_default().to_owned()]);
    }
    table.render()
}

fn kind_and_id(object: Object) -> (&'static str, String) {
    match object {
        Object::Volume(id) => ("volume", id.to_string()),
        Object::Snapshot(id) => ("snapshot", id.to_string()),
    }
}

/// An adoption as it is printed.
#[derive(Debug, Serialize)]
struct Adoption<'a> {
    pool_id: String,
    done: bool,
    needed: bool,
    catalogue_problem: Option<&'a str>,
    copy_problem: Option<&'a str>,
    records_from: &'static str,
    copy_written: Option<String>,
    taken_over: Vec<AdoptedObject<'a>>,
    recorded_anew: Vec<AdoptedObject<'a>>,
    missing: Vec<AdoptedObject<'a>>,
    left_alone: Vec<AdoptedObject<'a>>,
    anchors: usize,
}

#[derive(Debug, Serialize)]
struct AdoptedObject<'a> {
    kind: &'static str,
    id: String,
    name: Option<&'a ObjectName>,
    size_bytes: u64,
    note: Option<&'static str>,
}

impl<'a> AdoptedObject<'a> {
    fn of(listed: &'a Listed) -> Self {
        let (kind, id) = kind_and_id(listed.object);
        Self { kind, id, name: listed.name.as_ref(), size_bytes: listed.bytes, note: listed.note }
    }
}

impl<'a> From<&'a AdoptReport> for Adoption<'a> {
    fn from(report: &'a AdoptReport) -> Self {
        let list = |listed: &'a [Listed]| listed.iter().map(AdoptedObject::of).collect();
        let (records_from, copy_written) = match &report.origin {
            Origin::Catalogue => ("catalogue", None),
            Origin::Copy(written) => ("copy", Some(utc(*written))),
            Origin::Nowhere => ("nowhere", None),
        };
        Self {
            pool_id: report.pool.to_string(),
            done: report.decision == Decision::Made,
            needed: report.changes(),
            catalogue_problem: report.catalogue.as_deref(),
            copy_problem: report.copy.as_deref(),
            records_from,
            copy_written,
            taken_over: list(&report.kept),
            recorded_anew: list(&report.adopted),
            missing: list(&report.missing),
            left_alone: list(&report.left),
            anchors: report.anchors,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: AdoptArgs,
    }

    fn parsed(line: &str) -> Result<AdoptOrder, CliError> {
        order(&Line::try_parse_from(format!("adopt {line}").split_whitespace()).unwrap().args)
    }

    #[test]
    fn nothing_is_done_and_nothing_adopted_unless_it_is_said() {
        let order = parsed("/srv/pool").unwrap();
        assert_eq!((order.decision, order.unrecorded), (Decision::Shown, Unrecorded::LeftAlone));
        let (one, pool) = (VolumeId::random(), PoolId::random());
        let order = parsed(&format!("--image /srv/i --object {one} --pool-id {pool} --confirm")).unwrap();
        assert_eq!((order.decision, order.pool), (Decision::Made, Some(pool)));
        assert_eq!(order.unrecorded, Unrecorded::These(BTreeSet::from([*one.as_bytes()])));
        assert_eq!(parsed("/srv/pool --all").unwrap().unrecorded, Unrecorded::All);
    }

    #[test]
    fn ids_that_cannot_be_are_usage_errors() {
        for line in ["/srv/pool --object x", "/srv/pool --pool-id x"] {
            assert_eq!(parsed(line).unwrap_err().exit(), Exit::Usage, "{line}");
        }
    }
}
