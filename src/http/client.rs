//! The one HTTP client: connections and TLS contexts shared by all orgs, one for each [`Route`].
//!
//! It bounds every exchange: the connection, the time until the answer begins, every standstill, the whole, and the life of a
//! connection. It decides nothing about answers, and never sends anything twice.
//!
//! *Why a new pool every few minutes:* the HTTP library keeps a connection for as long as it is used, so a busy one would never
//! notice that its service's name has moved. Requests under way finish on the old pool, which goes with the last of them; TLS
//! contexts and sessions stay.

use std::collections::HashMap;
use std::error::Error;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use rustls::{AlertDescription, ClientConfig};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use super::proxy::{NoTunnel, Proxies, Via};
use super::route::Route;
use super::stamp::Stamp;
use super::tls::{self, Authorities};
use super::unpacking::{LARGE_BODY_BYTES, Unpacking};
use super::{ClientError, Failure, Request, Response, Transport, USER_AGENT, cleaned, mark_sensitive};
use crate::secret::{Place, SecretSource};

/// How long is waited for each step of an exchange.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Name lookup, TCP, a proxy's tunnel and the handshake together.
    pub(crate) connect: Duration,
    /// From the beginning of the exchange to the answer's headers.
    pub(crate) answer: Duration,
    /// Between two pieces of the answer's body.
    pub(crate) stall: Duration,
    /// Connections that nobody uses are closed after this.
    pub(crate) idle: Duration,
    /// No request begins on a connection that is older. With the longest exchange of most services, a minute, it makes five minutes.
    pub(crate) life: Duration,
    /// How often files are looked at that may have changed.
    pub(crate) look: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connect: Duration::from_secs(20),
            answer: Duration::from_secs(45),
            stall: Duration::from_secs(20),
            idle: Duration::from_secs(90),
            life: Duration::from_secs(240),
            look: Duration::from_secs(10),
        }
    }
}

/// One route's connections behind [`Transport`]. Clones share them.
///
/// *Why large bodies take turns:* a service that answers every org with a bomb at once would need the greatest body for each of them.
/// The turn ends when the last slice of the body is gone, so what is made of it counts as well.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    route: Route,
    limits: Limits,
    turn: Turn,
    authorities: Arc<Authorities>,
    pools: Mutex<Pools>,
    /// In place of the system's name lookup.
    #[cfg(test)]
    resolver: Option<Arc<dyn reqwest::dns::Resolve>>,
}

/// What connections are made of, and those that there are.
struct Pools {
    remote: reqwest::Client,
    /// For plain HTTP to this machine: the services that vouch for it answer nobody who comes through a proxy.
    local: reqwest::Client,
    tls: ClientConfig,
    proxies: Arc<Proxies>,
    made: Instant,
    /// As the files were when they were last read.
    stamps: Vec<Option<Stamp>>,
    looked: Instant,
    /// Somebody has refused what was read from the files: they are looked at before anything else is sent.
    refused: bool,
}

/// The one place for a large body, of all clients that share it.
#[derive(Clone, Debug)]
struct Turn(Arc<Semaphore>);

impl Default for Turn {
    fn default() -> Turn {
        Turn(Arc::new(Semaphore::new(1)))
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client({:?})", self.0.route)
    }
}

impl Client {
    /// A client of its own.
    ///
    /// # Errors
    /// When a file of the route cannot be used.
    pub fn new(route: &Route) -> Result<Client, ClientError> {
        Client::with(route, Limits::default(), Turn::default(), Arc::default())
    }

    fn with(
        route: &Route,
        limits: Limits,
        turn: Turn,
        authorities: Arc<Authorities>,
    ) -> Result<Client, ClientError> {
        let stamps = stamps(route);
        let (tls, proxies) = (tls::config(route, &authorities)?, Arc::new(Proxies::read(&route.proxy)?));
        let (remote, local) = (builder(&limits, &tls), builder(&limits, &tls).no_proxy());
        let now = Instant::now();
        let pools = Pools {
            remote: built(proxies.apply(remote)?)?,
            local: built(local)?,
            tls,
            proxies,
            made: now,
            stamps,
            looked: now,
            refused: false,
        };
        Ok(Client(Arc::new(Inner {
            route: route.clone(),
            limits,
            turn,
            authorities,
            pools: Mutex::new(pools),
            #[cfg(test)]
            resolver: None,
        })))
    }

    /// Sends one request, and waits for the head of the answer within the deadline for connections only. For libraries that bring
    /// requests of their own.
    ///
    /// # Errors
    /// When there is no answer.
    pub(crate) async fn execute(&self, mut request: reqwest::Request) -> Result<reqwest::Response, Failure> {
        mark_sensitive(request.headers_mut());
        introduce(request.headers_mut());
        let url = request.url().as_str().to_owned();
        let (client, via) = self.0.way(&url);
        match client.execute(request).await {
            Ok(answer) => Ok(answer),
            Err(error) => {
                let failure = match (NoTunnel::of(&error), &via) {
                    (Some(NoTunnel::Unauthorized), Some(via)) => Failure::Proxy {
                        proxy: via.name(),
                        cause: "answers 407: it wants other credentials".into(),
                    },
                    (Some(NoTunnel::Refused), Some(via)) => via.refusal(&url).await,
                    _ => sorted(&error, via.as_ref(), self.0.limits.connect),
                };
                use Failure::{Proxy, Unidentified, Untrusted};
                if matches!(failure, Untrusted(_) | Unidentified(_) | Proxy { .. }) {
                    self.0.pools().refused = true;
                }
                Err(failure)
            }
        }
    }

