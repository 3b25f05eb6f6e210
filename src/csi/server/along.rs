//! What goes along with each call: it begins when the call arrives and is told the code of its answer, or is dropped when the caller goes away
//! before that.

use std::pin::Pin;
use std::task::{Context, Poll};

use tonic::Code;
use tonic::codegen::http;
use tower::{Layer, Service};

/// What is told the code of a call's answer.
pub type Ending = Box<dyn FnOnce(Code) + Send>;

/// Begins something for each call, of the path of its method.
#[derive(Debug, Clone)]
pub struct Along<F>(pub(super) F);

impl<S, F: Clone> Layer<S> for Along<F> {
    type Service = Accompanied<S, F>;

    fn layer(&self, inner: S) -> Self::Service {
        Accompanied { inner, begin: self.0.clone() }
    }
}

/// A service with whose calls something goes along.
#[derive(Debug, Clone)]
pub struct Accompanied<S, F> {
    inner: S,
    begin: F,
}

impl<S, F, B, R> Service<http::Request<B>> for Accompanied<S, F>
where
    S: Service<http::Request<B>, Response = http::Response<R>>,
    S::Future: Send + 'static,
    F: Fn(&str) -> Ending,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let ending = (self.begin)(request.uri().path());
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            ending(answer.as_ref().map_or(Code::Unknown, code));
            answer
        })
    }
}

/// The code of an answer. An error without a body carries it in its headers; what has none there has begun to answer well.
pub(super) fn code<R>(response: &http::Response<R>) -> Code {
    response.headers().get("grpc-status").map_or(Code::Ok, |status| Code::from_bytes(status.as_bytes()))
}
