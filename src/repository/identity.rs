//! The identity that a cloud gives to a process or to its machine: where credentials for S3 come from that last minutes, not years.
//!
//! It is never used unasked. A command uses it when its own environment names one and holds no keys; a node uses its own when the request
//! for a transfer says so. A Secret can never name one, since a user who may write Secrets may not use a token in a file of the node, nor
//! the node's own role. The variables are those of Amazon's tools, and one of ours: nothing asks the machine's metadata service unless
//! `WINDLASS_CLOUD_IDENTITY=instance` says so.
//!
//! This module knows only what the variables name. [`store::s3::renewal`](super::store::s3::renewal) asks there for credentials.

use std::fmt;
use std::path::PathBuf;

use zeroize::Zeroizing;

/// Which identity is used: `instance`, or `none` of those that other variables name.
const CHOICE: &str = "WINDLASS_CLOUD_IDENTITY";
const TOKEN_FILE: &str = "AWS_WEB_IDENTITY_TOKEN_FILE";
const ROLE: &str = "AWS_ROLE_ARN";
const SESSION: &str = "AWS_ROLE_SESSION_NAME";
const TOKEN_SERVICE: &str = "AWS_ENDPOINT_URL_STS";
const CONTAINER_URI: &str = "AWS_CONTAINER_CREDENTIALS_FULL_URI";
const CONTAINER_PATH: &str = "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI";
const CONTAINER_TOKEN: &str = "AWS_CONTAINER_AUTHORIZATION_TOKEN";
const CONTAINER_TOKEN_FILE: &str = "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE";
const METADATA_SERVICE: &str = "AWS_EC2_METADATA_SERVICE_ENDPOINT";

/// Where relative paths of a container's credentials lead.
const CONTAINER_HOST: &str = "http://169.254.170.2";
/// The metadata service of a machine.
const METADATA_HOST: &str = "http://169.254.169.254";
/// Hosts, beside this machine's own, that may be asked for a container's credentials in the clear: they are at the other end of a wire that
/// does not leave it.
const CLEAR_HOSTS: [&str; 3] = ["169.254.170.2", "169.254.170.23", "[fd00:ec2::23]"];

/// The identity of a process or a machine in a cloud. Debug shows no secret.
#[derive(Clone, PartialEq, Eq)]
pub struct CloudIdentity {
    pub source: CredentialSource,
    /// Certificates, in PEM, of the authorities that are believed there instead of the machine's.
    pub authorities: Option<String>,
}

/// Where credentials come from that are renewed.
#[derive(Clone, PartialEq, Eq)]
pub enum CredentialSource {
    /// A role that is given to the holder of a token, which the platform keeps fresh in a file.
    WebIdentity {
        role: String,
        token_file: PathBuf,
        /// What the session is called in the cloud's records.
        session: String,
        /// Address of the token service.
        service: String,
    },
    /// The service that gives a container its credentials (ECS, EKS Pod Identity).
    Container {
        address: String,
        /// The token that the service must be shown.
        authorization: Option<Authorization>,
    },
    /// The metadata service of the machine, version 2 alone.
    Instance {
        /// Its address, without a path.
        service: String,
    },
}

/// The token that a container shows to get its credentials.
#[derive(Clone, PartialEq, Eq)]
pub enum Authorization {
    Token(Zeroizing<String>),
    /// The content that the file has when it is needed.
    File(PathBuf),
}

/// Why the environment names no usable identity. The values of variables are not shown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// The first variable needs the second.
    #[error("{0} is set, and {1} is not")]
    Lacks(&'static str, &'static str),
    /// A variable, and the rule that its value breaks.
    #[error("{0} {1}")]
    Value(&'static str, &'static str),
}

