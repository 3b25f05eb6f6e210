//! Which repository a command works on, and how it gets in: the words that restic users know.
//!
//! The password comes from a file or from the environment, never from the command line, where every process of the machine
//! could read it. Neither it nor the store's credentials are kept in anything that prints itself.

use std::fmt;
use std::path::PathBuf;

use csi_proto::windlass::v1 as windlass;
use zeroize::Zeroizing;

use crate::repository::environment::Variable;
use crate::repository::{
    self, Environment, Location, Password, Repository, RepositoryError, Store, StoreError, Workspace, password,
};

use super::exit::{CliError, Exit};

/// Environment variable with the password.
const PASSWORD_VARIABLE: &str = "RESTIC_PASSWORD";

/// What to do about a lock of another.
pub const LOCKED: &str = "it ends with the other's work, for which --retry-lock waits; the lock of a process that is gone is removed by `restic unlock --remove-all`";

/// Arguments that name a repository.
#[derive(Debug, Clone, clap::Args)]
pub struct RepositoryArgs {
    /// Repository: /PATH, or s3:HOST/BUCKET[/PREFIX], gs:BUCKET:/[PREFIX], azure:CONTAINER:/[PREFIX] with credentials in the environment
    #[arg(short, long, env = "RESTIC_REPOSITORY", value_name = "LOCATION")]
    repository: Location,
    /// File with the password; without it the password is taken from RESTIC_PASSWORD
    #[arg(long, env = "RESTIC_PASSWORD_FILE", value_name = "FILE")]
    password_file: Option<PathBuf>,
}

/// Everything that opens a repository. Debug shows the location only.
#[derive(Clone)]
pub struct RepositoryAccess {
    location: Location,
    password: Zeroizing<String>,
    environment: Environment,
    workspace: Workspace,
}

impl fmt::Debug for RepositoryAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RepositoryAccess").field("location", &self.location).finish_non_exhaustive()
    }
}

impl RepositoryArgs {
    /// Reads the password and the credentials.
    ///
    /// # Errors
    /// [`Exit::Usage`] when there is no password; [`Exit::NotFound`] when its file cannot be read.
    pub fn access(&self) -> Result<RepositoryAccess, CliError> {
        let password = match &self.password_file {
            Some(path) => {
                let what = || format!("cannot read the password file {}", path.display());
                let contents = std::fs::read(path).map_err(|error| CliError::because(Exit::NotFound, what(), error))?;
                let text = password::file_text(&Zeroizing::new(contents));
                let text =
                    std::str::from_utf8(&text).map_err(|_| CliError::because(Exit::Usage, what(), "it must be text in UTF-8"))?;
                Zeroizing::new(text.trim().to_owned())
            }
            None => Zeroizing::new(std::env::var(PASSWORD_VARIABLE).unwrap_or_default()),
        };
        if password.is_empty() {
            return Err(CliError::usage(format!("there is no password for the repository {}", self.repository))
                .advise(format!("set {PASSWORD_VARIABLE}, or give a file by --password-file")));
        }
        Ok(RepositoryAccess::new(self.repository.clone(), password, Environment::from_process(), Workspace::from_environment()))
    }
}

impl RepositoryAccess {
    /// The repository at `location`.
    pub fn new(location: Location, password: Zeroizing<String>, environment: Environment, workspace: Workspace) -> Self {
        Self { location, password, environment, workspace }
    }

    /// Where it lies.
    pub fn location(&self) -> &Location {
        &self.location
    }

    /// The form in which a node gets it.
    pub fn to_message(&self) -> windlass::RepositoryAccess {
        let value = |&variable: &Variable| Some((variable.name().to_owned(), self.environment.get(variable)?.to_owned()));
        windlass::RepositoryAccess {
            location: self.location.to_string(),
            password: self.password.as_str().to_owned(),
            environment: Variable::ALL.iter().filter_map(value).collect(),
            // A token in a file stays fresh where the file is, so a node uses its own.
            cloud_identity: self.environment.relies_on_identity(),
        }
    }

    /// The password, in the repository's own type.
    ///
    /// # Errors
    /// [`Exit::Usage`] for an empty one.
    pub fn password(&self) -> Result<Password, CliError> {
        Password::new(self.password.as_bytes())
            .map_err(|error| CliError::because(Exit::Usage, "the password cannot be used", error))
    }

    /// The store it lies in; nothing is read yet.
    ///
    /// # Errors
    /// [`Exit::Usage`] when the location cannot be used with these credentials.
    pub fn store(&self) -> Result<std::sync::Arc<dyn Store>, CliError> {
        repository::connect(&self.location, &self.environment)
            .map_err(|error| repository_error(format!("cannot use the repository {}", self.location), error.into()))
    }

    /// Opens it.
    ///
    /// # Errors
    /// As for [`repository_error`].
    pub async fn open(&self) -> Result<Repository, CliError> {
        let what = || format!("cannot open the repository {}", self.location);
        let opened = repository::open_at(&self.location, &self.environment, &self.password()?, &self.workspace).await;
        opened.map_err(|error| repository_error(what(), error))
    }
}

