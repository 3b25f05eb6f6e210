//! The suite against MinIO, a server that is not of our making: started and stopped by each test, on a free port of the loopback
//! interface. `e2e/setup.sh stores` builds it; `make test-full` runs these tests.

use std::path::Path;
use std::process::Command;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use data_encoding::{BASE64, BASE64URL_NOPAD};
use hyper::service::service_fn;
use object_store::aws::{AwsAuthorizer, AwsCredential};
use tokio::net::TcpListener;

use super::program::{Program, tool};
use super::*;
use crate::repository::environment::{Environment, Variable};
use crate::repository::identity::{CloudIdentity, CredentialSource};
use crate::repository::location::Location;
use crate::repository::store::http::{Connector, Limits};
use crate::repository::store::patient::{Patient, PatientStore};
use crate::repository::store::retry::Patience;
use crate::repository::store::{Endurance, connect_with, s3};

const USER: &str = "AKIATEST";
const SECRET: &str = "the-secret-key";
const REGION: &str = "us-east-1";
/// Below which a bucket has a name of its own. A certificate for all of them must name two labels.
const DOMAIN: &str = "s3.localhost";

/// A server with an empty folder.
struct Minio {
    _program: Program,
    folder: tempfile::TempDir,
    port: u16,
    /// Its certificate, if it speaks TLS.
    certificate: Option<String>,
}

impl Minio {
    fn start() -> Self {
        Self::with(None, &[])
    }

    /// One that speaks TLS.
    fn certified() -> Self {
        Self::with(Some(certify), &[])
    }

    fn with(certify: Option<fn(&Path) -> String>, variables: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let certificates = folder.path().join("certificates");
        std::fs::create_dir(&certificates).unwrap();
        let certificate = certify.map(|certify| certify(&certificates));
        // It takes no port 0. Another program could take this one before it does; then it does not start, and the test says so.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let program = Program::start(&tool("minio"), "API: ", |command| {
            command.args(["server", "--address", &format!("127.0.0.1:{port}"), "--certs-dir"]).arg(&certificates);
            command.arg(folder.path().join("data")).env("HOME", folder.path());
            command.envs([("MINIO_ROOT_USER", USER), ("MINIO_ROOT_PASSWORD", SECRET), ("MINIO_DOMAIN", DOMAIN)]);
            command
                .envs([("MINIO_BROWSER", "off"), ("MINIO_UPDATE", "off"), ("MINIO_REGION", REGION)])
                .envs(variables.iter().copied());
        });
        Self { _program: program, folder, port, certificate }
    }

    fn address(&self) -> String {
        let scheme = if self.certificate.is_some() { "https" } else { "http" };
        format!("{scheme}://localhost:{}", self.port)
    }

    fn location(&self, bucket: &str) -> Location {
        format!("s3:{}/{bucket}/a/prefix", self.address()).parse().unwrap()
    }

    /// The keys of its administrator.
    fn environment(&self) -> Environment {
        let mut environment = Environment::from_pairs([("AWS_ACCESS_KEY_ID", USER), ("AWS_SECRET_ACCESS_KEY", SECRET)]);
        environment.set(Variable::AwsCaBundle, self.certificate.clone().unwrap_or_default());
        environment
    }

    fn store(&self, bucket: &str, more: &[(Variable, &str)]) -> Arc<dyn Store> {
        let mut environment = self.environment();
        more.iter().for_each(|(variable, value)| environment.set(*variable, *value));
        connect_with(&self.location(bucket), &environment, endurance()).unwrap()
    }

    /// A request with the administrator's signature: status, headers, body.
    async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> (u16, http::HeaderMap, String) {
        let credential = AwsCredential { key_id: USER.into(), secret_key: SECRET.into(), token: None };
        let mut request = http::Request::builder().method(method).uri(format!("{}{path}", self.address()));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(body.to_owned().into()).unwrap();
        AwsAuthorizer::new(&credential, "s3", REGION)
            .with_crypto(&s3::digest::Digests)
            .try_authorize(&mut request, None)
            .unwrap();
        // Whether a certificate is believed is tested elsewhere.
        let client = reqwest::Client::builder().danger_accept_invalid_certs(true).build().unwrap();
        let (parts, _) = request.into_parts();
        let request = client.request(parts.method, parts.uri.to_string()).headers(parts.headers);
        let answer = request.body(body.to_owned()).send().await.unwrap();
        (answer.status().as_u16(), answer.headers().clone(), answer.text().await.unwrap())
    }

    async fn make_bucket(&self, name: &str, headers: &[(&str, &str)]) {
        let (status, _, text) = self.send("PUT", &format!("/{name}"), headers, "").await;
        assert_eq!(status, 200, "{text}");
    }
}

