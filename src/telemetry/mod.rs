//! Logs: structured lines on standard error, which carries no results.
//!
//! `WINDLASS_LOG` holds a filter in the syntax of `tracing-subscriber` (`debug`, `windlass::pool=trace,warn`); without it the
//! caller's default level applies. Secrets never get here: types that hold them have no `Debug` that prints them.

use std::io::{self, IsTerminal};

use tracing::Level;
use tracing_subscriber::filter::{EnvFilter, LevelFilter, ParseError};

/// Environment variable with the log filter.
pub const FILTER_VARIABLE: &str = "WINDLASS_LOG";

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum LogFormat {
    /// For people; in colour on a terminal.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter in the environment is malformed.
    #[error("{FILTER_VARIABLE}: `{filter}` is no log filter")]
    Filter {
        /// The filter as it was given.
        filter: String,
        /// What is wrong with it.
        source: ParseError,
    },
}

/// The filter that `text` asks for; `default` for all of it when there is none.
fn filter(text: Option<&str>, default: Level) -> Result<EnvFilter, TelemetryError> {
    match text {
        Some(text) if !text.is_empty() => {
            EnvFilter::try_new(text).map_err(|source| TelemetryError::Filter { filter: text.to_owned(), source })
        }
        _ => Ok(EnvFilter::default().add_directive(LevelFilter::from_level(default).into())),
    }
}

/// Starts logging for this process. A subscriber that is there already (a test's) is left in place.
///
/// # Errors
/// [`TelemetryError::Filter`].
pub fn start(default: Level, format: LogFormat) -> Result<(), TelemetryError> {
    let filter = filter(std::env::var(FILTER_VARIABLE).ok().as_deref(), default)?;
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    // The only failure is that a subscriber is there.
    let _ = match format {
        LogFormat::Text => subscriber.with_ansi(io::stderr().is_terminal()).try_init(),
        LogFormat::Json => subscriber.json().flatten_event(true).try_init(),
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_filter_the_default_level_applies() {
        for text in [None, Some("")] {
            assert_eq!(filter(text, Level::WARN).unwrap().max_level_hint(), Some(LevelFilter::WARN));
        }
        assert_eq!(filter(Some("windlass=debug,warn"), Level::WARN).unwrap().max_level_hint(), Some(LevelFilter::DEBUG));
    }

    #[test]
    fn a_malformed_filter_is_an_error_that_names_the_variable() {
        let error = filter(Some("windlass=loudly"), Level::WARN).unwrap_err();
        assert_eq!(error.to_string(), "WINDLASS_LOG: `windlass=loudly` is no log filter");
    }
}