    /// The next piece of an answer's body.
    ///
    /// # Errors
    /// When it breaks off, or nothing comes for too long.
    pub(crate) async fn piece(&self, answer: &mut reqwest::Response) -> Result<Option<Bytes>, Failure> {
        let Limits { stall, connect, .. } = self.0.limits;
        match timeout(stall, answer.chunk()).await {
            Ok(Ok(piece)) => Ok(piece),
            Ok(Err(error)) => Err(sorted(&error, None, connect)),
            Err(_) => Err(Failure::Stalled(stall)),
        }
    }

    async fn exchange(&self, request: Request) -> Result<Response, Failure> {
        let Limits { answer: patience, .. } = self.0.limits;
        let limit = request.body_bytes_max;
        let url = request
            .url
            .parse()
            .map_err(|error| Failure::Connection(format!("the address cannot be used: {error}")))?;
        let mut sent = reqwest::Request::new(request.method, url);
        *sent.headers_mut() = request.headers;
        *sent.body_mut() = Some(request.body.into());
        let mut answer =
            timeout(patience, self.execute(sent)).await.map_err(|_| Failure::Silent(patience))??;
        let status = answer.status().as_u16();
        let headers = std::mem::take(answer.headers_mut());
        let labelled = headers.get(http::header::CONTENT_ENCODING).is_some_and(|value| {
            value.as_bytes().eq_ignore_ascii_case(b"gzip") || value.as_bytes().eq_ignore_ascii_case(b"x-gzip")
        });
        let mut body = Unpacking::new(limit);
        let mut permit = None;
        while let Some(mut piece) = self.piece(&mut answer).await? {
            while !piece.is_empty() {
                if body.len() > LARGE_BODY_BYTES && permit.is_none() {
                    permit = Arc::clone(&self.0.turn.0).acquire_owned().await.ok();
                }
                // A thousand times as much may come out of it.
                body.add(&piece.split_to(piece.len().min(PIECE_BYTES)))?;
            }
        }
        let plain = body.finish(labelled)?;
        Ok(Response { status, headers, body: Bytes::from_owner(Held { plain, _permit: permit }) })
    }
}

impl Inner {
    fn pools(&self) -> MutexGuard<'_, Pools> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connections for an address, and the proxy that they go through.
    fn way(&self, url: &str) -> (reqwest::Client, Option<Via>) {
        let mut pools = self.pools();
        self.refresh(&mut pools);
        if is_local(url) {
            return (pools.local.clone(), None);
        }
        (pools.remote.clone(), pools.proxies.via(url))
    }

    /// Takes up changed files, and lets connections go that have lived long enough. What cannot be used leaves everything as it was.
    fn refresh(&self, pools: &mut Pools) {
        let now = Instant::now();
        let mut fresh = None;
        if pools.refused || now - pools.looked >= self.limits.look {
            (pools.looked, pools.refused) = (now, false);
            let stamps = stamps(&self.route);
            if stamps != pools.stamps {
                pools.stamps = stamps;
                let read = tls::config(&self.route, &self.authorities)
                    .and_then(|tls| Ok((tls, Arc::new(Proxies::read(&self.route.proxy)?))));
                match read {
                    Ok(read) => fresh = Some(read),
                    Err(error) => {
                        tracing::warn!(key = error.key(), cause = %error, "a changed file cannot be used; what it held before stays in use");
                    }
                }
            }
        }
        if fresh.is_none() && now - pools.made < self.limits.life {
            return;
        }
        let (tls, proxies) = fresh.unwrap_or_else(|| (pools.tls.clone(), Arc::clone(&pools.proxies)));
        let made = proxies
            .apply(self.builder(&tls))
            .and_then(built)
            .and_then(|remote| Ok((remote, built(self.builder(&tls).no_proxy())?)));
        match made {
            Ok((remote, local)) => {
                (pools.remote, pools.local, pools.tls, pools.proxies) = (remote, local, tls, proxies);
                pools.made = now;
            }
            Err(error) => {
                tracing::warn!(cause = %error, "connections are kept for longer than they should be")
            }
        }
    }

    fn builder(&self, tls: &ClientConfig) -> reqwest::ClientBuilder {
        let builder = builder(&self.limits, tls);
        #[cfg(test)]
        if let Some(resolver) = &self.resolver {
            return builder.dns_resolver(Arc::clone(resolver));
        }
        builder
    }
}

