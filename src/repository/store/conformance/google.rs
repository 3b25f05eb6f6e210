//! The suite against a server of our own that speaks Google's XML interface as far as a repository needs it, from its
//! documentation: objects, ranges, conditions on generations, lists in pages, uploads in parts, and tokens. No other server that
//! does could be had: what this proves is that we and `object_store` keep to the documentation, not that Google does.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::Command;
use std::sync::Mutex;

use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use data_encoding::BASE64URL_NOPAD;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use super::*;
use crate::repository::environment::Environment;
use crate::repository::store::http::Limits;
use crate::repository::store::retry::Patience;
use crate::repository::store::{Endurance, connect_at};

/// Objects of a page: Google's has a thousand.
const PAGE: usize = 2;
/// A part that is not the last has this at least.
const LEAST_PART_BYTES: usize = 5 << 20;
const TIME: &str = "2026-11-23T06:00:00.000Z";
const HTTP_TIME: &str = "Mon, 23 Nov 2026 06:00:00 GMT";

/// A server with one bucket.
struct Google {
    objects: Mutex<BTreeMap<String, (u64, Bytes)>>,
    /// Parts of uploads that are not complete.
    uploads: Mutex<BTreeMap<String, BTreeMap<u32, Bytes>>>,
    /// Whose tokens are good: one, or those that this key has signed.
    token: String,
    key: Option<Vec<u8>>,
}

type Answer = Response<Full<Bytes>>;

fn answer(status: u16, headers: &[(&str, String)], body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::builder().status(status);
    for (name, value) in headers {
        answer = answer.header(*name, value);
    }
    answer.body(Full::new(body.into())).unwrap()
}

fn refusal(status: u16, code: &str) -> Answer {
    answer(status, &[], format!("<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code><Message>No.</Message></Error>"))
}

/// What an object says of itself.
fn about(generation: u64, bytes: &Bytes) -> Vec<(&'static str, String)> {
    let etag = format!("\"{}\"", &Id::of(bytes).to_string()[..32]);
    vec![("etag", etag), ("last-modified", HTTP_TIME.to_owned()), ("x-goog-generation", generation.to_string())]
}

