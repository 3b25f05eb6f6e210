//! Messages to a thin pool.

use std::fmt;
use std::str::FromStr;

use super::blocks::TransactionId;
use super::line::{LineError, Words, number, unknown};
use super::units::ThinId;

/// What a thin pool can be told. What it does is durable when the call returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolMessage {
    /// Make an empty thin volume.
    CreateThin {
        /// Its id, which must be free.
        id: ThinId,
    },
    /// Make a thin volume with the content of another. The kernel does not look whether somebody is writing to the other: who
    /// sends this has suspended it, if it is active.
    CreateSnap {
        /// Its id, which must be free.
        id: ThinId,
        /// The other.
        origin: ThinId,
    },
    /// Delete a thin volume, which no device may be using.
    Delete { id: ThinId },
    /// Change the owner's number, if it is what the owner thinks.
    SetTransactionId {
        /// What it is now.
        from: TransactionId,
        /// What it is to be.
        to: TransactionId,
    },
    /// Keep the metadata as they are now, for reading. One at a time.
    ReserveMetadataSnap,
    /// Let go of what was kept.
    ReleaseMetadataSnap,
}

impl PoolMessage {
    /// The first word.
    pub(super) fn verb(&self) -> &'static str {
        match self {
            Self::CreateThin { .. } => "create_thin",
            Self::CreateSnap { .. } => "create_snap",
            Self::Delete { .. } => "delete",
            Self::SetTransactionId { .. } => "set_transaction_id",
            Self::ReserveMetadataSnap => "reserve_metadata_snap",
            Self::ReleaseMetadataSnap => "release_metadata_snap",
        }
    }
}

impl fmt::Display for PoolMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.verb())?;
        match self {
            Self::CreateThin { id } | Self::Delete { id } => write!(f, " {id}"),
            Self::CreateSnap { id, origin } => write!(f, " {id} {origin}"),
            Self::SetTransactionId { from, to } => write!(f, " {from} {to}"),
            Self::ReserveMetadataSnap | Self::ReleaseMetadataSnap => Ok(()),
        }
    }
}

impl FromStr for PoolMessage {
    type Err = LineError;

    fn from_str(line: &str) -> Result<Self, LineError> {
        fn id(words: &mut Words<'_>) -> Result<ThinId, LineError> {
            words.take("thin id", |word| ThinId::new(u32::try_from(number(word)?).ok()?))
        }
        let mut words = Words::of(line);
        let message = match words.word("message")? {
            "create_thin" => Self::CreateThin { id: id(&mut words)? },
            "create_snap" => Self::CreateSnap { id: id(&mut words)?, origin: id(&mut words)? },
            "delete" => Self::Delete { id: id(&mut words)? },
            "set_transaction_id" => Self::SetTransactionId {
                from: TransactionId::new(words.number("transaction id")?),
                to: TransactionId::new(words.number("transaction id")?),
            },
            "reserve_metadata_snap" => Self::ReserveMetadataSnap,
            "release_metadata_snap" => Self::ReleaseMetadataSnap,
            other => return Err(unknown("message", other)),
        };
        words.end()?;
        Ok(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_written_as_the_kernel_reads_them() {
        for text in [
            "create_thin 0",
            "create_snap 16777215 0",
            "delete 7",
            "set_transaction_id 0 18446744073709551615",
            "reserve_metadata_snap",
            "release_metadata_snap",
        ] {
            assert_eq!(text.parse::<PoolMessage>().unwrap().to_string(), text);
        }
        for text in ["", "create_thin", "create_thin 16777216", "delete 1 2", "trim 0 1", "release_metadata_snap 1"] {
            assert!(text.parse::<PoolMessage>().is_err(), "{text}");
        }
    }
}
