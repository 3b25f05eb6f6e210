//! Requests to object stores: the client below `object_store`, which bounds how long each may take and says why it failed.
//!
//! # Time
//! Nothing here waits for ever, and no limit is a fixed time for a body of any length:
//!
//! * a connection stands within [`Limits::connect`];
//! * a request or an answer of which nothing moves for [`Limits::idle`] has stalled. A request is seen to move only up to the kernel's
//!   buffer, so what may lie in that gets its time at the least rate as well;
//! * as a whole each of them has as long as its length takes at [`Limits::least_rate`].
//!
//! So a body that moves, however slowly, as on a line of 4 Mbit/s that four transfers share, is not cut off; one that does not, is.
//!
//! # Failures
//! `object_store` shows neither the status of an answer nor the cause of a broken connection. Therefore every answer that is not a
//! success, except for "there is no such object" and the outcome of a condition, leaves here as an error that carries a [`Fault`].
//! Its kind is one that `object_store` does not repeat: repeating is the business of [`patient`](super::patient).

mod body;
pub mod fault;
mod trust;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use http_body::Body as _;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
};
use reqwest::StatusCode;
use tokio::time::Instant;

use super::error::StoreError;
use crate::repository::environment::{Environment, Variable};
use body::{Arriving, Leaving, Pulse};
use fault::{Answer, Fault};
use trust::TrustError;

/// What the kernel takes of a request's body before the other side has it, at most: the default bound of a socket's buffer.
const KERNEL_BYTES: u64 = 4 << 20;
/// Bytes of an answer's error text that are read.
const ERROR_TEXT_BYTES: usize = 64 << 10;

/// How long requests may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Longest time until a connection stands.
    pub connect: Duration,
    /// Longest time in which nothing moves.
    pub idle: Duration,
    /// Bytes a second below which a body is not waited for.
    pub least_rate: u64,
}

impl Default for Limits {
    /// 16 KiB/s is a 32nd of 4 Mbit/s: four transfers with eight requests each.
    fn default() -> Self {
        Self { connect: Duration::from_secs(10), idle: Duration::from_secs(60), least_rate: 16 << 10 }
    }
}

impl Limits {
    /// Longest time for a body of so many bytes, as a whole.
    fn whole(&self, bytes: u64) -> Duration {
        self.idle + Duration::from_secs_f64(bytes as f64 / self.least_rate.max(1) as f64)
    }

    /// Longest time in which nothing of a request with so many bytes is seen to move, its answer included.
    fn sending(&self, bytes: u64) -> Duration {
        self.whole(bytes.min(KERNEL_BYTES))
    }
}

/// A variable that is to bring certificates, and does not.
#[derive(Debug, thiserror::Error)]
#[error("{variable} must name a readable file, or in a Secret hold the certificates themselves")]
struct UnusableCertificates {
    variable: &'static str,
    source: TrustError,
}

/// Makes the clients of one store. All of them share its connections.
#[derive(Debug, Clone)]
pub struct Connector {
    client: reqwest::Client,
    limits: Limits,
    /// Whether any server has answered anything.
    answered: Arc<AtomicBool>,
}

impl Connector {
    /// With these limits, and the certificate authority in `environment` where there is one.
    ///
    /// # Errors
    /// [`StoreError::Configuration`] when certificates or the machine's proxy settings cannot be used.
    pub fn new(environment: &Environment, limits: Limits) -> Result<Self, StoreError> {
        Self::build(Self::trusting(environment)?, limits)
    }

    /// The same, for which `host` has this address.
    #[cfg(test)]
    pub fn resolving(
        environment: &Environment,
        limits: Limits,
        host: &str,
        address: std::net::SocketAddr,
    ) -> Result<Self, StoreError> {
        Self::build(Self::trusting(environment)?.resolve(host, address), limits)
    }

    fn trusting(environment: &Environment) -> Result<reqwest::ClientBuilder, StoreError> {
        let own = [Variable::ResticCacert, Variable::AwsCaBundle];
        let own = own.into_iter().find_map(|variable| Some((variable, environment.get(variable)?)));
        let builder = reqwest::Client::builder();
        Ok(match own {
            None => builder,
            Some((variable, pem)) => builder.tls_backend_preconfigured(
                trust::only(pem)
                    .map_err(|source| StoreError::configuration(UnusableCertificates { variable: variable.name(), source }))?,
            ),
        })
    }

    /// For services of this machine and at the other end of its wires, which no proxy of the machine leads to.
    ///
    /// # Errors
    /// [`StoreError::Configuration`] when the machine has no usable certificates.
    pub fn direct(limits: Limits) -> Result<Self, StoreError> {
        Self::build(reqwest::Client::builder().no_proxy(), limits)
    }

