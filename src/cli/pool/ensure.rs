//! `windlass pool ensure`: the pools of a file, as they are wanted on this node.
//!
//! For an init container, or by hand, as often as anybody likes: what is so already is left alone, and said so. For each pool of this
//! node, one after the other:
//!
//! 1. what is not there is made: a pool in a directory, an image file with a file system and a pool in it, a pool on a block device.
//!    Only in an empty directory, under a free name, on a device that carries nothing: nothing is ever written over, whatever the file says;
//! 2. an image that is smaller than wanted grows. One that is larger stays: images do not shrink;
//! 3. what was chosen for the pool is set.
//!
//! A crash between any two leaves what the next call goes on from: an image whose file system is empty gets its pool; a device whose
//! making was interrupted is made anew; a pool that has no volumes yet takes the name that is wanted, since the crash may have been before it was named.
//! A pool with volumes and another name is somebody else's, as far as this command can know, and is refused by both names.
//!
//! A pool that a node serves is changed through that node, if it can be asked, and else left alone. One pool that fails keeps no other
//! from being brought about; what failed is told for each, and the exit code is that of the worst. With `--best-effort` it is told all the
//! same, and the exit code is 0: a node serves those pools that it can, and one bad disk must not keep it from starting.
//!
//! Nothing is ever deleted or shrunk, and no file is read but the one that is named.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use csi_proto::windlass::v1 as windlass;
use serde::Serialize;

use crate::mount::image::Grown;
use crate::mount::system::SystemMounter;
use crate::node::quiesce::MountQuiesce;
use crate::pool::properties::PoolProperties;
use crate::pool::thin::format::{CreateOptions, DevicePaths};
use crate::types::error::chain;
use crate::types::{FsType, PoolId};

use crate::cli::client::Node;
use crate::cli::endpoint::{Endpoint, EndpointArgs};
use crate::cli::exit::{CliError, Exit};
use crate::cli::node_name::node_name;
use crate::cli::open_pool::{self, OpenPool, SERVED};
use crate::cli::output::{Format, print_json, print_text};
use crate::cli::pool_config::{ConfiguredPlace, ConfiguredPool, PoolConfig, config_error};
use crate::cli::size::ByteSize;

/// Arguments of `pool ensure`.
#[derive(Debug, Args)]
pub struct EnsureArgs {
    /// File that says which pools each node has
    #[arg(long, value_name = "FILE")]
    pool_config: PathBuf,
    /// Name of this node [default: the host's name]
    #[arg(long, value_name = "NAME")]
    node_id: Option<String>,
    /// End with exit code 0 whatever becomes of single pools, which is told all the same
    #[arg(long)]
    best_effort: bool,
    #[command(flatten)]
    endpoint: EndpointArgs,
}

/// What became of one pool.
#[derive(Debug)]
struct Outcome {
    id: Option<String>,
    /// What was done, in words; nothing when all was as wanted.
    done: Vec<String>,
    /// What is not as wanted, and stays so without being an error.
    remarks: Vec<String>,
}

/// Brings the pools about.
///
/// # Errors
/// [`Exit::Usage`] for a wrong file; for pools that could not be brought about the exit code of the worst.
pub async fn run(args: EnsureArgs, format: Format) -> Result<(), CliError> {
    let node = node_name(args.node_id.as_deref())?;
    let pools = PoolConfig::read(&args.pool_config)?.of_node(node.as_str());
    let pools = pools.map_err(|error| config_error(&args.pool_config, error))?;
    if !pools.is_empty() {
        open_pool::require_root("cannot make pools")?;
    }
    let endpoint = args.endpoint.endpoint();
    let (mut ensured, mut failures) = (Vec::new(), Vec::new());
    for pool in &pools {
        let result = bring_about(pool, &endpoint).await;
        match format {
            Format::Text => print_text(&line(pool, &result))?,
            Format::Json => ensured.push(EnsuredPool::of(pool, &result)),
        }
        failures.extend(result.err().map(|error| (pool.name.to_string(), error)));
    }
    match format {
        Format::Text if pools.is_empty() => print_text(&format!("no pool is configured for node {}", node.as_str()))?,
        Format::Text => {}
        Format::Json => print_json(&Ensured { node: node.as_str(), pools: ensured })?,
    }
    let Some(failure) = summary(failures, pools.len()) else { return Ok(()) };
    if args.best_effort {
        tracing::warn!(failure = %chain(&failure), "the node serves what it can");
        return Ok(());
    }
    Err(failure)
}

