//! In which form a command prints.

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// Tables and plain lines.
    #[default]
    Text,
    /// One JSON document; errors on standard error are JSON too.
    Json,
}
