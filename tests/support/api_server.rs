//! An API server in this process: events, objects that have a uid, Secrets; it can hang, and refuse.

#![allow(dead_code, clippy::unwrap_used, clippy::panic, reason = "called by tests only")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use http::{Request, Response};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::watch;
use windlass::k8s::Cluster;

/// How it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// As an API server does.
    Well,
    /// Never.
    Hangs,
    /// With this status, whatever is asked.
    With(u16),
    /// With this status, whatever is written.
    WritesWith(u16),
}

/// What was asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    pub method: String,
    pub path: String,
    pub body: Value,
}

#[derive(Default)]
struct State {
    asked: Vec<Asked>,
    /// By path.
    objects: BTreeMap<String, Value>,
}

/// The server. Clones are the same.
#[derive(Clone)]
pub struct ApiServer {
    state: Arc<Mutex<State>>,
    manner: watch::Sender<Manner>,
    /// How often something was asked: what tests wait for.
    asked: watch::Sender<usize>,
}

impl ApiServer {
    pub fn new() -> Self {
        Self { state: Arc::default(), manner: watch::Sender::new(Manner::Well), asked: watch::Sender::new(0) }
    }

    /// From now on it answers so; also what hangs.
    pub fn becomes(&self, manner: Manner) {
        self.manner.send_replace(manner);
    }

    /// There is an object at this path.
    pub fn has(&self, path: &str, object: Value) {
        self.state().objects.insert(path.to_owned(), object);
    }

    /// There is an object of this kind of snapshots or claims, with a uid.
    pub fn has_uid(&self, path: &str, uid: &str) {
        self.has(path, json!({"apiVersion": "v1", "kind": "Any", "metadata": {"uid": uid}}));
    }

    /// It loses what it has at paths with this beginning.
    pub fn loses(&self, beginning: &str) {
        self.state().objects.retain(|path, _| !path.starts_with(beginning));
    }

    pub fn cluster(&self) -> Cluster {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move { Ok::<_, std::convert::Infallible>(server.answer(request).await) }
        });
        Cluster::over(kube::Client::new(service, "default"))
    }

    /// Everything that was asked.
    pub fn asked(&self) -> Vec<Asked> {
        self.state().asked.clone()
    }

    /// The events that it has, those about the same object beside each other.
    pub fn events(&self) -> Vec<Value> {
        let state = self.state();
        state.objects.iter().filter(|(path, _)| path.contains("/events/")).map(|(_, event)| event.clone()).collect()
    }

    /// The events about the object of this kind and name, as reason and text, the first first.
    pub fn told(&self, kind: &str, name: &str) -> Vec<(String, String)> {
        let asked = self.state().asked.clone();
        let created = asked.iter().filter(|asked| asked.method == "POST" && asked.path.ends_with("/events"));
        let about =
            created.filter(|asked| asked.body["involvedObject"]["kind"] == kind && asked.body["involvedObject"]["name"] == name);
        let text = |asked: &Asked, field: &str| asked.body[field].as_str().unwrap_or_default().to_owned();
        about.map(|asked| (text(asked, "reason"), text(asked, "message"))).collect()
    }

    /// Waits until what is asked for is so, and looks at each call.
    pub async fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let mut asked = self.asked.subscribe();
        let waiting = async {
            while !is_so(self) {
                asked.changed().await.unwrap();
            }
        };
        let within = std::time::Duration::from_secs(60);
        let waited = tokio::time::timeout(within, waiting).await;
        waited.unwrap_or_else(|_| panic!("it is not so that {what}: {:#?}", self.asked()));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let bytes = body.collect_bytes().await.unwrap();
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        let asked = Asked { method: parts.method.to_string(), path: parts.uri.path().to_owned(), body };
        self.state().asked.push(asked.clone());
        self.asked.send_modify(|count| *count += 1);
        let manner = *self.manner.subscribe().wait_for(|manner| *manner != Manner::Hangs).await.unwrap();
        let answer = match manner {
            Manner::With(code) => failure(code),
            Manner::WritesWith(code) if asked.method != "GET" => failure(code),
            Manner::WritesWith(_) | Manner::Well | Manner::Hangs => self.answer_well(&asked),
        };
        // Whoever waits for the effect of a call looks again.
        self.asked.send_modify(|count| *count += 1);
        answer
    }

    fn answer_well(&self, asked: &Asked) -> Response<Body> {
        let mut state = self.state();
        match asked.method.as_str() {
            "GET" => state.objects.get(&asked.path).map_or_else(|| failure(404), |found| response(200, found)),
            "POST" => {
                let name = asked.body["metadata"]["name"].as_str().unwrap();
                let path = format!("{}/{name}", asked.path);
                if state.objects.contains_key(&path) {
                    return failure(409);
                }
                state.objects.insert(path, asked.body.clone());
                response(201, &asked.body)
            }
            "PATCH" => match state.objects.get_mut(&asked.path) {
                Some(found) => {
                    let changed = asked.body.as_object().unwrap().clone();
                    found.as_object_mut().unwrap().extend(changed);
                    response(200, found)
                }
                None => failure(404),
            },
            _ => failure(405),
        }
    }
}

fn response(code: u16, body: &Value) -> Response<Body> {
    let body = Body::from(serde_json::to_vec(body).unwrap());
    Response::builder().status(code).header("content-type", "application/json").body(body).unwrap()
}

fn failure(code: u16) -> Response<Body> {
    let reason = if code == 409 { "AlreadyExists" } else { "Because" };
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "no", "reason": reason, "code": code
    });
    response(code, &status)
}