impl Google {
    fn admits(&self, bearer: &str) -> bool {
        let Some(key) = &self.key else { return bearer == self.token };
        let Some((signed, signature)) = bearer.rsplit_once('.') else { return false };
        let Ok(signature) = BASE64URL_NOPAD.decode(signature.as_bytes()) else { return false };
        UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key).verify(signed.as_bytes(), &signature).is_ok()
    }

    fn put(&self, name: &str, bytes: Bytes, condition: Option<&str>) -> Answer {
        let mut objects = self.objects.lock().unwrap();
        let generation = objects.get(name).map_or(0, |object| object.0);
        if condition.is_some_and(|condition| condition != generation.to_string()) {
            return refusal(412, "PreconditionFailed");
        }
        let about = about(generation + 1, &bytes);
        objects.insert(name.to_owned(), (generation + 1, bytes));
        answer(200, &about, "")
    }

    fn get(&self, name: &str, range: Option<&str>, method: &Method) -> Answer {
        let objects = self.objects.lock().unwrap();
        let Some((generation, bytes)) = objects.get(name) else { return refusal(404, "NoSuchKey") };
        let mut headers = about(*generation, bytes);
        if method == Method::HEAD {
            headers.push(("content-length", bytes.len().to_string()));
            return answer(200, &headers, "");
        }
        let Some(range) = range else { return answer(200, &headers, bytes.clone()) };
        let (first, last) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
        let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
        if first >= bytes.len() {
            return refusal(416, "InvalidRange");
        }
        let last = last.min(bytes.len() - 1);
        headers.push(("content-range", format!("bytes {first}-{last}/{}", bytes.len())));
        answer(206, &headers, bytes.slice(first..=last))
    }

    fn list(&self, query: &BTreeMap<String, String>) -> Answer {
        assert_eq!(query["list-type"], "2");
        let (prefix, after) = (&query["prefix"], query.get("continuation-token"));
        let objects = self.objects.lock().unwrap();
        let mut found = objects.iter().filter(|(name, _)| name.starts_with(prefix) && after.is_none_or(|after| *name > after));
        let page: Vec<_> = found.by_ref().take(PAGE).collect();
        let mut text = "<?xml version='1.0' encoding='UTF-8'?><ListBucketResult xmlns='http://doc.s3.amazonaws.com/2006-03-01'>\
                        <Name>backups</Name>"
            .to_owned();
        if let (Some(_), Some((last, _))) = (found.next(), page.last()) {
            write!(text, "<IsTruncated>true</IsTruncated><NextContinuationToken>{last}</NextContinuationToken>").unwrap();
        }
        for (name, (generation, bytes)) in page {
            let size = bytes.len();
            write!(
                text,
                "<Contents><Key>{name}</Key><Generation>{generation}</Generation><MetaGeneration>1</MetaGeneration>\
                 <LastModified>{TIME}</LastModified><ETag>\"1\"</ETag><Size>{size}</Size></Contents>"
            )
            .unwrap();
        }
        answer(200, &[], text + "</ListBucketResult>")
    }

    fn begin(&self, name: &str) -> Answer {
        let mut uploads = self.uploads.lock().unwrap();
        let id = format!("upload-{}", uploads.len());
        uploads.insert(id.clone(), BTreeMap::new());
        let text = "<InitiateMultipartUploadResult><Bucket>backups</Bucket><Key>";
        answer(200, &[], format!("{text}{name}</Key><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"))
    }

    fn part(&self, upload: &str, number: &str, bytes: Bytes) -> Answer {
        let mut uploads = self.uploads.lock().unwrap();
        let Some(parts) = uploads.get_mut(upload) else { return refusal(404, "NoSuchUpload") };
        let about = about(1, &bytes);
        parts.insert(number.parse().unwrap(), bytes);
        answer(200, &about, "")
    }

    fn complete(&self, name: &str, upload: &str, list: &str) -> Answer {
        let Some(parts) = self.uploads.lock().unwrap().remove(upload) else { return refusal(404, "NoSuchUpload") };
        let mut whole = Vec::new();
        for (number, bytes) in &parts {
            if bytes.len() < LEAST_PART_BYTES && Some(number) != parts.keys().last() {
                return refusal(400, "EntityTooSmall");
            }
            let etag = &about(1, bytes)[0].1;
            if !list.contains(&format!("<PartNumber>{number}</PartNumber>")) || !list.contains(etag) {
                return refusal(400, "InvalidPart");
            }
            whole.extend_from_slice(bytes);
        }
        self.put(name, whole.into(), None);
        let text = "<CompleteMultipartUploadResult><Bucket>backups</Bucket><Key>";
        answer(200, &[], format!("{text}{name}</Key><ETag>\"1\"</ETag></CompleteMultipartUploadResult>"))
    }

    fn delete(&self, name: &str) -> Answer {
        match self.objects.lock().unwrap().remove(name) {
            Some(_) => answer(204, &[], ""),
            None => refusal(404, "NoSuchKey"),
        }
    }

    async fn serve(&self, request: Request<Incoming>) -> Answer {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let header = |name: &str| parts.headers.get(name).map(|value| value.to_str().unwrap());
        let decoded = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8().unwrap().into_owned();
        let query: BTreeMap<String, String> = parts
            .uri
            .query()
            .unwrap_or_default()
            .split('&')
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .map(|(name, value)| (decoded(name), decoded(value)))
            .collect();
        let path = decoded(parts.uri.path());
        let (bucket, name) = path.trim_start_matches('/').split_once('/').unwrap_or((path.trim_start_matches('/'), ""));
        let bearer = header("authorization").and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
        if !self.admits(bearer) {
            return refusal(401, "AuthenticationRequired");
        }
        if bucket != "backups" {
            return refusal(404, "NoSuchBucket");
        }
        let upload = query.get("uploadId").map(String::as_str);
        match (&parts.method, upload, query.get("partNumber")) {
            (&Method::GET, None, None) if name.is_empty() => self.list(&query),
            (&Method::GET | &Method::HEAD, None, None) => self.get(name, header("range"), &parts.method),
            (&Method::PUT, None, None) => self.put(name, body, header("x-goog-if-generation-match")),
            (&Method::PUT, Some(upload), Some(number)) => self.part(upload, number, body),
            (&Method::POST, None, None) if query.contains_key("uploads") => self.begin(name),
            (&Method::POST, Some(upload), None) => self.complete(name, upload, std::str::from_utf8(&body).unwrap()),
            (&Method::DELETE, Some(upload), None) => {
                self.uploads.lock().unwrap().remove(upload);
                answer(204, &[], "")
            }
            (&Method::DELETE, None, None) => self.delete(name),
            _ => answer(StatusCode::NOT_IMPLEMENTED.as_u16(), &[], ""),
        }
    }

    /// Starts it; its address.
    async fn start(self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let google = Arc::new(self);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let google = Arc::clone(&google);
                let service = service_fn(move |request| {
                    let google = Arc::clone(&google);
                    async move { Ok::<_, std::convert::Infallible>(google.serve(request).await) }
                });
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        address
    }
}

