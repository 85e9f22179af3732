//! The proxy on the way out: which one it is for an address, what it is called in messages, and why it refuses.
//!
//! It sends nothing of ours to a proxy but the name of the host that is to be reached, and the proxy's own credentials.
//!
//! *Why a proxy that refuses is asked again:* the HTTP library says only that there is no tunnel. Whether a person must act (the
//! proxy forbids the host) or not (it cannot reach the host just now) is in the status it has swallowed.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderValue, Uri};
use hyper_util::client::proxy::matcher::Matcher;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::route::{Proxy, ProxyAccount};
use super::{ClientError, Failure, USER_AGENT, cleaned};
use crate::secret::Secret;

/// For the second question to a proxy that has refused the first.
const ASK_DEADLINE: Duration = Duration::from_secs(10);
/// Most bytes of its answer that are looked at.
const ANSWER_BYTES_MAX: u64 = 8 * 1024;

/// What a route's proxies are, read as they stand.
#[derive(Debug)]
pub(super) enum Proxies {
    Environment(Matcher),
    Off,
    Named {
        uri: Uri,
        /// `Basic …`.
        authorization: Option<HeaderValue>,
    },
}

/// The proxy for one address.
#[derive(Clone, Debug)]
pub(super) struct Via {
    uri: Uri,
    authorization: Option<HeaderValue>,
}

impl Proxies {
    /// # Errors
    /// When its password cannot be read.
    pub(super) fn read(proxy: &Proxy) -> Result<Proxies, ClientError> {
        Ok(match proxy {
            Proxy::Environment => Proxies::Environment(Matcher::from_system()),
            Proxy::Off => Proxies::Off,
            Proxy::Named { url, account } => Proxies::Named {
                uri: url
                    .parse()
                    .map_err(|_| ClientError::Setup(format!("`{url}` is no address of a proxy")))?,
                authorization: account.as_ref().map(basic).transpose()?,
            },
        })
    }

    /// Tells the HTTP library. Through a proxy that is named here goes nothing but tunnels.
    pub(super) fn apply(
        &self,
        builder: reqwest::ClientBuilder,
    ) -> Result<reqwest::ClientBuilder, ClientError> {
        Ok(match self {
            // It reads the same variables in the same way.
            Proxies::Environment(_) => builder,
            Proxies::Off => builder.no_proxy(),
            Proxies::Named { uri, authorization } => {
                let mut proxy = reqwest::Proxy::https(uri.to_string())
                    .map_err(|error| ClientError::Setup(error.without_url().to_string()))?;
                if let Some(authorization) = authorization {
                    proxy = proxy.custom_http_auth(authorization.clone());
                }
                builder.proxy(proxy)
            }
        })
    }

    /// The proxy that an address is reached through.
    pub(super) fn via(&self, url: &str) -> Option<Via> {
        let target: Uri = url.parse().ok()?;
        match self {
            Proxies::Off => None,
            Proxies::Named { uri, authorization } => (target.scheme_str() == Some("https"))
                .then(|| Via { uri: uri.clone(), authorization: authorization.clone() }),
            Proxies::Environment(matcher) => matcher.intercept(&target).map(|intercept| Via {
                uri: intercept.uri().clone(),
                authorization: intercept.basic_auth().cloned(),
            }),
        }
    }
}

fn basic(account: &ProxyAccount) -> Result<HeaderValue, ClientError> {
    let password = account.password.read().map_err(|error| ClientError::Password(error.to_string()))?;
    let pair = Secret::new(format!("{}:{}", account.username, password.expose()));
    let value = Secret::new(format!("Basic {}", STANDARD.encode(pair.expose())));
    let mut value = HeaderValue::from_str(value.expose())
        .map_err(|_| ClientError::Password("it holds what no header can carry".into()))?;
    value.set_sensitive(true);
    Ok(value)
}

impl Via {
    /// `http://HOST:PORT`: never with credentials.
    pub(super) fn name(&self) -> String {
        let scheme = self.uri.scheme_str().unwrap_or("http");
        let host = self.uri.host().unwrap_or_default();
        format!("{scheme}://{host}:{}", self.port())
    }

    fn port(&self) -> u16 {
        let usual = if self.uri.scheme_str() == Some("https") { 443 } else { 80 };
        self.uri.port_u16().unwrap_or(usual)
    }

    /// What a tunnel that was refused means.
    pub(super) async fn refusal(&self, target: &str) -> Failure {
        let proxy = self.name();
        match timeout(ASK_DEADLINE, self.ask(target)).await {
            Ok(Some((status, line))) => match status {
                400..=407 | 409..=428 | 430..=499 | 300..=399 => {
                    Failure::Proxy { proxy, cause: format!("answers {line}") }
                }
                _ => Failure::Connection(format!("through proxy {proxy}: it answers {line}")),
            },
            _ => Failure::Connection(format!("through proxy {proxy}: it makes no tunnel and says no reason")),
        }
    }

    /// Asks for the same tunnel, for the words of the answer. `None` where there is none that can be read.
    async fn ask(&self, target: &str) -> Option<(u16, String)> {
        // Whoever needs TLS to speak with a proxy does without its words.
        if self.uri.scheme_str() != Some("http") {
            return None;
        }
        let target: Uri = target.parse().ok()?;
        let target = format!("{}:{}", target.host()?, target.port_u16().unwrap_or(443));
        let host = self.uri.host()?.trim_matches(['[', ']']);
        let mut connection = TcpStream::connect((host, self.port())).await.ok()?;
        let mut request =
            format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nUser-Agent: {USER_AGENT}\r\n")
                .into_bytes();
        if let Some(authorization) = &self.authorization {
            request.extend_from_slice(b"Proxy-Authorization: ");
            request.extend_from_slice(authorization.as_bytes());
            request.extend_from_slice(b"\r\n");
        }
        request.extend_from_slice(b"\r\n");
        connection.write_all(&request).await.ok()?;
        let mut answer = Vec::new();
        let mut reading = connection.take(ANSWER_BYTES_MAX);
        while !answer.contains(&b'\n') {
            if reading.read_buf(&mut answer).await.ok()? == 0 {
                break;
            }
        }
        let line = answer.split(|byte| *byte == b'\n').next()?;
        let line = String::from_utf8_lossy(line);
        let line = line.trim().strip_prefix("HTTP/1.")?.split_once(' ')?.1;
        let status = line.get(..3)?.parse().ok()?;
        Some((status, cleaned(line)))
    }
}

/// What the HTTP library says of a tunnel that there is not. It keeps the type to itself.
pub(super) enum NoTunnel {
    Unauthorized,
    Refused,
}

impl NoTunnel {
    pub(super) fn of(error: &(dyn std::error::Error + 'static)) -> Option<NoTunnel> {
        std::iter::successors(Some(error), |error| error.source()).find_map(|error| {
            match error.to_string().as_str() {
                "tunnel error: proxy authorization required" => Some(NoTunnel::Unauthorized),
                "tunnel error: unsuccessful" => Some(NoTunnel::Refused),
                _ => None,
            }
        })
    }
}
