//! A bucket as a store.
use super::StoreError;
use crate::repository::environment::Environment;
use crate::repository::location::S3Location;
/// A bucket.
#[derive(Debug)]
pub struct S3Store(());
impl S3Store {
    /// The store at `location`.
    ///
    /// # Errors
    /// [`StoreError::Configuration`].
    pub fn connect(location: &S3Location, environment: &Environment) -> Result<Self, StoreError> {
        let _ = (location, environment);
        unimplemented!()
    }
}
impl super::Store for S3Store {
    fn prepare(&self) -> futures::future::BoxFuture<'_, Result<(), super::StoreError>> {
        unimplemented!()
    }
    fn put(
        &self,
        _: super::Key,
        _: bytes::Bytes,
        _: super::PutMode,
    ) -> futures::future::BoxFuture<'_, Result<(), super::StoreError>> {
        unimplemented!()
    }
    fn get(&self, _: super::Key) -> futures::future::BoxFuture<'_, Result<bytes::Bytes, super::StoreError>> {
        unimplemented!()
    }
    fn get_range(
        &self,
        _: super::Key,
        _: std::ops::Range<u64>,
    ) -> futures::future::BoxFuture<'_, Result<bytes::Bytes, super::StoreError>> {
        unimplemented!()
    }
    fn list(&self, _: super::Kind) -> futures::future::BoxFuture<'_, Result<Vec<super::Listed>, super::StoreError>> {
        unimplemented!()
    }
    fn size(&self, _: super::Key) -> futures::future::BoxFuture<'_, Result<Option<u64>, super::StoreError>> {
        unimplemented!()
    }
    fn delete(&self, _: super::Key) -> futures::future::BoxFuture<'_, Result<(), super::StoreError>> {
        unimplemented!()
    }
}
