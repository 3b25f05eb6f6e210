//! Asks the services that give out credentials, once for each call.
//!
//! | source | asked |
//! |---|---|
//! | web identity | `AssumeRoleWithWebIdentity` of the token service, with the token that the file holds now |
//! | container | one GET, with the authorization that the file or the variable holds |
//! | machine | the metadata service, version 2: a token of its own, the role's name, the role's credentials |
//!
//! Version 1 of the metadata service is not spoken: it gives credentials to everybody who can make a machine fetch an address.
//!
//! Files are read anew each time, since the platform that keeps them fresh replaces them. Answers are bounded in time and length. Words of
//! a service that repeat the token are cut off before it.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use http::Method;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue};
use object_store::aws::AwsCredential;
use object_store::client::{HttpRequest, HttpRequestBody};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::schedule::Issued;
use crate::repository::environment::{Environment, Variable};
use crate::repository::identity::{Authorization, CloudIdentity, CredentialSource};
use crate::repository::store::error::StoreError;
use crate::repository::store::http::fault::{Fault, element};
use crate::repository::store::http::{Connector, Limits};
use crate::repository::time::parse_rfc3339;
use crate::types::error::chain;

/// A metadata service is next door; a token service may be an ocean away.
const LIMITS: Limits = Limits { connect: Duration::from_secs(5), idle: Duration::from_secs(15), least_rate: 4 << 10 };
/// Longest answer, and longest file, that is read.
const MOST_BYTES: usize = 64 << 10;
/// How long a token of the metadata service is good, in seconds: it is used at once.
const METADATA_TOKEN_SECONDS: &str = "60";
const METADATA_TTL: HeaderName = HeaderName::from_static("x-aws-ec2-metadata-token-ttl-seconds");
const METADATA_TOKEN: HeaderName = HeaderName::from_static("x-aws-ec2-metadata-token");
const ROLES: &str = "/latest/meta-data/iam/security-credentials/";
/// What stands for itself in a form.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Why there are no credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Asking again later may help.
    Passing(String),
    /// Asking again does not help.
    Final(String),
}

impl Refusal {
    /// The fault of the request that was to be signed.
    pub fn fault(self) -> Fault {
        match self {
            Self::Passing(why) => Fault::NoCredentialsNow(why),
            Self::Final(why) => Fault::NoCredentials(why),
        }
    }

    fn of(fault: &Fault) -> Self {
        match fault.meaning(String::new()).is_transient() {
            true => Self::Passing(chain(fault)),
            false => Self::Final(chain(fault)),
        }
    }

    fn in_words(self, words: impl FnOnce(String) -> String) -> Self {
        match self {
            Self::Passing(why) => Self::Passing(words(why)),
            Self::Final(why) => Self::Final(words(why)),
        }
    }

    /// The same, cut off before the place where it repeats `secret`.
    fn without(self, secret: &str) -> Self {
        let beginning: String = secret.chars().take(12).collect();
        self.in_words(|why| match why.find(&beginning) {
            Some(at) if !beginning.is_empty() => format!("{}...", &why[..at]),
            _ => why,
        })
    }
}

/// Asks one source for credentials.
#[derive(Debug)]
pub struct Issuer {
    source: CredentialSource,
    connector: Connector,
}

impl Issuer {
    /// For the credentials of `identity`. Nothing is asked yet.
    ///
    /// # Errors
    /// [`StoreError::Configuration`] when its certificates cannot be used.
    pub fn new(identity: &CloudIdentity) -> Result<Self, StoreError> {
        let connector = match &identity.source {
            CredentialSource::WebIdentity { .. } => {
                let mut trust = Environment::new();
                trust.set(Variable::AwsCaBundle, identity.authorities.clone().unwrap_or_default());
                Connector::new(&trust, LIMITS)
            }
            CredentialSource::Container { .. } | CredentialSource::Instance { .. } => Connector::direct(LIMITS),
        };
        Ok(Self { source: identity.source.clone(), connector: connector? })
    }

    /// Credentials, and how long they are good.
    ///
    /// # Errors
    /// The words of the refusal name the source.
    pub async fn ask(&self) -> Result<Issued, Refusal> {
        let asked = match &self.source {
            CredentialSource::WebIdentity { role, token_file, session, service } => {
                self.assume(role, token_file, session, service).await
            }
            CredentialSource::Container { address, authorization } => self.container(address, authorization.as_ref()).await,
            CredentialSource::Instance { service } => self.machine(service).await,
        };
        asked.map_err(|refusal| refusal.in_words(|why| format!("{}: {why}", self.source)))
    }

