//! What an export must say of itself for its figures to count: a case whose parent was not usable, whose index was empty or whose bytes
//! compressed to nothing would be measured all the same, and mean something else.

use serde_json::Value;

use crate::error::BenchError;

/// The report of an export, as its case looks at it.
pub(super) struct Proof<'a> {
    case: &'a str,
    report: &'a Value,
}

impl<'a> Proof<'a> {
    /// The report of an export in `case`.
    pub(super) fn new(case: &'a str, report: &'a Value) -> Self {
        Self { case, report }
    }

    /// The number under `name` is this one.
    ///
    /// # Errors
    /// When it is not, or there is none.
    pub(super) fn equals(&self, name: &str, expected: u64) -> Result<(), BenchError> {
        let found = self.number(name)?;
        self.unless(found == expected, name, found, &format!("{expected}"))
    }

    /// The number under `name` is at least this one.
    ///
    /// # Errors
    /// When it is not, or there is none.
    pub(super) fn at_least(&self, name: &str, least: u64) -> Result<(), BenchError> {
        let found = self.number(name)?;
        self.unless(found >= least, name, found, &format!("at least {least}"))
    }

    /// The text under `name` is this one.
    ///
    /// # Errors
    /// When it is not, or there is none.
    pub(super) fn says(&self, name: &str, expected: &str) -> Result<(), BenchError> {
        let found = self.report[name].as_str().ok_or_else(|| self.without(name))?;
        self.unless(found == expected, name, found, expected)
    }

    /// So many requests of this verb and kind (`get locks`), which may be none.
    ///
    /// # Errors
    /// When it was another number, or nothing was counted.
    pub(super) fn requests(&self, which: &str, expected: u64) -> Result<(), BenchError> {
        let found = self.counted(which)?;
        self.unless(found == expected, which, found, &format!("{expected}"))
    }

    /// At least so many of them.
    ///
    /// # Errors
    /// When there were fewer, or nothing was counted.
    pub(super) fn requests_at_least(&self, which: &str, least: u64) -> Result<(), BenchError> {
        let found = self.counted(which)?;
        self.unless(found >= least, which, found, &format!("at least {least}"))
    }

    fn number(&self, name: &str) -> Result<u64, BenchError> {
        self.report[name].as_u64().ok_or_else(|| self.without(name))
    }

    fn counted(&self, which: &str) -> Result<u64, BenchError> {
        let counts = self.report["requests"].as_object().ok_or_else(|| self.without("requests"))?;
        Ok(counts.get(which).and_then(Value::as_u64).unwrap_or(0))
    }

    fn without(&self, name: &str) -> BenchError {
        BenchError::new(format!("{}: the report of the export has no `{name}`", self.case))
    }

    fn unless(&self, holds: bool, name: &str, found: impl std::fmt::Display, expected: &str) -> Result<(), BenchError> {
        if holds {
            return Ok(());
        }
        Err(BenchError::new(format!("{} does not measure what it says: `{name}` is {found}, not {expected}", self.case)))
    }
}

/// Requests of every kind.
pub(super) fn all_requests(report: &Value) -> u64 {
    report["requests"].as_object().map_or(0, |counts| counts.values().filter_map(Value::as_u64).sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_report_that_says_something_else_is_an_error_that_names_the_case() {
        let report = json!({ "mode": "full", "read_bytes": 10, "requests": { "get locks": 3, "list locks": 2 } });
        let proof = Proof::new("a-case", &report);
        proof.says("mode", "full").unwrap();
        proof.equals("read_bytes", 10).unwrap();
        proof.at_least("read_bytes", 10).unwrap();
        proof.requests("get locks", 3).unwrap();
        proof.requests("get index", 0).unwrap();
        proof.requests_at_least("get locks", 2).unwrap();
        assert_eq!(all_requests(&report), 5);
        let failures = [
            proof.says("mode", "incremental"),
            proof.equals("read_bytes", 11),
            proof.at_least("read_bytes", 11),
            proof.equals("chunks", 0),
            proof.says("parent", ""),
            proof.requests("get locks", 0),
            proof.requests_at_least("get locks", 4),
            Proof::new("a-case", &json!({})).requests("get locks", 0),
        ];
        for failure in failures {
            let error = failure.unwrap_err().to_string();
            assert!(error.starts_with("a-case"), "{error}");
        }
    }
}
