//! Credentials of an object store: the few environment variables that restic users already set, and no others.
//!
//! The list is an allow-list because its values may come from a Secret that a tenant wrote: nothing here runs a command, names
//! a file, or reaches a metadata service.

use std::collections::BTreeMap;
use std::fmt;

use zeroize::Zeroizing;

/// A variable that reaches a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Variable {
    /// Access key id.
    AwsAccessKeyId,
    /// Secret access key.
    AwsSecretAccessKey,
    /// Token of temporary credentials.
    AwsSessionToken,
    /// Region that requests are signed for; `us-east-1` when unset.
    AwsRegion,
    /// The same under its other name; `AWS_REGION` wins.
    AwsDefaultRegion,
}

impl Variable {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::AwsAccessKeyId, Self::AwsSecretAccessKey, Self::AwsSessionToken, Self::AwsRegion, Self::AwsDefaultRegion];

    /// The name in an environment or a Secret.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AwsAccessKeyId => "AWS_ACCESS_KEY_ID",
            Self::AwsSecretAccessKey => "AWS_SECRET_ACCESS_KEY",
            Self::AwsSessionToken => "AWS_SESSION_TOKEN",
            Self::AwsRegion => "AWS_REGION",
            Self::AwsDefaultRegion => "AWS_DEFAULT_REGION",
        }
    }
}

/// Values of the allowed variables. Debug shows names only.
#[derive(Clone, Default)]
pub struct Environment(BTreeMap<Variable, Zeroizing<String>>);

impl Environment {
    /// No variables.
    pub fn new() -> Self {
        Self::default()
    }

    /// The allowed variables among `pairs`; others and empty ones are left out.
    pub fn from_pairs<N: AsRef<str>, V: Into<String>>(pairs: impl IntoIterator<Item = (N, V)>) -> Self {
        let mut environment = Self::new();
        for (name, value) in pairs {
            if let Some(variable) = Variable::ALL.into_iter().find(|variable| variable.name() == name.as_ref()) {
                environment.set(variable, value);
            }
        }
        environment
    }

    /// The allowed variables of this process.
    pub fn from_process() -> Self {
        Self::from_pairs(
            Variable::ALL.into_iter().filter_map(|variable| Some((variable.name(), std::env::var(variable.name()).ok()?))),
        )
    }

    /// Sets one variable; an empty value unsets it.
    pub fn set(&mut self, variable: Variable, value: impl Into<String>) {
        let value = Zeroizing::new(value.into());
        if value.is_empty() {
            self.0.remove(&variable);
        } else {
            self.0.insert(variable, value);
        }
    }

    /// The value of `variable`, if it is set.
    pub fn get(&self, variable: Variable) -> Option<&str> {
        self.0.get(&variable).map(|value| value.as_str())
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys().map(|variable| variable.name())).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_allowed_variables_are_kept_and_none_is_shown() {
        let environment = Environment::from_pairs([
            ("AWS_ACCESS_KEY_ID", "AKIA"),
            ("AWS_SECRET_ACCESS_KEY", "hidden"),
            ("AWS_REGION", ""),
            ("RESTIC_PASSWORD_COMMAND", "rm -rf /"),
        ]);
        assert_eq!(environment.get(Variable::AwsAccessKeyId), Some("AKIA"));
        assert_eq!(environment.get(Variable::AwsRegion), None);
        let shown = format!("{environment:?}");
        assert!(shown.contains("AWS_SECRET_ACCESS_KEY") && !shown.contains("hidden") && !shown.contains("COMMAND"), "{shown}");
    }
}
