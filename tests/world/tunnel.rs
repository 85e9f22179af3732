//! HTTP proxies between the forwarder and its services: one that misbehaves until it relents, and Debian's tinyproxy, a real one.
//!
//! Whatever a client sends to the first is kept, inside of tunnels too, so that a test can ask what a proxy gets to see.

use std::io;
use std::net::{SocketAddr, TcpListener as Listener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Most of what one client says that is kept.
const KEPT_MAX: usize = 4 * 1024 * 1024;

/// What a proxy does to whoever asks for a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    /// A tunnel, as asked.
    Tunnels,
    /// 407.
    WantsCredentials,
    /// 403 by its own rules.
    Forbids,
    /// 502: the service is out of reach for it.
    IsCutOff,
    /// The connection ends before there is an answer.
    Dies,
    /// "Connection established", and then the end.
    SaysYesAndCloses,
    /// "Connection established", and then an answer of its own in plain HTTP.
    InjectsHttp,
    /// A tunnel that breaks after the first bytes of the service.
    CutsTunnels,
}

pub struct Tunnel {
    address: SocketAddr,
    doing: watch::Sender<Doing>,
    told: Arc<Mutex<Vec<u8>>>,
    met: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

impl Tunnel {
    pub async fn start(doing: Doing) -> Tunnel {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let address = listener.local_addr().expect("a listener has an address");
        let (doing, does) = watch::channel(doing);
        let (told, met) = (Arc::<Mutex<Vec<u8>>>::default(), Arc::<AtomicUsize>::default());
        let (keeps, count) = (Arc::clone(&told), Arc::clone(&met));
        let accepting = tokio::spawn(async move {
            loop {
                let Ok((client, _)) = listener.accept().await else { continue };
                count.fetch_add(1, Ordering::SeqCst);
                let (keeps, mut does) = (Arc::clone(&keeps), does.clone());
                tokio::spawn(async move {
                    let now = *does.borrow_and_update();
                    tokio::select! {
                        _the_client_may_leave_at_any_time = serve(client, now, &keeps) => {}
                        // Whoever relents leaves nobody hanging in what was.
                        _ = does.changed() => {}
                    }
                });
            }
        });
        Tunnel { address, doing, told, met, accepting }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn does(&self, doing: Doing) {
        self.doing.send_replace(doing);
    }

    /// How many connections there were.
    pub fn met(&self) -> usize {
        self.met.load(Ordering::SeqCst)
    }

    /// All that clients have said.
    pub fn told(&self) -> Vec<u8> {
        self.told.lock().expect("never poisoned").clone()
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn keep(told: &Mutex<Vec<u8>>, bytes: &[u8]) {
    let mut told = told.lock().expect("never poisoned");
    let room = KEPT_MAX.saturating_sub(told.len());
    told.extend_from_slice(&bytes[..bytes.len().min(room)]);
}

async fn serve(mut client: TcpStream, doing: Doing, told: &Mutex<Vec<u8>>) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.len() < 64 * 1024 {
        head.push(client.read_u8().await?);
    }
    keep(told, &head);
    let established: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";
    match doing {
        Doing::WantsCredentials => {
            client
                .write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\nproxy-authenticate: Basic realm=\"x\"\r\ncontent-length: 0\r\n\r\n")
                .await?;
        }
        Doing::Forbids => client.write_all(b"HTTP/1.1 403 Filtered\r\ncontent-length: 0\r\n\r\n").await?,
        Doing::IsCutOff => client.write_all(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n").await?,
        Doing::Dies => return Ok(()),
        Doing::SaysYesAndCloses => client.write_all(established).await?,
        Doing::InjectsHttp => {
            client.write_all(established).await?;
            let injected =
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 22\r\n\r\n{\"auditLogEvents\":[]}\n";
            client.write_all(injected).await?;
        }
        Doing::Tunnels | Doing::CutsTunnels => {
            let text = String::from_utf8_lossy(&head);
            let target = text.split(' ').nth(1).unwrap_or_default().replace("localhost", "127.0.0.1");
            let mut service = TcpStream::connect(target).await?;
            client.write_all(established).await?;
            return pass(&mut client, &mut service, told, doing == Doing::CutsTunnels).await;
        }
    }
    client.shutdown().await?;
    // What is sent all the same is kept as well.
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).await?;
    keep(told, &rest);
    Ok(())
}

async fn pass(
    client: &mut TcpStream,
    service: &mut TcpStream,
    told: &Mutex<Vec<u8>>,
    cuts: bool,
) -> io::Result<()> {
    let (mut up, mut down) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    loop {
        tokio::select! {
            read = client.read(&mut up) => match read? {
                0 => return Ok(()),
                n => {
                    keep(told, &up[..n]);
                    service.write_all(&up[..n]).await?;
                }
            },
            read = service.read(&mut down) => match read? {
                0 => return Ok(()),
                n => {
                    client.write_all(&down[..n.min(if cuts { 20 } else { n })]).await?;
                    if cuts {
                        return Ok(());
                    }
                }
            },
        }
    }
}

/// Debian's tinyproxy as a process of its own, which wants a user name and a password. Ended when dropped.
pub struct TinyProxy {
    address: SocketAddr,
    directory: PathBuf,
    /// Ends the proxy when its standard input ends, also where this process was killed.
    keeper: Option<Child>,
}

impl TinyProxy {
    /// `directory` takes its configuration and its log.
    pub async fn start(directory: &Path, user: &str, password: &str) -> TinyProxy {
        let free = Listener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let mut proxy = TinyProxy {
            address: free.expect("loopback has a free port"),
            directory: directory.to_owned(),
            keeper: None,
        };
        proxy.comes_back(user, password).await;
        proxy
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.join("tinyproxy.log")).unwrap_or_default()
    }

    pub fn goes_away(&mut self) {
        if let Some(mut keeper) = self.keeper.take() {
            drop(keeper.stdin.take());
            keeper.wait().expect("it can be waited for");
        }
    }

    pub async fn comes_back(&mut self, user: &str, password: &str) {
        self.goes_away();
        let configuration = self.directory.join("tinyproxy.conf");
        let text = format!(
            "Port {port}\nListen 127.0.0.1\nTimeout 60\nLogLevel Connect\nLogFile {log:?}\nMaxClients 100\nAllow 127.0.0.1\n\
             BasicAuth {user} {password}\n",
            port = self.address.port(),
            log = self.directory.join("tinyproxy.log"),
        );
        std::fs::write(&configuration, text).expect("the directory can be written");
        let keep = r#"tinyproxy -d -c "$1" >/dev/null 2>&1 </dev/null & server=$!
            while read -r _; do :; done; kill -9 "$server"; wait "$server" 2>/dev/null"#;
        let keeper = Command::new("sh")
            .args(["-c", keep, "keeper"])
            .arg(&configuration)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("a shell can be started");
        self.keeper = Some(keeper);
        let begun = tokio::time::Instant::now();
        while TcpStream::connect(self.address).await.is_err() {
            assert!(begun.elapsed() < Duration::from_secs(20), "tinyproxy does not listen: run `make tools`");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for TinyProxy {
    fn drop(&mut self) {
        self.goes_away();
    }
}
