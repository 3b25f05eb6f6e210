//! What a process measures of itself: documented, in the format that scrapers read, and there within its bound whatever hangs.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed expectation is a failed test")]
#![allow(clippy::disallowed_types, reason = "the answers of gRPC calls are looked at")]

#[path = "support/csi_harness.rs"]
mod csi_harness;
#[path = "support/metrics_text.rs"]
mod metrics_text;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use csi_harness::{Node, SIZE, VOLUME_ELSEWHERE, block, new_volume};
use csi_proto::csi::v1::DeleteVolumeRequest;
use csi_proto::csi::v1::controller_client::ControllerClient;
use csi_proto::csi::v1::volume_capability::access_mode::Mode;
use metrics_text::Text;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixListener};
use tokio_util::sync::CancellationToken;
use windlass::agent::metrics::{NODE_TIME, PodMetrics};
use windlass::csi::channel::channel;
use windlass::csi::server::{self, PrivateSocket};
use windlass::node::metrics_service::MetricsService;
use windlass::telemetry::metrics::{Metrics, ProcessName, families};
use windlass::telemetry::scrape::{self, CONNECTIONS, Exposition, MetricsListener};

/// The rows of the table in docs/metrics.md: name, kind, labels.
fn documented() -> BTreeMap<String, (String, String)> {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md")).unwrap();
    let mut rows = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("| `windlass_")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [name, kind, unit, labels, stability, meaning] = cells[..] else { panic!("{line}") };
        assert!(!unit.is_empty() && !meaning.is_empty() && ["stable", "may change"].contains(&stability), "{line}");
        let labels = labels.replace('`', "");
        assert!(rows.insert(name.trim_matches('`').to_owned(), (kind.to_owned(), labels)).is_none(), "twice: {line}");
    }
    rows
}

#[test]
fn every_family_is_documented_as_it_is_and_no_other_is() {
    let of_code: BTreeMap<String, (String, String)> = families::ALL
        .iter()
        .map(|family| (family.name.to_owned(), (family.kind.name().to_owned(), family.labels.join(", "))))
        .collect();
    assert_eq!(documented(), of_code);
}

/// Names of families in a text that queries them.
fn queried(text: &str) -> BTreeSet<String> {
    let of_name = |character: char| character.is_ascii_alphanumeric() || character == '_';
    let names = text.match_indices("windlass_").filter(|(at, _)| !text[..*at].ends_with(of_name));
    names.map(|(at, _)| text[at..].chars().take_while(|character| of_name(*character)).collect()).collect()
}

#[test]
fn alerts_and_dashboard_query_families_that_exist() {
    let documented = documented();
    for file in ["deploy/chart/files/alerts.yaml", "deploy/monitoring/alerts.test.yaml", "deploy/monitoring/dashboard.json"] {
        let text = std::fs::read_to_string(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
        let names = queried(&text);
        assert!(names.len() > 10, "{file}: {names:?}");
        for name in names {
            let is_of = |family: &str, kind: &str| match kind {
                "histogram" => ["_bucket", "_sum", "_count"].iter().any(|ending| name == format!("{family}{ending}")),
                _ => name == family,
            };
            assert!(documented.iter().any(|(family, (kind, _))| is_of(family, kind)), "{file}: {name}");
        }
    }
}

#[test]
fn what_an_alert_says_names_labels_that_its_series_have() {
    let rules = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/chart/files/alerts.yaml")).unwrap();
    let rules: Vec<&str> = rules.split("- alert: ").skip(1).collect();
    assert!(rules.len() > 10);
    for rule in rules {
        let name = rule.lines().next().unwrap();
        for part in ["labels: {severity: ", "summary: ", "description: "] {
            assert!(rule.contains(part), "{name} has no {part}");
        }
        let expression = rule.lines().find_map(|line| line.trim().strip_prefix("expr: ")).unwrap();
        let kept = expression.split_once(" by (").map(|(_, rest)| rest.split_once(')').unwrap().0);
        let known: BTreeSet<&str> = match kept {
            Some(kept) => kept.split(", ").collect(),
            None => {
                let names = queried(expression);
                let families = families::ALL.iter().filter(|family| names.contains(family.name));
                families.flat_map(|family| family.labels.iter().copied()).chain(["process"]).collect()
            }
        };
        for said in rule.split("$labels.").skip(1) {
            let label = said.split(|character: char| !character.is_ascii_alphanumeric() && character != '_').next().unwrap();
            assert!(known.contains(label), "{name} names `{label}`, its series have {known:?}");
        }
    }
}

#[test]
fn the_dashboard_is_json_and_each_of_its_panels_queries_something() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/monitoring/dashboard.json");
    let dashboard: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let shown: Vec<_> = panels.iter().filter(|panel| panel["type"] != "row").collect();
    assert!(shown.len() > 20);
    for panel in shown {
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty());
        assert!(targets.iter().all(|target| target["expr"].as_str().unwrap().contains("windlass_")), "{panel}");
    }
}