    async fn assume(&self, role: &str, token_file: &Path, session: &str, service: &str) -> Result<Issued, Refusal> {
        let token = content(token_file).await?;
        let fields = [
            ("Action", "AssumeRoleWithWebIdentity"),
            ("Version", "2011-06-15"),
            ("RoleArn", role),
            ("RoleSessionName", session),
            ("WebIdentityToken", &token),
        ];
        // In the body, not in the address, which ends in logs.
        let form = fields.map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, PLAIN))).join("&");
        let mut request = request(Method::POST, service, form.into())?;
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        let answer = self.send(request).await.map_err(|refusal| refusal.without(&token))?;
        let text = Zeroizing::new(String::from_utf8(answer).map_err(|_| nonsense("no text"))?);
        let field = |name: &str| element(&text, name).map(str::to_owned);
        issued(field("AccessKeyId"), field("SecretAccessKey"), field("SessionToken"), field("Expiration"))
    }

    async fn container(&self, address: &str, authorization: Option<&Authorization>) -> Result<Issued, Refusal> {
        let token = match authorization {
            None => None,
            Some(Authorization::Token(token)) => Some(token.clone()),
            Some(Authorization::File(file)) => Some(content(file).await?),
        };
        let mut request = request(Method::GET, address, HttpRequestBody::empty())?;
        if let Some(token) = &token {
            request.headers_mut().insert(AUTHORIZATION, header(token)?);
        }
        let answer = self.send(request).await;
        document(&answer.map_err(|refusal| refusal.without(token.as_deref().map_or("", |token| token.as_str())))?)
    }

    async fn machine(&self, service: &str) -> Result<Issued, Refusal> {
        let mut token = request(Method::PUT, &format!("{service}/latest/api/token"), HttpRequestBody::empty())?;
        token.headers_mut().insert(METADATA_TTL, HeaderValue::from_static(METADATA_TOKEN_SECONDS));
        let token = text(self.send(token).await?)?;
        let get = async |path: &str| {
            let mut request = request(Method::GET, &format!("{service}{ROLES}{path}"), HttpRequestBody::empty())?;
            request.headers_mut().insert(METADATA_TOKEN, header(&token)?);
            self.send(request).await
        };
        let roles = text(get("").await?)?;
        let role = roles.lines().next().unwrap_or_default().trim();
        if role.is_empty() {
            return Err(Refusal::Final("it has no role".to_owned()));
        }
        document(&get(&utf8_percent_encode(role, PLAIN).to_string()).await?)
    }

    async fn send(&self, request: HttpRequest) -> Result<Vec<u8>, Refusal> {
        self.connector.ask(request, MOST_BYTES).await.map_err(|fault| Refusal::of(&fault))
    }
}

fn request(method: Method, address: &str, body: HttpRequestBody) -> Result<HttpRequest, Refusal> {
    let request = http::Request::builder().method(method).uri(address).body(body);
    request.map_err(|error| Refusal::Final(format!("the address cannot be used: {error}")))
}

fn header(token: &str) -> Result<HeaderValue, Refusal> {
    let value = HeaderValue::from_str(token)
        .map_err(|_| Refusal::Final("the token must not contain spaces or control characters".to_owned()))?;
    Ok(sensitive(value))
}

fn sensitive(mut value: HeaderValue) -> HeaderValue {
    value.set_sensitive(true);
    value
}

/// What is in a file, without the end of its line.
async fn content(file: &Path) -> Result<Zeroizing<String>, Refusal> {
    let path: PathBuf = file.to_owned();
    let read = move || -> std::io::Result<Zeroizing<String>> {
        let mut text = Zeroizing::new(String::new());
        std::fs::File::open(path)?.take(MOST_BYTES as u64).read_to_string(&mut text)?;
        Ok(Zeroizing::new(text.trim().to_owned()))
    };
    let failed = |error: &dyn std::fmt::Display| Refusal::Final(format!("{} cannot be read: {error}", file.display()));
    let text = tokio::task::spawn_blocking(read).await.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
    if text.is_empty() { Err(Refusal::Final(format!("{} is empty", file.display()))) } else { Ok(text) }
}

fn text(answer: Vec<u8>) -> Result<Zeroizing<String>, Refusal> {
    Ok(Zeroizing::new(String::from_utf8(answer).map_err(|_| nonsense("no text"))?))
}

fn nonsense(what: &str) -> Refusal {
    Refusal::Passing(format!("an answer that cannot be used: {what}"))
}

/// The document of a metadata service.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Document {
    code: Option<String>,
    access_key_id: Option<String>,
    secret_access_key: Option<String>,
    token: Option<String>,
    expiration: Option<String>,
}

fn document(answer: &[u8]) -> Result<Issued, Refusal> {
    // The parser's words may quote what it reads.
    let document: Document = serde_json::from_slice(answer).map_err(|_| nonsense("no document of credentials"))?;
    match document.code {
        Some(code) if code != "Success" => Err(Refusal::Final(format!("it says {code}"))),
        _ => issued(document.access_key_id, document.secret_access_key, document.token, document.expiration),
    }
}

fn issued(
    key_id: Option<String>,
    secret_key: Option<String>,
    token: Option<String>,
    until: Option<String>,
) -> Result<Issued, Refusal> {
    // They become parts of headers; nothing else fits there, and no token has other characters.
    let is_plain = |value: &String| !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'&');
    let part = |value: Option<String>, name: &str| value.filter(is_plain).ok_or_else(|| nonsense(&format!("no {name} in it")));
    let credential = AwsCredential {
        key_id: part(key_id, "access key")?,
        secret_key: part(secret_key, "secret key")?,
        token: Some(part(token, "session token")?),
    };
    let time = |text: String| parse_rfc3339(&text).map(SystemTime::from).ok_or_else(|| nonsense("no time of expiry in it"));
    Ok(Issued { credential, until: until.map(time).transpose()? })
}