fn endurance() -> Endurance {
    let patience = Patience { limit: std::time::Duration::from_secs(20), ..Patience::default() };
    Endurance { patience, limits: Limits::default() }
}

/// What `openssl req -x509` makes for the names of this machine.
fn certify(folder: &Path) -> String {
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]);
    openssl.args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,DNS:*.s3.localhost"]);
    openssl.arg("-keyout").arg(folder.join("private.key")).arg("-out").arg(folder.join("public.crt"));
    let output = openssl.output().expect("`openssl` is on PATH");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::read_to_string(folder.join("public.crt")).unwrap()
}

/// The suite, by the path and with the bucket in the host's name.
async fn keeps_its_promises_by_either_name(server: &Minio) {
    server.make_bucket("backups", &[]).await;
    keeps_its_promises(&*server.store("backups", &[])).await;

    let mut environment = server.environment();
    environment.set(Variable::S3BucketLookup, "dns");
    environment.set(Variable::AwsRegion, REGION);
    let Location::S3(mut location) = server.location("backups") else { unreachable!("a bucket of S3") };
    location.endpoint = location.endpoint.replace("localhost", DOMAIN);
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], server.port));
    let host = format!("backups.{DOMAIN}");
    let connector = Connector::resolving(&environment, endurance().limits, &host, address).unwrap();
    let patient = Arc::new(Patient::new(endurance().patience));
    let bucket = s3::connect_by(connector, &location, &environment, Arc::clone(&patient)).unwrap();
    keeps_its_promises(&PatientStore::new(Arc::new(bucket), patient)).await;
}

#[tokio::test]
#[ignore = "needs MinIO: e2e/setup.sh stores"]
async fn minio_keeps_every_promise_of_a_store_by_either_name() {
    keeps_its_promises_by_either_name(&Minio::start()).await;
}

#[tokio::test]
#[ignore = "needs MinIO: e2e/setup.sh stores"]
async fn minio_with_a_certificate_of_its_own_keeps_them_and_is_refused_without_it() {
    let server = Minio::certified();
    keeps_its_promises_by_either_name(&server).await;
    let keys = Environment::from_pairs([("AWS_ACCESS_KEY_ID", USER), ("AWS_SECRET_ACCESS_KEY", SECRET)]);
    let stranger = connect_with(&server.location("backups"), &keys, endurance()).unwrap();
    let refused = stranger.get(Key::Config).await.unwrap_err();
    assert!(matches!(&refused, StoreError::Configuration(text) if text.to_string().contains("AWS_CA_BUNDLE")), "{refused:?}");
}