/// One error for all of them, with the code of the worst.
fn summary(failures: Vec<(String, CliError)>, all: usize) -> Option<CliError> {
    let rank = |exit: Exit| match exit {
        Exit::Failed => 3,
        Exit::Refused => 2,
        Exit::NotFound => 1,
        _ => 0,
    };
    let names: Vec<&str> = failures.iter().map(|(name, _)| name.as_str()).collect();
    let what = format!("{} of {all} pools are not as wanted: {}", failures.len(), names.join(", "));
    let (_, worst) = failures.iter().max_by_key(|(_, error)| rank(error.exit()))?;
    let error = CliError::because(worst.exit(), what, chain(worst));
    Some(match worst.advice() {
        Some(advice) => error.advise(advice),
        None => error,
    })
}

fn line(pool: &ConfiguredPool, result: &Result<Outcome, CliError>) -> String {
    let head = format!("{} at {}", pool.name, pool.place.path().display());
    match result {
        Ok(Outcome { id, done, remarks }) => {
            let done = if done.is_empty() { "unchanged".to_owned() } else { done.join("; ") };
            let id = id.as_ref().map(|id| format!(" (pool {id})")).unwrap_or_default();
            let remarks: String = remarks.iter().map(|remark| format!("; {remark}")).collect();
            format!("{head}: {done}{id}{remarks}")
        }
        Err(error) => format!("{head}: not as wanted: {}", chain(error)),
    }
}

/// What became of the pools of a node, as it is printed.
#[derive(Debug, Serialize)]
struct Ensured<'a> {
    node: &'a str,
    pools: Vec<EnsuredPool>,
}

#[derive(Debug, Serialize)]
struct EnsuredPool {
    name: String,
    path: String,
    pool_id: Option<String>,
    done: Vec<String>,
    remarks: Vec<String>,
    error: Option<String>,
    exit_code: u8,
}

impl EnsuredPool {
    fn of(pool: &ConfiguredPool, result: &Result<Outcome, CliError>) -> Self {
        let (outcome, error) = (result.as_ref().ok(), result.as_ref().err());
        Self {
            name: pool.name.as_str().to_owned(),
            path: pool.place.path().to_string_lossy().into_owned(),
            pool_id: outcome.and_then(|outcome| outcome.id.clone()),
            done: outcome.map(|outcome| outcome.done.clone()).unwrap_or_default(),
            remarks: outcome.map(|outcome| outcome.remarks.clone()).unwrap_or_default(),
            error: error.map(|error| chain(error)),
            exit_code: error.map_or(0, |error| error.exit().code()),
        }
    }
}

async fn bring_about(pool: &ConfiguredPool, endpoint: &Endpoint) -> Result<Outcome, CliError> {
    let wanted = pool.clone();
    let made = tokio::task::spawn_blocking(move || on_disk(&wanted)).await;
    let made = made.unwrap_or_else(|error| Err(CliError::because(Exit::Failed, "the pool was not looked at", error)))?;
    match made {
        OnDisk::Done(outcome) => Ok(outcome),
        OnDisk::Served(mut outcome) => {
            through_node(pool, endpoint, &mut outcome).await?;
            Ok(outcome)
        }
    }
}

/// How far it came without asking anybody.
enum OnDisk {
    /// To the end.
    Done(Outcome),
    /// Up to the properties: a node serves the pool.
    Served(Outcome),
}