/// What a failure of a repository means to the caller of the command, and what to do about it.
pub fn repository_error(what: impl Into<String>, error: RepositoryError) -> CliError {
    let exit = exit_for(&error);
    let advice = match &error {
        RepositoryError::NoRepository => Some("`windlass repository init` makes one; check the location first"),
        RepositoryError::AlreadyInitialized => Some("use it as it is, or choose another location"),
        RepositoryError::WrongPassword => Some("check RESTIC_PASSWORD or --password-file"),
        RepositoryError::Locked { .. } => Some(LOCKED),
        RepositoryError::UnreadableLock { .. } => {
            Some("once nobody uses the repository, `restic unlock --remove-all` removes it")
        }
        RepositoryError::NoSuchSnapshot(_) | RepositoryError::AmbiguousSnapshot(_) => {
            Some("`windlass repository snapshots` lists them")
        }
        RepositoryError::SeveralVolumes { .. } => {
            Some("choose one by --source NAMESPACE/NAME, by --path, or a snapshot by its id")
        }
        RepositoryError::NoSuchFile(_) | RepositoryError::SeveralFiles { .. } => Some("name a file of the snapshot by --path"),
        RepositoryError::Damaged { .. } | RepositoryError::MissingBlob { .. } => {
            Some("`windlass repository check --read-data` lists everything that is damaged")
        }
        RepositoryError::Store(StoreError::Denied { .. }) => Some("check the credentials and what they permit"),
        RepositoryError::Store(StoreError::Unavailable { .. } | StoreError::Busy { .. }) => {
            Some("check the address and the network, then repeat the command")
        }
        _ => None,
    };
    let error = CliError::because(exit, what, error);
    match advice {
        Some(advice) => error.advise(advice),
        None => error,
    }
}

fn exit_for(error: &RepositoryError) -> Exit {
    match error {
        RepositoryError::NoRepository
        | RepositoryError::NoSuchSnapshot(_)
        | RepositoryError::NoSuchFile(_)
        | RepositoryError::NoFile => Exit::NotFound,
        RepositoryError::AlreadyInitialized
        | RepositoryError::WrongPassword
        | RepositoryError::UnsupportedVersion { .. }
        | RepositoryError::Locked { .. }
        | RepositoryError::UnreadableLock { .. }
        | RepositoryError::AmbiguousSnapshot(_)
        | RepositoryError::AmbiguousFile(_)
        | RepositoryError::SeveralVolumes { .. }
        | RepositoryError::SeveralFiles { .. }
        | RepositoryError::Store(StoreError::Denied { .. } | StoreError::AlreadyExists { .. }) => Exit::Refused,
        RepositoryError::Store(StoreError::Unavailable { .. } | StoreError::Busy { .. }) => Exit::Unavailable,
        RepositoryError::Store(StoreError::Configuration(_)) => Exit::Usage,
        _ => Exit::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::identity::{CloudIdentity, CredentialSource};

    fn access() -> RepositoryAccess {
        RepositoryAccess::new(
            Location::Local("/srv/backup".into()),
            Zeroizing::new("hush".to_owned()),
            Environment::from_pairs([("AWS_SECRET_ACCESS_KEY", "hush")]),
            Workspace::default(),
        )
    }

    #[test]
    fn access_shows_where_and_no_secret() {
        let text = format!("{:?} {:?}", access(), access().to_message());
        assert!(text.contains("/srv/backup") && !text.contains("hush"), "{text}");
    }

    #[test]
    fn a_node_gets_location_password_and_credentials() {
        let message = access().to_message();
        assert_eq!((message.location.as_str(), message.password.as_str()), ("/srv/backup", "hush"));
        assert_eq!(message.environment.get("AWS_SECRET_ACCESS_KEY").map(String::as_str), Some("hush"));
        assert!(!message.cloud_identity);
    }

    #[test]
    fn a_node_may_use_its_own_identity_when_the_command_s_environment_names_one_and_holds_no_keys() {
        let source = CredentialSource::Instance { service: "http://169.254.169.254".to_owned() };
        for (pairs, asked) in [(vec![], true), (vec![("AWS_ACCESS_KEY_ID", "AKIA")], false)] {
            let environment =
                Environment::from_pairs(pairs).with_identity(CloudIdentity { source: source.clone(), authorities: None });
            let access = RepositoryAccess { environment, ..access() };
            assert_eq!(access.to_message().cloud_identity, asked);
        }
    }

    #[test]
    fn failures_of_a_repository_have_their_exit_codes() {
        let unavailable = StoreError::Unavailable { object: "config".into(), source: "refused".into() };
        for (error, exit) in [
            (RepositoryError::NoRepository, Exit::NotFound),
            (RepositoryError::WrongPassword, Exit::Refused),
            (RepositoryError::AlreadyInitialized, Exit::Refused),
            (RepositoryError::NoSuchSnapshot("x".into()), Exit::NotFound),
            (RepositoryError::Store(unavailable), Exit::Unavailable),
            (RepositoryError::LockLost("removed"), Exit::Failed),
        ] {
            assert_eq!(repository_error("x", error).exit(), exit);
        }
    }
}
