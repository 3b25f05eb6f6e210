//! What stops a benchmark: said in one line, with what was being done and why it failed.

use std::error::Error;
use std::fmt;

/// A failure with what was being done.
#[derive(Debug)]
pub struct BenchError {
    what: String,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl BenchError {
    /// Something that is wrong by itself.
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), source: None }
    }

    /// A failure of something else.
    pub fn because(what: impl Into<String>, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { what: what.into(), source: Some(source.into()) }
    }

    /// The error with all of its causes, in one line.
    pub fn chain(&self) -> String {
        match &self.source {
            Some(source) => format!("{}: {}", self.what, windlass::types::error::chain(source.as_ref())),
            None => self.what.clone(),
        }
    }
}

impl fmt::Display for BenchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.chain())
    }
}

/// Says what was being done when something failed.
pub trait While<T> {
    /// The value, or an error that begins with `what`.
    ///
    /// # Errors
    /// The failure, with `what` before it.
    fn while_doing(self, what: impl FnOnce() -> String) -> Result<T, BenchError>;
}

impl<T, E: Into<Box<dyn Error + Send + Sync>>> While<T> for Result<T, E> {
    fn while_doing(self, what: impl FnOnce() -> String) -> Result<T, BenchError> {
        self.map_err(|error| BenchError::because(what(), error))
    }
}
