//! Why a request did not succeed, and what that means for the call to the store.

use std::error::Error;
use std::fmt;
use std::io;
use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::HeaderMap;

use crate::repository::store::error::{StoreCause, StoreError};

/// Longest text of an answer that is shown, in bytes.
const SHOWN_BYTES: usize = 300;

/// Why a request did not succeed. It travels through `object_store` as the source of its error, since that keeps the status of
/// an answer to itself.
///
/// Of a transport's errors only the text of the deepest is kept: those above it name the address, which may have a signature in it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Fault {
    /// The store answered, and the answer is not a success.
    #[error("{0}")]
    Answer(Answer),
    #[error(
        "the server's certificate is not trusted; if it is the right server, name its certificate authority in AWS_CA_BUNDLE or \
         RESTIC_CACERT"
    )]
    Certificate(#[source] rustls::Error),
    #[error("the server does not speak TLS at this address; write s3:http://HOST... if that is meant")]
    NoTls,
    /// The resolver knows no host of this name.
    #[error("{0}")]
    UnknownHost(String),
    #[error("nothing moved for {} seconds", .0.as_secs())]
    Stalled(Duration),
    /// The request took longer than its length allows.
    #[error("not done in {} seconds", .0.as_secs())]
    Slow(Duration),
    /// There was no connection, or it broke.
    #[error("{0}")]
    Broken(String),
    /// There are no credentials to sign a request with, for this reason.
    #[error("no credentials: {0}")]
    NoCredentials(String),
    /// The same, for a reason that may pass.
    #[error("no credentials: {0}")]
    NoCredentialsNow(String),
}

/// An answer that is not a success.
#[derive(Debug, Clone)]
pub struct Answer {
    status: StatusCode,
    /// The code in the body, such as `SlowDown`; empty when there is none.
    code: String,
    message: String,
    /// Where the bucket lies, if the store says so.
    region: Option<String>,
}

impl Answer {
    /// Reads the dialects of S3, Azure and Google's XML interface, which agree in this.
    pub fn new(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Self {
        let body = String::from_utf8_lossy(body);
        let header = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let code = element(&body, "Code").map(str::to_owned).or_else(|| header("x-ms-error-code")).unwrap_or_default();
        let region = header("x-amz-bucket-region").or_else(|| element(&body, "Region").map(str::to_owned));
        let message = element(&body, "Message").unwrap_or_default().chars().take(SHOWN_BYTES).collect();
        Self { status, code, message, region }
    }

    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// True when it is the object, the upload or the bucket that does not exist. Others may have the same status, such as a key to encrypt
    /// with.
    pub fn says_that_it_is_not_there(&self) -> bool {
        let names = ["", "NotFound", "NoSuchKey", "NoSuchVersion", "NoSuchUpload", "NoSuchBucket"];
        let azures = ["BlobNotFound", "ContainerNotFound", "ResourceNotFound"];
        self.status == StatusCode::NOT_FOUND && (names.contains(&self.code.as_str()) || azures.contains(&self.code.as_str()))
    }

    /// What the store finds wrong with the credentials, if it says that they are the trouble.
    pub fn credentials(&self) -> Option<Complaint> {
        match self.code.as_str() {
            "ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired" => Some(Complaint::Expired),
            "InvalidToken" | "InvalidTokenId" | "InvalidClientTokenId" => Some(Complaint::Token),
            "InvalidAccessKeyId" => Some(Complaint::Key),
            "SignatureDoesNotMatch" => Some(Complaint::Secret),
            _ => None,
        }
    }
}

/// The text in the first element of this name.
pub fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let start = xml.find(&format!("<{name}>"))? + name.len() + 2;
    let length = xml[start..].find("</")?;
    Some(xml[start..start + length].trim())
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.status)?;
        if !self.code.is_empty() {
            write!(f, ": {}", self.code)?;
        }
        if !self.message.is_empty() {
            write!(f, ": {}", self.message)?;
        }
        Ok(())
    }
}

/// A complaint of a store about credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Complaint {
    /// The session token has expired.
    Expired,
    /// The session token is not one of this store.
    Token,
    /// The store knows no such key. MinIO says so also of one whose session token has expired.
    Key,
    /// Another secret belongs to the key.
    Secret,
}