fn on_disk(pool: &ConfiguredPool) -> Result<OnDisk, CliError> {
    let properties = wanted(pool, &PoolProperties::default());
    let mut outcome = Outcome { id: None, done: Vec::new(), remarks: Vec::new() };
    let made = match &pool.place {
        ConfiguredPlace::Directory(path) => directory(path, &properties)?,
        ConfiguredPlace::Image { path, bytes, file_system } => {
            match image(path, *bytes, *file_system, &properties, &mut outcome) {
                Err(error) if error.advice() == Some(SERVED) => return Ok(OnDisk::Served(outcome)),
                made => made?,
            }
        }
        ConfiguredPlace::Device(path) => device(path, &properties)?,
    };
    if let Some(id) = made {
        outcome.id = Some(id.to_string());
        outcome.done.push("made".to_owned());
        return Ok(OnDisk::Done(outcome));
    }
    let quiesce = Arc::new(MountQuiesce::new(Arc::new(SystemMounter::new())));
    let opened = match OpenPool::open(pool.place.path(), quiesce) {
        Err(error) if error.advice() == Some(SERVED) => return Ok(OnDisk::Served(outcome)),
        opened => opened?,
    };
    let settled = settle(pool, &opened, &mut outcome);
    drop(opened);
    if let ConfiguredPlace::Image { path, .. } = &pool.place
        && let Err(error) = open_pool::close_image(path)
    {
        // As a node leaves it that ends while its volumes are in use.
        tracing::debug!(image = %path.display(), error = %chain(&error), "the image stays mounted");
    }
    settled.map(|()| OnDisk::Done(outcome))
}

fn make_parent(path: &Path) -> Result<(), CliError> {
    let Some(parent) = path.parent() else { return Ok(()) };
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(parent)
        .map_err(|error| CliError::because(Exit::Failed, format!("cannot make the directory {}", parent.display()), error))
}

/// The id of a pool that was made; `None` when one is there.
fn directory(path: &Path, properties: &PoolProperties) -> Result<Option<PoolId>, CliError> {
    if open_pool::directory_holds_pool(path)? {
        return Ok(None);
    }
    make_parent(path)?;
    open_pool::create_in_directory(path, properties).map(Some)
}

fn image(
    path: &Path,
    bytes: u64,
    file_system: FsType,
    properties: &PoolProperties,
    outcome: &mut Outcome,
) -> Result<Option<PoolId>, CliError> {
    let found = match fs::metadata(path) {
        // A file of no bytes is a name that was reserved.
        Ok(found) if found.is_file() && found.len() == 0 => None,
        Ok(found) => Some(found),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(CliError::because(Exit::Failed, format!("cannot look at {}", path.display()), error)),
    };
    let Some(found) = found else {
        make_parent(path)?;
        return open_pool::create_in_image(path, bytes, file_system, properties).map(Some);
    };
    if !found.is_file() {
        return Err(CliError::new(Exit::Refused, format!("{} must be a file, the image of a pool", path.display())));
    }
    let (has, wants) = (ByteSize::new(found.len()), ByteSize::new(bytes));
    if found.len() < bytes {
        let grown = open_pool::grow_image(path, bytes)?;
        let by = if grown == Grown::LeftToItsOwner { ", which the node takes into use" } else { "" };
        outcome.done.push(format!("grown from {has} to {wants}{by}"));
    } else if found.len() > bytes {
        outcome.remarks.push(format!("has {has}, more than the {wants} wanted: images do not shrink"));
    }
    open_pool::complete_image(path, properties)
}

