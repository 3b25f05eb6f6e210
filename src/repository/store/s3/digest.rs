//! Digests that need not be computed: an object's name is its SHA-256, and a request of S3 carries the same digest, in its signature and
//! as the checksum that the store verifies.
//!
//! `object_store` asks a provider for digests and does not say of what. So a put says to the task which bytes it is about to hand
//! over and what their digest is ([`of`]), and the provider answers with it when it is asked about that very memory. Everything else
//! is computed. Bytes that changed after they were named no longer match the name, and the store refuses them.

use std::future::Future;

use aws_lc_rs::{digest, hmac};
use bytes::Bytes;
use object_store::client::{CryptoProvider, DigestAlgorithm, DigestContext, HmacContext, Signer, SigningAlgorithm};

use crate::repository::store::key::Key;

tokio::task_local! {
    static KNOWN: Known;
}

/// Bytes, kept alive so that no others come to lie where they are, and their digest.
struct Known {
    bytes: Bytes,
    digest: [u8; 32],
}

/// Runs `put`, which stores `bytes` under `key`.
pub async fn of<T>(key: Key, bytes: &Bytes, put: impl Future<Output = T>) -> T {
    match key {
        Key::File(_, id) => KNOWN.scope(Known { bytes: bytes.clone(), digest: *id.as_bytes() }, put).await,
        Key::Config => put.await,
    }
}

fn known(data: &[u8]) -> Option<[u8; 32]> {
    let same = |known: &Known| std::ptr::eq(known.bytes.as_ref(), data).then_some(known.digest);
    KNOWN.try_with(same).ok().flatten()
}

/// The provider of digests: computes those that are not known.
#[derive(Debug)]
pub struct Digests;

impl CryptoProvider for Digests {
    fn digest(&self, algorithm: DigestAlgorithm) -> object_store::Result<Box<dyn DigestContext>> {
        match algorithm {
            DigestAlgorithm::Sha256 => Ok(Box::new(Digest::Empty)),
            _ => Err(unsupported()),
        }
    }

    fn hmac(&self, algorithm: DigestAlgorithm, secret: &[u8]) -> object_store::Result<Box<dyn HmacContext>> {
        match algorithm {
            DigestAlgorithm::Sha256 => {
                let context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, secret));
                Ok(Box::new(Hmac { context, tag: None }))
            }
            _ => Err(unsupported()),
        }
    }

    fn sign(&self, _: SigningAlgorithm, _: &[u8]) -> object_store::Result<Box<dyn Signer>> {
        // S3 signs with HMAC alone.
        Err(unsupported())
    }
}

fn unsupported() -> object_store::Error {
    object_store::Error::NotSupported { source: "an algorithm that S3 does not use".into() }
}

/// A digest that is being computed, or was known.
enum Digest {
    Empty,
    /// Of bytes whose digest was known; nothing more may follow.
    Known([u8; 32]),
    Computed(Box<digest::Context>),
    Done(digest::Digest),
}

impl DigestContext for Digest {
    fn update(&mut self, data: &[u8]) {
        if let (Self::Empty, Some(digest)) = (&*self, known(data)) {
            *self = Self::Known(digest);
            return;
        }
        if let Self::Known(_) = self {
            // A payload of more than one piece: what came first was the whole object, so there is none.
            debug_assert!(data.is_empty());
            return;
        }
        if let Self::Empty = self {
            *self = Self::Computed(Box::new(digest::Context::new(&digest::SHA256)));
        }
        if let Self::Computed(context) = self {
            context.update(data);
        }
    }

    fn finish(&mut self) -> object_store::Result<&[u8]> {
        match self {
            Self::Empty => *self = Self::Done(digest::digest(&digest::SHA256, &[])),
            Self::Computed(context) => *self = Self::Done(context.clone().finish()),
            Self::Known(_) | Self::Done(_) => {}
        }
        match self {
            Self::Known(digest) => Ok(&*digest),
            Self::Done(digest) => Ok(digest::Digest::as_ref(digest)),
            Self::Empty | Self::Computed(_) => Err(unsupported()),
        }
    }
}

struct Hmac {
    context: hmac::Context,
    tag: Option<hmac::Tag>,
}

impl HmacContext for Hmac {
    fn update(&mut self, data: &[u8]) {
        self.context.update(data);
    }

    fn finish(&mut self) -> object_store::Result<&[u8]> {
        let tag = self.context.clone().sign();
        Ok(hmac::Tag::as_ref(self.tag.insert(tag)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::id::Id;
    use crate::repository::store::Kind;

    fn digest_of(pieces: &[&[u8]]) -> Vec<u8> {
        let mut context = Digests.digest(DigestAlgorithm::Sha256).unwrap();
        pieces.iter().for_each(|piece| context.update(piece));
        context.finish().unwrap().to_vec()
    }

    #[tokio::test]
    async fn only_the_very_bytes_of_the_put_have_the_digest_that_their_name_says() {
        let (bytes, copy, named) = (Bytes::from(vec![1; 100]), vec![1; 100], Id::of(b"another"));
        let computed = Id::of(&bytes).as_bytes().to_vec();
        assert_eq!(digest_of(&[&bytes]), computed);
        of(Key::File(Kind::Data, named), &bytes, async {
            assert_eq!(digest_of(&[&bytes]), named.as_bytes().to_vec(), "taken, not computed");
            assert_eq!(digest_of(&[&copy]), computed);
            assert_eq!(digest_of(&[&bytes[..50], &bytes[50..]]), computed);
            assert_eq!(digest_of(&[]), Id::of(b"").as_bytes().to_vec());
        })
        .await;
        assert_eq!(digest_of(&[&bytes]), computed);
        of(Key::Config, &bytes, async { assert_eq!(digest_of(&[&bytes]), computed) }).await;
    }
}
