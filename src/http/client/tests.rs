//! Against real sockets and real TLS, with limits short enough to wait for.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use http::Method;
use rcgen::{CertificateParams, Issuer, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::super::route::{ClientCertificate, ProxyAccount};
use super::*;
use crate::http::route::Proxy;

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
const TOKEN: &str = "pul-canary-of-the-transport";

/// Limits of which only one is short.
fn patient() -> Limits {
    let long = Duration::from_secs(60);
    Limits { connect: long, answer: long, stall: long, look: Duration::ZERO, ..Limits::default() }
}

fn client(route: &Route, limits: Limits) -> Client {
    Client::with(route, limits, Turn::default(), Arc::default()).unwrap()
}

fn get(url: &str) -> Request {
    let mut headers = HeaderMap::new();
    headers.insert(http::header::AUTHORIZATION, HeaderValue::from_str(&format!("token {TOKEN}")).unwrap());
    Request {
        method: Method::GET,
        url: url.to_owned(),
        headers,
        body: Bytes::new(),
        body_bytes_max: 1024,
        deadline: Duration::from_secs(60),
    }
}

fn off() -> Route {
    Route { proxy: Proxy::Off, ..Route::default() }
}

/// One request's head; nothing when the connection ends.
async fn head<S: AsyncRead + Unpin>(connection: &mut S) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(connection.read_u8().await.ok()?);
        assert!(head.len() < 64 * 1024, "a head has an end");
    }
    Some(String::from_utf8_lossy(&head).into_owned())
}

/// What was sent to a listener, one text for each head, and how many connections there were.
#[derive(Clone, Default)]
struct Seen {
    heads: Arc<Mutex<Vec<String>>>,
    connections: Arc<AtomicUsize>,
}

impl Seen {
    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

/// Does the same to every connection.
async fn listen<F, Done>(address: &str, does: F) -> (SocketAddr, Seen)
where
    F: Fn(TcpStream, Seen) -> Done + Send + 'static,
    Done: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind(address).await.unwrap();
    let (address, seen) = (listener.local_addr().unwrap(), Seen::default());
    let counted = seen.clone();
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            counted.connections.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(does(connection, counted.clone()));
        }
    });
    (address, seen)
}

/// Answers every request of a connection with this.
async fn answers<S: AsyncRead + AsyncWrite + Unpin>(mut connection: S, seen: Seen, says: &[u8]) {
    while let Some(head) = head(&mut connection).await {
        seen.heads.lock().unwrap().push(head);
        if connection.write_all(says).await.is_err() {
            return;
        }
    }
}

async fn well() -> (SocketAddr, Seen) {
    listen("127.0.0.1:0", |connection, seen| answers(connection, seen, OK)).await
}

/// An authority of its own with what it signs.
struct Signed {
    issuer: Issuer<'static, KeyPair>,
    ca: PathBuf,
    roots: RootCertStore,
    directory: tempfile::TempDir,
}