fn device(path: &Path, properties: &PoolProperties) -> Result<Option<PoolId>, CliError> {
    match fs::metadata(path) {
        Ok(found) if found.file_type().is_block_device() => {}
        Ok(_) => return Err(CliError::new(Exit::Refused, format!("{} must be a block device", path.display()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(CliError::new(Exit::NotFound, format!("the device {} is not there", path.display()))
                .advise("see whether the disk is attached; `windlass pool import` lists those that carry a pool"));
        }
        Err(error) => return Err(CliError::because(Exit::Failed, format!("cannot look at {}", path.display()), error)),
    }
    if open_pool::device_holds_pool(path)? {
        return Ok(None);
    }
    open_pool::create_on_devices(&CreateOptions::on(DevicePaths::One(path.to_owned())), properties).map(Some)
}

/// What is to be chosen for a pool that has `found`.
fn wanted(pool: &ConfiguredPool, found: &PoolProperties) -> PoolProperties {
    PoolProperties {
        name: pool.name.clone(),
        overprovision_ratio: pool.overprovision_ratio.unwrap_or(found.overprovision_ratio),
        deleted_space: pool.deleted_space.unwrap_or(found.deleted_space),
        reserve: pool.reserve.unwrap_or(found.reserve),
    }
}

/// What differs, in words.
fn differences(found: &PoolProperties, wanted: &PoolProperties) -> Vec<String> {
    let mut words = Vec::new();
    let mut compare = |what: &str, found: String, wanted: String| {
        if found != wanted {
            words.push(format!("{what} {wanted} (was {found})"));
        }
    };
    compare("name", found.name.to_string(), wanted.name.to_string());
    compare("overprovision ratio", found.overprovision_ratio.to_string(), wanted.overprovision_ratio.to_string());
    compare("reserve", found.reserve.to_string(), wanted.reserve.to_string());
    compare("deleted space", found.deleted_space.to_string(), wanted.deleted_space.to_string());
    words
}

/// Refuses a pool with volumes and another name.
fn check_name(pool: &ConfiguredPool, id: &str, found: &str, holds_anything: bool) -> Result<(), CliError> {
    if found == pool.name.as_str() || !holds_anything {
        return Ok(());
    }
    let what = format!("{} holds the pool `{found}` ({id}), and not `{}`", pool.place.path().display(), pool.name);
    Err(CliError::new(Exit::Refused, what)
        .advise("name another place; or, if it is to be renamed, `windlass pool rename` does that while a node serves it"))
}

fn settle(pool: &ConfiguredPool, opened: &OpenPool, outcome: &mut Outcome) -> Result<(), CliError> {
    let failed =
        |error| CliError::because(Exit::Failed, format!("cannot set up the pool {}", pool.place.path().display()), error);
    let owned = &opened.pool;
    let id = owned.id().to_string();
    let found = owned.properties().map_err(failed)?;
    let holds_anything = !owned.volumes().map_err(failed)?.is_empty() || !owned.snapshots().map_err(failed)?.is_empty();
    check_name(pool, &id, found.name.as_str(), holds_anything)?;
    outcome.id = Some(id);
    let wanted = wanted(pool, &found);
    if wanted != found {
        outcome.done.extend(differences(&found, &wanted));
        owned.set_properties(|properties| *properties = wanted).map_err(failed)?;
    }
    Ok(())
}

/// The properties of a pool that a node serves, set by that node.
async fn through_node(pool: &ConfiguredPool, endpoint: &Endpoint, outcome: &mut Outcome) -> Result<(), CliError> {
    const UNSEEN: &str = "a node serves it, which cannot be asked: what was chosen for it is left as it is";
    let Ok(node) = Node::connect(endpoint).await else {
        outcome.remarks.push(UNSEEN.to_owned());
        return Ok(());
    };
    let place = pool.place.path().to_owned();
    let places = tokio::task::spawn_blocking(move || spellings(&place)).await;
    let places = places.map_err(|error| CliError::because(Exit::Failed, "the pool was not looked at", error))?;
    let is_it = |status: &windlass::PoolStatus| places.iter().any(|place| Path::new(&status.path) == place);
    let Some(status) = node.pools().await?.into_iter().find(|status| is_it(status) && status.state != "failed") else {
        outcome.remarks.push(UNSEEN.to_owned());
        return Ok(());
    };
    check_name(pool, &status.pool_id, &status.name, status.volume_count + status.snapshot_count > 0)?;
    let found = properties_of(&status)
        .ok_or_else(|| CliError::new(Exit::Failed, "the node that serves it is of another release than this command"))?;
    outcome.id = Some(status.pool_id.clone());
    let wanted = wanted(pool, &found);
    if wanted == found {
        return Ok(());
    }
    let request = windlass::SetPoolPropertiesRequest {
        pool_id: status.pool_id,
        name: (wanted.name != found.name).then(|| wanted.name.to_string()),
        overprovision_ratio: (wanted.overprovision_ratio != found.overprovision_ratio)
            .then(|| wanted.overprovision_ratio.to_string()),
        deleted_space: (wanted.deleted_space != found.deleted_space).then(|| wanted.deleted_space.to_string()),
        reserve: (wanted.reserve != found.reserve).then(|| wanted.reserve.to_string()),
    };
    node.set_pool_properties(request).await?;
    outcome.done.extend(differences(&found, &wanted));
    Ok(())
}

/// What was chosen for a pool, as its node tells it; `None` when that is not understood.
fn properties_of(status: &windlass::PoolStatus) -> Option<PoolProperties> {
    Some(PoolProperties {
        name: status.name.parse().ok()?,
        overprovision_ratio: status.overprovision_ratio.parse().ok()?,
        deleted_space: status.deleted_space.parse().ok()?,
        reserve: status.reserve.parse().ok()?,
    })
}

/// The paths by which a node may call the place of a pool: as it was given, by its real name, and where an image is mounted.
fn spellings(path: &Path) -> Vec<PathBuf> {
    let mut spellings = vec![path.to_owned()];
    spellings.extend(path.canonicalize());
    spellings.extend(crate::mount::image::mount_point(path));
    spellings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(fields: &str) -> ConfiguredPool {
        let text = format!(r#"{{"pools":[{{"name":"fast","directory":"/p"{fields}}}]}}"#);
        text.parse::<PoolConfig>().unwrap().of_node("n").unwrap().remove(0)
    }

    #[test]
    fn what_the_file_does_not_say_is_left_as_it_is() {
        let found = PoolProperties {
            name: "fast".parse().unwrap(),
            overprovision_ratio: "3".parse().unwrap(),
            reserve: "5%".parse().unwrap(),
            ..PoolProperties::default()
        };
        assert_eq!(wanted(&pool(""), &found), found);
        let wants = wanted(&pool(r#","reserve":"7%""#), &found);
        assert_eq!(differences(&found, &wants), ["reserve 7% (was 5%)"]);
    }

    #[test]
    fn a_pool_of_another_name_is_refused_unless_nothing_is_in_it() {
        assert!(check_name(&pool(""), "id", "fast", true).is_ok());
        assert!(check_name(&pool(""), "id", "default", false).is_ok());
        let error = check_name(&pool(""), "id-1", "archive", true).unwrap_err();
        assert_eq!(error.exit(), Exit::Refused);
        assert_eq!(error.to_string(), "/p holds the pool `archive` (id-1), and not `fast`");
    }

    #[test]
    fn the_worst_failure_gives_the_exit_code_and_all_are_named() {
        let failure = |exit| CliError::new(exit, "x");
        assert!(summary(Vec::new(), 2).is_none());
        let both = vec![("a".to_owned(), failure(Exit::Refused)), ("b".to_owned(), failure(Exit::NotFound))];
        let error = summary(both, 3).unwrap();
        assert_eq!((error.exit(), chain(&error).as_str()), (Exit::Refused, "2 of 3 pools are not as wanted: a, b: x"));
    }

    #[test]
    fn one_line_says_what_was_done_to_a_pool() {
        let outcome = |done: &[&str], remarks: &[&str]| {
            let texts = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
            Ok(Outcome { id: Some("i".to_owned()), done: texts(done), remarks: texts(remarks) })
        };
        assert_eq!(line(&pool(""), &outcome(&[], &[])), "fast at /p: unchanged (pool i)");
        assert_eq!(line(&pool(""), &outcome(&["a", "b"], &["c"])), "fast at /p: a; b (pool i); c");
        assert_eq!(line(&pool(""), &Err(CliError::new(Exit::Refused, "no"))), "fast at /p: not as wanted: no");
    }
}
