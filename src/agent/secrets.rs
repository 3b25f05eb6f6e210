//! A repository by the keys of a Secret.
//!
//! CSI's own secrets carry it, under the names that restic users have in their environment. Whoever may write a Secret in some
//! namespace is not who runs this process: so there is an allow-list, what names a file or a command of this machine is refused, and so
//! is a directory as a repository. Other keys are somebody else's and are left alone.

use std::collections::HashMap;

use crate::repository::{Environment, Location, Password};

/// Where the repository lies.
const REPOSITORY: &str = "RESTIC_REPOSITORY";
/// What opens it.
const PASSWORD: &str = "RESTIC_PASSWORD";
/// Names that restic knows and that would be obeyed by nobody here, each with the one to use.
const REFUSED: [(&str, &str); 3] =
    [("RESTIC_REPOSITORY_FILE", REPOSITORY), ("RESTIC_PASSWORD_FILE", PASSWORD), ("RESTIC_PASSWORD_COMMAND", PASSWORD)];

/// A repository and what opens it. Debug shows no secret.
#[derive(Debug)]
pub(super) struct RepositorySecret {
    pub(super) location: Location,
    pub(super) password: Password,
    pub(super) environment: Environment,
}

/// What is wrong with a Secret, by the name of its key. No value is repeated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum SecretError {
    #[error("secrets: the Secret must have the key {0}")]
    Missing(&'static str),
    #[error("secrets: {0} names something on the node, which a Secret may not; put the value itself under {1}")]
    Refused(&'static str, &'static str),
    #[error("secrets: RESTIC_REPOSITORY must be in an object store, and not a directory of the node")]
    Directory,
    #[error("secrets: RESTIC_REPOSITORY does not read: {0}")]
    Location(String),
}

impl RepositorySecret {
    /// The repository that the keys of a Secret name.
    ///
    /// # Errors
    /// [`SecretError`].
    pub(super) fn parse(keys: HashMap<String, String>) -> Result<Self, SecretError> {
        if let Some((key, instead)) = REFUSED.into_iter().find(|(key, _)| keys.contains_key(*key)) {
            return Err(SecretError::Refused(key, instead));
        }
        let value = |key: &'static str| keys.get(key).filter(|value| !value.is_empty()).ok_or(SecretError::Missing(key));
        let location: Location = value(REPOSITORY)?.parse().map_err(|error| SecretError::Location(format!("{error}")))?;
        if matches!(location, Location::Local(_)) {
            return Err(SecretError::Directory);
        }
        let password = Password::new(value(PASSWORD)?.as_str()).map_err(|_| SecretError::Missing(PASSWORD))?;
        Ok(Self { location, password, environment: Environment::from_pairs(keys) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(keys: &[(&str, &str)]) -> Result<RepositorySecret, SecretError> {
        RepositorySecret::parse(keys.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
    }

    const WHOLE: [(&str, &str); 3] = [(REPOSITORY, "s3:host/bucket"), (PASSWORD, "hush"), ("AWS_SECRET_ACCESS_KEY", "also hush")];

    #[test]
    fn a_secret_with_restic_s_names_opens_a_repository_and_is_not_shown() {
        let secret = parse(&[&WHOLE[..], &[("tls.crt", "somebody else's")]].concat()).unwrap();
        assert_eq!(secret.location.to_string(), "s3:https://host/bucket");
        let shown = format!("{secret:?}");
        assert!(shown.contains("AWS_SECRET_ACCESS_KEY") && !shown.contains("hush"), "{shown}");
    }

    #[test]
    fn a_secret_never_makes_the_node_use_its_own_identity() {
        let asks = [
            ("AWS_ROLE_ARN", "arn:aws:iam::1:role/backup"),
            ("AWS_WEB_IDENTITY_TOKEN_FILE", "/var/run/secrets/token"),
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://169.254.170.23/v1/credentials"),
            ("WINDLASS_CLOUD_IDENTITY", "instance"),
        ];
        let secret = parse(&[&WHOLE[..], &asks].concat()).unwrap();
        assert_eq!(secret.environment.identity(), Ok(None));
    }

    #[test]
    fn what_names_a_file_a_command_or_a_directory_of_the_node_is_refused() {
        for (key, instead) in REFUSED {
            let refused = parse(&[&WHOLE[..], &[(key, "/etc/shadow")]].concat()).unwrap_err();
            assert_eq!(refused, SecretError::Refused(key, instead));
            assert!(!refused.to_string().contains("shadow"));
        }
        for path in ["/var/lib", "local:/var/lib"] {
            assert_eq!(parse(&[(REPOSITORY, path), WHOLE[1]]).unwrap_err(), SecretError::Directory);
        }
    }

    #[test]
    fn a_secret_that_lacks_something_says_what() {
        assert_eq!(parse(&WHOLE[1..]).unwrap_err(), SecretError::Missing(REPOSITORY));
        assert_eq!(parse(&[WHOLE[0], (PASSWORD, "")]).unwrap_err(), SecretError::Missing(PASSWORD));
        assert!(matches!(parse(&[(REPOSITORY, "s3:host"), WHOLE[1]]).unwrap_err(), SecretError::Location(_)));
    }
}
