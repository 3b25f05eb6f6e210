//! A store in memory, for tests.
/// Objects in memory.
#[derive(Debug, Default)]
pub struct MemoryStore(());
impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }
}
impl super::Store for MemoryStore {
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