impl Complaint {
    /// What the owner of the credentials can do.
    fn advice(self) -> &'static str {
        match self {
            Self::Expired => "the session token is no longer valid: get new credentials",
            Self::Token => "the session token is not one of this store, or not of this key",
            Self::Key => "there is no such access key; one that came with a session token may have expired",
            Self::Secret => "the secret access key is wrong",
        }
    }
}

impl Fault {
    /// A request that failed in transit. Of a server that was `answered` before, a name that is not found and a connection without TLS
    /// are passing troubles of the network; of any other they are a wrong address.
    pub fn in_transit(error: &reqwest::Error, answered: bool) -> Self {
        match tls_error(error) {
            Some(error @ rustls::Error::InvalidCertificate(_)) => return Self::Certificate(error),
            Some(rustls::Error::InvalidMessage(_)) if !answered => return Self::NoTls,
            _ => {}
        }
        let text = deepest(error).to_string();
        // The resolver's errors have no kind of their own: these are glibc's and musl's words for "no such name" alone.
        let unknown = ["Name or service not known", "No address associated with hostname", "Name does not resolve"];
        if !answered && unknown.iter().any(|words| text.contains(words)) {
            return Self::UnknownHost(text);
        }
        Self::Broken(text)
    }

    /// The fault behind an error of `object_store`.
    pub fn behind<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a Self> {
        std::iter::successors(Some(error), |error| (*error).source()).find_map(|error| error.downcast_ref())
    }

    /// The error of a call for `object` that met this fault.
    pub fn meaning(&self, object: String) -> StoreError {
        let source = Box::new(self.clone());
        match self {
            Self::Certificate(_) | Self::NoTls | Self::UnknownHost(_) => StoreError::Configuration(source),
            Self::Stalled(_) | Self::Slow(_) => StoreError::Busy { object, source },
            Self::Broken(_) | Self::NoCredentialsNow(_) => StoreError::Unavailable { object, source },
            Self::NoCredentials(_) => StoreError::Denied { object, source },
            Self::Answer(answer) => answer.meaning(object),
        }
    }
}

impl Answer {
    fn meaning(&self, object: String) -> StoreError {
        let advice = self.credentials().map(|complaint| format!("; {}", complaint.advice())).unwrap_or_default();
        let said = format!("{self}{advice}");
        let source = StoreCause::from(said.clone());
        match (self.status.as_u16(), self.code.as_str()) {
            // Amazon's words for its own 408 and 429, under any status.
            (_, "RequestTimeout" | "InternalError" | "OperationAborted" | "ConditionalRequestConflict") => {
                StoreError::Unavailable { object, source }
            }
            (
                _,
                "SlowDown" | "Throttling" | "ThrottlingException" | "RequestLimitExceeded" | "ServerBusy" | "RateLimitExceeded",
            ) => StoreError::Busy { object, source },
            (429 | 503, _) => StoreError::Busy { object, source },
            (_, "BlobAlreadyExists") => StoreError::AlreadyExists { object },
            (_, "BlobImmutableDueToPolicy") | (401 | 403, _) => StoreError::Denied { object, source },
            _ if self.credentials().is_some() => StoreError::Denied { object, source },
            (408 | 409 | 500 | 502 | 504, _) => StoreError::Unavailable { object, source },
            (300..400, _) | (_, "AuthorizationHeaderMalformed") => StoreError::configuration(match &self.region {
                Some(region) => format!("the bucket lies in the region `{region}`; set AWS_REGION ({said})"),
                None => format!("the store sends us elsewhere; check the host and AWS_REGION ({said})"),
            }),
            // 501 is a gap of the store, 507 a full one; other 5xx come from proxies in between.
            (501 | 505 | 507, _) | (..500, _) => StoreError::Io { object, source: io::Error::other(source) },
            _ => StoreError::Unavailable { object, source },
        }
    }
}

/// `error` and its causes. An `io::Error` hides what it wraps from `source`, and connectors wrap them more than once.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| match (*error).downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(wrapped) => Some(wrapped as &(dyn Error + 'static)),
        None => (*error).source(),
    })
}

