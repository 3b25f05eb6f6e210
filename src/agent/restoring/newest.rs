//! What the volume of a protected class begins with: the newest export of its claim.
//!
//! A CreateVolume without a content source, of a class with `restore: latestOrEmpty` or `latestOrFail`, is a restore of the newest snapshot in
//! the repository that bears the tag of the claim's namespace and name (`pvc=`), and the handle of a snapshot. The repository is opened by
//! the provisioner's secret, or by the one that the class names.
//!
//! * The choice is made once, by the transfer, before it makes its target; calls find the transfer by the volume's name, so an export that
//!   gets there meanwhile changes nothing. The volume's record says which snapshot it was made of.
//! * "None" is said only of a repository that was opened, and of which every snapshot was read. A place without a repository is an error
//!   unless the class says that one is to be made: then it is made, as exports make it, which fails where the place cannot be seen. So
//!   nothing is taken for empty because it is not visible.
//! * Without any export, `latestOrEmpty` lets the layer below make an empty volume, and `latestOrFail` is FAILED_PRECONDITION, which the
//!   provisioner tells in an event and asks again.
//!
//! **Never**: a volume that exists is restored over: its name is looked for first, and where that cannot be done the call is UNAVAILABLE.

use std::collections::HashMap;

use csi_proto::csi::v1 as proto;
use csi_proto::windlass::v1::RestoreResult;
use tonic::{Code, Status};

use crate::agent::events::{Event, EventObject, EventReason, Repetition};
use crate::agent::exporting::open_or_make;
use crate::agent::protecting::{NamedSecretError, read_named};
use crate::agent::secrets::RepositorySecret;
use crate::agent::transfers::context::Context;
use crate::agent::transfers::registry::{TransferFailure, TransferResult};
use crate::agent::transfers::restore::{RestoreOrder, Wish};
use crate::agent::transfers::{message, status};
use crate::csi::validate::parameters;
use crate::repository::time::rfc3339;
use crate::repository::tree::FileSelector;
use crate::repository::{Id, RepositoryError, SnapshotChoice, StoredSnapshot};
use crate::transfer::image::{Image, Locking};
use crate::transfer::{OnDamage, Reading};
use crate::types::{NamespacedName, ProtectionOrder, RestorePolicy, SnapshotHandle};

/// What a claim is told without an export.
pub(super) const EMPTY: &str = "restore: the repository has no export of the claim, so its volume begins empty";

/// The newest export of a claim, as a class asks for it.
pub(in crate::agent) struct Newest {
    pub(super) claim: NamespacedName,
    pub(super) order: ProtectionOrder,
}

/// Refuses a class that is to be protected where nobody could.
///
/// # Errors
/// FAILED_PRECONDITION.
pub(super) fn check_protection(context: &Context, request: &proto::CreateVolumeRequest) -> Result<(), Status> {
    // What is wrong with the parameters is for the layer below to say.
    let order = parameters::volume(&request.parameters).ok().and_then(|parameters| parameters.protection);
    match order {
        Some(order) if order.exports.is_some() && context.secrets.is_none() => {
            let reason = NamedSecretError::NoSource;
            Err(Status::failed_precondition(format!("parameters.{}: {reason}", ProtectionOrder::PROTECT)))
        }
        _ => Ok(()),
    }
}

/// What the class of a request wants it to begin with; `None` for one that restores nothing, and for a request with a content source.
pub(super) fn wanted(request: &proto::CreateVolumeRequest) -> Option<Newest> {
    let parameters = parameters::volume(&request.parameters).ok()?;
    let (order, claim) = (parameters.protection?, parameters.kubernetes.claim?);
    let restores = order.restore != RestorePolicy::Never && request.volume_content_source.is_none();
    restores.then_some(Newest { claim, order })
}

/// The repository of a restore: by what the provisioner brings, else by the Secret that the class names.
///
/// # Errors
/// INVALID_ARGUMENT for secrets that open nothing; FAILED_PRECONDITION without any; UNAVAILABLE when the Secret cannot be read now.
pub(super) async fn secret(
    context: &Context,
    newest: &Newest,
    secrets: HashMap<String, String>,
) -> Result<RepositorySecret, Status> {
    let invalid = |error: &dyn std::fmt::Display| Status::invalid_argument(error.to_string());
    if !secrets.is_empty() {
        return RepositorySecret::parse(secrets).map_err(|error| invalid(&error));
    }
    let Some(template) = &newest.order.secret else {
        return Err(Status::failed_precondition(
            "secrets: the StorageClass must name the provisioner secret that opens the repository, or a repositorySecret",
        ));
    };
    let name = template.resolve(Some(&newest.claim)).map_err(|error| invalid(&error))?;
    let read = read_named(context, &name).await.map_err(|error| {
        let code = match error {
            NamedSecretError::Unreachable(_) => Code::Unavailable,
            NamedSecretError::NoSource | NamedSecretError::NotFound(_) | NamedSecretError::Forbidden(_) => {
                Code::FailedPrecondition
            }
        };
        Status::new(code, format!("parameters.{}: {error}", ProtectionOrder::SECRET))
    })?;
    RepositorySecret::parse(read).map_err(|error| Status::failed_precondition(error.to_string()))
}

