//! How a command ends: exit codes, and errors that say what failed, why, and what to do.
//!
//! A script tells outcomes apart by the exit code alone; the table is part of the interface ([`Exit`]). A person reads three
//! lines at most: what failed with its causes, then what to do about it.

use std::error::Error;
use std::fmt;
use std::process::ExitCode;

use serde::Serialize;

use super::format::Format;
use crate::types::error::{causes, chain};

/// Exit codes of the `windlass` command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// 0: done.
    Success,
    /// 1: the operation failed.
    Failed,
    /// 2: the command line, or a value in it, is wrong.
    Usage,
    /// 3: something that was named does not exist.
    NotFound,
    /// 4: refused: a name is taken, a thing is in use, a pool is full, a password is wrong.
    Refused,
    /// 5: the node or the repository cannot be reached; repeating the command later may help.
    Unavailable,
    /// 6: a node has ended so that it is started anew: its pools are others than it has told the kubelet.
    Restart,
    /// 7: done in part: what was restored has holes, which are listed.
    Incomplete,
    /// 130: interrupted by SIGINT or SIGTERM.
    Interrupted,
}

impl Exit {
    /// The number that the shell sees.
    pub const fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::Refused => 4,
            Self::Unavailable => 5,
            Self::Restart => 6,
            Self::Incomplete => 7,
            Self::Interrupted => 130,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// The table of exit codes, as `--help` prints it.
pub const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    the operation failed
  2    the command line, or a value in it, is wrong
  3    something that was named does not exist
  4    refused: a name is taken, a thing is in use, a pool is full, a password is wrong
  5    the node or the repository cannot be reached; trying again may help
  6    a node whose pools have changed has ended, and is to be started anew
  7    done in part: what was restored has holes, which are listed (restore --skip-damaged)
  130  interrupted";

/// Why a command failed, for people and scripts.
#[derive(Debug)]
pub struct CliError {
    exit: Exit,
    what: String,
    source: Option<Box<dyn Error + Send + Sync>>,
    advice: Option<String>,
}

impl CliError {
    /// An error without a deeper cause. `what` says what failed.
    pub fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self { exit, what: what.into(), source: None, advice: None }
    }

    /// An operation that failed for a reason that a layer below gives.
    pub fn because(exit: Exit, what: impl Into<String>, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { exit, what: what.into(), source: Some(source.into()), advice: None }
    }

    /// A wrong command line that only shows after parsing.
    pub fn usage(what: impl Into<String>) -> Self {
        Self::new(Exit::Usage, what)
    }

    /// SIGINT or SIGTERM came; `what` says what state that left.
    pub fn interrupted(what: impl Into<String>) -> Self {
        Self::new(Exit::Interrupted, what)
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }

    /// With which code the process ends.
    pub fn exit(&self) -> Exit {
        self.exit
    }

    /// What to do about it, if that is known.
    pub fn advice(&self) -> Option<&str> {
        self.advice.as_deref()
    }

    #[expect(clippy::expect_used, reason = "texts and numbers always have a form in JSON")]
    fn to_json(&self) -> String {
        serde_json::to_string(&Rendered { error: self.view() }).expect("an error is written as JSON")
    }

    fn view(&self) -> ErrorView<'_> {
        ErrorView { message: &self.what, causes: causes(self), advice: self.advice.as_deref(), exit_code: self.exit.code() }
    }

    /// The text for standard error.
    pub fn render(&self, format: Format) -> String {
        match format {
            Format::Json => self.to_json(),
            Format::Text => {
                let advice = self.advice.as_ref().map(|advice| format!("\nhint: {advice}")).unwrap_or_default();
                format!("error: {}{advice}", chain(self))
            }
        }
    }
}

/// An error as programs read it.
#[derive(Debug, Serialize)]
struct Rendered<'a> {
    error: ErrorView<'a>,
}

#[derive(Debug, Serialize)]
struct ErrorView<'a> {
    message: &'a str,
    causes: Vec<String>,
    advice: Option<&'a str>,
    exit_code: u8,
}

/// What failed; why is for the chain.
impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl Error for CliError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn Error + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_exit_code_is_in_the_table_that_help_prints() {
        use Exit::*;
        for exit in [Success, Failed, Usage, NotFound, Refused, Unavailable, Restart, Incomplete, Interrupted] {
            assert!(EXIT_CODES.lines().any(|line| line.trim_start().starts_with(&format!("{} ", exit.code()))), "{exit:?}");
        }
    }

    #[test]
    fn an_error_says_what_why_and_what_to_do() {
        let cause = std::io::Error::from_raw_os_error(2);
        let error = CliError::because(Exit::Unavailable, "cannot reach the node", cause).advise("start it");
        let text = error.render(Format::Text);
        assert_eq!(text, "error: cannot reach the node: No such file or directory (os error 2)\nhint: start it");
        let json: serde_json::Value = serde_json::from_str(&error.render(Format::Json)).unwrap();
        assert_eq!(json["error"]["exit_code"], 5);
        assert_eq!(json["error"]["advice"], "start it");
    }

    #[test]
    fn a_cause_that_was_said_already_is_not_said_again() {
        let error = CliError::because(Exit::Failed, "open: no entry", std::io::Error::other("no entry"));
        assert_eq!(error.render(Format::Text), "error: open: no entry");
    }
}
