//! Credentials that expire while a transfer runs, and are renewed from their source meanwhile.
//!
//! [`Renewing`] signs: it holds the credentials and asks an [`Issuer`] for others when the [schedule](schedule) says so. One request asks;
//! those that have nothing to sign with wait for it and share the result, the others go on with the credentials that there are.
//! [`Renewed`] sends: it notices when the store says that a token has expired before its time, as it does when this machine's
//! clock is slow or a session was ended, and makes of it an error that may pass. So the layer that repeats calls repeats this one, signed
//! anew. To a HEAD no store says why it refuses: there the refusal is final.
//!
//! # Errors
//! A source that does not answer is waited for like a store that does not. One that refuses is final for the call ("denied"), and its words
//! are in the error. While the credentials are still good, neither is an error.
//!
//! # Cancellation
//! A request that is dropped while it asks leaves the question to the next one.
//!
//! # What this never does
//! Use an identity that the [environment](crate::repository::identity) was not given; write a token or a key anywhere.

mod issuer;
mod schedule;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;
use object_store::ClientOptions;
use object_store::CredentialProvider;
use object_store::aws::AwsCredential;
use object_store::client::{HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpService};

use crate::repository::identity::CloudIdentity;
use crate::repository::store::error::StoreError;
use crate::repository::store::http::fault::{Complaint, Fault};
use crate::repository::store::http::{self, Connector};
use issuer::{Issuer, Refusal};
use schedule::{Due, Held};

const TOKEN: &str = "x-amz-security-token";

type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// Credentials that are renewed. Debug shows where they come from.
pub struct Renewing {
    issuer: Issuer,
    clock: Clock,
    state: Mutex<State>,
    /// Held by the request that asks.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    held: Held,
    /// How often the source was asked.
    questions: u64,
    /// Why the last question brought nothing, if it did not.
    refused: Option<Refusal>,
}

impl fmt::Debug for Renewing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Renewing").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

impl Renewing {
    /// The credentials of `identity`, by the system's clock. Nothing is asked yet.
    ///
    /// # Errors
    /// [`StoreError::Configuration`] when its certificates cannot be used.
    pub fn new(identity: &CloudIdentity) -> Result<Self, StoreError> {
        Self::by_clock(identity, Arc::new(SystemTime::now))
    }

    fn by_clock(identity: &CloudIdentity, clock: Clock) -> Result<Self, StoreError> {
        let (state, turn) = (Mutex::default(), tokio::sync::Mutex::default());
        Ok(Self { issuer: Issuer::new(identity)?, clock, state, turn })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Changed in single steps only: a panic elsewhere leaves it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn due(&self) -> (Due, u64) {
        let now = (self.clock)();
        let state = self.state();
        (state.held.due(now), state.questions)
    }

    /// The credentials that sign a request now.
    async fn credential(&self) -> Result<Arc<AwsCredential>, Refusal> {
        let (due, questions) = self.due();
        match due {
            Due::Use(credential) => Ok(credential),
            Due::Soon(credential) => {
                let Ok(_turn) = self.turn.try_lock() else { return Ok(credential) };
                // Another request may have asked between the look and the turn.
                let Due::Soon(credential) = self.due().0 else { return Ok(credential) };
                match self.ask().await {
                    Ok(renewed) => Ok(renewed),
                    Err(Refusal::Passing(why) | Refusal::Final(why)) => {
                        tracing::warn!(why, "credentials could not be renewed yet; the old ones are still good");
                        Ok(credential)
                    }
                }
            }
            Due::Now => {
                let _turn = self.turn.lock().await;
                let (due, now) = self.due();
                match due {
                    Due::Use(credential) | Due::Soon(credential) => Ok(credential),
                    Due::Now if now != questions => {
                        let refused = self.state().refused.clone();
                        match refused {
                            Some(refusal) => Err(refusal),
                            None => self.ask().await,
                        }
                    }
                    Due::Now => self.ask().await,
                }
            }
        }
    }

    /// Asks the source. The caller must hold the turn.
    async fn ask(&self) -> Result<Arc<AwsCredential>, Refusal> {
        let asked = (self.clock)();
        let answer = self.issuer.ask().await;
        let mut state = self.state();
        state.questions += 1;
        let outcome = match answer {
            Ok(issued) => match state.held.accept(issued, asked) {
                true => Ok(()),
                false => Err(Refusal::Passing("the source gives out again what the store says has expired".to_owned())),
            },
            Err(refusal) => {
                state.held.failed(asked);
                Err(refusal)
            }
        };
        state.refused = outcome.clone().err();
        outcome?;
        match state.held.due(asked) {
            Due::Use(credential) | Due::Soon(credential) => Ok(credential),
            Due::Now => Err(Refusal::Passing("the source gives out what has expired".to_owned())),
        }
    }
}

#[async_trait]
impl CredentialProvider for Renewing {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let failed = |refusal: Refusal| object_store::Error::Generic { store: "S3", source: Box::new(refusal.fault()) };
        self.credential().await.map_err(failed)
    }
}

/// Sends what was signed with credentials that are renewed.
#[derive(Debug, Clone)]
pub struct Renewed {
    connector: Connector,
    credentials: Arc<Renewing>,
}

impl Renewed {
    /// Requests that are sent by `connector`, signed with `credentials`.
    pub fn new(connector: Connector, credentials: Arc<Renewing>) -> Self {
        Self { connector, credentials }
    }
}

impl HttpConnector for Renewed {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[async_trait]
impl HttpService for Renewed {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let token = request.headers().get(TOKEN).and_then(|token| token.to_str().ok()).map(str::to_owned);
        let answer = self.connector.call(request).await;
        let Some(token) = token else { return answer };
        let credentials = &self.credentials;
        match answer {
            Ok(answer) => {
                credentials.state().held.trust(&token);
                Ok(answer)
            }
            Err(error) if has_expired(&error) && credentials.state().held.distrust(&token) => {
                tracing::debug!("the store says that credentials have expired; they are renewed");
                Err(http::fault(Fault::NoCredentialsNow("the store says that the session token has expired".to_owned())))
            }
            Err(error) => Err(error),
        }
    }
}

/// Whether other credentials may succeed where these did not.
fn has_expired(error: &HttpError) -> bool {
    match Fault::behind(error) {
        Some(Fault::Answer(answer)) => {
            matches!(answer.credentials(), Some(Complaint::Expired | Complaint::Token | Complaint::Key))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests;