impl CloudIdentity {
    /// The identity that variables name, of which `value` gives each; `None` when they name none.
    pub fn from_variables(value: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, IdentityError> {
        let value = |name: &'static str| value(name).filter(|value| !value.is_empty());
        let source = match value(CHOICE).as_deref() {
            Some("none") => None,
            Some("instance") => Some(instance(value)?),
            None => match value(TOKEN_FILE) {
                Some(file) => Some(web_identity(file.into(), value)?),
                None => container(value)?,
            },
            Some(_) => return Err(IdentityError::Value(CHOICE, "must be instance or none")),
        };
        Ok(source.map(|source| Self { source, authorities: None }))
    }

    /// The same, where only these authorities are believed.
    pub fn believing(self, authorities: Option<String>) -> Self {
        Self { authorities, ..self }
    }
}

type Values<'a> = &'a dyn Fn(&'static str) -> Option<String>;

fn web_identity(token_file: PathBuf, value: impl Fn(&'static str) -> Option<String>) -> Result<CredentialSource, IdentityError> {
    let role = value(ROLE).ok_or(IdentityError::Lacks(TOKEN_FILE, ROLE))?;
    let session = value(SESSION).unwrap_or_else(|| "windlass".to_owned());
    let service = match value(TOKEN_SERVICE) {
        Some(service) => address(TOKEN_SERVICE, service)?,
        None => amazons_token_service(&role, &value)?,
    };
    Ok(CredentialSource::WebIdentity { role, token_file, session, service })
}

/// The token service of the process's region, or the one of all regions.
fn amazons_token_service(role: &str, value: Values<'_>) -> Result<String, IdentityError> {
    let domain = if role.starts_with("arn:aws-cn:") { "amazonaws.com.cn" } else { "amazonaws.com" };
    let named = ["AWS_REGION", "AWS_DEFAULT_REGION"].into_iter().find_map(|name| Some((name, value(name)?)));
    match named {
        None => Ok(format!("https://sts.{domain}")),
        Some((_, region)) if region.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') => {
            Ok(format!("https://sts.{region}.{domain}"))
        }
        Some((name, _)) => Err(IdentityError::Value(name, "must be the name of a region")),
    }
}

fn container(value: impl Fn(&'static str) -> Option<String>) -> Result<Option<CredentialSource>, IdentityError> {
    let address = match (value(CONTAINER_PATH), value(CONTAINER_URI)) {
        (Some(path), _) if path.starts_with('/') => format!("{CONTAINER_HOST}{path}"),
        (Some(_), _) => return Err(IdentityError::Value(CONTAINER_PATH, "must begin with a slash")),
        (None, Some(uri)) => {
            let uri = address(CONTAINER_URI, uri)?;
            if !is_safe(&uri) {
                return Err(IdentityError::Value(CONTAINER_URI, "must begin with https:// or name this machine"));
            }
            uri
        }
        (None, None) => return Ok(None),
    };
    let authorization = match (value(CONTAINER_TOKEN_FILE), value(CONTAINER_TOKEN)) {
        (Some(file), _) => Some(Authorization::File(file.into())),
        (None, token) => token.map(|token| Authorization::Token(token.into())),
    };
    Ok(Some(CredentialSource::Container { address, authorization }))
}

fn instance(value: impl Fn(&'static str) -> Option<String>) -> Result<CredentialSource, IdentityError> {
    let service = match value(METADATA_SERVICE) {
        Some(service) => address(METADATA_SERVICE, service)?,
        None => METADATA_HOST.to_owned(),
    };
    Ok(CredentialSource::Instance { service: service.trim_end_matches('/').to_owned() })
}

fn address(name: &'static str, value: String) -> Result<String, IdentityError> {
    match value.starts_with("https://") || value.starts_with("http://") {
        true => Ok(value),
        false => Err(IdentityError::Value(name, "must begin with https:// or http://")),
    }
}

/// True for an address to which a secret may be sent in the clear.
fn is_safe(address: &str) -> bool {
    let Some(rest) = address.strip_prefix("http://") else { return true };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = match authority.strip_prefix('[') {
        Some(_) => authority.split_inclusive(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    let is_loopback = host.parse::<std::net::Ipv4Addr>().is_ok_and(|host| host.is_loopback());
    is_loopback || matches!(host, "localhost" | "[::1]") || CLEAR_HOSTS.contains(&host)
}

impl fmt::Display for CredentialSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WebIdentity { role, token_file, service, .. } => {
                write!(f, "{role} for the token in {} at {service}", token_file.display())
            }
            Self::Container { address, .. } => write!(f, "the container's role at {address}"),
            Self::Instance { service } => write!(f, "the machine's role at {service}"),
        }
    }
}

impl fmt::Debug for CredentialSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for CloudIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CloudIdentity").field("source", &self.source).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(pairs: &[(&str, &str)]) -> Result<Option<CredentialSource>, IdentityError> {
        let value = |name: &str| pairs.iter().find(|pair| pair.0 == name).map(|pair| pair.1.to_owned());
        Ok(CloudIdentity::from_variables(value)?.map(|identity| identity.source))
    }

    const WEB: [(&str, &str); 2] = [(TOKEN_FILE, "/var/run/token"), (ROLE, "arn:aws:iam::1:role/backup")];

    fn service(more: &[(&str, &str)]) -> String {
        match named(&[&WEB[..], more].concat()) {
            Ok(Some(CredentialSource::WebIdentity { service, .. })) => service,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn nothing_is_used_that_the_environment_does_not_name() {
        assert_eq!(named(&[]), Ok(None));
        assert_eq!(named(&[(ROLE, "arn:aws:iam::1:role/backup"), (METADATA_SERVICE, "http://127.0.0.1:1")]), Ok(None));
        assert_eq!(named(&[&WEB[..], &[(CHOICE, "none")]].concat()), Ok(None));
        assert!(
            matches!(named(&[(CHOICE, "instance")]), Ok(Some(CredentialSource::Instance { service })) if service == METADATA_HOST)
        );
        assert_eq!(named(&[(CHOICE, "auto")]), Err(IdentityError::Value(CHOICE, "must be instance or none")));
    }

    #[test]
    fn a_web_identity_goes_to_the_token_service_of_its_region() {
        assert_eq!(service(&[]), "https://sts.amazonaws.com");
        assert_eq!(service(&[("AWS_REGION", "eu-west-3")]), "https://sts.eu-west-3.amazonaws.com");
        assert_eq!(service(&[(ROLE, "ignored"), (TOKEN_SERVICE, "http://minio:9000")]), "http://minio:9000");
        let china = named(&[(TOKEN_FILE, "/t"), (ROLE, "arn:aws-cn:iam::1:role/b"), ("AWS_DEFAULT_REGION", "cn-north-1")]);
        assert!(format!("{china:?}").ends_with("https://sts.cn-north-1.amazonaws.com.cn))"), "{china:?}");
        let elsewhere = named(&[&WEB[..], &[("AWS_REGION", "evil.example/")]].concat());
        assert_eq!(elsewhere, Err(IdentityError::Value("AWS_REGION", "must be the name of a region")));
        assert_eq!(named(&WEB[..1]), Err(IdentityError::Lacks(TOKEN_FILE, ROLE)));
    }

    #[test]
    fn a_container_s_credentials_are_asked_for_in_the_clear_only_on_its_own_machine() {
        for (uri, taken) in [
            ("http://169.254.170.23/v1/credentials", true),
            ("http://[fd00:ec2::23]/v1/credentials", true),
            ("http://127.0.0.1:8080/x", true),
            ("http://[::1]:80/", true),
            ("https://credentials.example/", true),
            ("http://credentials.example/", false),
            ("http://127.0.0.1.example/", false),
            ("http://127.0.0.1@example/", false),
            ("ftp://127.0.0.1/", false),
        ] {
            assert_eq!(named(&[(CONTAINER_URI, uri)]).is_ok(), taken, "{uri}");
        }
        let relative = named(&[(CONTAINER_PATH, "/v2/credentials/1")]).unwrap().unwrap();
        assert_eq!(relative.to_string(), "the container's role at http://169.254.170.2/v2/credentials/1");
        assert!(named(&[(CONTAINER_PATH, "@evil.example/")]).is_err());
    }

    #[test]
    fn an_identity_shows_no_secret() {
        let container = named(&[(CONTAINER_PATH, "/v2"), (CONTAINER_TOKEN, "hidden-word")]).unwrap().unwrap();
        let identity = CloudIdentity { source: container, authorities: None };
        assert!(!format!("{identity:?}").contains("hidden-word"));
    }
}
