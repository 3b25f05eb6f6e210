//! Logs: structured lines on standard error, which carries no results.
//!
//! `WINDLASS_LOG` holds a filter in the syntax of `tracing-subscriber` (`debug`, `windlass::pool=trace,warn`); without it the
//! caller's default level applies. Secrets never get here: types that hold them have no `Debug` that prints them.
//!
//! A record is one line, whatever is in it. Names come from elsewhere, and those of CSI may hold line feeds: as text, control characters are
//! escaped as Rust does (`\\n`, `\\u{1b}`), so that nobody can write lines of the log or steer a terminal; JSON escapes them itself.

use std::fmt;
use std::io::{self, IsTerminal};

use tracing::Level;
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::filter::{EnvFilter, LevelFilter, ParseError};
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::{DefaultFields, Writer};

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
    #[error("{FILTER_VARIABLE}: `{filter}` is not a log filter")]
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

/// Message and fields of a record on one line, without colours of their own.
#[derive(Debug, Default)]
struct EscapedFields(DefaultFields);

impl<'writer> FormatFields<'writer> for EscapedFields {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut text = String::new();
        self.0.format_fields(Writer::new(&mut text), fields)?;
        write!(writer, "{}", Escaped(&text))
    }
}

/// Text whose control characters, and whatever else ends a line, are escaped.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;
        for character in self.0.chars() {
            if character.is_control() || matches!(character, '\u{2028}' | '\u{2029}') {
                write!(f, "{}", character.escape_default())?;
            } else {
                f.write_char(character)?;
            }
        }
        Ok(())
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
        LogFormat::Text => subscriber.fmt_fields(EscapedFields::default()).with_ansi(io::stderr().is_terminal()).try_init(),
        LogFormat::Json => subscriber.json().flatten_event(true).try_init(),
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn without_a_filter_the_default_level_applies() {
        for text in [None, Some("")] {
            assert_eq!(filter(text, Level::WARN).unwrap().max_level_hint(), Some(LevelFilter::WARN));
        }
        assert_eq!(filter(Some("windlass=debug,warn"), Level::WARN).unwrap().max_level_hint(), Some(LevelFilter::DEBUG));
    }

    /// What is logged while `log` runs, as text.
    fn logged(log: impl FnOnce()) -> String {
        let buffer = Arc::new(Mutex::new(Vec::new()));
        let writer = Arc::clone(&buffer);
        let subscriber = tracing_subscriber::fmt()
            .fmt_fields(EscapedFields::default())
            .with_ansi(false)
            .with_writer(move || Shared(Arc::clone(&writer)))
            .finish();
        tracing::subscriber::with_default(subscriber, log);
        String::from_utf8(buffer.lock().unwrap().clone()).unwrap()
    }

    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_record_is_one_line_whatever_a_name_holds() {
        let name = "data\nINFO all is well\r\u{1b}[2J\u{9b}31m\u{2028}x";
        let text = logged(|| {
            let span = tracing::info_span!("call", %name);
            let _inside = span.enter();
            tracing::info!(%name, debug = ?name, "made {name}");
        });
        assert_eq!(text.lines().count(), 1, "{text}");
        let inside = text.strip_suffix('\n').unwrap();
        assert!(!inside.contains(|character: char| character.is_control() || character == '\u{2028}'), "{inside:?}");
        assert!(inside.contains("made data\\nINFO all is well\\r\\"), "{inside}");
        assert_eq!(
            logged(|| tracing::info!(name = "Größe 1 %", "gemacht")).split_once("gemacht").unwrap().1,
            " name=\"Größe 1 %\"\n"
        );
    }

    #[test]
    fn a_malformed_filter_is_an_error_that_names_the_variable() {
        let error = filter(Some("windlass=loudly"), Level::WARN).unwrap_err();
        assert_eq!(error.to_string(), "WINDLASS_LOG: `windlass=loudly` is not a log filter");
    }
}
