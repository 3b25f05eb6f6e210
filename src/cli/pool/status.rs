//! `windlass pool status`: the pools of a running node, their space and what takes it.

use clap::Args;
use csi_proto::windlass::v1 as windlass;
use serde::Serialize;

use crate::cli::client::Node;
use crate::cli::endpoint::EndpointArgs;
use crate::cli::exit::CliError;
use crate::cli::format::Format;
use crate::cli::output::{Align, Table, counted, print_json, print_text};
use crate::cli::size::ByteSize;

/// Arguments of `pool status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    endpoint: EndpointArgs,
}

/// Prints the state of the node's pools.
///
/// # Errors
/// [`CliError`] when the node cannot be asked.
pub async fn run(args: &StatusArgs, format: Format) -> Result<(), CliError> {
    let pools = Node::connect(&args.endpoint.endpoint()).await?.pools().await?;
    match format {
        Format::Text => print_text(&pools.iter().map(describe).collect::<Vec<_>>().join("\n")),
        Format::Json => print_json(&Pools { pools: pools.iter().map(PoolView::from).collect() }),
    }
}

/// A pool for people: what it is, its space, and a table of what takes it.
fn describe(pool: &windlass::PoolStatus) -> String {
    if pool.state == "failed" {
        let id = if pool.pool_id.is_empty() { "of unknown id" } else { &pool.pool_id };
        let retry = if pool.retry.is_empty() { String::new() } else { format!(" ({})", pool.retry) };
        return format!("pool {id} at {}: failed\n  {}{retry}\n", pool.path, pool.problem);
    }
    let size = |bytes: u64| ByteSize::new(bytes).to_string();
    let available = pool.free_bytes.saturating_sub(pool.reserve_bytes);
    let place = if pool.path.is_empty() { String::new() } else { format!(" at {} ({})", pool.path, pool.filesystem) };
    let mut text = format!(
        "pool {} `{}` {}{place}: {}\n  {} of {} available, {} kept free; {}, {}; {} promised, at most {} times the size\n",
        pool.pool_id,
        pool.name,
        pool.kind,
        pool.state,
        size(available),
        size(pool.total_bytes),
        size(pool.reserve_bytes),
        counted(pool.volume_count, "volume"),
        counted(pool.snapshot_count, "snapshot"),
        size(pool.promised_bytes),
        pool.overprovision_ratio,
    );
    let (anchors, held) = kept(pool, "anchor");
    if anchors > 0 {
        let (kept, hold) = if anchors == 1 { ("snapshot is", "it holds") } else { ("snapshots are", "they hold") };
        text.push_str(&format!(
            "  {anchors} deleted {kept} kept as bases of increments: {hold} {}, given up when space is short\n",
            size(held)
        ));
    }
    let (restores, held) = kept(pool, "restore");
    if restores > 0 {
        let (is_kept, hold) = if restores == 1 { ("restore is", "it holds") } else { ("restores are", "they hold") };
        text.push_str(&format!(
            "  {restores} interrupted {is_kept} kept for the next attempt: {hold} {}, given up when space is short, or after an hour\n",
            size(held)
        ));
    }
    if let Some(thin) = &pool.thin {
        text.push_str(&format!(
            "  metadata: {} of {} used, transaction {}; new volumes are refused at {} %, new snapshots at {} %\n",
            size(thin.metadata_used_bytes),
            size(thin.metadata_total_bytes),
            thin.transaction_id.map_or_else(|| "unknown".to_owned(), |id| id.to_string()),
            thin.metadata_volume_percent,
            thin.metadata_snapshot_percent,
        ));
    }
    if !pool.problem.is_empty() {
        text.push_str(&format!("  {}\n", pool.problem));
    }
    for found in &pool.quarantined {
        text.push_str(&format!("  not ours, left alone: {found}\n"));
    }
    if !pool.objects.is_empty() {
        let mut table = Table::new(&[
            ("KIND", Align::Left),
            ("HANDLE", Align::Left),
            ("NAME", Align::Left),
            ("SIZE", Align::Right),
            ("ALLOCATED", Align::Right),
            ("EXCLUSIVE", Align::Right),
            ("EXTENTS", Align::Right),
            ("KUBERNETES", Align::Left),
        ]);
        for object in &pool.objects {
            table.row([
                object.kind.clone(),
                object.handle.clone(),
                object.name.clone(),
                size(object.size_bytes),
                size(object.allocated_bytes),
                size(object.exclusive_bytes),
                object.extent_count.to_string(),
                known_as(object),
            ]);
        }
        text.push_str(&table.render());
    }
    text
}