    fn build(builder: reqwest::ClientBuilder, limits: Limits) -> Result<Self, StoreError> {
        let client = builder
            // Parallel transfers are faster over connections of their own.
            .http1_only()
            .user_agent(concat!("windlass/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(limits.connect)
            // What was sent and is not acknowledged for so long was sent to nobody.
            .tcp_user_timeout(limits.idle)
            // A signature is good for one host and one region.
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(StoreError::configuration)?;
        Ok(Self { client, limits, answered: Arc::default() })
    }

    /// The region that a bucket says it lies in, asked without credentials as anybody may; `None` when it does not say.
    pub async fn region_of(&self, bucket: String, object: String) -> Result<Option<String>, StoreError> {
        let asked = tokio::time::timeout(self.limits.idle, self.client.head(bucket).send()).await;
        match asked {
            Ok(Ok(answer)) => {
                self.answered.store(true, Ordering::Relaxed);
                let region = answer.headers().get("x-amz-bucket-region").and_then(|region| region.to_str().ok());
                Ok(region.map(str::to_owned))
            }
            Ok(Err(error)) => Err(self.in_transit(&error).meaning(object)),
            Err(_) => Err(Fault::Stalled(self.limits.idle).meaning(object)),
        }
    }

    /// The body of the answer to `request`, of at most `most` bytes.
    ///
    /// # Errors
    /// The answer must be a success and not longer.
    pub async fn ask(&self, request: HttpRequest, most: usize) -> Result<Vec<u8>, Fault> {
        let broken = |error: HttpError| {
            let fault = Fault::behind(&error).cloned();
            fault.unwrap_or_else(|| Fault::Broken(error.to_string()))
        };
        let (parts, body) = self.call(request).await.map_err(broken)?.into_parts();
        let (mut pieces, mut text) = (body.bytes_stream(), Vec::new());
        while let Some(piece) = pieces.next().await {
            text.extend_from_slice(&piece.map_err(broken)?);
            if text.len() > most {
                return Err(Fault::Broken(format!("an answer of more than {most} bytes")));
            }
        }
        match parts.status.is_success() {
            true => Ok(text),
            false => Err(Fault::Answer(Answer::new(parts.status, &parts.headers, &text))),
        }
    }

    fn in_transit(&self, error: &reqwest::Error) -> Fault {
        Fault::in_transit(error, self.answered.load(Ordering::Relaxed))
    }
}

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[async_trait]
impl HttpService for Connector {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (parts, sent) = request.into_parts();
        let url = parts.uri.to_string().parse().map_err(|error| HttpError::new(HttpErrorKind::Unknown, error))?;
        let length = sent.content_length() as u64;
        let pulse = Pulse::begin();
        let mut request = reqwest::Request::new(parts.method, url);
        *request.headers_mut() = parts.headers;
        *request.body_mut() = Some(match length {
            0 => reqwest::Body::from(bytes::Bytes::new()),
            _ => reqwest::Body::wrap(Leaving::new(sent, length, pulse.clone())),
        });

        let answer = self.client.execute(request);
        tokio::pin!(answer);
        let (begin, patience, whole) = (Instant::now(), self.limits.sending(length), self.limits.whole(length));
        let answer = loop {
            let deadline = (pulse.last() + patience).min(begin + whole);
            match tokio::time::timeout_at(deadline, &mut answer).await {
                Ok(answer) => break answer.map_err(|error| fault(self.in_transit(&error)))?,
                Err(_) if begin.elapsed() >= whole => return Err(fault(Fault::Slow(whole))),
                Err(_) if pulse.last().elapsed() >= patience => return Err(fault(Fault::Stalled(patience))),
                Err(_) => {}
            }
        };
        self.answered.store(true, Ordering::Relaxed);

        let (parts, body) = http::Response::<reqwest::Body>::from(answer).into_parts();
        let expected = body.size_hint().exact().unwrap_or_default();
        let connector = self.clone();
        let body = Arriving::new(body, self.limits.idle, self.limits.whole(expected), move |error| connector.in_transit(&error));
        let status = parts.status;
        if status.is_success() || matches!(status, StatusCode::PRECONDITION_FAILED | StatusCode::NOT_MODIFIED) {
            return Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(body)));
        }
        let text = body.beginning(ERROR_TEXT_BYTES).await;
        let answer = Answer::new(status, &parts.headers, &text);
        if answer.says_that_it_is_not_there() {
            return Ok(HttpResponse::from_parts(parts, text.into()));
        }
        Err(fault(Fault::Answer(answer)))
    }
}

/// `fault`, as `object_store` passes it on.
pub fn fault(fault: Fault) -> HttpError {
    HttpError::new(HttpErrorKind::Unknown, fault)
}

#[cfg(test)]
mod tests;
