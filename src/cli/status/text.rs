//! How a node is, for people: one screen. Pure.

use super::findings::span;
use super::view::{PoolView, TransferView, VolumeView};
use super::whole::Status;
use crate::cli::output::{Align, Table, counted};
use crate::cli::size::ByteSize;

/// The screen.
pub fn render(status: &Status) -> String {
    let mut text = String::new();
    if !status.pools.is_empty() {
        text.push_str(&pools(&status.pools));
    }
    if !status.volumes.is_empty() {
        text.push('\n');
        text.push_str(&volumes(&status.volumes));
    }
    if !status.transfers.is_empty() {
        text.push('\n');
        text.push_str(&transfers(&status.transfers));
    }
    text.push('\n');
    match status.findings.len() as u64 {
        0 => text.push_str("nothing is wrong\n"),
        count => {
            text.push_str(&format!("{} wrong:\n", counted(count, "thing")));
            for found in &status.findings {
                let (what, advice) = (format!("{}: {}", found.about, found.what), printable(&found.advice));
                text.push_str(&format!("* {}\n    {advice}\n", printable(&what)));
            }
        }
    }
    text
}

fn size(bytes: u64) -> String {
    ByteSize::new(bytes).to_string()
}

fn pools(pools: &[PoolView]) -> String {
    let mut table = Table::new(&[
        ("POOL", Align::Left),
        ("STATE", Align::Left),
        ("AVAILABLE", Align::Right),
        ("SIZE", Align::Right),
        ("PROMISED", Align::Left),
        ("HOLDS", Align::Left),
    ]);
    for pool in pools {
        if pool.state == "failed" {
            table.row([named(pool), pool.state.clone()]);
            continue;
        }
        table.row([
            named(pool),
            pool.state.clone(),
            size(pool.available_bytes),
            size(pool.total_bytes),
            format!("{} of at most {} times the size", size(pool.promised_bytes), pool.overprovision_ratio),
            format!("{}, {}", counted(pool.volume_count, "volume"), counted(pool.snapshot_count, "snapshot")),
        ]);
    }
    table.render()
}

fn named(pool: &PoolView) -> String {
    if pool.name.is_empty() { pool.path.clone() } else { pool.name.clone() }
}

fn volumes(volumes: &[VolumeView]) -> String {
    let mut table = Table::new(&[
        ("VOLUME", Align::Left),
        ("SIZE", Align::Right),
        ("SNAPSHOTS", Align::Right),
        ("LAST EXPORT", Align::Left),
        ("EXPORTS", Align::Left),
    ]);
    for volume in volumes {
        let last = match (&volume.last_export, volume.last_export_age_seconds) {
            (Some(at), Some(age)) => format!("{at} ({} ago)", span(age)),
            _ => "never".to_owned(),
        };
        table.row([
            volume.pvc.clone().unwrap_or_else(|| volume.name.clone()),
            size(volume.size_bytes),
            volume.snapshot_count.to_string(),
            last,
            exports(volume),
        ]);
    }
    table.render()
}

/// What becomes of a volume's exports, in a few words.
fn exports(volume: &VolumeView) -> String {
    let counted = |count: u64, what: &str| (count > 0).then(|| format!("{count} {what}"));
    let words = [
        counted(volume.exports_under_way, "under way"),
        counted(volume.exports_failed, "failed"),
        volume.protect.as_ref().map(|schedule| format!("every {schedule}")),
    ];
    words.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn transfers(transfers: &[TransferView]) -> String {
    let mut table = Table::new(&[("TRANSFER", Align::Left), ("OF", Align::Left), ("PHASE", Align::Left), ("DONE", Align::Left)]);
    for transfer in transfers {
        let about = [&transfer.pvc, &transfer.volume_id, &transfer.snapshot_id].into_iter().flatten().next();
        table.row([
            transfer.kind.clone(),
            about.cloned().unwrap_or_default(),
            transfer.phase.clone(),
            format!("{} of {}", size(transfer.done_bytes), size(transfer.total_bytes)),
        ]);
    }
    table.render()
}

/// Texts come from elsewhere: what could move a terminal's cursor is not passed on.
fn printable(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { '?' } else { character }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::status::view::Finding;

    fn status() -> Status {
        let pool = PoolView {
            pool_id: "p".to_owned(),
            name: "fast".to_owned(),
            kind: "thin".to_owned(),
            path: "/dev/sdb".to_owned(),
            state: "ready".to_owned(),
            total_bytes: 10 << 30,
            available_bytes: 4 << 30,
            promised_bytes: 20 << 30,
            overprovision_ratio: "3".to_owned(),
            volume_count: 1,
            snapshot_count: 2,
        };
        let failed = PoolView { name: String::new(), path: "/dev/sdc".to_owned(), state: "failed".to_owned(), ..pool.clone() };
        let volume = VolumeView {
            volume_id: "v".to_owned(),
            name: "pvc-1".to_owned(),
            pvc: Some("shop/data".to_owned()),
            size_bytes: 1 << 30,
            snapshot_count: 2,
            last_export: Some("2026-01-31T23:59:59Z".to_owned()),
            last_export_age_seconds: Some(7200),
            repository_snapshot: None,
            exports_under_way: 1,
            exports_failed: 0,
            protect: Some("60m".to_owned()),
            protect_seconds: Some(3600),
        };
        let transfer = TransferView {
            transfer_id: "t".to_owned(),
            kind: "export".to_owned(),
            pvc: None,
            volume_id: None,
            snapshot_id: Some("s-1".to_owned()),
            phase: "copying".to_owned(),
            done_bytes: 1 << 29,
            total_bytes: 1 << 30,
            waits_for: None,
        };
        Status { pools: vec![pool, failed], volumes: vec![volume], transfers: vec![transfer], findings: Vec::new() }
    }

    #[test]
    fn one_screen_shows_what_there_is() {
        let expected = "\
POOL      STATE   AVAILABLE      SIZE  PROMISED                           HOLDS
fast      ready     4.0 GiB  10.0 GiB  20.0 GiB of at most 3 times the size  1 volume, 2 snapshots
/dev/sdc  failed

VOLUME        SIZE  SNAPSHOTS  LAST EXPORT                     EXPORTS
shop/data  1.0 GiB          2  2026-01-31T23:59:59Z (2 h ago)  1 under way, every 60m

TRANSFER  OF   PHASE    DONE
export    s-1  copying  512.0 MiB of 1.0 GiB

nothing is wrong
";
        let collapse = |text: &str| {
            let lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
            lines.collect::<Vec<_>>().join("\n")
        };
        assert_eq!(collapse(&render(&status())), collapse(expected));
    }

    #[test]
    fn what_is_wrong_is_told_with_what_to_do_and_moves_no_cursor() {
        let found = Finding { about: "pool fast".to_owned(), what: "\u{1b}[31mfull".to_owned(), advice: "grow it".to_owned() };
        let status = Status { pools: Vec::new(), volumes: Vec::new(), transfers: Vec::new(), findings: vec![found] };
        assert_eq!(render(&status), "\n1 thing wrong:\n* pool fast: ?[31mfull\n    grow it\n");
    }
}
