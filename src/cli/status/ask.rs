//! Questions to the running daemon, over its admin endpoints.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, bail, ensure};

use crate::report::status::Status;

/// For the whole exchange; the daemon answers from memory.
const DEADLINE: Duration = Duration::from_secs(5);
/// Some thousands of orgs.
const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;

pub(super) async fn status(listen: SocketAddr) -> anyhow::Result<Status> {
    let (code, body) = get(listen, "/api/status").await?;
    ensure!(code == 200, "it answers {code}, so it is something else");
    serde_json::from_slice(&body).context("its answer is not a status, so it is something else")
}

/// Whether the daemon makes progress; no answer means that it does not.
pub(super) async fn alive(listen: SocketAddr) -> bool {
    matches!(get(listen, "/livez").await, Ok((200, _)))
}

async fn get(listen: SocketAddr, path: &str) -> anyhow::Result<(u16, Vec<u8>)> {
    // No proxy: the daemon is on this machine. No redirects: it sends none.
    let client = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(DEADLINE)
        .build()?;
    let url = format!("http://{}{path}", reachable(listen));
    let mut answer = match client.get(url).send().await {
        Ok(answer) => answer,
        Err(error) if error.is_connect() => bail!("nothing listens there"),
        Err(error) if error.is_timeout() => bail!("no answer within {} s", DEADLINE.as_secs()),
        Err(_) => bail!("what listens there does not speak HTTP"),
    };
    let mut body = Vec::new();
    while let Some(piece) = answer.chunk().await? {
        ensure!(
            body.len() + piece.len() <= BODY_BYTES_MAX,
            "its answer is larger than {BODY_BYTES_MAX} bytes"
        );
        body.extend_from_slice(&piece);
    }
    Ok((answer.status().as_u16(), body))
}

/// An address to connect to: who listens on all addresses is reached on the loopback one.
pub(super) fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}