/// A node whose calls are counted, on a socket of its own, and which an agent may ask for its metrics.
struct CountedNode {
    node: Node,
    metrics: Metrics,
    socket: PathBuf,
    stop: CancellationToken,
}

impl Drop for CountedNode {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl CountedNode {
    async fn start() -> Self {
        let node = Node::start().await;
        let (metrics, stop) = (Metrics::new(ProcessName::Node), CancellationToken::new());
        let socket = node.directory.path().join("counted.sock");
        let bound = PrivateSocket::bind(&socket).unwrap().with_calls(metrics.calls.clone());
        let routes = windlass::node::routes(&node.layer).add_service(MetricsService::server(metrics.clone()));
        tokio::spawn(server::serve(bound, routes, stop.clone()));
        Self { node, metrics, socket, stop }
    }

    async fn controller(&self) -> ControllerClient<tonic::transport::Channel> {
        ControllerClient::new(csi_harness::channel(&self.socket).await)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_counted_and_timed_by_method_and_code() {
    let counted = CountedNode::start().await;
    let mut controller = counted.controller().await;
    for name in ["one", "two"] {
        controller.create_volume(new_volume(name, block(Mode::SingleNodeWriter))).await.unwrap();
    }
    let elsewhere = DeleteVolumeRequest { volume_id: VOLUME_ELSEWHERE.to_owned(), ..Default::default() };
    controller.delete_volume(elsewhere).await.unwrap_err();
    let text = Text::read(&counted.metrics.text().await.unwrap());
    let count = |method, code| {
        text.value("windlass_call_duration_seconds_count", &[("process", "node"), ("method", method), ("code", code)])
    };
    assert_eq!(count("/csi.v1.Controller/CreateVolume", "OK"), Some(2.0));
    assert_eq!(count("/csi.v1.Controller/DeleteVolume", "UNAVAILABLE"), Some(1.0));
    assert_eq!(count("/csi.v1.Controller/DeleteVolume", "OK"), None);
    assert!(counted.node.create(new_volume("three", block(Mode::SingleNodeWriter))).await.unwrap().capacity_bytes >= SIZE);
    // The harness's own socket was given no metrics.
    assert_eq!(count("/csi.v1.Controller/CreateVolume", "OK"), Some(2.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_method_that_does_not_exist_makes_no_series_of_its_own() {
    let counted = CountedNode::start().await;
    let channel = csi_harness::channel(&counted.socket).await;
    for number in 0..20 {
        let mut grpc = tonic::client::Grpc::new(channel.clone());
        grpc.ready().await.unwrap();
        let path = format!("/made.up.Service/Method{number}").parse().unwrap();
        let codec = tonic_prost::ProstCodec::<DeleteVolumeRequest, DeleteVolumeRequest>::default();
        let refused = grpc.unary(tonic::Request::new(DeleteVolumeRequest::default()), path, codec).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::Unimplemented);
    }
    let text = Text::read(&counted.metrics.text().await.unwrap());
    let count = text.value("windlass_call_duration_seconds_count", &[("method", "other"), ("code", "UNIMPLEMENTED")]);
    assert_eq!(count, Some(20.0));
    assert!(text.labels().all(|(_, labels)| !labels.values().any(|value| value.contains("made"))));
}

/// Metrics that are served over HTTP.
struct Scraped {
    address: std::net::SocketAddr,
    stop: CancellationToken,
}

impl Drop for Scraped {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Scraped {
    fn start(exposition: Arc<dyn Exposition>) -> Self {
        let listener = MetricsListener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let (address, stop) = (listener.address().unwrap(), CancellationToken::new());
        tokio::spawn(scrape::serve(listener, exposition, stop.clone()));
        Self { address, stop }
    }

    /// The head of the answer and what follows it.
    async fn ask(&self, request: &str) -> (String, String) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(format!("{request} HTTP/1.1\r\nHost: node\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.to_owned(), body.to_owned())
    }

    async fn scrape(&self) -> Text {
        let (head, body) = self.ask("GET /metrics").await;
        assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
        assert!(head.to_lowercase().contains("content-type: text/plain; version=0.0.4"), "{head}");
        Text::read(&body)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_scrape_of_an_agent_has_both_processes() {
    let counted = CountedNode::start().await;
    let own = Metrics::new(ProcessName::Agent);
    own.calls.answered("/csi.v1.Identity/Probe", "OK", Duration::from_millis(1));
    let pod = Scraped::start(Arc::new(PodMetrics::new(own, channel("node", &counted.socket))));
    let mut controller = counted.controller().await;
    controller.create_volume(new_volume("one", block(Mode::SingleNodeWriter))).await.unwrap();

    let text = pod.scrape().await;
    assert_eq!(text.value("windlass_node_up", &[]), Some(1.0));
    for process in ["agent", "node"] {
        assert!(text.value("windlass_process_open_fds", &[("process", process)]).unwrap() > 1.0);
        assert_eq!(text.value("windlass_build_info", &[("process", process)]), Some(1.0));
    }
    let count = "windlass_call_duration_seconds_count";
    assert_eq!(text.value(count, &[("process", "node"), ("method", "/csi.v1.Controller/CreateVolume")]), Some(1.0));
    assert_eq!(text.value(count, &[("process", "agent"), ("method", "/csi.v1.Identity/Probe")]), Some(1.0));
    // What is scraped is documented.
    let documented = documented();
    assert!(text.families.keys().all(|family| documented.contains_key(family)), "{:?}", text.families);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_without_its_node_tells_of_itself_and_that_the_node_is_away() {
    let directory = tempfile::tempdir().unwrap();
    let pod = PodMetrics::new(Metrics::new(ProcessName::Agent), channel("node", &directory.path().join("nowhere.sock")));
    let text = Scraped::start(Arc::new(pod)).scrape().await;
    assert_eq!(text.value("windlass_node_up", &[("process", "agent")]), Some(0.0));
    assert_eq!(text.value("windlass_build_info", &[("process", "agent")]), Some(1.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_hangs_holds_a_scrape_up_no_longer_than_its_bound() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("node.sock");
    // Connections are made by the kernel; nobody answers on them.
    let _hanging = UnixListener::bind(&path).unwrap();
    let scraped = Scraped::start(Arc::new(PodMetrics::new(Metrics::new(ProcessName::Agent), channel("node", &path))));
    let begun = Instant::now();
    let text = scraped.scrape().await;
    assert!(begun.elapsed() < NODE_TIME * 2, "{:?}", begun.elapsed());
    assert_eq!(text.value("windlass_node_up", &[]), Some(0.0));
    assert!(text.value("windlass_process_threads", &[("process", "agent")]).is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_metrics_are_served_and_only_to_be_read() {
    let scraped = Scraped::start(Arc::new(Metrics::new(ProcessName::Standalone)));
    for (request, status) in [("GET /", "404"), ("POST /metrics", "405"), ("DELETE /metrics", "405"), ("GET /metrics/", "404")] {
        let (head, _) = scraped.ask(request).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{request}: {head}");
    }
    let (head, body) = scraped.ask("HEAD /metrics").await;
    assert!(head.starts_with("HTTP/1.1 200") && body.is_empty(), "{head}\n{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_scrapes_waits_for_those_that_hold_every_connection_and_then_is_answered() {
    let scraped = Scraped::start(Arc::new(Metrics::new(ProcessName::Standalone)));
    let mut silent = Vec::new();
    for _ in 0..CONNECTIONS {
        silent.push(TcpStream::connect(scraped.address).await.unwrap());
    }
    let begun = Instant::now();
    // They are closed for being silent, not because anybody let them go.
    let text = scraped.scrape().await;
    assert!(begun.elapsed() < scrape::CONNECTION_TIME, "{:?}", begun.elapsed());
    assert!(text.value("windlass_process_threads", &[]).is_some());
    for mut stream in silent {
        assert_eq!(stream.read(&mut [0]).await.unwrap_or(0), 0, "it was closed");
    }
}