/// The transfer. Its result names no volume when there was nothing to restore.
pub(super) async fn run(
    context: Context,
    secret: RepositorySecret,
    newest: Newest,
    mut order: RestoreOrder,
) -> Result<TransferResult, TransferFailure> {
    let (cancel, progress) = (order.cancel.clone(), order.progress.clone());
    let opening = async {
        let opened = open_or_make(&context, order.pool.id, &secret, newest.order.export.repository, &progress).await;
        let repository = opened.map_err(|ended| ended.failure)?;
        let repository = message::locked_for(&context, order.pool.id, repository, None);
        let told = |error: RepositoryError| status::late(&status::repository(&error));
        let Some(chosen) = choose(&repository.snapshots().await.map_err(told)?, &newest.claim) else { return Ok(None) };
        let choice = SnapshotChoice::from(&chosen.id.to_string());
        let reading = Reading { locking: Locking::Shared, on_damage: OnDamage::Fail };
        let waiting = |reason: &RepositoryError| progress.waits_for(Some(reason.to_string()));
        let image = Image::open_or_wait(&repository, choice, &FileSelector::Only, reading, &waiting).await;
        progress.waits_for(None);
        Ok(Some((image.map_err(told)?, chosen)))
    };
    let opened = cancel.run_until_cancelled(opening).await.ok_or(TransferFailure::Cancelled)?;
    let Some((image, chosen)) = opened? else { return nothing(&newest) };
    let Chosen { handle, taken, .. } = chosen;
    tracing::info!(claim = %newest.claim, snapshot = %handle, taken, "a new volume begins with the newest export of its claim");
    if let Wish::Claimed(claim) = &mut order.wish {
        claim.source = Some(handle);
    }
    let result = order.run(image).await?;
    let text = format!("the volume begins with the newest export of its claim, which was cut at {taken} (snapshot {handle})");
    let object = EventObject::Claim(newest.claim);
    let reason = EventReason::RestoreFinished;
    context.events.publish(Event { object, reason, text, repetition: Repetition::OfText });
    Ok(result)
}

/// The export that is restored.
#[derive(Debug, PartialEq, Eq)]
struct Chosen {
    /// In the repository.
    id: Id,
    /// What was exported.
    handle: SnapshotHandle,
    /// When it was cut, for people.
    taken: String,
}

/// What it means that a repository has no export of a claim.
fn nothing(newest: &Newest) -> Result<TransferResult, TransferFailure> {
    match newest.order.restore {
        RestorePolicy::LatestOrEmpty | RestorePolicy::Never => {
            tracing::info!(claim = %newest.claim, "the repository has no export of the claim: its volume begins empty");
            Ok(TransferResult::Restore(RestoreResult::default()))
        }
        RestorePolicy::LatestOrFail => Err(TransferFailure::Failed {
            code: Code::FailedPrecondition,
            reason: format!(
                "parameters.{}: the repository has no export of {}, and the class lets no volume begin empty (latestOrFail)",
                ProtectionOrder::RESTORE,
                newest.claim
            ),
        }),
    }
}

/// The newest of the `snapshots`, which are in the order of their times, that is an export of the claim.
fn choose(snapshots: &[StoredSnapshot], claim: &NamespacedName) -> Option<Chosen> {
    let tag = format!("pvc={claim}");
    let of_claim = snapshots.iter().rev().filter(|stored| stored.snapshot.tags.contains(&tag));
    let chosen = |stored: &StoredSnapshot| {
        let mut tags = stored.snapshot.tags.iter();
        let handle = tags.find_map(|tag| tag.strip_prefix("handle=")?.parse().ok())?;
        Some(Chosen { id: stored.id, handle, taken: rfc3339(stored.snapshot.taken()?) })
    };
    of_claim.filter_map(chosen).next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{PoolId, SnapshotId};

    fn stored(number: u8, tags: &[&str]) -> StoredSnapshot {
        let json = serde_json::json!({
            "time": format!("2026-01-01T00:00:{number:02}Z"), "tree": Id::of(b"tree").to_string(), "paths": ["/v"], "tags": tags,
        });
        StoredSnapshot { id: Id::of(&[number]), snapshot: serde_json::from_value(json).unwrap() }
    }

    #[test]
    fn the_newest_export_of_exactly_this_claim_is_chosen() {
        let handle = SnapshotHandle { pool: PoolId::random(), snapshot: SnapshotId::random() };
        let tag = format!("handle={handle}");
        let snapshots = [
            stored(1, &["pvc=shop/data", &tag]),
            stored(2, &["pvc=shop/data", &tag, "made-by=protection"]),
            stored(3, &["pvc=shop/data"]),
            stored(4, &["pvc=shop/data", "handle=mine"]),
            stored(5, &["pvc=shop/database", &tag]),
            stored(6, &["pvc=other-shop/data", &tag]),
        ];
        let claim = |text: &str| {
            let (namespace, name) = text.split_once('/').unwrap();
            NamespacedName { namespace: namespace.to_owned().try_into().unwrap(), name: name.to_owned().try_into().unwrap() }
        };
        let chosen = |text| choose(&snapshots, &claim(text)).map(|chosen| (chosen.id, chosen.handle));
        assert_eq!(chosen("shop/data"), Some((Id::of(&[2]), handle)));
        assert_eq!(chosen("other-shop/data"), Some((Id::of(&[6]), handle)));
        assert!(choose(&snapshots, &claim("shop/data")).is_some_and(|chosen| chosen.taken.starts_with("2026-01-01T00:00:02")));
        assert_eq!(choose(&snapshots, &claim("other/data")), None);
        assert_eq!(choose(&[], &claim("shop/data")), None);
    }
}
