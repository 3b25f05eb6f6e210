//! What is said of targets: what becomes of them, and what they hold.

use csi_proto::windlass::v1 as proto;

use super::FieldError;
use crate::types::{OnLoss, TargetContent};

/// What becomes of the target of a message.
///
/// # Errors
/// [`FieldError`] for a number that has no meaning.
pub fn read_on_loss(number: i32) -> Result<OnLoss, FieldError> {
    match proto::TargetOnLoss::try_from(number) {
        Ok(proto::TargetOnLoss::Unspecified | proto::TargetOnLoss::Delete) => Ok(OnLoss::Delete),
        Ok(proto::TargetOnLoss::Keep) => Ok(OnLoss::Keep),
        Err(_) => Err(FieldError::new("on_loss", "must be DELETE or KEEP")),
    }
}

/// The number of what becomes of a target.
pub fn on_loss(on_loss: OnLoss) -> i32 {
    match on_loss {
        OnLoss::Delete => proto::TargetOnLoss::Delete,
        OnLoss::Keep => proto::TargetOnLoss::Keep,
    }
    .into()
}

/// What the target of a message holds.
///
/// # Errors
/// [`FieldError`] when it does not say so.
pub fn read_content(number: i32) -> Result<TargetContent, FieldError> {
    match proto::TargetContent::try_from(number) {
        Ok(proto::TargetContent::Zeros) => Ok(TargetContent::Zeros),
        Ok(proto::TargetContent::Partial) => Ok(TargetContent::Partial),
        Ok(proto::TargetContent::Unspecified) | Err(_) => Err(FieldError::new("content", "must be ZEROS or PARTIAL")),
    }
}

/// The number of what a target holds.
pub fn content(content: TargetContent) -> i32 {
    match content {
        TargetContent::Zeros => proto::TargetContent::Zeros,
        TargetContent::Partial => proto::TargetContent::Partial,
    }
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_read_back_and_others_are_refused() {
        for word in [OnLoss::Delete, OnLoss::Keep] {
            assert_eq!(read_on_loss(on_loss(word)), Ok(word));
        }
        for word in [TargetContent::Zeros, TargetContent::Partial] {
            assert_eq!(read_content(content(word)), Ok(word));
        }
        assert_eq!(read_on_loss(0), Ok(OnLoss::Delete));
        assert!(read_on_loss(3).is_err() && read_on_loss(-1).is_err());
        assert!(read_content(0).is_err() && read_content(3).is_err());
    }
}
