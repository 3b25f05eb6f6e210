//! An index of all that can be found, for a restore that skips damage.
//!
//! Index files that do not read are left out. What they named is not lost with them: each pack has a header that says what lies in it, so
//! the headers are read of packs that no readable index file names. Those are few as a rule, and many only where an index file is gone,
//! damaged or cut: then this does what `restic repair index` does, without writing anything. What is found so is verified like everything
//! else when it is read.
//!
//! **Cost**: a listing of the packs, and a request or two for each that is named nowhere. **Memory**: 40 bytes for each pack.

use std::collections::HashSet;

use futures::StreamExt;

use super::Index;
use super::build::IndexBuilder;
use crate::repository::blob::PackRecord;
use crate::repository::copies::is_of_copy;
use crate::repository::error::RepositoryError;
use crate::repository::id::Id;
use crate::repository::open::Repository;
use crate::repository::pack::{HeaderAtEnd, read_header_of_end};
use crate::repository::store::{Key, Kind, Listed};
use crate::types::error::chain;

/// Index files fetched and parsed at once. Each takes up to 20 MB while it is parsed.
const PARALLEL_FILES: usize = 3;
/// Headers read at once.
const PARALLEL_PACKS: usize = 16;
/// Bytes of a pack's end that are fetched at first: its header is longer only with more than 1,500 blobs.
const END_BYTES: u64 = 64 << 10;

impl Repository {
    /// The index of everything that can be found: in the index files that read, and in the headers of packs that none of those names.
    ///
    /// # Errors
    /// Only when the store fails as a whole.
    pub(crate) async fn load_index_that_reads(&self) -> Result<Index, RepositoryError> {
        let files: Vec<Id> = self.store().list(Kind::Index).await?.into_iter().map(|listed| listed.id).collect();
        let (mut builder, mut named) = (IndexBuilder::new(self.scratch()), HashSet::new());
        let mut loads = futures::stream::iter(files)
            .map(|file| {
                let repository = self.clone();
                async move { (file, repository.records_of(file).await) }
            })
            .buffer_unordered(PARALLEL_FILES);
        while let Some((file, loaded)) = loads.next().await {
            match loaded {
                Ok(records) => {
                    named.extend(records.iter().map(|record| record.id));
                    builder = add(builder, file, records).await?;
                }
                Err(error) if is_of_copy(&error) => {
                    tracing::warn!(file = %Key::File(Kind::Index, file), error = %chain(&error), "an index file does not read; the headers of its packs are read instead");
                }
                Err(error) => return Err(error),
            }
        }
        let packs = self.store().list(Kind::Data).await?;
        let unnamed: Vec<Listed> = packs.into_iter().filter(|listed| !named.contains(&listed.id)).collect();
        if !unnamed.is_empty() {
            tracing::warn!(packs = unnamed.len(), "packs are in no index that reads; their headers are read");
        }
        let mut asked = futures::stream::iter(unnamed)
            .map(|listed| {
                let repository = self.clone();
                async move { (listed.id, repository.contents_of(listed).await) }
            })
            .buffer_unordered(PARALLEL_PACKS);
        while let Some((pack, contents)) = asked.next().await {
            match contents {
                // Under a name of its own, as of an index file about this pack alone.
                Ok(record) => builder = add(builder, pack, vec![record]).await?,
                Err(error) if is_of_copy(&error) => {
                    tracing::warn!(pack = %Key::File(Kind::Data, pack), error = %chain(&error), "the header of a pack that is in no index does not read");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(tokio::task::spawn_blocking(move || builder.into_index()).await??)
    }

    /// What the header of a pack says.
    async fn contents_of(&self, pack: Listed) -> Result<PackRecord, RepositoryError> {
        let (sealer, mut wanted) = (self.sealer(), END_BYTES);
        loop {
            let end = self.read_pack_range(&pack.id, pack.bytes.saturating_sub(wanted)..pack.bytes).await?;
            let damaged = |damage| RepositoryError::damaged(Key::File(Kind::Data, pack.id), damage);
            match read_header_of_end(&sealer, &end, pack.bytes).map_err(damaged)? {
                HeaderAtEnd::Read(blobs) => return Ok(PackRecord { id: pack.id, blobs }),
                // It is never longer than the pack, and is all there the next time.
                HeaderAtEnd::Needs(bytes) => wanted = bytes,
            }
        }
    }
}

async fn add(mut builder: IndexBuilder, file: Id, records: Vec<PackRecord>) -> Result<IndexBuilder, RepositoryError> {
    Ok(tokio::task::spawn_blocking(move || builder.add(file, &records).map(|()| builder)).await??)
}