fn empty(token: &str, key: Option<Vec<u8>>) -> Google {
    Google { objects: Mutex::default(), uploads: Mutex::default(), token: token.to_owned(), key }
}

fn store(address: &str, bucket: &str, pairs: &[(&str, &str)]) -> Arc<dyn Store> {
    let patience = Patience { limit: std::time::Duration::from_secs(20), ..Patience::default() };
    let endurance = Endurance { patience, limits: Limits::default() };
    let location = format!("gs:{bucket}:/a/prefix").parse().unwrap();
    connect_at(&location, &Environment::from_pairs(pairs.iter().copied()), endurance, Some(address)).unwrap()
}

#[tokio::test]
async fn a_bucket_of_google_s_keeps_every_promise_of_a_store() {
    let address = empty("the-token", None).start().await;
    keeps_its_promises(&*store(&address, "backups", &[("GOOGLE_ACCESS_TOKEN", "the-token")])).await;
    let refused = store(&address, "backups", &[("GOOGLE_ACCESS_TOKEN", "another")]).get(Key::Config).await.unwrap_err();
    assert!(matches!(refused, StoreError::Denied { .. }), "{refused:?}");
    let nowhere = store(&address, "elsewhere", &[("GOOGLE_ACCESS_TOKEN", "the-token")]).list(Kind::Data).await.unwrap_err();
    assert!(matches!(&nowhere, StoreError::Configuration(text) if text.to_string().contains("create it first")), "{nowhere:?}");
}

/// Runs `openssl`; what it prints.
fn openssl(arguments: &[&str], input: &std::path::Path) -> Vec<u8> {
    let output = Command::new("openssl").args(arguments).arg("-in").arg(input).output().expect("`openssl` is on PATH");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[tokio::test]
async fn a_service_account_signs_its_own_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    let made = Command::new("openssl").args(["genpkey", "-quiet", "-algorithm", "RSA", "-out"]).arg(&file).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let public = openssl(&["rsa", "-RSAPublicKey_out", "-outform", "DER"], &file);
    let key = serde_json::json!({
        "type": "service_account",
        "private_key": std::fs::read_to_string(&file).unwrap(),
        "private_key_id": "1",
        "client_email": "backup@project.iam.gserviceaccount.com",
    });
    let address = empty("", Some(public)).start().await;
    keeps_its_promises(&*store(&address, "backups", &[("GOOGLE_APPLICATION_CREDENTIALS", &key.to_string())])).await;
}
