//! The settings of an object store: the few environment variables that restic users already set, and some of our own.
//!
//! The list is an allow-list because its values may come from a Secret that a tenant wrote: nothing here runs a command, names
//! a file, or reaches a metadata service. Variables that name a file in the environment of a command ([`Variable::names_a_file`]) are
//! read there, and hold what was in the file from then on; in a Secret they hold it from the start.
//!
//! Beside them it may hold a [`CloudIdentity`], which no list of names and values can set.

use std::collections::BTreeMap;
use std::fmt;

use zeroize::Zeroizing;

use super::identity::{CloudIdentity, IdentityError};

/// Declares the variables, each with its name.
macro_rules! variables {
    ($($(#[$doc:meta])* $variable:ident = $name:literal,)+) => {
        /// A variable that reaches a store.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Variable {
            $($(#[$doc])* $variable,)+
        }

        impl Variable {
            pub const ALL: &[Self] = &[$(Self::$variable,)+];

            /// The name in an environment or a Secret.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variable => $name,)+
                }
            }
        }
    };
}

variables! {
    AwsAccessKeyId = "AWS_ACCESS_KEY_ID",
    AwsSecretAccessKey = "AWS_SECRET_ACCESS_KEY",
    /// Token of temporary credentials.
    AwsSessionToken = "AWS_SESSION_TOKEN",
    /// Region that requests are signed for; where it is unset, the bucket is asked.
    AwsRegion = "AWS_REGION",
    /// The same under its other name; `AWS_REGION` wins.
    AwsDefaultRegion = "AWS_DEFAULT_REGION",
    /// Key with which the store encrypts objects (SSE-KMS).
    AwsSseKmsKeyId = "AWS_SSE_KMS_KEY_ID",
    /// Certificates of the authorities that are believed instead of the machine's.
    AwsCaBundle = "AWS_CA_BUNDLE",
    /// The same under restic's name, which wins.
    ResticCacert = "RESTIC_CACERT",
    /// Whether the bucket stands in the host's name (`dns`) or in the path (`path`): restic's option `s3.bucket-lookup`.
    S3BucketLookup = "WINDLASS_S3_BUCKET_LOOKUP",
    /// Class in which objects are stored: restic's option `s3.storage-class`.
    S3StorageClass = "WINDLASS_S3_STORAGE_CLASS",
    /// A service account's key, as JSON.
    GoogleApplicationCredentials = "GOOGLE_APPLICATION_CREDENTIALS",
    /// A token that is used as it is, and not renewed.
    GoogleAccessToken = "GOOGLE_ACCESS_TOKEN",
    AzureAccountName = "AZURE_ACCOUNT_NAME",
    AzureAccountKey = "AZURE_ACCOUNT_KEY",
    /// A shared access signature, instead of the key.
    AzureAccountSas = "AZURE_ACCOUNT_SAS",
    /// Domain of the cloud; `core.windows.net` when unset.
    AzureEndpointSuffix = "AZURE_ENDPOINT_SUFFIX",
}

impl Variable {
    /// True for those that name a file in the environment of a command.
    pub const fn names_a_file(self) -> bool {
        matches!(self, Self::AwsCaBundle | Self::ResticCacert | Self::GoogleApplicationCredentials)
    }
}

/// Values of the allowed variables, and an identity that may be used. Debug shows names only.
#[derive(Clone, Default)]
pub struct Environment {
    values: BTreeMap<Variable, Zeroizing<String>>,
    identity: Option<Result<CloudIdentity, IdentityError>>,
}

impl Environment {
    pub fn new() -> Self {
        Self::default()
    }

    /// The allowed variables among `pairs`; others and empty ones are left out.
    pub fn from_pairs<N: AsRef<str>, V: Into<String>>(pairs: impl IntoIterator<Item = (N, V)>) -> Self {
        let mut environment = Self::new();
        for (name, value) in pairs {
            if let Some(variable) = Variable::ALL.iter().find(|variable| variable.name() == name.as_ref()) {
                environment.set(*variable, value);
            }
        }
        environment
    }

    /// The allowed variables of this process, with the contents of the files that some of them name, and its identity. The name of a
    /// file that cannot be read stays, and is refused where the variable is used.
    pub fn from_process() -> Self {
        let value = |&variable: &Variable| Some((variable.name(), content_of(variable, std::env::var(variable.name()).ok()?)));
        Self::from_pairs(Variable::ALL.iter().filter_map(value)).with_identity_of_process()
    }

    /// The same, which may use the identity that this process's own environment names, if it names one.
    pub fn with_identity_of_process(self) -> Self {
        let named = CloudIdentity::from_variables(|name| std::env::var(name).ok()).transpose();
        let believed = [Variable::ResticCacert, Variable::AwsCaBundle].into_iter();
        let authorities = believed.filter_map(|variable| Some(content_of(variable, std::env::var(variable.name()).ok()?))).next();
        Self { identity: named.map(|identity| identity.map(|identity| identity.believing(authorities))), ..self }
    }

    /// The same, which may use this identity.
    pub fn with_identity(self, identity: CloudIdentity) -> Self {
        Self { identity: Some(Ok(identity)), ..self }
    }

    /// The identity that may be used where there are no keys.
    ///
    /// # Errors
    /// The variables that name it must be complete and well-formed.
    pub fn identity(&self) -> Result<Option<&CloudIdentity>, &IdentityError> {
        self.identity.as_ref().map(Result::as_ref).transpose()
    }

    /// True when the identity would be used: there is one, and no key.
    pub fn relies_on_identity(&self) -> bool {
        self.identity.is_some() && self.get(Variable::AwsAccessKeyId).is_none()
    }

    /// Sets one variable; an empty value unsets it.
    pub fn set(&mut self, variable: Variable, value: impl Into<String>) {
        let value = Zeroizing::new(value.into());
        if value.is_empty() {
            self.values.remove(&variable);
        } else {
            self.values.insert(variable, value);
        }
    }

    /// The value of `variable`, if it is set.
    pub fn get(&self, variable: Variable) -> Option<&str> {
        self.values.get(&variable).map(|value| value.as_str())
    }
}

/// The content that `value` stands for in the environment of a command.
fn content_of(variable: Variable, value: String) -> String {
    let content = variable.names_a_file().then(|| std::fs::read_to_string(&value).ok()).flatten();
    content.unwrap_or(value)
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let identity = self.identity.as_ref().map(|_| "(an identity)");
        f.debug_set().entries(self.values.keys().map(|variable| variable.name()).chain(identity)).finish()
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

    #[test]
    fn no_list_of_names_and_values_sets_an_identity() {
        let environment = Environment::from_pairs([
            ("AWS_WEB_IDENTITY_TOKEN_FILE", "/var/run/secrets/token"),
            ("AWS_ROLE_ARN", "arn:aws:iam::1:role/backup"),
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://169.254.170.23/v1/credentials"),
            ("WINDLASS_CLOUD_IDENTITY", "instance"),
        ]);
        assert_eq!(environment.identity(), Ok(None));
        assert!(!environment.relies_on_identity());
    }

    #[test]
    fn a_command_reads_the_files_that_its_environment_names_and_a_secret_names_none() {
        let names: Vec<&str> =
            Variable::ALL.iter().filter(|variable| variable.names_a_file()).map(|variable| variable.name()).collect();
        assert_eq!(names, ["AWS_CA_BUNDLE", "RESTIC_CACERT", "GOOGLE_APPLICATION_CREDENTIALS"]);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        std::fs::write(&path, "the certificates").unwrap();
        let path = path.display().to_string();
        assert_eq!(content_of(Variable::ResticCacert, path.clone()), "the certificates");
        assert_eq!(content_of(Variable::AwsSecretAccessKey, path.clone()), path);
        assert_eq!(content_of(Variable::ResticCacert, format!("{path}.gone")), format!("{path}.gone"));
        let secret = Environment::from_pairs([("RESTIC_CACERT", path.clone())]);
        assert_eq!(secret.get(Variable::ResticCacert), Some(path.as_str()));
    }
}
