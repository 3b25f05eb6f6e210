//! The case of many agents: exporters that begin at the same time, each with a volume of its own, into one repository in one bucket of
//! MinIO, which listens on the loopback and keeps its objects where repositories are kept. All share the two processors, MinIO too.

use std::path::Path;

use super::bench::Bench;
use super::proof::Proof;
use crate::error::BenchError;
use crate::report::results::case;
use crate::tools::minio::{Access, Minio};

const MIB: u64 = 1 << 20;
/// Of each volume. It does not compress.
const SIZE: u64 = 128 * MIB;
const CHUNK: u64 = 256 << 10;
/// How many begin together.
const AGENTS: [(&str, u16); 3] = [(case::AGENTS_1, 1), (case::AGENTS_4, 4), (case::AGENTS_16, 16)];

/// Measures them with the program `minio`.
pub(super) fn run(bench: &mut Bench, minio: &Path) -> Result<(), BenchError> {
    bench.describe(format!(
        "agents: 1, 4 and 16 exports at the same time into one bucket of MinIO on the loopback, {} MiB that do not compress each",
        SIZE / MIB
    ));
    for _ in 0..bench.repetitions() {
        for (case, count) in AGENTS {
            let folder = bench.workshop()?;
            let server = Minio::start(minio, &folder.join("drive"), &bench.log(case, "minio"))?;
            let access = server.access();
            bench.prepare_in(&access, &folder, "init")?;
            let words = |seed: u16| format!("synthetic export --size {SIZE} --filling noise --seed {seed}");
            let exports: Vec<String> = (1..=count).map(words).collect();
            let reports = bench.agents(case, &format!("{} MiB each", SIZE / MIB), &access, &folder, &exports)?;
            for report in &reports {
                let proof = Proof::new(case, report);
                proof.equals("read_bytes", SIZE)?;
                proof.equals("new_chunks", SIZE / CHUNK)?;
                proof.at_least("stored_bytes", SIZE)?;
                proof.requests_at_least("put data", 1)?;
            }
            server.stop()?;
        }
    }
    for (case, _) in AGENTS {
        bench.remark(case, "CPU is that of the exporters; MinIO's is in the time alone");
    }
    Ok(())
}

/// How an exporter reaches the repository.
pub(super) fn location(access: &Access) -> String {
    format!("s3:{}/{}/repository", access.endpoint, access.bucket)
}
