//! Reads any range of an image in a repository without restoring it: to look into a backup, or to serve one as a device.
//!
//! A read plans the blobs that its range touches, fetches those it does not have (neighbours in a pack together), opens and verifies
//! each as a restore does, and copies out of them. Blobs that were opened last are kept, up to [`CACHE_BYTES`], since small reads
//! follow one another. Zeros are not fetched.
//!
//! **All or an error**: a read returns every byte asked for, authenticated and hashed to its blob's id, or an error that names what is
//! wrong. **Cancellation**: the future may be dropped. Reads may run at the same time; each holds the bytes of one request and one
//! blob beyond the caller's buffer.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use super::image::Image;
use super::restore::plan::{Lost, PlanError, Request, RestorePlan};
use crate::repository::copies::is_of_copy;
use crate::repository::pack::open_blob;
use crate::repository::{BlobKind, Damage, Id, RepositoryError};
use crate::types::ByteRange;

/// Bytes of opened blobs that are kept: some of the largest chunks there are.
pub const CACHE_BYTES: usize = 32 << 20;
/// Bytes that one request fetches, unless a single blob is longer.
const REQUEST_BYTES: u64 = 8 << 20;

/// Why a range was not read.
#[derive(Debug, thiserror::Error)]
pub enum ReadImageError {
    #[error("the image has {image_bytes} bytes; {length} at {offset} were asked for")]
    OutOfRange { image_bytes: u64, offset: u64, length: u64 },
    /// The list of blobs makes no whole image.
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error("blob {blob} in pack {pack} is damaged")]
    Damaged {
        blob: Id,
        pack: Id,
        #[source]
        damage: Damage,
    },
    /// The repository or its store failed; the error names the object.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
}

impl ReadImageError {
    /// Whether another copy of the blobs may read.
    fn is_of_copy(&self) -> bool {
        match self {
            Self::Damaged { .. } => true,
            Self::Repository(error) => is_of_copy(error),
            Self::OutOfRange { .. } | Self::Plan(_) => false,
        }
    }
}

/// An image that is read at random.
pub struct ImageReader {
    image: Image,
    plan: Arc<RestorePlan>,
    cache: Mutex<Cache>,
}

impl ImageReader {
    /// Begins to read `image`; looks all of its blobs up once.
    ///
    /// # Errors
    /// [`ReadImageError::Plan`] when a blob is missing or the sizes disagree; [`ReadImageError::Repository`] when it is locked.
    pub async fn open(mut image: Image) -> Result<Self, ReadImageError> {
        loop {
            let (index, content, bytes) = (Arc::clone(&image.index), image.content.clone(), image.size_bytes);
            let planned = tokio::task::spawn_blocking(move || {
                let locate = move |id: &Id| index.get(BlobKind::Data, id);
                RestorePlan::new(content, bytes, bytes, Lost::Refuse, Box::new(locate))
            });
            let (planned, confirmed) = tokio::join!(planned, image.confirm_lock());
            match confirmed {
                Ok(()) => {
                    let plan = Arc::new(planned.map_err(RepositoryError::from)??);
                    return Ok(Self { image, plan, cache: Mutex::default() });
                }
                Err(excluded) => image.begin_anew(excluded, &|_| {}).await?,
            }
        }
    }

    pub fn size_bytes(&self) -> u64 {
        self.image.size_bytes
    }

    /// The image, to be closed when no more is read.
    pub fn into_image(self) -> Image {
        self.image
    }

