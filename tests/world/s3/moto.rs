//! AWS as moto plays it: S3 that takes any key of KMS, and STS. One server for the whole test process, gone when the process is.
//!
//! It checks no signature and refuses no role: what was asked of it is seen in the requests, and what it was told to keep is read
//! back. Whether a signature is right is for [`super::seaweed`] to say.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tokio::sync::OnceCell;

const READY_WITHIN: Duration = Duration::from_secs(90);

pub struct Moto {
    pub address: SocketAddr,
    /// As with SeaweedFS: when this process ends, its end of the pipe closes, and the shell at the other end kills the server.
    _keeper: Child,
}

static SHARED: OnceCell<Moto> = OnceCell::const_new();

/// The server of this process, started at the first call.
pub async fn shared() -> &'static Moto {
    SHARED.get_or_init(start).await
}

async fn start() -> Moto {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/venv/bin/python");
    assert!(python.exists(), "{} is missing: run `make tools`", python.display());
    let mut tries = 0;
    loop {
        tries += 1;
        let server = spawn(&python);
        match ready(&server).await {
            Ok(()) => return server,
            // Another process may have taken the port between our look and the server's.
            Err(_) if tries < 3 => {}
            Err(error) => panic!("moto did not get ready ({error}): run `make tools`"),
        }
    }
}

fn spawn(python: &Path) -> Moto {
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let address = free.expect("loopback has a free port");
    let keep = r#""$@" >/dev/null 2>&1 </dev/null & server=$!
        while read -r _; do :; done; kill -9 "$server""#;
    let keeper = Command::new("sh")
        .args(["-c", keep, "keeper"])
        .arg(python)
        .args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &address.port().to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .expect("a shell can be started");
    Moto { address, _keeper: keeper }
}

async fn ready(server: &Moto) -> Result<(), String> {
    let client =
        reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build().expect("it builds");
    let start = Instant::now();
    loop {
        let asked = client.get(format!("http://{}/moto-api/", server.address)).send().await;
        match asked.and_then(reqwest::Response::error_for_status) {
            Ok(_) => return Ok(()),
            Err(error) if start.elapsed() > READY_WITHIN => return Err(error.to_string()),
            // A process that starts cannot tell us when it is done; this only spaces the questions.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}