fn tls_error(error: &(dyn Error + 'static)) -> Option<rustls::Error> {
    causes(error).find_map(|error| error.downcast_ref().cloned())
}

fn deepest<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    causes(error).last().unwrap_or(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::error::chain;

    fn meaning(status: u16, body: &str) -> StoreError {
        let answer = Answer::new(StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), body.as_bytes());
        Fault::Answer(answer).meaning("config".to_owned())
    }

    #[test]
    fn statuses_and_codes_have_their_meanings() {
        let code = |code: &str| format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>words</Message></Error>");
        for status in [408, 409, 500, 502, 504, 520] {
            assert!(matches!(meaning(status, ""), StoreError::Unavailable { .. }), "{status}");
        }
        for (status, body) in [(429, ""), (503, ""), (503, "SlowDown"), (403, "RateLimitExceeded"), (400, "ThrottlingException")]
        {
            assert!(matches!(meaning(status, &code(body)), StoreError::Busy { .. }), "{status} {body}");
        }
        for (status, body) in [
            (401, ""),
            (403, ""),
            (403, "AccessDenied"),
            (400, "ExpiredToken"),
            (400, "InvalidTokenId"),
            (409, "BlobImmutableDueToPolicy"),
        ] {
            assert!(matches!(meaning(status, &code(body)), StoreError::Denied { .. }), "{status} {body}");
        }
        for (status, body) in
            [(400, ""), (400, "InvalidRequest"), (404, "KMS.NotFoundException"), (416, ""), (501, ""), (507, "")]
        {
            assert!(matches!(meaning(status, &code(body)), StoreError::Io { .. }), "{status} {body}");
        }
        assert!(matches!(meaning(400, &code("RequestTimeout")), StoreError::Unavailable { .. }));
        assert!(matches!(meaning(409, &code("BlobAlreadyExists")), StoreError::AlreadyExists { .. }));
        let elsewhere = meaning(301, "<Error><Code>PermanentRedirect</Code><Region>eu-west-3</Region></Error>");
        assert!(
            matches!(&elsewhere, StoreError::Configuration(text) if text.to_string().contains("`eu-west-3`")),
            "{elsewhere:?}"
        );
        let denied = chain(&meaning(403, &code("AccessDenied")));
        assert_eq!(denied, "access to config was denied: 403 Forbidden: AccessDenied: words");
    }

    #[test]
    fn a_key_that_is_not_there_is_no_object_that_is_not() {
        let says = |status: u16, code: &str| {
            let body = format!("<Error><Code>{code}</Code></Error>");
            Answer::new(StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), body.as_bytes()).says_that_it_is_not_there()
        };
        assert!(says(404, "") && says(404, "NoSuchKey") && says(404, "NoSuchBucket") && says(404, "BlobNotFound"));
        assert!(!says(404, "KMS.NotFoundException") && !says(404, "kms:KeyNotFound") && !says(403, "NoSuchKey"));
    }

    #[test]
    fn a_token_that_has_expired_is_told_from_wrong_keys_and_from_want_of_permission() {
        let said = |code: &str| chain(&meaning(403, &format!("<Error><Code>{code}</Code></Error>")));
        for (code, advice) in [
            ("ExpiredToken", "no longer valid"),
            ("InvalidTokenId", "is not one of this store"),
            ("InvalidAccessKeyId", "there is no such access key"),
            ("SignatureDoesNotMatch", "the secret access key is wrong"),
        ] {
            assert!(said(code).contains(advice), "{}", said(code));
        }
        assert_eq!(said("AccessDenied"), "access to config was denied: 403 Forbidden: AccessDenied");
    }

    #[test]
    fn a_fault_is_found_behind_other_errors() {
        let hidden = object_store::Error::Generic { store: "S3", source: Box::new(Fault::Stalled(Duration::from_secs(60))) };
        let fault = Fault::behind(&hidden).unwrap();
        assert!(matches!(fault.meaning("config".into()), StoreError::Busy { .. }));
        let other = object_store::Error::Generic { store: "S3", source: "text".into() };
        assert!(Fault::behind(&other).is_none());
    }
}