#[tokio::test]
#[ignore = "needs MinIO: e2e/setup.sh stores"]
async fn a_bucket_with_a_default_retention_takes_everything_and_deletes_only_hide() {
    let server = Minio::start();
    server.make_bucket("locked", &[("x-amz-bucket-object-lock-enabled", "true")]).await;
    let rule = "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule><DefaultRetention><Mode>COMPLIANCE</Mode>\
                <Days>1</Days></DefaultRetention></Rule></ObjectLockConfiguration>";
    let digest = BASE64.encode(Id::of(rule.as_bytes()).as_bytes());
    let headers = [("x-amz-checksum-sha256", digest.as_str()), ("x-amz-sdk-checksum-algorithm", "SHA256")];
    let (status, _, text) = server.send("PUT", "/locked?object-lock=", &headers, rule).await;
    assert_eq!(status, 200, "{text}");

    let store = server.store("locked", &[]);
    keeps_its_promises(&*store).await;

    // A lock is put and taken away as everywhere; what is left of it is a version that nobody can delete for a day.
    let bytes = Bytes::from_static(b"a lock");
    let id = Id::of(&bytes);
    store.put(Key::File(Kind::Lock, id), bytes, PutMode::Overwrite).await.unwrap();
    store.delete(Key::File(Kind::Lock, id)).await.unwrap();
    assert!(store.list(Kind::Lock).await.unwrap().is_empty());
    let (_, _, versions) = server.send("GET", &format!("/locked?prefix=a%2Fprefix%2Flocks%2F{id}&versions="), &[], "").await;
    assert!(versions.contains("<DeleteMarker>"), "{versions}");
    let version = versions.split("<Version>").nth(1).and_then(|version| super::super::http::fault::element(version, "VersionId"));
    let path = format!("/locked/a/prefix/locks/{id}?versionId={}", version.unwrap());
    let (status, headers, _) = server.send("HEAD", &path, &[], "").await;
    assert_eq!((status, headers["x-amz-object-lock-mode"].to_str().unwrap()), (200, "COMPLIANCE"));
    let (status, _, text) = server.send("DELETE", &path, &[], "").await;
    assert_eq!(status, 400, "{text}");
    assert!(text.contains("WORM protected"), "{text}");
}

#[tokio::test]
#[ignore = "needs MinIO: e2e/setup.sh stores"]
async fn objects_are_encrypted_with_the_key_and_stored_in_the_class_that_was_asked_for() {
    let key = format!("backup-key:{}", BASE64.encode(&[7; 32]));
    let server = Minio::with(None, &[("MINIO_KMS_SECRET_KEY", &key)]);
    server.make_bucket("backups", &[]).await;
    let asked = [(Variable::AwsSseKmsKeyId, "backup-key"), (Variable::S3StorageClass, "REDUCED_REDUNDANCY")];
    let store = server.store("backups", &asked);
    keeps_its_promises(&*store).await;
    store.put(Key::Config, Bytes::from_static(b"x"), PutMode::IfAbsent).await.unwrap();
    let (status, headers, _) = server.send("HEAD", "/backups/a/prefix/config", &[], "").await;
    let said = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default();
    assert_eq!((status, said("x-amz-server-side-encryption").as_str()), (200, "aws:kms"));
    assert!(said("x-amz-server-side-encryption-aws-kms-key-id").ends_with("backup-key"), "{headers:?}");
    assert_eq!(said("x-amz-storage-class"), "REDUCED_REDUNDANCY");

    // What it does not have is refused, in words that say so.
    for (wrong, words) in [
        ((Variable::AwsSseKmsKeyId, "no-such-key"), "404 Not Found: "),
        ((Variable::S3StorageClass, "GLACIER"), "InvalidStorageClass"),
    ] {
        let store = server.store("backups", &[wrong]);
        let bytes = Bytes::from_static(b"a pack");
        let refused = store.put(Key::File(Kind::Data, Id::of(&bytes)), bytes, PutMode::Overwrite).await.unwrap_err();
        assert!(!refused.is_transient() && format!("{refused:?}").contains(words), "{wrong:?}: {refused:?}");
    }
}

#[tokio::test]
#[ignore = "needs MinIO: e2e/setup.sh stores"]
async fn what_is_wrong_with_credentials_is_told() {
    let server = Minio::start();
    server.make_bucket("backups", &[]).await;
    for (wrong, words) in [
        ((Variable::AwsSecretAccessKey, "another"), "the secret access key is wrong"),
        ((Variable::AwsAccessKeyId, "ANOTHER"), "there is no such access key"),
        ((Variable::AwsSessionToken, "made-up"), "the session token is not one of this store"),
    ] {
        let refused = server.store("backups", &[wrong]).get(Key::Config).await.unwrap_err();
        assert!(
            matches!(&refused, StoreError::Denied { source, .. } if source.to_string().contains(words)),
            "{wrong:?}: {refused:?}"
        );
    }
    let elsewhere = server.store("backups", &[(Variable::AwsRegion, "mars-north-1")]).get(Key::Config).await.unwrap_err();
    assert!(matches!(&elsewhere, StoreError::Configuration(text) if text.to_string().contains("`us-east-1`")), "{elsewhere:?}");
    let nowhere = server.store("no-such-bucket", &[]).list(Kind::Data).await.unwrap_err();
    assert!(matches!(&nowhere, StoreError::Configuration(text) if text.to_string().contains("create it first")), "{nowhere:?}");
}