/// How many hidden objects of a kind are kept, and what they hold at least that nothing else does, in bytes.
fn kept(pool: &windlass::PoolStatus, kind: &str) -> (usize, u64) {
    let objects = pool.objects.iter().filter(|object| object.kind == kind);
    objects.fold((0, 0), |(count, held), object| (count + 1, held + object.exclusive_bytes))
}

/// What Kubernetes calls an object, as far as it is known: its claim, and the snapshot of it.
fn known_as(object: &windlass::ObjectUsage) -> String {
    let names = [object.pvc.as_str(), object.volume_snapshot.as_str()];
    names.into_iter().filter(|name| !name.is_empty()).collect::<Vec<_>>().join(" ")
}

fn known(name: &str) -> Option<&str> {
    (!name.is_empty()).then_some(name)
}

/// The pools of a node as they are printed.
#[derive(Debug, Serialize)]
struct Pools<'a> {
    pools: Vec<PoolView<'a>>,
}

#[derive(Debug, Serialize)]
struct PoolView<'a> {
    pool_id: &'a str,
    name: &'a str,
    kind: &'a str,
    path: &'a str,
    filesystem: &'a str,
    state: &'a str,
    problem: Option<&'a str>,
    retry: Option<&'a str>,
    total_bytes: u64,
    free_bytes: u64,
    reserve_bytes: u64,
    snapshot_reserve_bytes: u64,
    reserve: &'a str,
    overprovision_ratio: &'a str,
    promised_bytes: u64,
    thin: Option<ThinView>,
    volume_count: u64,
    snapshot_count: u64,
    anchor_count: usize,
    anchor_bytes: u64,
    kept_restore_count: usize,
    kept_restore_bytes: u64,
    quarantined: &'a [String],
    objects: Vec<ObjectView<'a>>,
}

#[derive(Debug, Serialize)]
struct ThinView {
    metadata_total_bytes: u64,
    metadata_used_bytes: u64,
    metadata_volume_percent: u32,
    metadata_snapshot_percent: u32,
    transaction_id: Option<u64>,
}

#[derive(Debug, Serialize)]
struct ObjectView<'a> {
    handle: &'a str,
    name: &'a str,
    kind: &'a str,
    size_bytes: u64,
    allocated_bytes: u64,
    exclusive_bytes: u64,
    extent_count: u64,
    pvc: Option<&'a str>,
    pv: Option<&'a str>,
    volume_snapshot: Option<&'a str>,
    volume_snapshot_content: Option<&'a str>,
}

impl<'a> From<&'a windlass::PoolStatus> for PoolView<'a> {
    fn from(pool: &'a windlass::PoolStatus) -> Self {
        let (anchor_count, anchor_bytes) = kept(pool, "anchor");
        let (kept_restore_count, kept_restore_bytes) = kept(pool, "restore");
        Self {
            pool_id: &pool.pool_id,
            name: &pool.name,
            kind: &pool.kind,
            path: &pool.path,
            filesystem: &pool.filesystem,
            state: &pool.state,
            problem: known(&pool.problem),
            retry: known(&pool.retry),
            total_bytes: pool.total_bytes,
            free_bytes: pool.free_bytes,
            reserve_bytes: pool.reserve_bytes,
            snapshot_reserve_bytes: pool.snapshot_reserve_bytes,
            reserve: &pool.reserve,
            overprovision_ratio: &pool.overprovision_ratio,
            promised_bytes: pool.promised_bytes,
            thin: pool.thin.as_ref().map(ThinView::from),
            volume_count: pool.volume_count,
            snapshot_count: pool.snapshot_count,
            anchor_count,
            anchor_bytes,
            kept_restore_count,
            kept_restore_bytes,
            quarantined: &pool.quarantined,
            objects: pool.objects.iter().map(ObjectView::from).collect(),
        }
    }
}

impl From<&windlass::ThinPoolStatus> for ThinView {
    fn from(thin: &windlass::ThinPoolStatus) -> Self {
        Self {
            metadata_total_bytes: thin.metadata_total_bytes,
            metadata_used_bytes: thin.metadata_used_bytes,
            metadata_volume_percent: thin.metadata_volume_percent,
            metadata_snapshot_percent: thin.metadata_snapshot_percent,
            transaction_id: thin.transaction_id,
        }
    }
}

