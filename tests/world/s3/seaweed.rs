//! An S3 server that somebody else wrote: SeaweedFS, one for the whole test process, gone when the process is.
//!
//! *Why* not a simulation: whether a conditional write has exactly one winner, and whether a signature is right, must not be
//! decided by the same hands that wrote the client.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tokio::sync::OnceCell;

use super::reader::client;

pub const ACCESS_KEY: &str = "AKIATESTTESTTEST";
pub const SECRET_KEY: &str = "wD9xTq4LmZ7kRb2VnY8sHc5JfG1pUe6Ao3Xi0KtW";
/// The same user's second key.
pub const NEXT_ACCESS_KEY: &str = "AKIATESTTESTNEXT";
pub const NEXT_SECRET_KEY: &str = "Zk3WqB8nXv5RtD1mLc7HyS9fJp2UgA6eTo4NiK0b";
pub const REGION: &str = "us-east-1";

const READY_WITHIN: Duration = Duration::from_secs(90);

pub struct SeaweedFs {
    pub address: SocketAddr,
    pub log: PathBuf,
    /// Its standard input is the life line: when this process ends, however it ends, the kernel closes the pipe and the shell at
    /// the other end kills the server and removes its data.
    _keeper: Child,
}

static SHARED: OnceCell<SeaweedFs> = OnceCell::const_new();

/// The server of this process, started at the first call.
pub async fn shared() -> &'static SeaweedFs {
    SHARED.get_or_init(start).await
}

async fn start() -> SeaweedFs {
    let weed = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/venv/bin/weed");
    assert!(weed.exists(), "{} is missing: run `make tools`", weed.display());
    let mut tries = 0;
    loop {
        tries += 1;
        let server = spawn(&weed);
        match ready(&server).await {
            Ok(()) => return server,
            // Another process may have taken one of the ports between our look and the server's.
            Err(_) if tries < 3 => {}
            Err(error) => {
                let log = std::fs::read_to_string(&server.log).unwrap_or_default();
                let tail: Vec<&str> = log.lines().rev().take(20).collect();
                panic!("SeaweedFS did not get ready: {error}; its last lines, newest first: {tail:#?}");
            }
        }
    }
}

fn spawn(weed: &Path) -> SeaweedFs {
    // The keeper removes the directory, because nothing runs in a process that was killed.
    let directory =
        tempfile::Builder::new().prefix("world-s3-").tempdir().expect("a directory can be made").keep();
    let config = serde_json::json!({"identities": [{"name": "tests",
        "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY},
            {"accessKey": NEXT_ACCESS_KEY, "secretKey": NEXT_SECRET_KEY}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"]}]});
    std::fs::write(directory.join("s3.json"), config.to_string()).expect("the directory can be written");
    let log = directory.join("weed.log");
    let [master, volume, filer, s3] = free_ports();
    let keep = r#"dir="$1"; shift; "$@" >"$dir/weed.log" 2>&1 </dev/null & server=$!
        while read -r _; do :; done; kill -9 "$server"; wait "$server" 2>/dev/null; rm -rf "$dir""#;
    let keeper = Command::new("sh")
        .args(["-c", keep, "keeper"])
        .arg(&directory)
        .arg(weed)
        .args(["server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3", "-s3.ip.bind=127.0.0.1"])
        .args(["-master.volumeSizeLimitMB=64", "-master.telemetry=false", "-volume.max=0", "-s3.iam=false"])
        .args(["-s3.autoCreateBucket=false", "-s3.port.iceberg=0", "-s3.port.lance=0"])
        .arg(format!("-dir={}", directory.display()))
        .arg(format!("-s3.config={}", directory.join("s3.json").display()))
        .arg(format!("-s3.localSocket={}", directory.join("s3.sock").display()))
        .arg(format!("-filer.localSocket={}", directory.join("filer.sock").display()))
        .arg(format!("-master.port={master}"))
        .arg(format!("-volume.port={volume}"))
        .arg(format!("-filer.port={filer}"))
        .arg(format!("-s3.port={s3}"))
        .env("WEED_S3_SSE_KEY", "a key for tests")
        .env("WEED_MASTER_VOLUME_GROWTH_COPY_1", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // A Ctrl-C at the terminal would end the keeper, and the server, which ignores it, would stay for ever.
        .process_group(0)
        .spawn()
        .expect("a shell can be started");
    SeaweedFs { address: SocketAddr::from(([127, 0, 0, 1], s3)), log, _keeper: keeper }
}

/// Four ports that are free, and whose companions for gRPC, 10,000 above, are free as well. Below the range from which the
/// kernel takes ports for outgoing connections, so that none of those gets in the way.
fn free_ports() -> [u16; 4] {
    let start = Instant::now();
    let mut guess = (u64::from(std::process::id()) * 131) ^ tempfile_entropy();
    let mut found = Vec::new();
    while found.len() < 4 {
        assert!(start.elapsed() < Duration::from_secs(10), "no free ports on loopback");
        guess = super::super::chance::scramble(guess.wrapping_add(0x9E37_79B9));
        let port = 11_000 + (guess % 11_000) as u16;
        let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
        if !found.contains(&port) && free(port) && free(port + 10_000) {
            found.push(port);
        }
    }
    [found[0], found[1], found[2], found[3]]
}

/// Something that differs between two calls: the hasher's own seed.
fn tempfile_entropy() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

/// Ready is what has stored and returned an object under a real signature.
async fn ready(server: &SeaweedFs) -> Result<(), String> {
    let client = client(&format!("http://{}", server.address));
    let start = Instant::now();
    loop {
        let tried = async {
            let created = client.create_bucket().bucket("readiness").send().await;
            if let Err(error) = created {
                let error = error.into_service_error();
                if !error.is_bucket_already_exists() && !error.is_bucket_already_owned_by_you() {
                    return Err(format!("{error:?}"));
                }
            }
            let body = aws_sdk_s3::primitives::ByteStream::from_static(b"ready");
            client
                .put_object()
                .bucket("readiness")
                .key("probe")
                .body(body)
                .send()
                .await
                .map_err(|e| format!("{e:?}"))?;
            client
                .get_object()
                .bucket("readiness")
                .key("probe")
                .send()
                .await
                .map_err(|e| format!("{e:?}"))?;
            Ok(())
        };
        match tried.await {
            Ok(()) => return Ok(()),
            Err(error) if start.elapsed() > READY_WITHIN => return Err(error),
            // A process that starts cannot tell us when it is done; this only spaces the questions.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}
