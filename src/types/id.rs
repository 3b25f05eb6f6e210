//! Ids of pools, volumes and snapshots, and the handles that travel in CSI.
//!
//! A handle is `v-POOL-OBJECT` or `s-POOL-OBJECT`, both ids in lower-case base32 without padding: 55 characters, legal as
//! a Kubernetes label value (at most 63), and it names no host and no path, so a disk may move to another node. Whatever
//! does not parse is simply the handle of nothing: callers answer "not found", never "invalid".

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A string that is no handle of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a handle of this driver")]
pub struct NotAHandle;

macro_rules! uuid_newtype {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// A fresh random id.
            pub fn random() -> Self {
                Self(Uuid::new_v4())
            }

            /// The id with these 16 bytes.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }

            /// The 16 bytes of this id.
            pub fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }
        }

        /// Hyphenated lower-case hexadecimal, the form used in file names and logs.
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }

        impl FromStr for $name {
            type Err = NotAHandle;

            fn from_str(text: &str) -> Result<Self, NotAHandle> {
                let id = Uuid::try_parse(text).map_err(|_| NotAHandle)?;
                // One id has one spelling, so that a file name found on disk is ours only if we would write it so.
                if id.hyphenated().to_string() == text { Ok(Self(id)) } else { Err(NotAHandle) }
            }
        }
    };
}

uuid_newtype! {
    /// Identity of a pool, carried on the pool's own disk.
    PoolId
}
uuid_newtype! {
    /// Identity of a volume within its pool.
    VolumeId
}
uuid_newtype! {
    /// Identity of a snapshot within its pool.
    SnapshotId
}

/// A stored thing of a pool: what the verbs that treat volumes and snapshots alike are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Object {
    /// A volume.
    Volume(VolumeId),
    /// A snapshot.
    Snapshot(SnapshotId),
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Volume(id) => write!(f, "volume {id}"),
            Self::Snapshot(id) => write!(f, "snapshot {id}"),
        }
    }
}

const ENCODED_ID_LENGTH: usize = 26;

fn encode(bytes: &[u8; 16]) -> String {
    let mut text = data_encoding::BASE32_NOPAD.encode(bytes);
    text.make_ascii_lowercase();
    text
}

fn decode(text: &str) -> Result<[u8; 16], NotAHandle> {
    if text.len() != ENCODED_ID_LENGTH || text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(NotAHandle);
    }
    let bytes = data_encoding::BASE32_NOPAD.decode(text.to_ascii_uppercase().as_bytes()).map_err(|_| NotAHandle)?;
    bytes.try_into().map_err(|_| NotAHandle)
}

fn decode_handle(kind: &str, text: &str) -> Result<([u8; 16], [u8; 16]), NotAHandle> {
    let rest = text.strip_prefix(kind).and_then(|rest| rest.strip_prefix('-')).ok_or(NotAHandle)?;
    let (pool, object) = rest.split_once('-').ok_or(NotAHandle)?;
    Ok((decode(pool)?, decode(object)?))
}

impl PoolId {
    /// The id as 26 lower-case base32 characters: the form that handles, topology keys and StorageClasses use.
    pub fn label(&self) -> String {
        encode(self.as_bytes())
    }

    /// Reads what [`PoolId::label`] writes; `None` for any other text.
    pub fn from_label(text: &str) -> Option<Self> {
        let id = Self::from_bytes(decode(text).ok()?);
        (id.label() == text).then_some(id)
    }
}

macro_rules! handle {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $field:ident: $id:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name {
            /// The owning pool: the only one that may say "not found".
            pub pool: PoolId,
            /// The object within the pool.
            pub $field: $id,
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}-{}-{}", $kind, encode(self.pool.as_bytes()), encode(self.$field.as_bytes()))
            }
        }

        impl FromStr for $name {
            type Err = NotAHandle;

            fn from_str(text: &str) -> Result<Self, NotAHandle> {
                let (pool, object) = decode_handle($kind, text)?;
                Ok(Self { pool: PoolId::from_bytes(pool), $field: $id::from_bytes(object) })
            }
        }
    };
}

handle! {
    /// What CSI calls `volume_id`.
    VolumeHandle, "v", volume: VolumeId
}
handle! {
    /// What CSI calls `snapshot_id`.
    SnapshotHandle, "s", snapshot: SnapshotId
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_handle_reads_back_as_what_was_written(pool: [u8; 16], object: [u8; 16]) {
            let volume = VolumeHandle { pool: PoolId::from_bytes(pool), volume: VolumeId::from_bytes(object) };
            let snapshot = SnapshotHandle { pool: PoolId::from_bytes(pool), snapshot: SnapshotId::from_bytes(object) };
            prop_assert_eq!(volume.to_string().parse(), Ok(volume));
            prop_assert_eq!(snapshot.to_string().parse(), Ok(snapshot));
            prop_assert_eq!(volume.to_string().parse::<SnapshotHandle>(), Err(NotAHandle));
            prop_assert!(volume.to_string().len() <= 63);
            prop_assert_eq!(PoolId::from_label(&volume.pool.label()), Some(volume.pool));
        }

        #[test]
        fn a_text_that_parses_is_the_only_spelling_of_its_handle(text in "[vs]-[a-zA-Z2-7=]{25,27}-[a-zA-Z2-7=]{25,27}|.*") {
            if let Ok(handle) = text.parse::<VolumeHandle>() {
                prop_assert_eq!(handle.to_string(), text);
            }
        }
    }

    #[test]
    fn paths_and_foreign_ids_are_no_handles() {
        for text in ["", "fake-vol-id", "../../etc", "v-", "v-a-b", "/dev/sda", "reallyfakevolumeid"] {
            assert_eq!(text.parse::<VolumeHandle>(), Err(NotAHandle), "{text}");
        }
    }
}
