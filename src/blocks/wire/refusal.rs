//! The kind of a refusal, in the metadata that travel with its code: two kinds may share a code, and what the connection says has none.

use super::text;
use crate::blocks::BlocksError;

/// Key of the metadata.
pub const KEY: &str = "windlass-refusal";

/// The kind of a refusal, and its text cut to what a header carries.
pub fn parts(error: &BlocksError) -> (&'static str, String) {
    let (kind, reason) = match error {
        BlocksError::Missing(reason) => ("missing", reason),
        BlocksError::NameTaken(reason) => ("name-taken", reason),
        BlocksError::Ambiguous(reason) => ("ambiguous", reason),
        BlocksError::Busy(reason) => ("busy", reason),
        BlocksError::NoSpace(reason) => ("no-space", reason),
        BlocksError::InUse(reason) => ("in-use", reason),
        BlocksError::Size(reason) => ("size", reason),
        BlocksError::Unsupported(reason) => ("unsupported", reason),
        BlocksError::Unavailable(reason) => ("unavailable", reason),
        BlocksError::Failed(reason) => ("failed", reason),
    };
    (kind, text(reason))
}

/// The refusal of a kind; `None` for a kind that is not known.
pub fn read(kind: &str, reason: String) -> Option<BlocksError> {
    let refusal = match kind {
        "missing" => BlocksError::Missing,
        "name-taken" => BlocksError::NameTaken,
        "ambiguous" => BlocksError::Ambiguous,
        "busy" => BlocksError::Busy,
        "no-space" => BlocksError::NoSpace,
        "in-use" => BlocksError::InUse,
        "size" => BlocksError::Size,
        "unsupported" => BlocksError::Unsupported,
        "unavailable" => BlocksError::Unavailable,
        "failed" => BlocksError::Failed,
        _ => return None,
    };
    Some(refusal(reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_reads_back_as_it_was() {
        let reason = || "the volume `ä` is in use: 50 %".to_owned();
        for refusal in [
            BlocksError::Missing(reason()),
            BlocksError::NameTaken(reason()),
            BlocksError::Ambiguous(reason()),
            BlocksError::Busy(reason()),
            BlocksError::NoSpace(reason()),
            BlocksError::InUse(reason()),
            BlocksError::Size(reason()),
            BlocksError::Unsupported(reason()),
            BlocksError::Unavailable(reason()),
            BlocksError::Failed(reason()),
        ] {
            let (kind, text) = parts(&refusal);
            assert_eq!(read(kind, text), Some(refusal));
        }
        assert_eq!(read("other", reason()), None);
    }
}