/// The identity provider whose tokens MinIO trusts.
struct Identities {
    key: EcdsaKeyPair,
    address: String,
}

impl Identities {
    async fn start() -> Self {
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).unwrap();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let point = key.public_key().as_ref();
        let (x, y) = (BASE64URL_NOPAD.encode(&point[1..33]), BASE64URL_NOPAD.encode(&point[33..65]));
        let keys =
            format!(r#"{{"keys":[{{"kty":"EC","use":"sig","alg":"ES256","crv":"P-256","kid":"1","x":"{x}","y":"{y}"}}]}}"#);
        let about = format!(
            r#"{{"issuer":"{address}","authorization_endpoint":"{address}/a","token_endpoint":"{address}/t","jwks_uri":"{address}/keys",
            "response_types_supported":["id_token"],"subject_types_supported":["public"],"id_token_signing_alg_values_supported":["ES256"]}}"#
        );
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (keys, about) = (keys.clone(), about.clone());
                let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                    let text = if request.uri().path() == "/keys" { keys.clone() } else { about.clone() };
                    let answer = hyper::Response::new(http_body_util::Full::new(Bytes::from(text)));
                    std::future::ready(Ok::<_, std::convert::Infallible>(answer))
                });
                let io = hyper_util::rt::TokioIo::new(stream);
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(io, service));
            }
        });
        Self { key, address }
    }

    /// A token that is good for so many seconds.
    fn token(&self, seconds: u64) -> String {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let header = r#"{"alg":"ES256","kid":"1","typ":"JWT"}"#;
        let claims = format!(
            r#"{{"iss":"{}","sub":"windlass","aud":"backups","policy":"readwrite","iat":{now},"exp":{}}}"#,
            self.address,
            now + seconds
        );
        let text = format!("{}.{}", BASE64URL_NOPAD.encode(header.as_bytes()), BASE64URL_NOPAD.encode(claims.as_bytes()));
        let signature = self.key.sign(&SystemRandom::new(), text.as_bytes()).unwrap();
        format!("{text}.{}", BASE64URL_NOPAD.encode(signature.as_ref()))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs MinIO: e2e/setup.sh stores"]
async fn a_role_of_minio_s_token_service_is_taken_and_taken_again_when_it_ends() {
    let identities = Identities::start().await;
    let configuration = format!("{}/.well-known/openid-configuration", identities.address);
    let variables =
        [("MINIO_IDENTITY_OPENID_CONFIG_URL", configuration.as_str()), ("MINIO_IDENTITY_OPENID_CLIENT_ID", "backups")];
    let server = Minio::with(None, &variables);
    server.make_bucket("backups", &[]).await;
    let file = server.folder.path().join("token");
    let source = CredentialSource::WebIdentity {
        role: "arn:minio:iam:::role/backup".to_owned(),
        token_file: file.clone(),
        session: "windlass".to_owned(),
        service: server.address(),
    };
    let environment = Environment::new().with_identity(CloudIdentity { source, authorities: None });
    let connected = || connect_with(&server.location("backups"), &environment, endurance()).unwrap();

    std::fs::write(&file, identities.token(3600)).unwrap();
    let store = connected();
    keeps_its_promises(&*store).await;

    // Credentials end with the token that they were given for.
    std::fs::write(&file, identities.token(2)).unwrap();
    let store = connected();
    store.put(Key::Config, Bytes::from_static(b"x"), PutMode::IfAbsent).await.unwrap();
    std::fs::write(&file, "no token at all").unwrap();
    let refused = loop {
        match store.get(Key::Config).await {
            Ok(bytes) => assert_eq!(bytes, "x"),
            Err(error) => break error,
        }
    };
    assert!(
        matches!(&refused, StoreError::Denied { source, .. } if source.to_string().contains("arn:minio:iam:::role/backup")),
        "{refused:?}"
    );
    std::fs::write(&file, identities.token(3600)).unwrap();
    assert_eq!(store.get(Key::Config).await.unwrap(), "x");
}