fn builder(limits: &Limits, tls: &ClientConfig) -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(limits.connect)
        .pool_idle_timeout(limits.idle)
        .user_agent(USER_AGENT)
        .tls_backend_preconfigured(tls.clone())
}

fn built(builder: reqwest::ClientBuilder) -> Result<reqwest::Client, ClientError> {
    builder.build().map_err(|error| ClientError::Setup(innermost(&error)))
}

/// A library of a vendor's says who it is; this says who uses it. AWS' signatures have no part in it.
fn introduce(headers: &mut HeaderMap) {
    let library = headers.get(http::header::USER_AGENT).and_then(|value| value.to_str().ok());
    let both = match library {
        Some(library) => format!("{USER_AGENT} {library}"),
        None => USER_AGENT.to_owned(),
    };
    if let Ok(value) = HeaderValue::from_str(&both) {
        headers.insert(http::header::USER_AGENT, value);
    }
}

/// Of all files that a route names.
fn stamps(route: &Route) -> Vec<Option<Stamp>> {
    let of_secret = |source: &SecretSource| match &source.place {
        Place::File(path) => Some(path.clone()),
        _ => None,
    };
    let files = route.secrets().into_iter().filter_map(of_secret);
    files.chain(route.ca_file.clone()).map(|path| Stamp::of(&path)).collect()
}

/// An error and its causes, outermost first. An `io::Error` hides the error inside it from [`Error::source`].
fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| match error.downcast_ref::<io::Error>() {
        Some(io) => io.get_ref().map(|inner| inner as &(dyn Error + 'static)),
        None => error.source(),
    })
}

fn innermost(error: &(dyn Error + 'static)) -> String {
    chain(error).last().map(|error| cleaned(&error.to_string())).unwrap_or_default()
}

/// Sorts the library's errors. Its texts may hold the URL; only the innermost cause is kept.
fn sorted(error: &reqwest::Error, via: Option<&Via>, connect: Duration) -> Failure {
    for cause in chain(error) {
        match cause.downcast_ref::<rustls::Error>() {
            Some(rustls::Error::InvalidCertificate(certificate)) => {
                return Failure::Untrusted(cleaned(&format!("{certificate:?}")));
            }
            Some(rustls::Error::AlertReceived(alert)) if is_about_our_certificate(*alert) => {
                return Failure::Unidentified(format!("it answers with the alert {alert:?}"));
            }
            _ => {}
        }
    }
    if error.is_timeout() {
        return Failure::Unconnected(connect);
    }
    let cause = innermost(error);
    Failure::Connection(match via {
        Some(via) => format!("through proxy {}: {cause}", via.name()),
        None => cause,
    })
}

fn is_about_our_certificate(alert: AlertDescription) -> bool {
    use AlertDescription as Alert;
    matches!(
        alert,
        Alert::CertificateRequired
            | Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::AccessDenied
            // What was signed with its key: by an authority of the right name and the wrong key, for one.
            | Alert::DecryptError
    )
}

/// Whether this is plain HTTP to this machine, or to an address that routers do not pass on.
fn is_local(url: &str) -> bool {
    let Ok(url) = reqwest::Url::parse(url) else { return false };
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let near = |address: IpAddr| match address {
        IpAddr::V4(address) => address.is_loopback() || address.is_link_local(),
        // EC2 and EKS answer at addresses of `fd00:ec2::/32`.
        IpAddr::V6(address) => {
            address.is_loopback()
                || address.is_unicast_link_local()
                || address.segments().starts_with(&[0xfd00, 0xec2])
        }
    };
    url.scheme() == "http" && (host == "localhost" || host.parse().is_ok_and(near))
}

/// One client for each route in use.
#[derive(Debug, Default)]
pub struct Clients {
    known: Mutex<HashMap<Route, Client>>,
    turn: Turn,
    authorities: Arc<Authorities>,
}

impl Clients {
    /// # Errors
    /// As [`Client::new`].
    pub fn get(&self, route: &Route) -> Result<Client, ClientError> {
        let mut clients = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(route) {
            return Ok(client.clone());
        }
        let client =
            Client::with(route, Limits::default(), self.turn.clone(), Arc::clone(&self.authorities))?;
        clients.insert(route.clone(), client.clone());
        Ok(client)
    }

    /// The same, as the trait object that the services' clients take.
    ///
    /// # Errors
    /// As [`Client::new`].
    pub fn transport(&self, route: &Route) -> Result<Arc<dyn Transport>, ClientError> {
        self.get(route).map(|client| Arc::new(client) as Arc<dyn Transport>)
    }
}

#[async_trait]
impl Transport for Client {
    async fn send(&self, request: Request) -> Result<Response, Failure> {
        let deadline = request.deadline;
        timeout(deadline, self.exchange(request)).await.unwrap_or(Err(Failure::Timeout(deadline)))
    }
}

/// So much of a body is unpacked before it is asked whether it is large.
const PIECE_BYTES: usize = 4 * 1024;

/// A body, and its turn if it is large.
struct Held {
    plain: Vec<u8>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.plain
    }
}

#[cfg(test)]
mod tests;