    /// Fills `buffer` from `offset` on.
    ///
    /// # Errors
    /// `buffer` then holds nothing of use.
    pub async fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), ReadImageError> {
        let (image_bytes, length) = (self.size_bytes(), buffer.len() as u64);
        if offset.checked_add(length).is_none_or(|end| end > image_bytes) {
            return Err(ReadImageError::OutOfRange { image_bytes, offset, length });
        }
        let Some(range) = ByteRange::new(offset, length) else { return Ok(()) };
        buffer.fill(0);
        let plan = Arc::clone(&self.plan);
        let window = tokio::task::spawn_blocking(move || plan.window_of(range)).await.map_err(RepositoryError::from)??;
        for request in window.requests(REQUEST_BYTES) {
            for (position, blob) in self.blobs(request).await? {
                copy(range, buffer, position, &blob);
            }
        }
        Ok(())
    }

    /// The blobs of a request with the places they go to. Those that are kept are not fetched.
    async fn blobs(&self, request: Request) -> Result<Vec<(u64, Arc<Vec<u8>>)>, ReadImageError> {
        match self.kept(&request) {
            Some(placed) => Ok(placed),
            None => match self.fetch(request.clone()).await {
                Err(error) if error.is_of_copy() => self.fetch_one_by_one(&request).await,
                fetched => fetched,
            },
        }
    }

    /// The same, when one of them did not read: each from the first copy that does.
    async fn fetch_one_by_one(&self, request: &Request) -> Result<Vec<(u64, Arc<Vec<u8>>)>, ReadImageError> {
        let (mut placed, image) = (Vec::new(), &self.image);
        let wanted: Vec<_> = request.blobs().map(|blob| (blob.id, blob.location, blob.positions().collect::<Vec<_>>())).collect();
        for (id, location, positions) in wanted {
            let plain = Arc::new(image.repository.read_blob(&image.index, BlobKind::Data, &id).await?);
            if plain.len() as u64 != u64::from(location.plain_length()) {
                return Err(ReadImageError::Damaged { blob: id, pack: location.pack, damage: Damage::TooShort });
            }
            placed.extend(positions.into_iter().map(|position| (position, Arc::clone(&plain))));
            self.cache().put(id, plain);
        }
        Ok(placed)
    }

    fn kept(&self, request: &Request) -> Option<Vec<(u64, Arc<Vec<u8>>)>> {
        let (mut placed, mut cache) = (Vec::new(), self.cache());
        for blob in request.blobs() {
            let kept = cache.get(&blob.id)?;
            placed.extend(blob.positions().map(|position| (position, Arc::clone(&kept))));
        }
        Some(placed)
    }

    async fn fetch(&self, request: Request) -> Result<Vec<(u64, Arc<Vec<u8>>)>, ReadImageError> {
        let repository = &self.image.repository;
        let bytes = repository.read_pack_range(&request.pack, request.bytes.clone()).await?;
        let sealer = repository.sealer();
        let opened = tokio::task::spawn_blocking(move || {
            let (mut placed, mut opened) = (Vec::new(), Vec::new());
            for blob in request.blobs() {
                let damaged = |damage| ReadImageError::Damaged { blob: blob.id, pack: blob.location.pack, damage };
                let from = (u64::from(blob.location.offset) - request.bytes.start) as usize;
                let sealed = bytes.get(from..from + blob.location.length as usize).ok_or_else(|| damaged(Damage::TooShort))?;
                let mut plain = Vec::new();
                open_blob(&sealer, &blob.id, &blob.location, &mut sealed.to_vec(), &mut plain).map_err(damaged)?;
                if plain.len() as u64 != u64::from(blob.location.plain_length()) {
                    return Err(damaged(Damage::TooShort));
                }
                let plain = Arc::new(plain);
                placed.extend(blob.positions().map(|position| (position, Arc::clone(&plain))));
                opened.push((blob.id, plain));
            }
            Ok((placed, opened))
        });
        let (placed, opened) = opened.await.map_err(RepositoryError::from)??;
        let mut cache = self.cache();
        opened.into_iter().for_each(|(id, plain)| cache.put(id, plain));
        Ok(placed)
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, Cache> {
        // No code panics while it holds the lock.
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Copies what of the blob at `position` lies in `range` to its place in `buffer`, which is the range.
fn copy(range: ByteRange, buffer: &mut [u8], position: u64, blob: &[u8]) {
    let Some(part) = ByteRange::new(position, blob.len() as u64).and_then(|whole| whole.intersection(range)) else { return };
    let to = (part.offset() - range.offset()) as usize;
    let from = (part.offset() - position) as usize;
    let length = part.length() as usize;
    buffer[to..to + length].copy_from_slice(&blob[from..from + length]);
}

/// The blobs that were used last, the newest at the end. They are few, so the search is linear.
#[derive(Default)]
struct Cache {
    blobs: VecDeque<(Id, Arc<Vec<u8>>)>,
    bytes: usize,
}

impl Cache {
    fn get(&mut self, id: &Id) -> Option<Arc<Vec<u8>>> {
        let at = self.blobs.iter().position(|(kept, _)| kept == id)?;
        let blob = self.blobs.remove(at)?;
        let plain = Arc::clone(&blob.1);
        self.blobs.push_back(blob);
        Some(plain)
    }

    fn put(&mut self, id: Id, plain: Arc<Vec<u8>>) {
        if self.get(&id).is_some() {
            return;
        }
        self.bytes += plain.len();
        self.blobs.push_back((id, plain));
        while self.bytes > CACHE_BYTES {
            let Some((_, oldest)) = self.blobs.pop_front() else { break };
            self.bytes -= oldest.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_keeps_what_was_used_last_within_its_bound() {
        let mut cache = Cache::default();
        let blob = |number: u8| (Id::of(&[number]), Arc::new(vec![number; CACHE_BYTES / 4]));
        for number in 0..4 {
            let (id, plain) = blob(number);
            cache.put(id, plain);
        }
        assert!(cache.get(&blob(0).0).is_some());
        cache.put(blob(4).0, blob(4).1);
        let kept: Vec<_> = (0..5).map(|number| cache.get(&blob(number).0).is_some()).collect();
        assert_eq!(kept, [true, false, true, true, true]);
        assert_eq!(cache.bytes, CACHE_BYTES);
    }
}