impl Signed {
    fn new() -> Signed {
        let directory = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        let ca = directory.path().join("ca.pem");
        std::fs::write(&ca, certificate.pem()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(certificate.der().clone()).unwrap();
        Signed { issuer: Issuer::new(params, key), ca, roots, directory }
    }

    fn leaf(&self) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    fn server(&self, versions: &[&'static SupportedProtocolVersion], asks: bool) -> TlsAcceptor {
        let (certificate, key) = self.leaf();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .unwrap();
        let config = if asks {
            let roots = Arc::new(self.roots.clone());
            config.with_client_cert_verifier(
                WebPkiClientVerifier::builder_with_provider(roots, provider).build().unwrap(),
            )
        } else {
            config.with_no_client_auth()
        };
        Arc::new(config.with_single_cert(vec![certificate.der().clone()], key).unwrap()).into()
    }

    /// Serves `{}` over TLS; what it saw includes the common name's place of the client's certificate.
    async fn serve(&self, versions: &[&'static SupportedProtocolVersion], asks: bool) -> (SocketAddr, Seen) {
        let acceptor = self.server(versions, asks);
        listen("127.0.0.1:0", move |connection, seen| {
            let acceptor = acceptor.clone();
            async move {
                if let Ok(tls) = acceptor.accept(connection).await {
                    answers(tls, seen, OK).await;
                }
            }
        })
        .await
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        write_secret(self.directory.path(), name, text)
    }
}

fn write_secret(directory: &Path, name: &str, text: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let (path, beside) = (directory.join(name), directory.join("beside"));
    std::fs::write(&beside, text).unwrap();
    std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::rename(&beside, &path).unwrap();
    path
}

fn secret(path: &Path) -> SecretSource {
    SecretSource { place: Place::File(path.to_owned()), group_may_read: false }
}

fn url(address: SocketAddr) -> String {
    format!("https://{address}/api")
}

#[test]
fn plain_http_to_this_machine_goes_past_every_proxy_and_nothing_else_does() {
    for url in [
        "http://169.254.169.254/metadata/identity/oauth2/token?api-version=2018-02-01",
        "http://localhost:42356/msi/token",
        "http://127.0.0.1:41741/MSI/token/",
        "http://[::1]:80/",
        "http://[fd00:ec2::254]/latest/api/token",
    ] {
        assert!(is_local(url), "{url}");
    }
    for url in [
        "https://127.0.0.1/",
        "http://10.0.0.1/",
        "http://example.com/",
        "https://login.microsoftonline.com/",
        "http://localhost.example/",
        "",
    ] {
        assert!(!is_local(url), "{url}");
    }
}

#[tokio::test]
async fn a_handshake_that_does_not_end_is_given_up() {
    let (address, _) = listen("127.0.0.1:0", |mut connection, _| async move {
        // One byte now and then, and never a whole message.
        while connection.write_all(&[22]).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
            if connection.write_all(&[3, 3, 0xff, 0xff]).await.is_err() {
                return;
            }
        }
    })
    .await;
    let connect = Duration::from_millis(300);
    let failure = client(&off(), Limits { connect, ..patient() }).send(get(&url(address))).await.unwrap_err();
    // Bytes that are no handshake may be noticed first.
    assert!(matches!(failure, Failure::Unconnected(_) | Failure::Connection(_)), "{failure:?}");
    let (address, _) = listen("127.0.0.1:0", |connection, _| async move {
        let _held = connection;
        std::future::pending().await
    })
    .await;
    let failure = client(&off(), Limits { connect, ..patient() }).send(get(&url(address))).await.unwrap_err();
    assert_eq!(failure, Failure::Unconnected(connect));
}

#[tokio::test]
async fn an_answer_that_does_not_begin_is_given_up_also_where_its_head_comes_drop_by_drop() {
    let answer = Duration::from_millis(300);
    let (silent, _) = listen("127.0.0.1:0", |mut connection, _| async move {
        head(&mut connection).await;
        std::future::pending().await
    })
    .await;
    let (drips, _) = listen("127.0.0.1:0", |mut connection, _| async move {
        head(&mut connection).await;
        let mut bytes = b"HTTP/1.1 200 OK\r\nx: ".iter().chain(std::iter::repeat(&b'a'));
        while connection.write_all(&[*bytes.next().unwrap()]).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    for address in [silent, drips] {
        let url = format!("http://{address}/");
        let failure = client(&off(), Limits { answer, ..patient() }).send(get(&url)).await.unwrap_err();
        assert_eq!(failure, Failure::Silent(answer));
    }
}

#[tokio::test]
async fn a_body_that_stands_still_is_given_up_and_one_that_only_crawls_at_the_deadline_of_the_whole() {
    let (halts, _) = listen("127.0.0.1:0", |mut connection, _| async move {
        head(&mut connection).await;
        connection.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 200\r\n\r\n{").await.unwrap();
        std::future::pending().await
    })
    .await;
    let stall = Duration::from_millis(300);
    let url = format!("http://{halts}/");
    let failure = client(&off(), Limits { stall, ..patient() }).send(get(&url)).await.unwrap_err();
    assert_eq!(failure, Failure::Stalled(stall));

    let (crawls, _) = listen("127.0.0.1:0", |mut connection, _| async move {
        head(&mut connection).await;
        connection.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n{").await.unwrap();
        while connection.write_all(b" ").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let deadline = Duration::from_millis(600);
    let limits = Limits { stall: Duration::from_secs(5), ..patient() };
    let request = Request { deadline, body_bytes_max: 1 << 20, ..get(&format!("http://{crawls}/")) };
    assert_eq!(client(&off(), limits).send(request).await.unwrap_err(), Failure::Timeout(deadline));
}

/// Lets so much time pass at once, without anybody waiting for it.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

#[tokio::test]
async fn no_request_begins_on_a_connection_that_is_older_than_four_minutes_however_busy_it_is() {
    let (address, seen) = well().await;
    let client = client(&off(), Limits::default());
    let url = format!("http://{address}/");
    let mut connections = Vec::new();
    for _ in 0..=10 {
        assert_eq!(client.send(get(&url)).await.unwrap().status, 200);
        connections.push(seen.connections());
        // Less than after what an idle connection is closed.
        pass(Duration::from_secs(60)).await;
    }
    assert_eq!(connections, [1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3]);
}

#[tokio::test]
async fn a_request_under_way_outlives_the_pool_that_it_began_in() {
    let (go, going) = tokio::sync::watch::channel(false);
    let (address, _) = listen("127.0.0.1:0", move |mut connection, _| {
        let mut going = going.clone();
        async move {
            while let Some(head) = head(&mut connection).await {
                if head.starts_with("GET /slow") {
                    going.wait_for(|going| *going).await.unwrap();
                }
                connection.write_all(OK).await.unwrap();
            }
        }
    })
    .await;
    let client = client(&off(), Limits { life: Duration::ZERO, ..patient() });
    let slow = tokio::spawn({
        let (client, url) = (client.clone(), format!("http://{address}/slow"));
        async move { client.send(get(&url)).await }
    });
    for _ in 0..5 {
        assert_eq!(client.send(get(&format!("http://{address}/"))).await.unwrap().status, 200);
    }
    go.send_replace(true);
    assert_eq!(slow.await.unwrap().unwrap().status, 200);
}

/// Name lookup that says what it was last told.
struct Told(Mutex<SocketAddr>);

impl reqwest::dns::Resolve for Told {
    fn resolve(&self, _: reqwest::dns::Name) -> reqwest::dns::Resolving {
        let address = *self.0.lock().unwrap();
        Box::pin(async move { Ok(Box::new(std::iter::once(address)) as reqwest::dns::Addrs) })
    }
}

#[tokio::test]
async fn a_name_that_moves_is_followed_within_five_minutes_without_an_idle_moment() {
    let (old, seen_by_old) = well().await;
    let (new, seen_by_new) =
        listen(&format!("127.0.0.2:{}", old.port()), |connection, seen| answers(connection, seen, OK)).await;
    let told = Arc::new(Told(Mutex::new(old)));
    let mut inner = Arc::into_inner(client(&off(), Limits::default()).0).unwrap();
    inner.resolver = Some(Arc::clone(&told) as Arc<dyn reqwest::dns::Resolve>);
    let remote = built(inner.builder(&inner.pools().tls)).unwrap();
    inner.pools().remote = remote;
    let client = Client(Arc::new(inner));
    let url = format!("http://moving.example:{}/", old.port());
    client.send(get(&url)).await.unwrap();
    *told.0.lock().unwrap() = new;
    let mut minutes = 0;
    while seen_by_new.connections() == 0 {
        pass(Duration::from_secs(60)).await;
        minutes += 1;
        assert!(minutes <= 5, "not followed");
        client.send(get(&url)).await.unwrap();
    }
    assert_eq!((minutes, seen_by_old.connections()), (4, 1));
}

#[tokio::test]
async fn tls_1_2_and_1_3_are_spoken() {
    let signed = Signed::new();
    let route = Route { ca_file: Some(signed.ca.clone()), ..off() };
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let (address, seen) = signed.serve(&[version], false).await;
        assert_eq!(client(&route, patient()).send(get(&url(address))).await.unwrap().status, 200);
        assert!(
            seen.heads()[0]
                .contains(concat!("user-agent: pulumi-audit-forwarder/", env!("CARGO_PKG_VERSION")))
        );
    }
    // Nobody was told of that authority.
    let (address, seen) = signed.serve(&[&rustls::version::TLS13], false).await;
    let failure = client(&off(), patient()).send(get(&url(address))).await.unwrap_err();
    assert!(matches!(failure, Failure::Untrusted(_)) && seen.heads().is_empty(), "{failure:?}");
}

#[tokio::test]
async fn a_service_that_asks_for_a_certificate_gets_the_configured_one_and_a_new_one_once_it_is_there() {
    let signed = Signed::new();
    let stranger = Signed::new();
    let pem = |(certificate, key): (rcgen::Certificate, KeyPair)| certificate.pem() + &key.serialize_pem();
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let (address, seen) = signed.serve(&[version], true).await;
        let mut route = Route { ca_file: Some(signed.ca.clone()), ..off() };
        let failure = client(&route, patient()).send(get(&url(address))).await.unwrap_err();
        assert!(matches!(failure, Failure::Unidentified(_)), "{version:?}: {failure:?}");
        assert!(failure.remedy("source").unwrap().contains("client_certificate"));

        let path = signed.write("pair.pem", &pem(stranger.leaf()));
        route.client_certificate = Some(ClientCertificate { certificate: secret(&path), key: None });
        let client = client(&route, patient());
        let failure = client.send(get(&url(address))).await.unwrap_err();
        assert!(matches!(failure, Failure::Unidentified(_)), "{version:?}: {failure:?}");
        assert!(seen.heads().is_empty(), "no token was sent");

        // Half a file changes nothing; a whole one counts at once.
        signed.write("pair.pem", "-----BEGIN CERTIFICATE-----\nMIIB");
        assert!(matches!(client.send(get(&url(address))).await, Err(Failure::Unidentified(_))));
        signed.write("pair.pem", &pem(signed.leaf()));
        assert_eq!(client.send(get(&url(address))).await.unwrap().status, 200);
        // A certificate that is replaced while connections work is shown by the next ones.
        let before = seen.connections();
        signed.write("pair.pem", &pem(signed.leaf()));
        assert_eq!(client.send(get(&url(address))).await.unwrap().status, 200);
        assert_eq!(seen.connections(), before + 1);
        // And one that cannot be used any more leaves the good one in place.
        signed.write("pair.pem", "");
        assert_eq!(client.send(get(&url(address))).await.unwrap().status, 200);
        assert_eq!(seen.connections(), before + 1);
    }
}

#[test]
fn a_client_certificate_is_a_pair_that_belongs_together_and_its_key_is_nobody_elses() {
    use std::os::unix::fs::PermissionsExt;
    let signed = Signed::new();
    let ((certificate, key), (other, _)) = (signed.leaf(), signed.leaf());
    let write = |name: &str, text: &str| signed.write(name, text);
    let with = |certificate: &Path, key: Option<&Path>| {
        let own = ClientCertificate { certificate: secret(certificate), key: key.map(secret) };
        let route = Route { client_certificate: Some(own), ..Route::default() };
        Client::new(&route).map(drop).map_err(|error| error.to_string())
    };
    let (pem, key_pem) = (write("cert.pem", &certificate.pem()), write("key.pem", &key.serialize_pem()));
    // A certificate apart from its key may be read by everybody.
    std::fs::set_permissions(&pem, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(with(&pem, Some(&key_pem)), Ok(()));
    let foreign = write("other.pem", &other.pem());
    let locked = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let locked = write("locked.pem", &format!("{}{locked}", certificate.pem()));
    let open = write("open.pem", &(certificate.pem() + &key.serialize_pem()));
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o644)).unwrap();
    for (refused, said) in [
        (with(&foreign, Some(&key_pem)), "do not belong together"),
        (with(&key_pem, None), "no certificate"),
        (with(&write("alone.pem", &certificate.pem()), None), "no private key"),
        (with(&locked, None), "openssl pkey"),
        (with(&open, None), "mode 0644"),
        (with(&signed.directory.path().join("absent"), None), "cannot read"),
    ] {
        let refused = refused.unwrap_err();
        assert!(refused.contains(said) && refused.contains("client_certificate"), "{said}: {refused}");
        assert!(!refused.contains("PRIVATE KEY"), "{refused}");
    }
}

#[tokio::test]
async fn authorities_are_read_once_for_all_who_trust_them_and_again_when_their_file_changes() {
    let signed = Signed::new();
    let other = Signed::new();
    let clients = Clients::default();
    let ca = signed.write("changing.pem", &std::fs::read_to_string(&other.ca).unwrap());
    let route = Route { ca_file: Some(ca), ..off() };
    let behind = Route { proxy: Proxy::Environment, ..route.clone() };
    let one = clients.authorities.trusted(route.ca_file.as_deref()).unwrap();
    let (client, _) = (clients.get(&route).unwrap(), clients.get(&behind).unwrap());
    let again = clients.authorities.trusted(route.ca_file.as_deref()).unwrap();
    assert!(Arc::ptr_eq(&one, &again));
    let (address, _) = signed.serve(rustls::DEFAULT_VERSIONS, false).await;
    assert!(matches!(client.send(get(&url(address))).await, Err(Failure::Untrusted(_))));
    signed.write("changing.pem", &std::fs::read_to_string(&signed.ca).unwrap());
    // Refused a moment ago: looked at at once.
    assert_eq!(client.send(get(&url(address))).await.unwrap().status, 200);
}

/// A proxy that is asked for a tunnel to `behind`, and does this instead.
async fn odd_proxy(says: &'static [u8]) -> (SocketAddr, Seen) {
    listen("127.0.0.1:0", move |mut connection, seen| async move {
        if let Some(head) = head(&mut connection).await {
            seen.heads.lock().unwrap().push(head);
            if connection.write_all(says).await.is_ok() && connection.shutdown().await.is_ok() {
                // Whatever else comes is seen too.
                let mut rest = Vec::new();
                if connection.read_to_end(&mut rest).await.is_ok() {
                    seen.heads.lock().unwrap().push(String::from_utf8_lossy(&rest).into_owned());
                }
            }
        }
    })
    .await
}

fn through(proxy: SocketAddr, account: Option<ProxyAccount>) -> Route {
    Route { proxy: Proxy::Named { url: format!("http://{proxy}"), account }, ..Route::default() }
}

#[tokio::test]
async fn a_proxy_that_misbehaves_in_any_way_is_named_and_never_sees_the_token() {
    let (service, seen) = well().await;
    // What it says, and whether a person must act.
    let cases: [(&'static [u8], bool); 11] = [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\nproxy-authenticate: Basic\r\n\r\n", true),
        (b"HTTP/1.1 403 Filtered\x1b[31m\r\n\r\n", true),
        (b"HTTP/1.1 302 Found\r\nlocation: http://elsewhere.example/\r\n\r\n", true),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", false),
        (b"HTTP/1.1 429 Too Many Requests\r\n\r\n", false),
        (b"", false),
        (b"HTTP/1.1 200 Conn", false),
        (b"HTTP/1.1 200 Connection established\r\n\r\n", false),
        (b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", false),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", false),
        (b"220 mail.example ESMTP\r\n", false),
    ];
    for (says, a_person_must_act) in cases {
        let said = String::from_utf8_lossy(says).into_owned();
        let (proxy, asked) = odd_proxy(says).await;
        let client = client(&through(proxy, None), patient());
        let failure = client.send(get(&url(service))).await.unwrap_err();
        let text = failure.to_string();
        assert!(text.contains(&format!("proxy http://{proxy}")), "{said}: {text}");
        assert_eq!(matches!(failure, Failure::Proxy { .. }), a_person_must_act, "{said}: {failure:?}");
        let remedy = failure.remedy("source");
        assert_eq!(
            remedy.is_some_and(|remedy| remedy.contains(&proxy.to_string()) && remedy.contains("`proxy`")),
            a_person_must_act
        );
        assert!(!text.contains(char::is_control), "{text:?}");
        let heads = asked.heads();
        assert!(heads[0].starts_with(&format!("CONNECT {service} HTTP/1.1\r\n")), "{heads:?}");
        assert!(!heads.concat().contains(TOKEN) && !heads.concat().contains("/api"), "{heads:?}");
    }
    // A proxy that is not there, and one that lets wait for ever.
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let failure = client(&through(gone, None), patient()).send(get(&url(service))).await.unwrap_err();
    let Failure::Connection(text) = failure else { panic!("{failure:?}") };
    assert!(text.contains(&format!("through proxy http://{gone}: ")), "{text}");
    let (waits, _) = listen("127.0.0.1:0", |mut connection, _| async move {
        head(&mut connection).await;
        std::future::pending().await
    })
    .await;
    let connect = Duration::from_millis(300);
    let limits = Limits { connect, ..patient() };
    let failure = client(&through(waits, None), limits).send(get(&url(service))).await.unwrap_err();
    assert_eq!(failure, Failure::Unconnected(connect));
    assert_eq!(seen.connections(), 0, "nothing went around the proxy");
}

/// A proxy that makes tunnels for whoever knows the password.
async fn good_proxy(authorization: Option<&'static str>) -> (SocketAddr, Seen) {
    listen("127.0.0.1:0", move |mut connection, seen| async move {
        let Some(asked) = head(&mut connection).await else { return };
        seen.heads.lock().unwrap().push(asked.clone());
        let known = authorization.is_none_or(|known| asked.contains(&format!("uthorization: {known}\r\n")));
        if !known {
            connection.write_all(b"HTTP/1.1 407 Who are you?\r\n\r\n").await.ok();
            return;
        }
        let target = asked.split(' ').nth(1).unwrap();
        let mut service = TcpStream::connect(target).await.unwrap();
        connection.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        tokio::io::copy_bidirectional(&mut connection, &mut service).await.ok();
    })
    .await
}

#[tokio::test]
async fn a_proxys_password_is_read_again_when_it_changes_and_goes_to_the_proxy_alone() {
    let signed = Signed::new();
    let (service, seen) = signed.serve(rustls::DEFAULT_VERSIONS, false).await;
    // `me:new~password`
    let (proxy, asked) = good_proxy(Some("Basic bWU6bmV3fnBhc3N3b3Jk")).await;
    let password = signed.write("password", "old~password");
    let account = ProxyAccount { username: "me".into(), password: secret(&password) };
    let route = Route { ca_file: Some(signed.ca.clone()), ..through(proxy, Some(account)) };
    // Only a refusal makes it look at once.
    let client = client(&route, Limits { look: Duration::from_secs(3_600), ..patient() });
    let failure = client.send(get(&url(service))).await.unwrap_err();
    assert!(failure.to_string().contains("407") && matches!(failure, Failure::Proxy { .. }), "{failure:?}");
    signed.write("password", "new~password");
    assert_eq!(client.send(get(&url(service))).await.unwrap().status, 200);
    let heads = asked.heads();
    assert!(heads.iter().all(|head| !head.contains(TOKEN)), "{heads:?}");
    assert!(heads.iter().any(|head| head.to_lowercase().contains("user-agent: pulumi-audit-forwarder/")));
    assert!(seen.heads().iter().all(|head| !head.to_lowercase().contains("proxy-")), "{:?}", seen.heads());
    let shown = format!("{client:?}{failure:?}");
    assert!(!shown.contains("~password") && !shown.contains("bWU6"), "{shown}");
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_nobody_goes_where_it_leads() {
    let (elsewhere, visited) = well().await;
    for status in [301, 302, 303, 307, 308] {
        let says =
            format!("HTTP/1.1 {status} Moved\r\nlocation: http://{elsewhere}/\r\ncontent-length: 0\r\n\r\n");
        let (address, _) = listen("127.0.0.1:0", move |connection, seen| {
            let says = says.clone();
            async move { answers(connection, seen, says.as_bytes()).await }
        })
        .await;
        for method in [Method::GET, Method::POST, Method::PUT, Method::HEAD] {
            let request = Request { method, ..get(&format!("http://{address}/")) };
            assert_eq!(client(&off(), patient()).send(request).await.unwrap().status, status);
        }
    }
    assert_eq!(visited.connections(), 0);
}

#[tokio::test]
async fn what_a_peer_says_of_itself_is_cut_and_cleaned_before_it_is_shown() {
    let signed = Signed::new();
    let key = KeyPair::generate().unwrap();
    let names = (0..200).map(|n| format!("a-very-long-name-indeed-{n}.example")).collect::<Vec<_>>();
    let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &signed.issuer).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
        )
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let (address, _) = listen("127.0.0.1:0", move |connection, _| {
        let acceptor = acceptor.clone();
        async move { drop(acceptor.accept(connection).await) }
    })
    .await;
    let route = Route { ca_file: Some(signed.ca.clone()), ..off() };
    let target = format!("https://{address}/api?secret=hidden");
    let failure = client(&route, patient()).send(get(&target)).await.unwrap_err();
    let text = failure.to_string();
    assert!(matches!(failure, Failure::Untrusted(_)) && text.chars().count() < 350, "{text}");
    assert!(!text.contains("hidden") && !text.contains(char::is_control), "{text}");
}

#[test]
fn a_request_shows_neither_headers_nor_body_nor_query_nor_credentials() {
    let mut request = get("https://me:hidden@host.example:8443/path/of?code=hidden#hidden");
    request.body = Bytes::from_static(b"client_secret=hidden");
    let shown = format!("{request:?}");
    assert!(shown.contains("https://host.example:8443/path/of"), "{shown}");
    assert!(!shown.contains("hidden") && !shown.contains(TOKEN), "{shown}");
    assert_eq!(super::super::without_query("https://me@host"), "https://host");
}

#[test]
fn headers_that_hold_secrets_are_marked_whoever_has_set_them() {
    let mut headers = HeaderMap::new();
    for name in ["authorization", "X-IDENTITY-HEADER", "secret", "x-amz-security-token", "accept"] {
        let name = http::HeaderName::from_bytes(name.as_bytes()).unwrap();
        headers.append(name, HeaderValue::from_static("x"));
    }
    mark_sensitive(&mut headers);
    let marked: Vec<&str> =
        headers.iter().filter(|(_, value)| value.is_sensitive()).map(|(name, _)| name.as_str()).collect();
    assert_eq!(marked.len(), 4);
    assert!(!marked.contains(&"accept"));
}

#[test]
fn whoever_shares_a_route_shares_connections() {
    let clients = Clients::default();
    let same = |a: &Route, b: &Route| Arc::ptr_eq(&clients.get(a).unwrap().0, &clients.get(b).unwrap().0);
    let address = SocketAddr::from(([127, 0, 0, 1], 9));
    assert!(same(&off(), &off()) && same(&through(address, None), &through(address, None)));
    assert!(!same(&off(), &Route::default()) && !same(&off(), &through(address, None)));
}
