//! Words of device-mapper's table and status lines.
//!
//! Lines are taken strictly: a word that is not known or missing is an error, and so is one too many in a table. A line that says
//! something we do not know of is not one that we may act on. A status line may go on after what we know: newer kernels add words at its end.

use std::str::SplitAsciiWhitespace;

/// Why a table or status line is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// The line ends too early.
    #[error("the line ends before {0}")]
    Missing(&'static str),
    /// A word that does not belong there.
    #[error("`{word}` is not a {what}")]
    Unknown {
        /// What the word should have been.
        what: &'static str,
        word: String,
    },
    /// Words after the end.
    #[error("`{0}` follows where the line should end")]
    Extra(String),
}

/// The words of a line, from the left.
pub(super) struct Words<'a>(SplitAsciiWhitespace<'a>);

impl<'a> Words<'a> {
    pub(super) fn of(line: &'a str) -> Self {
        Self(line.split_ascii_whitespace())
    }

    /// The next word, which is there for `what`.
    pub(super) fn word(&mut self, what: &'static str) -> Result<&'a str, LineError> {
        self.0.next().ok_or(LineError::Missing(what))
    }

    /// The next word, if there is one.
    pub(super) fn optional(&mut self) -> Option<&'a str> {
        self.0.next()
    }

    /// The next word as `convert` takes it.
    pub(super) fn take<T>(&mut self, what: &'static str, convert: impl FnOnce(&str) -> Option<T>) -> Result<T, LineError> {
        let word = self.word(what)?;
        convert(word).ok_or_else(|| unknown(what, word))
    }

    /// The next word as a decimal number.
    pub(super) fn number(&mut self, what: &'static str) -> Result<u64, LineError> {
        self.take(what, number)
    }

    /// Nothing may follow.
    pub(super) fn end(mut self) -> Result<(), LineError> {
        match self.0.next() {
            None => Ok(()),
            Some(word) => Err(LineError::Extra(word.to_owned())),
        }
    }
}

/// A decimal number without sign or anything else.
pub(super) fn number(word: &str) -> Option<u64> {
    if word.is_empty() || !word.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    word.parse().ok()
}

/// The error for a word that is no `what`.
pub(super) fn unknown(what: &'static str, word: &str) -> LineError {
    LineError::Unknown { what, word: word.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_digits_and_nothing_else() {
        assert_eq!(number("18446744073709551615"), Some(u64::MAX));
        for wrong in ["", "+1", "-1", "1_0", "0x1", "18446744073709551616", "1 "] {
            assert_eq!(number(wrong), None, "{wrong:?}");
        }
    }
}
