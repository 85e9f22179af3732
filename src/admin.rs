//! HTTP for probes, metrics and status, on `[admin] listen`. It only reads: GET and HEAD, no secrets, no scripts.
//!
//! Nothing here depends on a remote system or holds anything up: connections, their age and every answer are bounded, and an
//! endpoint that is busy costs the daemon nothing else.

mod connections;
mod page;

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::header::{self, HeaderName, HeaderValue};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{Html, IntoResponse, Json, Response};
use axum::routing::get;
use futures_util::stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::clock::Second;
use crate::liveness::{Liveness, Pulse};
use crate::metrics::Metrics;
use crate::report::Reports;
use crate::report::status::Status;
use connections::Connections;

/// Pieces of a page of metrics that are written before the first of them is sent.
const PIECES_AHEAD: usize = 2;

#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    #[error(
        "cannot listen on {address} (`[admin] listen`): {cause}; choose a free address of this machine, or \"off\""
    )]
    Listen { address: SocketAddr, cause: std::io::Error },
}

/// The running endpoints.
#[derive(Debug)]
pub struct Admin {
    /// Where they listen: the port is the real one when the configured one was 0.
    pub address: SocketAddr,
    /// Ends after the shutdown, once every connection has.
    pub task: JoinHandle<()>,
}

#[derive(Clone)]
struct Seen {
    reports: Reports,
    metrics: Metrics,
    liveness: Liveness,
    security: Arc<str>,
}

/// Starts to listen, and answers until `shutdown`.
///
/// # Errors
/// When the address cannot be had.
pub async fn serve(
    listen: SocketAddr,
    reports: Reports,
    metrics: Metrics,
    liveness: Liveness,
    shutdown: CancellationToken,
) -> Result<Admin, AdminError> {
    let refused = |cause| AdminError::Listen { address: listen, cause };
    let listener = TcpListener::bind(listen).await.map_err(refused)?;
    let address = listener.local_addr().map_err(refused)?;
    let seen = Seen { reports, metrics, liveness, security: page::content_security_policy().into() };
    let task = tokio::spawn(async move {
        let serving = axum::serve(Connections::new(listener), router(seen))
            .with_graceful_shutdown(shutdown.cancelled_owned());
        if let Err(error) = serving.await {
            tracing::error!(cause = %error, "the admin endpoints have stopped");
        }
    });
    Ok(Admin { address, task })
}

/// Asks the endpoints as a probe would, again and again: each answer is a beat. Before the first, and where the machine has lost the
/// address, nothing is expected: a restart would not bring it back, and the endpoints are not what the daemon is for.
pub async fn answers(liveness: Liveness, pulse: Pulse, listen: SocketAddr) {
    let address = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => SocketAddr::from((Ipv4Addr::LOCALHOST, listen.port())),
        IpAddr::V6(ip) if ip.is_unspecified() => SocketAddr::from((Ipv6Addr::LOCALHOST, listen.port())),
        _ => listen,
    };
    loop {
        let period = liveness.period();
        match timeout(6 * period, is_answered(address)).await {
            Ok(Ok(true)) => pulse.beat(),
            Ok(Err(error)) if is_without_address(&error) => pulse.be_quiet(),
            _ => {}
        }
        sleep(3 * period).await;
    }
}

fn is_without_address(error: &io::Error) -> bool {
    use io::ErrorKind::{AddrNotAvailable, HostUnreachable, NetworkDown, NetworkUnreachable};
    matches!(error.kind(), AddrNotAvailable | HostUnreachable | NetworkDown | NetworkUnreachable)
}

async fn is_answered(address: SocketAddr) -> io::Result<bool> {
    const BEGINNING: &[u8] = b"HTTP/1.1 ";
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"HEAD /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
    let mut begun = [0; BEGINNING.len()];
    stream.read_exact(&mut begun).await?;
    Ok(begun == BEGINNING)
}

fn router(seen: Seen) -> Router {
    Router::new()
        .route("/", get(status_page))
        .route("/org/{id}", get(org_page))
        .route("/icon/{level}", get(icon))
        .route("/metrics", get(metrics_page))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/api/status", get(api_status))
        .layer(axum::middleware::map_response_with_state(seen.clone(), guarded))
        .with_state(seen)
}

/// Headers that every answer carries.
async fn guarded(State(seen): State<Seen>, mut answer: Response) -> Response {
    let headers: &mut HeaderMap = answer.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    if let Ok(policy) = HeaderValue::from_str(&seen.security) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    answer
}

async fn metrics_page(State(seen): State<Seen>) -> Response {
    let (pieces, mut body) = mpsc::channel::<Result<String, Infallible>>(PIECES_AHEAD);
    // With many orgs the page is megabytes, and the process figures are read from files: not on a runtime thread. It ends with the
    // page, or with the connection.
    tokio::task::spawn_blocking(move || {
        for piece in seen.metrics.page() {
            if pieces.blocking_send(Ok(piece)).is_err() {
                return;
            }
        }
    });
    let body = Body::from_stream(stream::poll_fn(move |context| body.poll_recv(context)));
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], body).into_response()
}

async fn livez(State(seen): State<Seen>) -> Response {
    verdict(seen.liveness.stalled().into_iter().map(|part| format!("{part} makes no progress")).collect())
}

async fn readyz(State(seen): State<Seen>) -> Response {
    verdict(seen.reports.missing())
}

/// `ok`, or 503 with a line for each thing that is wrong.
fn verdict(wrong: Vec<String>) -> Response {
    let (code, text) = if wrong.is_empty() {
        (StatusCode::OK, "ok\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, wrong.join("\n") + "\n")
    };
    (code, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response()
}

async fn api_status(State(seen): State<Seen>) -> Json<Status> {
    Json(seen.reports.status())
}

async fn status_page(State(seen): State<Seen>, Query(asked): Query<page::Asked>) -> Response {
    html(seen, move |status, now| page::orgs(status, now, asked)).await
}

async fn org_page(
    State(seen): State<Seen>,
    Path(id): Path<String>,
    Query(asked): Query<page::Asked>,
) -> Response {
    html(seen, move |status, now| page::org(status, now, &id, asked)).await
}

/// With thousands of orgs a page takes milliseconds: not on a runtime thread.
async fn html(seen: Seen, make: impl FnOnce(&Status, Second) -> page::Page + Send + 'static) -> Response {
    let made = tokio::task::spawn_blocking(move || make(&seen.reports.status(), seen.reports.clock().now()));
    let Ok(page) = made.await else { return StatusCode::INTERNAL_SERVER_ERROR.into_response() };
    let html = match page.html {
        Ok(html) => Html(html),
        Err(error) => {
            // A template fails only where a value's own text does, and none of these can.
            tracing::error!(cause = %error, "the status page cannot be made");
            return StatusCode::INTERNAL_SERVER_ERROR.into_response();
        }
    };
    let code = if page.found { StatusCode::OK } else { StatusCode::NOT_FOUND };
    if page.refreshes {
        let refresh = HeaderName::from_static("refresh");
        (code, [(refresh, HeaderValue::from(page::REFRESH_SECONDS))], html).into_response()
    } else {
        (code, html).into_response()
    }
}

async fn icon(Path(level): Path<String>) -> Response {
    match page::icon(&level) {
        Some(icon) => ([(header::CONTENT_TYPE, "image/svg+xml")], icon).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

#[cfg(test)]
mod tests;
