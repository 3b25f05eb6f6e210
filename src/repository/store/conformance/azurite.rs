//! The suite against Azurite, Microsoft's own emulator of Azure's blob storage: `e2e/setup.sh stores` installs it; `make test-full` runs
//! these tests.

use std::path::Path;

use aws_lc_rs::hmac;
use data_encoding::BASE64;

use super::program::{Program, tool};
use super::*;
use crate::repository::environment::Environment;
use crate::repository::store::http::Limits;
use crate::repository::store::retry::Patience;
use crate::repository::store::{Endurance, connect_at};

const ACCOUNT: &str = "backup";
const KEY: &[u8] = b"0123456789abcdef0123456789abcdef";
const CONTAINER: &str = "backups";

/// A server with one empty container.
struct Azurite {
    _program: Program,
    endpoint: String,
}

fn signature(text: &str) -> String {
    BASE64.encode(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, KEY), text.as_bytes()).as_ref())
}

impl Azurite {
    async fn start() -> Self {
        let main = tool("azurite/node_modules/azurite/dist/src/blob/main.js");
        let program = Program::start(Path::new("node"), "successfully listens on http", |command| {
            command.arg(main).args(["--blobHost", "127.0.0.1", "--blobPort", "0", "--inMemoryPersistence"]);
            // It says where to turn telemetry off, and to skip versions: `object_store` is newer than it.
            command.args(["--disableTelemetry", "--skipApiVersionCheck", "--silent"]);
            command.env("AZURITE_ACCOUNTS", format!("{ACCOUNT}:{}", BASE64.encode(KEY)));
        });
        let address = program.ready.rsplit(' ').next().unwrap().to_owned();
        let server = Self { _program: program, endpoint: format!("{address}/{ACCOUNT}") };
        server.make_container().await;
        server
    }

    async fn make_container(&self) {
        let date = jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&jiff::Timestamp::now()).unwrap();
        let text = format!(
            "PUT\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:{date}\nx-ms-version:2021-08-06\n/{ACCOUNT}/{ACCOUNT}/{CONTAINER}\nrestype:container"
        );
        let authorization = format!("SharedKey {ACCOUNT}:{}", signature(&text));
        let request = reqwest::Client::new().put(format!("{}/{CONTAINER}?restype=container", self.endpoint));
        let request =
            request.header("x-ms-date", date).header("x-ms-version", "2021-08-06").header("authorization", authorization);
        let answer = request.header("content-length", "0").send().await.unwrap();
        assert_eq!(answer.status(), 201, "{}", answer.text().await.unwrap());
    }

    fn store(&self, container: &str, pairs: &[(&str, &str)]) -> Arc<dyn Store> {
        let patience = Patience { limit: std::time::Duration::from_secs(20), ..Patience::default() };
        let endurance = Endurance { patience, limits: Limits::default() };
        let location = format!("azure:{container}:/a/prefix").parse().unwrap();
        let pairs = [&[("AZURE_ACCOUNT_NAME", ACCOUNT)], pairs].concat();
        connect_at(&location, &Environment::from_pairs(pairs), endurance, Some(&self.endpoint)).unwrap()
    }
}

/// A signature that shares the account for as long as this test can matter.
fn shared() -> String {
    let (permissions, until, version) = ("rwdlac", "2099-01-01T00:00:00Z", "2019-12-12");
    let text = format!("{ACCOUNT}\n{permissions}\nb\nsco\n\n{until}\n\nhttps,http\n{version}\n");
    let signature = signature(&text).replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
    format!("?sv={version}&ss=b&srt=sco&sp={permissions}&se={until}&spr=https,http&sig={signature}")
}

#[tokio::test]
#[ignore = "needs Azurite: e2e/setup.sh stores"]
async fn azurite_keeps_every_promise_of_a_store() {
    let server = Azurite::start().await;
    let key = BASE64.encode(KEY);
    keeps_its_promises(&*server.store(CONTAINER, &[("AZURE_ACCOUNT_KEY", &key)])).await;

    // Azurite answers 500 when an account's signature is to delete, which `object_store` does in batches.
    let shared = server.store(CONTAINER, &[("AZURE_ACCOUNT_SAS", &shared())]);
    let bytes = Bytes::from_static(b"a snapshot");
    let id = Id::of(&bytes);
    shared.put(Key::File(Kind::Snapshot, id), bytes.clone(), PutMode::IfAbsent).await.unwrap();
    assert_eq!(shared.get(Key::File(Kind::Snapshot, id)).await.unwrap(), bytes);
    assert_eq!(shared.list(Kind::Snapshot).await.unwrap(), [super::super::Listed { id, bytes: 10 }]);

    let wrong = BASE64.encode(b"another key of the same length!!");
    let refused = server.store(CONTAINER, &[("AZURE_ACCOUNT_KEY", &wrong)]).get(Key::Config).await.unwrap_err();
    assert!(matches!(refused, StoreError::Denied { .. }), "{refused:?}");
    let nowhere = server.store("elsewhere", &[("AZURE_ACCOUNT_KEY", &key)]).list(Kind::Data).await.unwrap_err();
    assert!(matches!(&nowhere, StoreError::Configuration(text) if text.to_string().contains("create it first")), "{nowhere:?}");
}