impl<'a> From<&'a windlass::ObjectUsage> for ObjectView<'a> {
    fn from(object: &'a windlass::ObjectUsage) -> Self {
        Self {
            handle: &object.handle,
            name: &object.name,
            kind: &object.kind,
            size_bytes: object.size_bytes,
            allocated_bytes: object.allocated_bytes,
            exclusive_bytes: object.exclusive_bytes,
            extent_count: object.extent_count,
            pvc: known(&object.pvc),
            pv: known(&object.pv),
            volume_snapshot: known(&object.volume_snapshot),
            volume_snapshot_content: known(&object.volume_snapshot_content),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(pool: &windlass::PoolStatus) -> serde_json::Value {
        serde_json::to_value(PoolView::from(pool)).unwrap()
    }

    #[test]
    fn a_pool_is_described_with_its_space_and_what_takes_it() {
        let pool = windlass::PoolStatus {
            pool_id: "p".to_owned(),
            name: "fast".to_owned(),
            kind: "reflink".to_owned(),
            path: "/srv".to_owned(),
            filesystem: "xfs".to_owned(),
            total_bytes: 10 << 30,
            free_bytes: 5 << 30,
            reserve_bytes: 1 << 30,
            volume_count: 1,
            quarantined: vec!["volumes/lost".to_owned()],
            state: "ready".to_owned(),
            objects: vec![windlass::ObjectUsage { handle: "v-1".to_owned(), name: "data".to_owned(), ..Default::default() }],
            ..Default::default()
        };
        let text = describe(&pool);
        assert!(
            text.starts_with("pool p `fast` reflink at /srv (xfs): ready\n  4.0 GiB of 10.0 GiB available, 1.0 GiB kept"),
            "{text}"
        );
        assert!(text.contains("left alone: volumes/lost\n") && text.contains("v-1"), "{text}");
        assert_eq!(printed(&pool)["objects"][0]["name"], "data");
    }

    #[test]
    fn what_deleted_snapshots_hold_is_said() {
        let anchor = || windlass::ObjectUsage { kind: "anchor".to_owned(), exclusive_bytes: 1 << 20, ..Default::default() };
        let volume = windlass::ObjectUsage { kind: "volume".to_owned(), exclusive_bytes: 1 << 30, ..Default::default() };
        let pool = windlass::PoolStatus { objects: vec![volume, anchor(), anchor()], ..Default::default() };
        assert!(describe(&pool).contains("2 deleted snapshots are kept as bases of increments: they hold 2.0 MiB"));
        assert_eq!(printed(&pool)["anchor_count"], 2);
        assert_eq!(printed(&pool)["anchor_bytes"], 2 << 20);
        assert_eq!(printed(&pool)["kept_restore_count"], 0);
    }

    #[test]
    fn what_interrupted_restores_hold_is_said() {
        let restore = windlass::ObjectUsage { kind: "restore".to_owned(), exclusive_bytes: 1 << 20, ..Default::default() };
        let pool = windlass::PoolStatus { objects: vec![restore], ..Default::default() };
        assert!(describe(&pool).contains("1 interrupted restore is kept for the next attempt: it holds 1.0 MiB"));
        let printed = printed(&pool);
        assert_eq!((&printed["kept_restore_count"], &printed["kept_restore_bytes"]), (&1.into(), &(1 << 20).into()));
    }

    #[test]
    fn a_failed_pool_shows_why_and_no_figures() {
        let pool = windlass::PoolStatus {
            path: "/srv".to_owned(),
            state: "failed".to_owned(),
            problem: "its disk is gone".to_owned(),
            retry: "tried again in 8 s".to_owned(),
            ..Default::default()
        };
        assert_eq!(describe(&pool), "pool of unknown id at /srv: failed\n  its disk is gone (tried again in 8 s)\n");
        assert_eq!(printed(&pool)["retry"], "tried again in 8 s");
    }

    #[test]
    fn a_thin_pool_shows_its_metadata_its_transaction_and_what_is_wrong() {
        let pool = windlass::PoolStatus {
            kind: "thin".to_owned(),
            state: "read-only".to_owned(),
            problem: "stop the node and run `windlass pool repair`".to_owned(),
            thin: Some(windlass::ThinPoolStatus {
                metadata_total_bytes: 16 << 20,
                metadata_used_bytes: 4 << 20,
                metadata_volume_percent: 75,
                metadata_snapshot_percent: 80,
                transaction_id: Some(7),
            }),
            ..Default::default()
        };
        let text = describe(&pool);
        assert!(text.contains("metadata: 4.0 MiB of 16.0 MiB used, transaction 7; new volumes are refused at 75 %"), "{text}");
        assert!(text.contains("\n  stop the node and run"), "{text}");
        let json = printed(&pool);
        assert_eq!(json["thin"]["transaction_id"], 7);
        assert_eq!(json["state"], "read-only");
        assert!(printed(&windlass::PoolStatus::default())["thin"].is_null());
    }
}
