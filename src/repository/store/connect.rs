//! The store at a location, with the layers that the product puts around it.

use std::sync::Arc;

use super::contract::Store;
use super::counted::CountedStore;
use super::error::StoreError;
use super::http::Limits;
use super::local::LocalStore;
use super::patient::{Patient, PatientStore};
use super::retry::Patience;
use super::{azure, gcs, s3};
use crate::repository::environment::Environment;
use crate::repository::location::Location;
use crate::telemetry::metrics::StoreMetrics;

/// The store at `location`, with the credentials in `environment`. Nothing is read or written yet.
///
/// # Errors
/// [`StoreError::Configuration`] when the location cannot be used with these credentials.
pub fn connect(location: &Location, environment: &Environment) -> Result<Arc<dyn Store>, StoreError> {
    connect_with(location, environment, Endurance::default())
}

/// How a store behind a network is waited for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Endurance {
    /// How long a call that fails is repeated.
    pub patience: Patience,
    /// How long one request may take.
    pub limits: Limits,
}

/// As [`connect`], with other limits than a product has.
pub fn connect_with(location: &Location, environment: &Environment, endurance: Endurance) -> Result<Arc<dyn Store>, StoreError> {
    connect_at(location, environment, endurance, None)
}

/// As [`connect`], with calls that are counted in `metrics`.
///
/// # Errors
/// As for [`connect`].
pub fn connect_counted(
    location: &Location,
    environment: &Environment,
    metrics: &StoreMetrics,
) -> Result<Arc<dyn Store>, StoreError> {
    let patient = Patient::new(Endurance::default().patience).counting_in(metrics.clone());
    let store = connect_by(location, environment, Arc::new(patient), Limits::default(), None)?;
    Ok(Arc::new(CountedStore::new(store, metrics.clone())))
}

/// As [`connect_with`]. `endpoint` is the address of a server that stands for Google's or Azure's.
pub(super) fn connect_at(
    location: &Location,
    environment: &Environment,
    endurance: Endurance,
    endpoint: Option<&str>,
) -> Result<Arc<dyn Store>, StoreError> {
    connect_by(location, environment, Arc::new(Patient::new(endurance.patience)), endurance.limits, endpoint)
}

fn connect_by(
    location: &Location,
    environment: &Environment,
    patient: Arc<Patient>,
    limits: Limits,
    endpoint: Option<&str>,
) -> Result<Arc<dyn Store>, StoreError> {
    let bucket = match location {
        Location::Local(path) => return Ok(Arc::new(LocalStore::new(path.clone()))),
        Location::S3(s3) => s3::connect(s3, environment, limits, Arc::clone(&patient))?,
        Location::Gcs(gcs) => gcs::connect(gcs, environment, limits, Arc::clone(&patient), endpoint)?,
        Location::Azure(azure) => azure::connect(azure, environment, limits, Arc::clone(&patient), endpoint)?,
    };
    Ok(Arc::new(PatientStore::new(Arc::new(bucket), patient)))
}
